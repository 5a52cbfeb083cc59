"""Finds where the terms of a code stand in a text.

Case, accents, punctuation and white space do not matter, whole words do. The
offsets are those of the text as given.
"""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

from ccl_jax.icd.folding import FoldedText, fold
from ccl_jax.icd.release import Release, Term
from ccl_jax.icd.terms import natural_form

_ABBREVIATION = re.compile(r'[A-Z]+')
_RESULT_OF_A_TEST = re.compile(r'[A-Z0-9]+[+-]')


class Match(NamedTuple):
    """A place where a term stands.

    Attributes:
        begin, end: offsets into the text, end exclusive.
        term: the term as the release has it, with its origin.
        term_code: the code whose term it is: the code looked for, or one above it.
    """

    begin: int
    end: int
    term: Term
    term_code: str


class _Wording(NamedTuple):
    """One wording of a term to look for; `exact` where case or sign matter and the text must have these characters."""

    folded: str
    exact: str
    term: Term


class TermMatcher:
    """Finds terms of codes of a release; keeps the folded terms of the codes asked for."""

    def __init__(self, release: Release):
        self._release = release
        self._wordings_of = functools.cache(self._fold_terms)

    def find(self, text: str | FoldedText, code: str) -> list[Match]:
        """Returns where terms of `code` and of the codes above it stand in a text.

        Looked for are the terms as printed and in their `natural_form`. No two
        matches overlap: a term of the code itself is preferred to one of a code
        above it, and the longer wording to the shorter, which is also the order
        of the answer; the places of one wording come in the order of the text.
        An abbreviation ('PIN') must stand in capitals, and the result of a test
        ('HR+') with its sign. A code that the release lacks is found by the
        terms of its nearest living ancestor, if it has one.

        Args:
            text: pass a `FoldedText` to look for many codes in one text.
        """
        folded = text if isinstance(text, FoldedText) else FoldedText(text)
        nearest = self._release.nearest_living_ancestor(code)
        matches: list[Match] = []
        for term_code in (nearest, *self._release.ancestors(nearest)) if nearest is not None else ():
            for wording in self._wordings_of(term_code):
                for begin, end in folded.find(wording.folded):
                    free = all(end <= match.begin or match.end <= begin for match in matches)
                    if free and folded.original.startswith(wording.exact, begin):
                        matches.append(Match(begin, end, wording.term, term_code))
        return matches

    def _fold_terms(self, code: str) -> Sequence[_Wording]:
        """Returns the wordings of the terms of this very code, longest first, each once."""
        wordings: dict[tuple[str, str], _Wording] = {}
        for term in self._release.terms(code):
            for text in (term.text, natural_form(term.text)):
                exact = text if _ABBREVIATION.fullmatch(text) or _RESULT_OF_A_TEST.fullmatch(text) else ''
                wording = _Wording(fold(text), exact, term)
                if wording.folded:
                    wordings.setdefault(wording[:2], wording)
        return sorted(wordings.values(), key=lambda wording: -len(wording.folded))
