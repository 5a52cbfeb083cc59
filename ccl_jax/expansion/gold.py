"""Gold spans: what the code system itself says of a code, as printed and as notes would write it."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from ccl_jax.expansion.abbreviations import abbreviated
from ccl_jax.expansion.surface_forms import british, joined_with_meaning, note_form, reworded
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release, Term
from ccl_jax.records import Span

# Groups of rules, each of which can be left out. 'printed': the term; 'natural': its `natural_form`; 'reworded': the
# rules of `surface_forms`; 'spelling': British; 'abbreviations': the table; 'seventh_character': the terms of the code
# above a 7-character code, joined with what the seventh character means.
FORMS = ('printed', 'natural', 'reworded', 'spelling', 'abbreviations', 'seventh_character')

# Terms that speak to the coder of other codes are no words for a condition; vertebrae T11-T12 are no codes.
_SPEAKS_TO_THE_CODER = re.compile(
    r'\b(?!T1[0-2]-T1)[A-Z]\d[0-9A-Z](?:\.[0-9A-Z-]|-[A-Z]\d)|classifiable|\blisted conditions\b|this category'
    r'|Includes:|^any\b|\bany (?:condition|type)\b|^conditions (?:in|which)\b'
)
# Origins with many terms of one kind for a code (the drugs of T50.995): they stand for the initial encounter as they
# are, and 'sequela of' each of them would only repeat what the title shows.
_LISTS = frozenset(('index', 'external_cause_index', 'neoplasm_table', 'drug_table'))
_PARENTS_KEPT = 64

_TermsToJoin = list[tuple[Term, list[tuple[str, str]]]]


def gold_spans(release: Release, codes: Iterable[str], forms: Sequence[str] = FORMS) -> Iterator[Span]:
    """Yields the terms of each code in the wordings of `forms`; no wording twice per code however it is spelled.

    A header yields its own terms; a code that lacks its seventh character those of its nearest living ancestor; an
    unknown code nothing. Of wordings that differ only in capitals or punctuation the one of running text is kept,
    'cholera' of 'Cholera'.

    Args:
        forms: of `FORMS`; their order does not matter.

    Raises:
        ValueError: `forms` has a name that is not one of `FORMS`.
    """
    unknown = [name for name in forms if name not in FORMS]
    if unknown:
        raise ValueError(f'unknown form {unknown[0]!r}; known: {", ".join(FORMS)}')
    wordings_of = _Wordings(release, frozenset(forms))
    for code in codes:
        for number, (text, rules) in enumerate(wordings_of(code)):
            yield Span(f'gold:{code}:{number}', text, code, tier='gold', provenance=f'{release.name}: {rules}')


class _Wordings:
    """The wordings of a code; remembers those of the last parents, because their children come one after another."""

    def __init__(self, release: Release, forms: frozenset[str]):
        self._release = release
        self._forms = forms
        remembered = functools.lru_cache(_PARENTS_KEPT)
        self._parents_terms: Callable[[str], _TermsToJoin] = remembered(self._terms_to_join)
        self._childrens_titles: Callable[[str], list[tuple[str, str]]] = remembered(self._folded_titles_below)

    def __call__(self, code: str) -> list[tuple[str, str]]:
        """Returns (wording, provenance without the release) of a code, each folded wording once."""
        release = self._release
        status = release.status(code)
        source = release.nearest_living_ancestor(code) if status == 'incomplete' else code
        if status == 'unknown' or source is None:
            return []
        seventh = release.seventh_character(source)
        wordings: dict[str, tuple[str, str]] = {}
        for term in release.terms(source):
            # The parent's words joined with the meaning say it better than the title turned around.
            full = seventh is None or term.origin != 'title'
            for text, rules in self._of_term(term, full):
                wordings.setdefault(fold(text), (text, rules))
        parent = release.parent(source)
        if seventh is not None and parent is not None and 'seventh_character' in self._forms:
            for text, rules in self._joined(parent, seventh[1]):
                wordings.setdefault(fold(text), (text, rules))
        for text in self._titles_beside(source):
            # 'Withdrawal, uncomplicated' is no plain 'withdrawal' where a code beside it has just that name.
            if 'left out' in wordings.get(text, ('', ''))[1]:
                del wordings[text]
        wordings.pop('', None)
        return list(wordings.values())

    def _titles_beside(self, code: str) -> list[str]:
        """Returns the folded natural titles of the other codes with the same parent, and those abbreviated."""
        parent = self._release.parent(code)
        if parent is None or 'reworded' not in self._forms:
            return []
        return [title for other, title in self._childrens_titles(parent) if other != code]

    def _folded_titles_below(self, parent: str) -> list[tuple[str, str]]:
        titles = ((child, note_form(self._release.title(child))) for child in self._release.children(parent))
        return [(child, fold(form)) for child, title in titles for form in (title, abbreviated(title))]

    def _of_term(self, term: Term, full: bool) -> Iterator[tuple[str, str]]:
        natural = note_form(term.text)
        origin = term.origin if natural == term.text else f'{term.origin}, natural form'
        only_natural = 'natural' in self._forms and (
            fold(natural) == fold(term.text) or (term.origin == 'includes' and term.text.count('(') > 1)
        )
        if 'printed' in self._forms and not only_natural and not _speaks_to_the_coder(term.text, term.origin):
            yield term.text, term.origin
        if _speaks_to_the_coder(natural, term.origin):
            return
        if 'natural' in self._forms:
            yield natural, origin
        if not full:
            return
        others = reworded(natural) if 'reworded' in self._forms else []
        for text, rules in others:
            yield text, f'{origin}, {rules}'
        if 'spelling' in self._forms and term.origin not in _LISTS and british(natural) != natural:
            yield british(natural), f'{origin}, British spelling'
        for text, rules in ((natural, ''), *others[-1:]):
            yield from self._abbreviated(text, origin, rules)

    def _terms_to_join(self, parent: str) -> _TermsToJoin:
        """Returns each term of a code with its natural form and its rewordings, (wording, rules)."""
        terms = []
        for term in self._release.terms(parent):
            natural = note_form(term.text)
            if not _speaks_to_the_coder(natural, term.origin):
                others = reworded(natural) if 'reworded' in self._forms and term.origin not in _LISTS else []
                terms.append((term, [(natural, ''), *others]))
        return terms

    def _joined(self, parent: str, meaning: str) -> Iterator[tuple[str, str]]:
        for term, (natural, *others) in self._parents_terms(parent):
            origin = f'{term.origin} of {parent}, seventh character'
            joined = list(joined_with_meaning(natural[0], meaning))
            if term.origin in _LISTS:
                joined = [text for text in joined if text == natural[0]]
                others = []
            for text in joined:
                yield text, origin
            for place, (text, rules) in enumerate(others):
                again = list(joined_with_meaning(text, meaning))
                yield again[place % len(again)], f'{origin}, {rules}'
            if term.origin not in _LISTS:
                text, rules = (others or [natural])[-1]
                yield from self._abbreviated(next(joined_with_meaning(text, meaning)), origin, rules)

    def _abbreviated(self, text: str, origin: str, rules: str) -> Iterator[tuple[str, str]]:
        short = abbreviated(text)
        if 'abbreviations' in self._forms and short != text:
            yield short, ', '.join(filter(None, (origin, rules, 'abbreviated')))


def _speaks_to_the_coder(text: str, origin: str) -> bool:
    return origin != 'title' and _SPEAKS_TO_THE_CODER.search(text) is not None
