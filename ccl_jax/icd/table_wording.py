"""Wordings of the table of neoplasms and of the table of drugs and chemicals.

Both tables name a site or a substance in the rows, backwards as the index does,
and what became of it in the columns.
"""

import itertools
import re
from collections.abc import Sequence

from ccl_jax.icd.natural_order import Title, clean, is_unsayable, with_modifiers
from ccl_jax.icd.words import (
    follows_its_noun,
    is_adjective,
    link_of,
    precedes_its_noun,
    same_stem,
    stands_before_site,
    uncapitalized,
    word_set,
)

WORDINGS_PER_CELL = 8

# The columns by their headings, folded. Where a row names no site, what follows ' of' goes.
_NEOPLASMS = {
    'malignant primary': ('primary malignant neoplasm of {}', 'cancer of {}'),
    'malignant secondary': ('secondary malignant neoplasm of {}', 'metastasis to {}'),
    'ca in situ': ('carcinoma in situ of {}',),
    'benign': ('benign neoplasm of {}',),
    'uncertain behavior': ('neoplasm of uncertain behavior of {}',),
    'unspecified behavior': ('neoplasm of unspecified behavior of {}',),
}
_POISONINGS = {
    'poisoning accidental (unintentional)': 'accidental poisoning by {}',
    'poisoning intentional self-harm': 'intentional self-poisoning by {}',
    'poisoning assault': 'assault by poisoning with {}',
    'poisoning undetermined': 'poisoning by {} of undetermined intent',
    'adverse effect': 'adverse effect of {}',
    'underdosing': 'underdosing of {}',
}
# Stands before the noun that a modifier below it belongs to.
_NEWEST = '|'
# What stands below these is a part of them that needs no further word.
_SYSTEM = re.compile(r'\b(?:organs?|system|tract)$')
_HISTOLOGY = re.compile(r'(?<!str)oma$')

# Tissues: what stands below them is where they are ('skin > breast' is 'skin of breast').
_TISSUES = word_set("""
    angle|artery|blood vessel|body|bone|canal|cartilage|cavity|commissure|connective tissue|corpus|cortex|floor
    fossa|fundus|hilus|junction|ligament|lymph gland|meninges|mucosa|muscle|nerve|peripheral nerve|pia mater|plexus
    root|septum|skin|soft tissue|vein|wall
""")
_TISSUE = re.compile(rf'(?:^| )(?:{"|".join(sorted(_TISSUES))})$')
# Latin names that what stands below them completes: 'corpus callosum', 'labia majora'.
_LATIN_SITES = frozenset(('cervix', 'corpus', 'frenulum', 'labia', 'labium'))
# Classes of substances: what stands below them is one of them, or its source ('vaccine > pertussis').
_CLASSES = word_set("""
    acid|alcohol|alkaloid|alloy|analgesic|anesthetic|antagonist|anti-infective|antibiotic|anticonvulsant
    antidepressant|antidote|antiserum|barbiturate|berry|blocker|cathartic|compound|depressant|disinfectant|diuretic
    dye|enzyme|ester|ether|fish|fuel|fumigant|fungicide|gas|globulin|glue|glycol|herbicide|hormone|hypnotic
    inhibitor|insecticide|laxative|leaf|metal|mushroom|narcotic|oil|paint|pesticide|plant|polish|powder|preservative
    protein|psychotropic drug|relaxant|rodenticide|salt|sedative|seed|serum|snake|solvent|spider|spirit|steroid
    stimulant|tranquilizer|vaccine|venom|wax
""")
_FORMS = frozenset(('dust', 'fumes', 'gas', 'liquid', 'ointment', 'powder', 'solution', 'tincture', 'vapor'))
_SALT = re.compile(r'(?:ate|ide|ite)$')
_USES = ('infiltration', 'nerve block')


def neoplasm_wordings(path: Sequence[Title], column: str, limit: int = WORDINGS_PER_CELL) -> list[str]:
    """Returns wordings of a cell of the table of neoplasms, e.g. 'secondary malignant neoplasm of abdominal wall'."""
    patterns = _NEOPLASMS.get(column.casefold(), (f'{column.casefold()} neoplasm of {{}}',))
    titles = path[1:]
    if any(is_unsayable(title.text) or title.text in ('primary', 'secondary') for title in titles):
        return []
    if not titles:
        return [pattern.removesuffix(' of {}').removesuffix(' to {}') for pattern in patterns]
    if _HISTOLOGY.search(clean(titles[-1].text)):
        if patterns != _NEOPLASMS['malignant primary']:
            return []
        patterns, titles = (f'{clean(titles[-1].text)} of {{}}',), titles[:-1]
        if not titles or any(_HISTOLOGY.search(clean(title.text)) for title in titles):
            return [] if titles else [uncapitalized(clean(path[-1].text))]
    return _filled(patterns, _sites(titles), limit)


def drug_wordings(path: Sequence[Title], column: str, limit: int = WORDINGS_PER_CELL) -> list[str]:
    """Returns wordings of a cell of the table of drugs, e.g. 'adverse effect of ethyl alcohol'."""
    pattern = _POISONINGS.get(column.casefold(), f'{column.casefold()}: {{}}')
    if any(is_unsayable(title.text) for title in path):
        return []
    return _filled((pattern,), _substances(path), limit)


def _filled(patterns: Sequence[str], names: Sequence[str], limit: int) -> list[str]:
    filled = [pattern.format(name) for name, pattern in itertools.product(names, patterns)]
    return list(dict.fromkeys(filled))[:limit]


def _sites(path: Sequence[Title]) -> list[str]:
    """Returns the site that a row of the table of neoplasms names, in its spellings; none if it can't be worded."""
    sites = ['']
    for level, title in enumerate(path):
        forms = [form for form in clean(title.text).split(', ') if not form.startswith('not ') and form != 'uteri']
        if level + 1 < len(path):
            # 'abdominal > wall' but 'abdomen > upper': what stands below decides which form it can go with.
            wanted = not is_adjective(clean(path[level + 1].text))
            forms = [form for form in forms if is_adjective(form) == wanted] or forms
        sites = [site for above in sites for form in forms if (site := _site_below(above, form))]
    # 'Upper (third)' of the esophagus is its upper third, which the title alone says well enough.
    modifiers = [words for words in path[-1].nonessential if words != 'third' and is_adjective(words)]
    modifiers = [words for words in modifiers if not same_stem(words, clean(path[-1].text))]
    sites += [_site_below(site, words) for site in sites[:1] for words in modifiers]
    # An adjective alone names no site: 'neoplasm of abdominal' is none, 'neoplasm of abdomen' stands beside it.
    named = [site.replace(_NEWEST, '').replace('lymph gland', 'lymph node') for site in sites]
    return list(dict.fromkeys(uncapitalized(site) for site in named if site and not is_adjective(site)))


def _site_below(above: str, title: str) -> str:
    """Returns a site in the words of a note, `_NEWEST` before its newest noun.

    E.g. 'thoracic esophagus', 'skin of breast', 'anterior wall of stomach'.
    """
    link = link_of(title)
    if not above:
        return '' if link else f'{_NEWEST}{title}'
    plain = above.replace(_NEWEST, '')
    if is_adjective(plain):
        # Of 'renal > pelvic' nobody can say what is below what.
        if link or is_adjective(title):
            return ''
        first, _, rest = title.partition(' ')
        # 'uterine > lower segment' is the lower uterine segment.
        return f'{_NEWEST}{first} {plain} {rest}' if rest and is_adjective(first) else f'{_NEWEST}{plain} {title}'
    if link or follows_its_noun(title):
        return f'{above} {title}'
    if stands_before_site(title):
        return above.replace(_NEWEST, f'{_NEWEST}{title} ')
    if plain == 'lymph' or plain in _LATIN_SITES:
        return f'{_NEWEST}{plain} {title}'
    if plain == 'lymphatic channel':
        return ''
    if title.startswith('overlapping'):
        return f'{title} of {plain}'
    if _SYSTEM.search(plain) or ' of ' in title:
        return f'{_NEWEST}{title}'
    tissue, of, _ = above.partition(f' of {_NEWEST}')
    if title not in _TISSUES and (of or (_TISSUE.search(plain) and ' of ' not in plain)):
        # 'skin > breast', and 'skin > face > cheek' is skin of the cheek.
        return f'{tissue.replace(_NEWEST, "")} of {_NEWEST}{title}'
    return f'{_NEWEST}{title} of {plain}'


def _substances(path: Sequence[Title]) -> list[str]:
    """Returns the substance that a row of the table of drugs names, in its spellings; none if it can't be worded."""
    names = ['']
    for level, title in enumerate(path):
        forms = _turned_around(clean(title.text), len(path) > 1) if level == 0 else [clean(title.text).split(', ')[0]]
        if level + 1 == len(path):
            forms += [form for each in forms[:1] for form in with_modifiers(title, each) if ',' not in form]
        elif len(forms) > 2:
            # 'Sulfur, sulfurated, sulfuric, sulfurous > acid'
            forms = [form for form in forms if form.endswith('ic') and path[level + 1].text == 'acid'] or forms[:1]
        source = level > 0 and any(words.startswith('from') for words in path[level - 1].nonessential)
        names = [
            name
            for above in names
            for form in forms
            if (name := f'{above} from {form}' if source and above else _substance_below(above, form))
        ]
    last = clean(path[-1].text)
    return [] if len(path) == 1 and is_adjective(last) and ' ' not in last else list(dict.fromkeys(names))


def _turned_around(title: str, below: bool) -> list[str]:
    """Returns the spellings of a main term: 'Busulfan, busulphan' has two, 'Relaxant, muscle' is a muscle relaxant."""
    first, *others = title.split(', ')
    forms = [uncapitalized(first)]
    for other in others:
        if link_of(other) or other.startswith('not ') or other in ('gas or vapor', 'gas from'):
            continue
        if same_stem(first, other):
            # 'Sulfur, sulfurated, sulfuric': an adjective names no substance.
            forms += [uncapitalized(other)] if below or not is_adjective(other) else []
        else:
            forms = [f'{uncapitalized(other)} {form}' for form in forms]
    return forms


def _substance_below(above: str, title: str) -> str:
    if not above:
        return title
    link = link_of(title)
    if link or follows_its_noun(title):
        return f'{above} {title}' if link != title else ''
    if link_of(title.split()[-1]):
        return f'{title} {above}'
    if title.endswith(_USES):
        return f'{above} for {title}'
    if precedes_its_noun(title):
        substance, of, source = above.partition(' from ')
        return f'{substance} from {title} {source}' if of else f'{title} {above}'
    if title in _FORMS or (' ' in above and _SALT.search(title)):
        return f'{above} {title}'
    if _singular(title.split()[-1]) in _CLASSES:
        return f'{above} {title}'
    if _singular(above.split()[-1]) in _CLASSES and not above.endswith('system'):
        return f'{uncapitalized(title)} {_singular(above)}' if title.split()[-1] != above else title
    return f'{above} {title}'


def _singular(words: str) -> str:
    return words[:-1] if words.endswith('s') and words[:-1].split()[-1] in _CLASSES else words
