"""Wordings of the index to external causes.

Its paths go from the general to the special ('Struck by > sports equipment >
ball > football'), so that the last noun is the one that a note would have
('struck by football'), and some of its main terms only name a group of codes
('Place of occurrence', 'Forces of nature').
"""

import itertools
import re
from collections.abc import Sequence

from ccl_jax.icd.natural_order import (
    WORDINGS_PER_ENTRY,
    Title,
    clean,
    compose,
    is_unsayable,
    natural_forms,
    with_modifiers,
)
from ccl_jax.icd.words import is_adjective, link_of, uncapitalized, word_set

# Longer paths than this, outside transport accidents, have no wording that a note would use.
_LONGEST_PATH = 6

# Main terms that name a group of codes; the words below them say it all.
_GROUPS = frozenset(('External cause status', 'Factors, supplemental', 'Forces of nature', 'Status of external cause'))
# Main terms in the words of a note, and what links them to the level below.
_MAIN_TERMS = {
    'Activity': ('activity', 'involving'),
    'Complication': ('complication', 'of'),
    'Incident, adverse': ('adverse incident', 'with'),
    'Misadventure during surgical or medical care': ('surgical or medical misadventure', 'with'),
    'Perpetrator, perpetration, of assault, maltreatment and neglect': ('maltreatment or neglect', 'by'),
    'Undetermined intent': ('injury of undetermined intent', 'by'),
}
# Terms below a main term that a link leads over from.
_LINKS_BELOW = {'failure': 'of', 'sterile precautions': 'during'}
# Terms that need what stands above them and can't be put together with it by rule.
_VAGUE = frozenset(('flag', 'hand', 'touch', 'vehicle', 'watercraft accident'))
_OPENINGS = frozenset(('natural orifice', 'skin'))
_ATTRIBUTES = frozenset(('field', 'ice', 'snow', 'water'))
# 'Lying before train, vehicle or other moving object > subway train': only a phrase can follow.
_MAIN_PHRASE = re.compile(r'\w (?:before|by|from|off|on|of) \w')
# What an animal does to its victim.
_DEEDS = frozenset(('bite', 'kick', 'peck', 'sting', 'strike'))
# Terms that say with what intent, and how a note says it.
_INTENTS = {
    'assault': 'in an assault',
    'homicide': 'in a homicide attempt',
    'suicide': 'in a suicide attempt',
    'legal intervention': 'during legal intervention',
    'self-inflicted': 'self-inflicted',
    'stated as undetermined whether accidental or intentional': 'of undetermined intent',
    'undetermined whether accidental or intentional': 'of undetermined intent',
    'undetermined intent': 'of undetermined intent',
}
_ROOMS = word_set("""
    bathroom|bedroom|cafeteria|cell|corridor|courtyard|dining room|driveway|garage|garden|hallway|kitchen|laundry room
    mess hall|operating room|patient room|private driveway|private garage|private garden|swimming pool|yard
""")
# Transport accidents: who was injured where a term says so, and in what.
_RIDERS = {
    'pedestrian': ('pedestrian', ''),
    'motorcycle': ('motorcycle rider', 'motorcycle'),
    'pedal cyclist': ('pedal cyclist', 'pedal cycle'),
    'electric bicyclist': ('electric bicyclist', 'electric bicycle'),
    'animal-rider': ('animal rider', ''),
    'parachutist': ('parachutist', ''),
    'dirt bike rider': ('dirt bike rider', 'dirt bike'),
}
_PERSONS = {
    'driver': 'driver of {}',
    'passenger': 'passenger in {}',
    'hanger-on': 'person on outside of {}',
    'person on outside': 'person on outside of {}',
    'while boarding or alighting': 'person boarding or alighting from {}',
}
_VEHICLE_PERSONS = frozenset(('driver', 'passenger', 'hanger-on', 'person on outside'))
_EVENTS = frozenset(('crash', 'explosion', 'fire', 'forced landing', 'noncollision accident'))
_PASSED_OVER = frozenset(('on foot', 'standing', 'micro-mobility pedestrian conveyance'))


def external_cause_wordings(path: Sequence[Title], limit: int = WORDINGS_PER_ENTRY) -> list[str]:
    """Returns the wordings of a path of the index to external causes, at most `limit`; none if it can't be worded."""
    if any(is_unsayable(title.text) for title in path):
        return []
    names = [clean(title.text) for title in path]
    if names[-1] in _VAGUE or any(link_of(one) == one and two in _INTENTS for one, two in itertools.pairwise(names)):
        return []
    if names[0] == 'Accident' and len(path) > 1 and names[1] == 'transport':
        return _transport_accident(path[2:])
    if names[0] == 'Place of occurrence':
        inside = names[-1] in _ROOMS or 'vehicle' in names
        # 'Bar' or 'car' alone would name every bar and car of a text.
        return [f'injured {"in" if inside else "at"} {place}' for place in _places(path[1:])]
    known = names[0] in _GROUPS or names[0] in _MAIN_TERMS
    if len(path) > _LONGEST_PATH or (
        not known and len(path) > 1 and _MAIN_PHRASE.search(names[0]) and not link_of(names[1])
    ):
        return []
    return _general(path, limit)


def _general(path: Sequence[Title], limit: int) -> list[str]:
    path = [title._replace(nonessential=(_LINKS_BELOW.get(title.text, ''), *title.nonessential)) for title in path]
    path = _with_replaced_nouns(path)
    main, link = _MAIN_TERMS.get(clean(path[0].text), ('', ''))
    if main:
        path = [Title(main, (link,) if link else ()), *path[1:]]
    connectors = [title.connector for title in path]
    forms = [
        [_INTENTS[title.text]] if level and title.text in _INTENTS else natural_forms(title.text, is_main=level == 0)
        for level, title in enumerate(path)
    ]
    wordings = [compose(choice, connectors) for choice in itertools.islice(itertools.product(*forms), limit)]
    shortest = [choice[0] for choice in forms]
    for form in with_modifiers(path[-1], shortest[-1]):
        wordings.append(compose([*shortest[:-1], form], connectors))
    # 'Intentional > self-inflicted' names nothing.
    return [words for words in dict.fromkeys(wordings) if words and not is_adjective(words)][:limit]


def _with_replaced_nouns(path: Sequence[Title]) -> list[Title]:
    """Returns the path without the nouns that a more special noun follows, and without the name of a mere group."""
    first = 0 if clean(path[0].text) in _GROUPS and len(path) > 1 else 1
    kept = list(path[:first])
    for title in path[1:]:
        above = kept[-1] if len(kept) > first else None
        if len(kept) > first + 1 and _is_noun(title) and is_adjective(clean(kept[-1].text)) and _is_noun(kept[-2]):
            # 'tool > powered > dishwasher' is a powered dishwasher.
            kept[-2] = title
        elif above is None or above.connector or not _is_noun(title) or not _names_thing(above):
            kept.append(title)
        elif clean(above.text) in _OPENINGS:
            # 'Foreign body > entering through > natural orifice > coin': the coin is the foreign body.
            kept[0] = title
        elif clean(above.text) in _ATTRIBUTES:
            kept[-1] = title._replace(text=f'{clean(above.text)} {title.text}')
        elif clean(title.text) in _DEEDS:
            kept = [Title(f'{clean(above.text)} {clean(title.text)}')]
        else:
            kept[-1] = _replaced(above, title)
    return kept


def _replaced(above: Title, title: Title) -> Title:
    """Puts a noun in the place of the more general one: 'with ignition of clothing > nightwear'."""
    text = clean(above.text)
    head, of, _ = text.rpartition(' of ')
    prefix = head + of if of else link_of(text)
    return Title(f'{prefix.strip()} {title.text}') if prefix else title


def _names_thing(title: Title) -> bool:
    """Whether a title names something that a noun below it can stand for: a noun, or a phrase with one."""
    text = clean(title.text)
    return text not in _INTENTS and not is_adjective(text) and link_of(text) != text and ',' not in text


def _is_noun(title: Title) -> bool:
    text = clean(title.text)
    return not link_of(text) and not is_adjective(text) and text not in _INTENTS


def _places(path: Sequence[Title]) -> list[str]:
    """Returns e.g. 'kitchen of prison' for 'residence > institutional > prison > kitchen'."""
    if not path:
        return []
    forms = natural_forms(path[-1].text, is_main=False)
    if len(path) > 1 and is_adjective(forms[0]):
        return [f'{forms[0]} {uncapitalized(clean(path[-2].text))}'] if _is_noun(path[-2]) else []
    if link_of(forms[0]):
        return []
    rooms = [clean(title.text) for title in path[:-1] if clean(title.text) in _ROOMS]
    if rooms:
        return [f'{rooms[-1]} of {uncapitalized(form)}' for form in forms]
    containers = [clean(title.text) for title in path[:-1] if _is_noun(title)]
    if forms[0] in _ROOMS and containers:
        container = containers[-1].split(', ')[0]
        if container == 'residence':
            kind = 'institutional' if any(title.text == 'institutional' for title in path) else 'private'
            container = f'{kind} residence'
        return [f'{uncapitalized(form)} of {container}' for form in forms]
    return [uncapitalized(form) for form in forms]


def _transport_accident(path: Sequence[Title]) -> list[str]:
    """Words a transport accident by who was injured, in or on what, and how.

    'pickup truck occupant > hanger-on > collision (with) > van (traffic) > nontraffic' becomes 'person on outside of
    pickup truck injured in collision with van in nontraffic accident'.
    """
    names = [name for title in path if (name := clean(title.text)) not in _PASSED_OVER]
    if not names:
        return []
    injured, vehicle = _injured(names.pop(0))
    if names[:1] == ['conveyance']:
        where = ' '.join(names[1:2]) or 'pedestrian conveyance'
        injured = f'pedestrian {"in" if where in ("baby stroller", "wheelchair") else "on"} {where}'
        del names[:2]
    event, place = '', ''
    for name in names:
        if name in _PERSONS and not (event and name in _VEHICLE_PERSONS):
            injured = _PERSONS[name].format(vehicle) if vehicle and not event else f'{injured} boarding or alighting'
            injured = re.sub(r'^passenger in (?=.*cycle$)', 'passenger on ', injured)
        elif name in ('traffic', 'nontraffic'):
            place = name
        elif not event and (name in _EVENTS or name.startswith('collision')):
            event = name
        elif event in ('collision', 'collision with') and not is_adjective(name) and not link_of(name):
            event = f'collision with {name}'
        elif event and name == 'being ridden':
            event = f'{event} {name}'
        else:
            return []
    if not event:
        circumstance = f'{place or "transport"} accident'
    elif event.endswith('accident'):
        circumstance = f'{place} {event}'.strip()
    else:
        circumstance = f'{event} in {place} accident' if place else event
    return [f'{injured} injured in {circumstance}'] if injured else []


def _injured(name: str) -> tuple[str, str]:
    """Returns who was injured, and the vehicle, from the first term below 'transport'; ('', '') if it is no one."""
    if name in _RIDERS:
        return _RIDERS[name]
    if name in ('occupant', 'aircraft', 'person') or link_of(name) or is_adjective(name):
        return '', ''
    vehicle = name.removesuffix(' occupant')
    return (name, vehicle) if name != vehicle else (f'occupant of {vehicle}', vehicle)
