"""Paths of the alphabetic index in the order of words that a note would have.

An index names a condition backwards, main term first: 'Infarct, infarction >
myocardium, myocardial > acute'. Read forwards it is an 'acute myocardial
infarction'. The rules:

- a phrase that a preposition or participle begins follows what it modifies
  ('Diabetes > due to > drug' -> 'diabetes due to drug');
- an adjective goes before everything that it modifies, a noun directly before
  the main term ('Fracture > femur > open' -> 'open femur fracture');
- below a phrase, modifiers belong to the noun of the phrase;
- the comma separates forms of one word ('abdomen, abdominal'), each of which
  makes a wording of its own, or turns an order of words around ('Incident,
  adverse' -> 'adverse incident').

A path with a part that says only what it is not ('specified NEC') has no
natural wording, because no note says so.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ccl_jax.icd.words import (
    follows_its_noun,
    is_adjective,
    is_latin_modifier,
    link_of,
    precedes_its_noun,
    same_stem,
    uncapitalized,
)

WORDINGS_PER_ENTRY = 8

_RESIDUAL = re.compile(r'\b(?:(?:not elsewhere|not otherwise) classified|NEC|NOS)\b,?')
_UNSAYABLE = re.compile(
    r'\b(?:un)?specified\b|^(?:other|any|by type|type of|meaning|see|used as)\b|^Note:|\w (?:type|use)$|\bincluding\b|'
    r'^(?:stated as|nonmedicinal|medicinal)$',
    re.IGNORECASE,
)
# Below a main term an adjective after a comma is most often a synonym ('kidney, renal'), but these are not.
_TURNED_AROUND = re.compile(r'^(?:non|un)\S+$|(?:ing|ed)$')


class Title(NamedTuple):
    """One level of an index path.

    Attributes:
        text: the words without the nonessential modifiers.
        nonessential: the modifiers in parentheses, which may be present or absent without changing the code.
        place: where in `text` they stand.
    """

    text: str
    nonessential: tuple[str, ...] = ()
    place: int = 0

    @property
    def connector(self) -> str:
        """The words that link what stands below, where the modifiers say so: 'Collision (with)' gives 'with'."""
        for words in self.nonessential:
            link = words if words in _CONNECTORS else ''
            if link:
                return link
        return ''


# Nonessential modifiers that only lead over to the level below.
_CONNECTORS = frozenset(
    ('to', 'by', 'with', 'from', 'of', 'in', 'at', 'between', 'involving', 'involving injury to', 'exposure to')
)


@dataclasses.dataclass(frozen=True)
class _Part:
    """A piece of a phrase: linking words, modifiers, a noun, and what follows it."""

    link: str = ''
    before: tuple[str, ...] = ()
    noun: str = ''
    after: tuple[str, ...] = ()

    def words(self) -> str:
        return ' '.join(filter(None, (self.link, *self.before, self.noun, *self.after)))


def natural_wordings(path: Sequence[Title], limit: int = WORDINGS_PER_ENTRY) -> list[str]:
    """Returns the wordings of an index path, at most `limit`, the plainest first; none if it can't be worded.

    First the forms of the comma synonyms, then those with one nonessential
    modifier each, as in 'essential hypertension' from 'Hypertension (essential)'.
    """
    if any(is_unsayable(title.text) for title in path):
        return []
    forms = [natural_forms(title.text, is_main=level == 0) for level, title in enumerate(path)]
    connectors = [title.connector for title in path]
    plain = [compose(choice, connectors) for choice in itertools.islice(itertools.product(*forms), limit)]
    shortest = [choice[0] for choice in forms]
    fuller = [
        words
        for level in range(len(path))
        for main in forms[0]
        for words in _with_modifiers_of(path, [main, *shortest[1:]], level, connectors)
    ]
    return list(dict.fromkeys(words for words in plain + fuller if words))[:limit]


def _with_modifiers_of(
    path: Sequence[Title], forms: Sequence[str], level: int, connectors: Sequence[str]
) -> Iterator[str]:
    """Yields the wordings with each nonessential modifier of one level."""
    phrase_begins = next((place for place, form in enumerate(forms) if place and link_of(form)), len(forms))
    for fuller in with_modifiers(path[level], forms[level]):
        modifier = fuller.removesuffix(uncapitalized(forms[level])).strip()
        if level == 0 and phrase_begins > 1 and is_adjective(modifier) and not any(connectors):
            # 'Abscess (acute) > abdominal' is an acute abdominal abscess, not an abdominal acute abscess.
            yield compose([*forms[:phrase_begins], modifier, *forms[phrase_begins:]])
        else:
            yield compose([*forms[:level], fuller, *forms[level + 1 :]], connectors)


@functools.lru_cache(maxsize=100_000)
def is_unsayable(title: str) -> bool:
    """Whether a title says only what it is not, or speaks to the coder."""
    return _UNSAYABLE.search(title) is not None or not clean(title)


@functools.lru_cache(maxsize=100_000)
def clean(title: str) -> str:
    """Returns a title without 'NEC', 'NOS' and stray commas."""
    return re.sub(r'\s+', ' ', _RESIDUAL.sub(' ', title)).replace(' ,', ',').strip(' ,')


def compose(titles: Sequence[str], connectors: Sequence[str] = ()) -> str:
    """Puts the titles of one path, main term first, into the natural order of words."""
    main = uncapitalized(titles[0])
    words, _, last = main.rpartition(' ')
    # 'Struck by > ball': the main term leads over to what stands below it.
    parts = [_Part(noun=words), _Part(link=last)] if words and link_of(last) == last else [_Part(noun=main)]
    for title, connector in itertools.zip_longest(titles[1:], connectors[: len(titles) - 1], fillvalue=''):
        parts = _with_title(parts, title, connector)
    phrase = ' '.join(part.words() for part in parts)
    return phrase if not parts[-1].link or parts[-1].noun else ''


def _with_title(parts: list[_Part], title: str, connector: str) -> list[_Part]:
    *rest, last = parts
    link = link_of(title)
    if link:
        return [*parts, _Part(link=link, noun=title[len(link) :].strip())]
    if last.link and not last.noun:
        return [*rest, dataclasses.replace(last, noun=title)]
    if follows_its_noun(title):
        return [*rest, dataclasses.replace(last, after=(*last.after, title))]
    if precedes_its_noun(title):
        return [*rest, dataclasses.replace(last, before=(title, *last.before))]
    if is_adjective(last.noun):
        # 'Legal > intervention': the term above was no noun.
        return [*rest, dataclasses.replace(last, before=(*last.before, last.noun), noun=title)]
    if connector:
        return [*parts, _Part(link=connector, noun=title)]
    return [*rest, dataclasses.replace(last, before=(*last.before, title))]


def natural_forms(title: str, is_main: bool) -> list[str]:
    """Returns the forms that the commas of a title separate, those that can be used where it stands first."""
    pieces = [piece for piece in clean(title).split(', ') if piece]
    if link_of(pieces[0]):
        # 'due to, caused by' and 'from, off, out of': the first is as good as the others.
        return pieces[:1]
    synonyms = [pieces[0]]
    for piece in pieces[1:]:
        if link_of(piece) or piece.startswith('not '):
            continue
        if is_main and not same_stem(pieces[0], piece):
            if precedes_its_noun(piece):
                # 'Incident, adverse': the words are turned around.
                synonyms = [f'{uncapitalized(piece)} {uncapitalized(form)}' for form in synonyms]
            continue
        if not is_main and _TURNED_AROUND.search(piece) and not same_stem(pieces[0], piece):
            synonyms = [f'{piece} {form}' for form in synonyms]
            continue
        synonyms.append(piece)
    nouns = [form for form in synonyms if not is_adjective(form)]
    adjectives = [form for form in synonyms if is_adjective(form)]
    # A main term is a noun where it has one; what modifies it is an adjective where it has one.
    return (nouns or adjectives) if is_main else (adjectives or nouns)


def with_modifiers(title: Title, form: str) -> list[str]:
    """Returns `form` with each of the nonessential modifiers of its title that fits into a phrase."""
    fuller = []
    inside = 0 < title.place < len(title.text)
    for words in title.nonessential:
        if words in _CONNECTORS or words == 's' or len(words.split()) > 3 or ',' in words:
            continue
        if inside:
            whole = clean(f'{title.text[: title.place].rstrip()} {words} {title.text[title.place :].lstrip()}')
            if ',' not in whole:
                fuller.append(whole)
        elif link_of(form):
            continue
        elif is_latin_modifier(words) or (link_of(words) and link_of(words) != words):
            fuller.append(f'{form} {words}')
        elif is_adjective(words):
            fuller.append(f'{words} {uncapitalized(form)}')
    return fuller
