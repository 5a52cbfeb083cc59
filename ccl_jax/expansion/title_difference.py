"""The small difference between two titles, and a text edited by it.

'Contusion of right knee' and 'Contusion of left knee' differ in a word of one
scale; the same replacement turns what a note says about the one code into what
it could say about the other. Only the scales listed here count: titles that
differ in anything else (an organism, an organ) name different things, and what
is said of the one is seldom true of the other.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

from ccl_jax.icd.folding import fold

# Words that a title has where it has no value of a scale.
_UNSPECIFIED = frozenset({'unspecified', 'nos', 'nec'})
_FUNCTION_WORDS = frozenset(fold('a an and at by due for from in into of on or the to with without').split())
# Two sides at once, or one seen from the other: no word of them can be replaced alone.
_RELATIVE_SIDE = re.compile(
    r'\b(both|each|either|contralateral|opposite|ipsilateral|sides|other (side|eye|ear|arm|hand|leg|foot)|OD|OS|OU)\b',
    re.IGNORECASE,
)
# 'knees', but not 'arthritis', 'hallux valgus' or 'weakness'.
_PLURAL = re.compile(r'\b[a-z]{2,}[a-hj-rtv-z]s\b', re.IGNORECASE)
_BETWEEN_WORDS = r'[\s,()-]*'


# Compared by identity: there are few, and they are keys of large tables.
@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """Values that exclude each other in the title of a code.

    Attributes:
        values: the ways of writing each value; the same place in each means the same way. The first is that of the
            titles, '' a way that the value does not have.
        with_next: a value counts only with the word after it ('with', 'first').
        optional: a title without any value ('unspecified') is one more value.
        last: in a text, a value counts only at its end.
    """

    values: tuple[tuple[str, ...], ...]
    with_next: bool = False
    optional: bool = False
    last: bool = False


class Difference(NamedTuple):
    """What to do with a text: `new` in the place of `old`, two values of `scale` (None: unspecified).

    `anchor` is the word that follows the value in the title, '' where that does not matter.
    """

    scale: Scale
    old: int | None
    new: int | None
    anchor: str = ''

    def __str__(self) -> str:
        words = ['unspecified' if value is None else self.scale.values[value][0] for value in (self.old, self.new)]
        return ' -> '.join(f'{word} {self.anchor}'.strip() for word in words)


class Reading(NamedTuple):
    """A title read as a value of a scale within a frame; titles of one scale and frame differ in the value alone."""

    scale: Scale
    frame: str
    value: int | None
    anchor: str


def _scale(*values: str, with_next: bool = False) -> Scale:
    """Returns a scale from values whose ways of writing are separated by '|'."""
    return Scale(tuple(tuple(value.split('|')) for value in values), with_next=with_next)


SIDES = Scale(
    (
        ('right', 'rt', 'Rt', 'R', 'RUQ', 'RLQ', 'RUL', 'RLL', 'RUE', 'RLE'),
        ('left', 'lt', 'Lt', 'L', 'LUQ', 'LLQ', 'LUL', 'LLL', 'LUE', 'LLE'),
        ('bilateral', 'bilat', 'Bilat', 'B/L', '', '', '', '', '', ''),
    ),
    optional=True,
)
SCALES = (
    SIDES,
    _scale('with|w/|with', 'without|w/o|no', with_next=True),
    # Acuity and course.
    _scale('acute', 'subacute', 'chronic', 'acute on chronic', 'acute and chronic', 'acute and subacute'),
    _scale('mild', 'moderate', 'severe', 'profound'),
    _scale('intractable', 'not intractable'),
    _scale('single episode', 'recurrent'),
    _scale('in remission', 'in relapse', 'not having achieved remission'),
    _scale('in partial remission', 'in full remission'),
    _scale('uncomplicated', 'complicated'),
    _scale('primary', 'secondary', 'post-traumatic'),
    _scale('traumatic', 'nontraumatic'),
    _scale('complete', 'partial', 'incomplete'),
    _scale('displaced', 'nondisplaced'),
    _scale('systolic', 'diastolic', 'combined systolic and diastolic'),
    _scale('obstructed', 'unobstructed'),
    _scale('active', 'quiescent'),
    # Steps that a number tells.
    _scale(*(f'stage {n}|stage {roman}' for n, roman in zip('1234', ('I', 'II', 'III', 'IV'), strict=True))),
    _scale('type I', 'type II', 'type III', 'type IV'),
    _scale('grade I|grade 1', 'grade II|grade 2', 'grade III|grade 3', 'grade IIIa', 'grade IIIb'),
    _scale(
        'first|1st', 'second|2nd', 'third|3rd', 'fourth|4th', 'fifth|5th', 'sixth|6th', 'seventh|7th', with_next=True
    ),
    _scale('low grade', 'high grade'),
    # Site.
    _scale('upper', 'middle', 'lower'),
    _scale('anterior', 'middle', 'posterior'),
    _scale('medial', 'lateral'),
    _scale('proximal', 'distal'),
    _scale('superior', 'inferior'),
    _scale('internal', 'external'),
    _scale('upper inner', 'lower inner', 'upper outer', 'lower outer'),
    _scale('thumb', 'index finger', 'middle finger', 'ring finger', 'little finger'),
    _scale('great toe', 'lesser toe'),
    _scale('shoulder', 'elbow', 'wrist', 'hand', 'hip', 'knee', 'ankle', 'foot', 'ankle and foot'),
    _scale('upper arm', 'forearm', 'thigh', 'lower leg'),
    _scale(
        'cervical', 'cervicothoracic', 'thoracic', 'thoracolumbar', 'lumbar', 'lumbosacral', 'sacral', 'sacrococcygeal'
    ),
    _scale('frontal lobe', 'parietal lobe', 'temporal lobe', 'occipital lobe'),
    _scale('maxillary', 'frontal', 'ethmoidal', 'sphenoidal'),
    _scale('ascending colon', 'transverse colon', 'descending colon', 'sigmoid colon'),
    _scale('male', 'female'),
    # Causes.
    _scale('driver', 'passenger'),
    _scale('traffic accident', 'nontraffic accident'),
)


def readings(title: str) -> Iterator[Reading]:
    """Yields how a title can be read as a value of a scale; case, punctuation and 'unspecified' do not count."""
    words = f' {" ".join(word for word in fold(title).split() if word not in _UNSPECIFIED)} '
    for scale in SCALES:
        pattern, values = _title_pattern(scale)
        matches = list(pattern.finditer(words))
        if scale.with_next:
            # 'without foreign body ... without damage to nail' is two questions; of two trimesters, a text
            # does not say which is which.
            anchors = [_first_word(words[match.end() :]) for match in matches]
            for match, anchor in zip(matches, anchors, strict=True):
                if anchors.count(anchor) == 1:
                    frame = f'{words[: match.start()]}_{words[match.end() :]}'
                    yield Reading(scale, frame, values[match[0]], anchor)
        elif len({match[0] for match in matches}) == 1:
            value = matches[0][0]
            frame = pattern.sub('', words).replace('  ', ' ') if scale.optional else pattern.sub('_', words)
            yield Reading(scale, frame, values[value], _first_word(words[matches[0].end() :]))
        elif scale.optional and not matches:
            yield Reading(scale, words, None, '')


def difference(old: Reading, new: Reading) -> Difference | None:
    """Returns what turns the one title into the other, None if that cannot be said of a text.

    Raises:
        ValueError: the readings differ in scale or frame.
    """
    if (old.scale, old.frame) != (new.scale, new.frame):
        raise ValueError('two readings differ in more than their value')
    if old.value == new.value:
        return None
    anchor = new.anchor if old.value is None or old.scale.with_next else ''
    if anchor in _FUNCTION_WORDS or (not anchor and (old.value is None or old.scale.with_next)):
        return None
    return Difference(old.scale, old.value, new.value, anchor)


@functools.cache
def seventh_character_difference(old_meaning: str, new_meaning: str) -> Difference:
    """Returns what turns the words of one 7th character into those of another; only the end of a text is edited."""
    return Difference(Scale(((old_meaning,), (new_meaning,)), last=True), 0, 1)


def edit(text: str, difference: Difference) -> str | None:
    """Returns a text that says the new value wherever `text` says the old one; None where that makes no sense.

    There is no edit if the text does not say the old value, or says another of
    the scale too, if it says nothing else, or if a word that belongs to the old
    value alone would be left over.
    """
    if difference.scale is SIDES and _resists_another_side(text, difference):
        return None
    if difference.old is None:
        return _inserted(text, difference)
    pieces, end = [], 0
    for match in _text_pattern(difference.scale, difference.anchor).finditer(text):
        value, way = _value_and_way(difference.scale, match['form'])
        written = '' if difference.new is None else difference.scale.values[difference.new][way]
        before = text[end : match.start('form')]
        if value != difference.old or (difference.new is not None and not written):
            return None
        # 'Iritis, right eye' without its side is no wording of a note: 'iritis, eye'.
        if not written and before.rstrip().endswith(',') and fold(text[match.end('form') :]):
            return None
        pieces += [_with_article(before, written), _in_case_of(match['form'], text, written)]
        end = match.end('form')
    edited = _tidy(''.join([*pieces, text[end:]]))
    return edited if pieces and _is_whole(edited, text, difference) else None


def _inserted(text: str, difference: Difference) -> str | None:
    """Returns a text that says nothing of the scale with the new value before the anchor."""
    # 'unspecified knee' stands against any side.
    if _UNSPECIFIED & set(fold(text).split()):
        return None
    places = list(re.finditer(rf'(?<![\w-]){re.escape(difference.anchor)}(?!\w)', text, re.IGNORECASE))
    if difference.new is None or len(places) != 1 or _text_pattern(difference.scale, '').search(text):
        return None
    word, begin = difference.scale.values[difference.new][0], places[0].start()
    before, after = _with_article(text[:begin], word), text[begin:]
    if begin == 0 and places[0][0].istitle():
        after = after[0].lower() + after[1:]
    return f'{before}{_in_case_of(places[0][0], text, word)} {after}'


def _resists_another_side(text: str, difference: Difference) -> bool:
    if _RELATIVE_SIDE.search(text):
        return True
    sides = {difference.old, difference.new}
    right_or_left = {value for value in sides if value is not None and SIDES.values[value][0] != 'bilateral'}
    # 'right-sided', but not 'bilateral-sided'; 'bilateral knees', but not 'left knees'.
    return bool(sides - right_or_left) and ('sided' in text.casefold() or bool(_PLURAL.search(text)))


def _is_whole(edited: str, text: str, difference: Difference) -> bool:
    """Whether an edited text still says something, and nothing of what only the old value says."""
    scale, old, new, _ = difference
    old_words = set(fold(scale.values[old or 0][0]).split()) - _FUNCTION_WORDS
    new_words = set(fold(scale.values[new][0]).split()) if new is not None else set()
    words = fold(edited).split()
    # 'external eye of right eye' without its side would say the same twice.
    if new is None and len(set(words)) < len(words):
        return False
    # The side alone, as the meaning of a 7th character, fits after a comma: 'edema of bilateral'.
    if words[-1:] == ['bilateral'] and words[-2:-1] and words[-2] in _FUNCTION_WORDS:
        return False
    said = set(words) - new_words - _FUNCTION_WORDS
    return bool(said) and not (old_words - new_words) & said and words[-1] not in _FUNCTION_WORDS


def _first_word(words: str) -> str:
    return ''.join(words.split(maxsplit=1)[:1])


@functools.cache
def _title_pattern(scale: Scale) -> tuple[re.Pattern[str], dict[str, int]]:
    """Returns what finds the values of a scale in folded words, and which is which."""
    values = {fold(forms[0]): value for value, forms in enumerate(scale.values)}
    return re.compile(f'(?<= )({"|".join(sorted(values, key=len, reverse=True))})(?= )'), values


@functools.lru_cache(maxsize=4096)
def _text_pattern(scale: Scale, anchor: str) -> re.Pattern[str]:
    """Returns what finds the values of a scale in a text, as group 'form', whatever way they are written."""
    forms = sorted({form for forms in scale.values for form in forms if form}, key=lambda form: (-len(form), form))
    form = f'(?P<form>{"|".join(map(_form_pattern, forms))})'
    after = rf'{_BETWEEN_WORDS}{re.escape(anchor)}(?!\w)' if anchor else r'(?![\w/])'
    return re.compile(rf'(?<![\w/]){form}{after}' + (r'(?=\W*$)' if scale.last else ''))


def _form_pattern(form: str) -> str:
    pattern = r'[\s-]+'.join(map(re.escape, re.split(r'[\s-]', form)))
    if not _own_case(form):
        return f'(?i:{pattern})'
    # '2 L' is litres.
    return rf'(?<!\d ){pattern}' if len(form) == 1 else pattern


def _own_case(form: str) -> bool:
    """Whether a form is so short that it must be written as it stands: R, not r; rt, not RT; RUQ."""
    return len(form) <= 2 or (len(form) == 3 and not form.islower())


@functools.cache
def _ways(scale: Scale) -> dict[str, tuple[int, int]]:
    ways: dict[str, tuple[int, int]] = {}
    for value, forms in enumerate(scale.values):
        for way, form in enumerate(forms):
            ways.setdefault(form if _own_case(form) else fold(form), (value, way))
    return ways


def _value_and_way(scale: Scale, form: str) -> tuple[int, int]:
    ways = _ways(scale)
    return ways[form] if form in ways else ways[fold(form)]


def _in_case_of(form: str, text: str, written: str) -> str:
    """Returns a word in capitals, or with one, where the word that it replaces has them."""
    if text.isupper():
        return written.upper()
    return written[:1].upper() + written[1:] if form[0].isupper() else written


def _with_article(before: str, word: str) -> str:
    """Returns the text before a word with its article, if it ends with one, as the word needs it."""
    return re.sub(r'\ban? $', 'an ' if word[:1] in 'aeio' else 'a ', before) if word else before


def _tidy(text: str) -> str:
    """Returns a text without the gaps that a removed word left."""
    return re.sub(r'\s+([,;)])', r'\1', ' '.join(text.split())).strip(' ,;-')
