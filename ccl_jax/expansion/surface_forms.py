"""Terms of the code system in the words and the order of words that a note would use.

Every rule here keeps the code: it drops what a note leaves out because it goes
without saying, turns words around, or takes everyday words. The rules start
from the `natural_form` of a term, in which brackets and 'unspecified' are gone.
"""

import re
from collections.abc import Callable, Iterator

from ccl_jax.icd.terms import natural_form
from ccl_jax.icd.words import is_adjective, uncapitalized, word_set

# What a title says of all codes around it: a note names a complication that is there, not one that is not. Words
# after 'without' that make another disease ('migraine without aura') are not among them.
_ABSENT = re.compile(
    r'(?:,| and)? without (?:mention of |current )?(?:acute |chronic |mention )?(?:\(?acute\)? )?'
    r'(?:behavioral disturbance|bleeding|coma|complications?|esophagitis|exacerbation|foreign body|gangrene'
    r'|heart failure|hematuria|hemorrhage|macular edema|obstruction|perforation|perforation or abscess|rupture'
    r'|status epilepticus|status migrainosus|tophus|use disorder)'
    r'(?: or (?:abscess|bleeding|gangrene|obstruction|perforation))*(?=,| of |$)'
)
_NOT_SO = re.compile(r', (?:uncomplicated|not intractable|not specified as \w+|not having achieved remission)(?=,|$)')
# 'Site unspecified', 'part unspecified': what the coder would have liked to know.
_UNKNOWN = re.compile(r', (?:unspecified \w+|[a-z]+ unspecified|unspecified|other)(?=,|$)')
_LIMITS = re.compile(r', (?:except|excluding|other than|not classifiable)\b[^,]*')
# 'Upper limb' is not among them: 'carpal tunnel syndrome, unspecified upper limb' can be nowhere else.
_LIMBS = (
    'ankle|arm|back|buttock|elbow|femur|fibula|fingers?|foot|forearm|great toe|hand|heel|hip|humerus|knee|leg'
    '|lesser toe|lower leg|pelvis|radius|shoulder|thigh|thumb|tibia|toes?|ulna|upper arm|wrist'
)
# What `natural_form` would leave half of: 'other and unspecified finger' is another finger, not 'other and finger'.
_HALVES = (
    (re.compile(r'\bother and unspecified\b', re.IGNORECASE), 'other'),
    (re.compile(r'\bunspecified or other\b', re.IGNORECASE), 'other'),
    # Only the side is unknown; without the site 'tendinitis, unspecified forearm' would be that of the whole body.
    (re.compile(rf', unspecified (?:part of )?(?=(?:{_LIMBS})\b)'), ', '),
    # 'Unspecified quadrant with penetration', 'unspecified in remission': what follows is specified.
    (re.compile(r', unspecified (?:(?!whether)[a-z]+ )?(?=(?:in|with|without) )'), ' '),
    (
        re.compile(
            r' (?:affecting|at|of|with) unspecified (?:behavior|degree|duration|intensity|laterality|level|nature|parts'
            r'|severity|side|types?)\b'
        ),
        '',
    ),
)
_DANGLING = re.compile(r'(?<![\w-])(?:of|and|or|with|the|to|by|in)$')

_OPENINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r'^personal history of ', 'history of '),
        (r'^encounter for (?=screening|immunization|supervision|removal|fitting|adjustment|surgical|pregnancy)', ''),
        (r'^encounter for ', ''),
        (r'^maternal care for (?:known or suspected )?', ''),
        (r'^contact with and exposure to ', 'exposure to '),
        (r'^allergy status to ', 'allergic to '),
        (r'^long term use of ', 'on long-term '),
    )
)
# Everyday words for those of the code system.
_EVERYDAY: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r'\bdiabetes mellitus\b', 'diabetes'),
        (r'^(?:primary )?malignant neoplasm of\b', 'cancer of'),
        (r'\b(?<!secondary )malignant neoplasm of\b', 'cancer of'),
        (r'\bsecondary malignant neoplasm of\b', 'metastasis to'),
        (r'\bbenign neoplasm of\b', 'benign tumor of'),
        (r'\bcerebral infarction\b', 'ischemic stroke'),
        (r'\bcrushing injury\b', 'crush injury'),
        (r'\bcalculus of (kidney|ureter|bladder|gallbladder)\b', r'\1 stone'),
        (r'\bcomplicating (pregnancy|childbirth|the puerperium)\b', r'in \1'),
        (r'\b(?:car, )pick-up truck or van\b', 'car'),
        (r'\bpick-up truck or van\b', 'pick-up truck'),
        (r'\btwo- or three-wheeled motor vehicle\b', 'motorcycle'),
        (r'\brailway train or railway vehicle\b', 'train'),
        (r'\bheavy transport vehicle or bus\b', 'truck'),
        (r'\bfixed or stationary object\b', 'stationary object'),
        (r'\bpedal cycle\b', 'bicycle'),
        (r'\bpedal cyclist\b', 'cyclist'),
        (r'\binjured in (?=collision)', 'in '),
        (r'\bfemale breast\b', 'breast'),
        (r'\bupper limb\b', 'arm'),
        (r'\blower limb\b', 'leg'),
    )
)

# One look for all of them, because most texts have none.
_ANY_EVERYDAY = re.compile('|'.join(f'(?:{pattern.pattern})' for pattern, _ in _EVERYDAY))

# What can have its site before it: 'abrasion of left elbow' is a 'left elbow abrasion'.
_AT_A_SITE = '|'.join(
    sorted(
        word_set("""
    abrasion|abscess|aneurysm|arthritis|bite|blister|burn|calculus|cancer|carbuncle|carcinoma|cellulitis|contracture
    contusion|corrosion|cyst|deformity|dislocation|edema|effusion|embolism|fracture|frostbite|furuncle|granuloma
    hematoma|infection|injury|laceration|lesion|metastasis|osteoarthritis|osteomyelitis|osteonecrosis|pain|polyp
    rupture|sprain|stenosis|stiffness|strain|stricture|subluxation|swelling|thrombosis|tumor|ulcer|wound
""")
    )
)
_OF_A_SITE = re.compile(
    rf"(?P<kind>(?:[\w'-]+ ){{0,4}}?)(?P<head>{_AT_A_SITE}) (?:of|in|to) "
    r"(?:(?P<part>[\w'-]+(?: [\w'-]+)?) of )?(?P<site>[\w'-]+(?: [\w'-]+){0,2})"
)
_NO_SITE = re.compile(
    r'\b(?:and|at|by|due|during|following|foreign|from|grade|in|joints?|level|multiple|of|on|or|other|parts?|same|sites?'
    r'|situ|specified|than|to|type|unspecified|which|with|without|zone)\b',
    re.IGNORECASE,
)
# Adjectives that belong to the noun more closely than the site: an 'open left hand wound' is none.
_CLOSE = frozenset(
    (
        'open',
        'crushing',
        'superficial',
        'penetrating',
        'lateral',
        'medial',
        'anterior',
        'posterior',
        'inferior',
        'superior',
    )
)

_PLACED = re.compile(
    r'(?:right|left|bilateral) (?!side\b)[a-z]+(?: [a-z]+){0,2}|[a-z -]+ (?:region|lymph nodes)|multiple sites'
    rf'|spleen|vertebrae|{_LIMBS}'
)
_DEGREE = re.compile(r'mild|moderate|severe|recurrent|bilateral|unilateral|intractable|congenital|acquired|stage \d\w?')
_NO_MODIFIER = re.compile(
    r'civilian|confirmed|initial|injured|multiple|nontraffic|other|subsequent|suspected|undetermined|unspecified|traffic'
)
_INTENTS = {
    'assault': 'assault by poisoning with {}',
    'intentional self-harm': 'intentional self-poisoning by {}',
    'undetermined': 'poisoning by {} of undetermined intent',
}
_TRIMESTER = re.compile(r'(?:first|second|third) trimester')

_BRITISH = {
    'anemi': 'anaemi',
    'cecum': 'caecum',
    'celiac': 'coeliac',
    'diarrhea': 'diarrhoea',
    'dyspnea': 'dyspnoea',
    'edema': 'oedema',
    'esophag': 'oesophag',
    'estrogen': 'oestrogen',
    'gynec': 'gynaec',
    'hematom': 'haematom',
    'hematuri': 'haematuri',
    'hemoglobin': 'haemoglobin',
    'hemorrh': 'haemorrh',
    'ischemi': 'ischaemi',
    'leukemi': 'leukaemi',
    'orthopedic': 'orthopaedic',
    'tumor': 'tumour',
}
_AMERICAN = re.compile('|'.join(_BRITISH))


def note_form(term: str) -> str:
    """Returns the `natural_form` of a term, or the term where that leaves half a phrase ('implants and [grafts]')."""
    whole = term
    for pattern, words in _HALVES:
        whole = pattern.sub(words, whole)
    form = natural_form(whole)
    return term if _DANGLING.search(form) else form


def reworded(text: str) -> list[tuple[str, str]]:
    """Returns (wording, rules) for a natural form, each wording once and none equal to `text`, the plainest first.

    'Primary osteoarthritis, right knee' gives 'primary osteoarthritis of right knee' and 'primary right knee
    osteoarthritis'. Each rule works on what the one before it made, and `rules` names them, comma-separated.
    """
    wordings: dict[str, str] = {}
    names: list[str] = []
    text = running_text(text)
    for name, rule in _RULES:
        changed = ' '.join(rule(text).split())
        if changed != text and not _DANGLING.search(changed):
            names.append(name)
            wordings[changed] = ', '.join(names)
            text = changed
    return list(wordings.items())


def british(text: str) -> str:
    """Returns the text in British spelling, itself where that is no different."""
    return _AMERICAN.sub(lambda match: _BRITISH[match[0]], text)


def running_text(text: str) -> str:
    """Returns a text that begins with a small letter if its first word is an adjective and no name.

    `natural_form` keeps the capital of a word before a name: 'Nondisplaced Rolando's fracture'.
    """
    first = text.partition(' ')[0]
    if first[1:].islower() and first.isalpha() and (is_adjective(first.lower()) or first == 'Other'):
        return uncapitalized(text)
    return text


def _without_the_obvious(text: str) -> str:
    for pattern in (_LIMITS, _UNKNOWN, _NOT_SO, _ABSENT):
        text = pattern.sub('', text)
    for pattern, words in _OPENINGS:
        text = pattern.sub(words, text)
    return text.strip(' ,')


def _turned_around(text: str) -> str:
    """Undoes the comma: 'asthma, moderate' -> 'moderate asthma', 'synovitis, left hip' -> 'synovitis of left hip'."""
    rest, comma, last = text.rpartition(', ')
    if not comma:
        return text
    if _TRIMESTER.fullmatch(last):
        return f'{rest} in {last}'
    if last in _INTENTS and rest.startswith('poisoning by '):
        return _INTENTS[last].format(rest.removeprefix('poisoning by '))
    if _PLACED.fullmatch(last):
        return text if re.search(r',| (?:of|in|to) ', rest) else f'{rest} of {last}'
    if ',' in rest or _NO_MODIFIER.search(last) or re.search(r'\b(?:and|or)\b', last):
        return text
    if _DEGREE.fullmatch(last) or (is_adjective(last) and last.count(' ') <= 1):
        return f'{last} {uncapitalized(rest)}'
    return text


def _site_first(text: str) -> str:
    """Puts a site before what is there: 'fracture of shaft of left radius' -> 'left radius shaft fracture'."""
    match = _OF_A_SITE.fullmatch(text)
    if match is None:
        return text
    part = match['part'] or ''
    kind = match['kind'].split()
    if any(_NO_SITE.search(words) for words in (part, match['site'], match['kind'])):
        return text
    adjectives = 0
    while adjectives < len(kind) and is_adjective(kind[adjectives]) and kind[adjectives] not in _CLOSE:
        adjectives += 1
    return ' '.join([*kind[:adjectives], match['site'], part, *kind[adjectives:], match['head']])


def _everyday(text: str) -> str:
    if not _ANY_EVERYDAY.search(text):
        return text
    for pattern, words in _EVERYDAY:
        text = pattern.sub(words, text)
    return text


_RULES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ('what goes without saying left out', _without_the_obvious),
    ('comma undone', _turned_around),
    ('everyday words', _everyday),
    ('site first', _site_first),
)

_ENCOUNTER = re.compile(
    r'(?P<which>initial|subsequent) encounter'
    r'(?: for (?P<kind>closed |open )?fracture(?: type (?P<types>[IVABC, or]+?))?(?: with (?P<healing>[a-z ]+))?)?'
)
_HEALING = {
    'routine healing': ['healing {}', '{}, routine healing'],
    'delayed healing': ['{} with delayed healing', 'delayed union of {}'],
    'nonunion': ['nonunion of {}', '{} with nonunion'],
    'malunion': ['malunion of {}', '{} with malunion'],
}
_VICTIM = re.compile(
    r'(?:[\w-]+ ){0,5}?(?:bystander|cyclist|driver|motorcyclist|occupant|passenger|pedestrian|person|rider|suspect)\b'
    r'.* (?:injured|in collision)\b'
)
_STAGE = re.compile(r'(mild|moderate|severe) stage')


def joined_with_meaning(text: str, meaning: str) -> Iterator[str]:
    """Yields what a note would say for a condition and the meaning of the seventh character, the plainest first.

    ('fracture of left femur', 'initial encounter for closed fracture') -> 'closed fracture of left femur' and others.
    A condition alone stands for the initial encounter, and a fracture for a closed one: ICD-10-CM Official Guidelines,
    section I.C.19.c ('a fracture not indicated as open or closed should be coded to closed'). The types of open
    fractures are those of Gustilo, as the notes of category S52 say.
    """
    text = running_text(text)
    meaning = re.sub(r'\s*[(\[][^)\]]*[)\]]', '', meaning)
    encounter = _ENCOUNTER.fullmatch(meaning)
    if _VICTIM.match(text) and (meaning.startswith('sequela') or meaning == 'subsequent encounter'):
        # There is no 'sequela of driver of car injured in collision'.
        yield from (f'{text}, late effect' if meaning == 'sequela' else f'{text}, follow-up', f'{text}, {meaning}')
    elif meaning.startswith('sequela'):
        yield from (f'sequela of {text}', f'late effect of {text}')
    elif encounter is not None:
        yield from _of_encounter(text, encounter)
    elif 'unspecified' in meaning:
        yield text
    elif meaning == 'bilateral':
        yield _with_adjective('bilateral', text)
    elif stage := _STAGE.fullmatch(meaning):
        yield from (_with_adjective(stage[1], text), f'{text}, {meaning}')
    elif re.match(r'with|at |in the ', meaning):
        yield f'{text} {meaning}'
    elif meaning.endswith(' eye') and ' of ' not in text:
        yield f'{text} of {meaning}'
    else:
        yield f'{text}, {meaning}'


def _of_encounter(text: str, encounter: re.Match[str]) -> Iterator[str]:
    kind = (encounter['kind'] or '').strip()
    types = re.findall(r'[IVABC]+', encounter['types'] or '')
    if kind and 'fracture' not in text:
        yield f'{text}, {encounter[0]}'
        return
    of_kind = _with_adjective(kind, text)
    conditions = [f'{of_kind}, Gustilo type {each}' for each in types] or [of_kind]
    if encounter['healing']:
        patterns = _HEALING[encounter['healing']]
        if ' with ' in text.partition('fracture')[0]:
            # It is not the osteoporosis of 'osteoporosis with current pathological fracture' that heals.
            patterns = [f'{{}}, {encounter["healing"]}'] * 2
        for place, condition in enumerate(conditions):
            yield patterns[place % 2].format(condition)
        yield patterns[1].format(conditions[0])
        if kind == 'closed':
            yield patterns[0].format(text)
    elif encounter['which'] == 'initial':
        yield from conditions
        if kind == 'open' and 'IIIA' not in types:
            # Open of no named type is coded as type I or II (inclusion term 'initial encounter for open fracture NOS').
            yield of_kind
        elif kind == 'closed':
            yield text
        yield f'{conditions[0]}, initial encounter'
    else:
        yield from (f'{text}, subsequent encounter', f'follow-up for {text}')


def _with_adjective(adjective: str, text: str) -> str:
    """Returns the text with an adjective before it, but after 'other'."""
    if not adjective:
        return text
    rest = text.removeprefix('other ')
    return f'{adjective} {text}' if rest == text else f'other {adjective} {rest}'
