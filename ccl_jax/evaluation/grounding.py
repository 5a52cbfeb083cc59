"""Where a quote stands in its note.

A predicted quote without offsets is placed at its first exact, else its first
folded occurrence (whole words before parts of words).
"""

import bisect
import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator

from ccl_jax.records import Document, Evidence, PredictedCode, Prediction, slice_evidence

GROUNDING_KINDS = ('exact', 'folded', 'not_found')

Parts = tuple[tuple[int, int], ...]

# A letter or digit with the combining accents that follow it: decomposed text gives the same words as composed text.
_WORD = re.compile(r'(?:[^\W_][\u0300-\u036f]*)+')


def folded_words(text: str) -> list[tuple[str, int, int]]:
    """The words of a text in lower case with their offsets; punctuation and white space drop out, accents stay."""
    return [
        (unicodedata.normalize('NFC', match.group()).lower(), match.start(), match.end())
        for match in _WORD.finditer(text)
    ]


class QuoteFinder:
    """Places quotes in one text."""

    def __init__(self, text: str):
        self._text = text

    # Folding takes most of the time, and most quotes are exact.
    @functools.cached_property
    def _words(self) -> list[tuple[str, int, int]]:
        return folded_words(self._text)

    @functools.cached_property
    def _folded(self) -> str:
        return _joined(word for word, _, _ in self._words)

    @functools.cached_property
    def _starts(self) -> list[int]:
        """Where each word begins in the folded text."""
        lengths = (len(word) + 1 for word, _, _ in self._words)
        return list(itertools.accumulate(lengths, initial=0))[:-1]

    def place(self, evidence: Evidence) -> tuple[str, Parts]:
        """Returns one of `GROUNDING_KINDS` and the offsets of the quote, () where it occurs nowhere.

        Offsets that the evidence brings are kept if they lie in the text and hold
        its words; otherwise the quote is searched.
        """
        quote = evidence.text.strip()
        if self._inside(evidence.parts):
            sliced = slice_evidence(self._text, evidence.parts)
            if not quote or quote == sliced.strip():
                return 'exact', evidence.parts
            if _fold(quote) == _fold(sliced):
                return 'folded', evidence.parts
        begin = self._find(quote)
        if begin >= 0:
            return 'exact', ((begin, begin + len(quote)),)
        folded = _fold(quote)
        # Both carry a space at each end, so that only whole words match.
        position = self._folded.find(folded) if folded.strip() else -1
        if position < 0:
            return 'not_found', ()
        first = bisect.bisect_left(self._starts, position)
        last = first + len(folded.split()) - 1
        return 'folded', ((self._words[first][1], self._words[last][2]),)

    def _inside(self, parts: Parts) -> bool:
        return bool(parts) and all(0 <= begin < end <= len(self._text) for begin, end in parts)

    def _find(self, quote: str) -> int:
        """The first occurrence as whole words, else the first at all, else -1."""
        if not quote:
            return -1
        whole = re.search(rf'(?<!\w){re.escape(quote)}(?!\w)', self._text)
        return whole.start() if whole else self._text.find(quote)


def placed_evidence(document: Document, prediction: Prediction) -> Iterator[tuple[PredictedCode, Evidence, str, Parts]]:
    """Yields each predicted quote with its code, one of `GROUNDING_KINDS` and its offsets; empty quotes are skipped."""
    finder = QuoteFinder(document.text)
    for predicted in prediction.codes:
        for evidence in predicted.evidence:
            if evidence.parts or evidence.text.strip():
                yield predicted, evidence, *finder.place(evidence)


def _fold(text: str) -> str:
    return _joined(word for word, _, _ in folded_words(text))


def _joined(words: Iterable[str]) -> str:
    return f' {" ".join(words)} '
