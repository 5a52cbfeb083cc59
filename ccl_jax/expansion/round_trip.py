"""The round trip of a span: at which rank does a retriever find its code for its words?

The retriever is BM25 in its plain form (Robertson and Zaragoza 2009, 'The Probabilistic Relevance Framework: BM25 and
Beyond', with the never negative idf of Lucene): every term of the release is a document, every different word of the
span a query word, and a code scores by its best term. `ccl_jax.icd.search` is made for people and forgives; this one
is made to be exact and fast for one question: how many codes score better than a given one?
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release
from ccl_jax.records import Span

# Saturation of repeated words, and weight of a term's length.
K1, B = 1.2, 0.75
# Scores closer than this are equal: floats are added in different orders.
_EQUAL = 1e-9
# Words in more than this part of all terms: there are some 25, and their lists are longer than all others together.
_COMMON = 0.05
_QUERIES_AT_ONCE = 512
# Sums over common words that are kept, 8 bytes for each term.
_SUMS_KEPT = 64
# Terms looked at for each rank, before all the codes that are ahead are told apart.
_GLANCE = 16


class RoundTrip:
    """BM25 over all terms of a release, headers included."""

    def __init__(self, release: Release):
        self._codes: dict[str, int] = {}
        vocabulary: dict[str, int] = {}
        owners, words, lengths = [], [], []
        for code, term in release.term_table():
            owners.append(self._codes.setdefault(code, len(self._codes)))
            folded = fold(term.text).split()
            lengths.append(len(folded))
            words += [vocabulary.setdefault(word, len(vocabulary)) for word in folded]
        self._owners = np.array(owners, np.int32)
        # The terms of a code stand together: those of code c are [first[c], first[c + 1]).
        self._first_terms = np.searchsorted(self._owners, np.arange(len(self._codes) + 1))
        self._vocabulary = vocabulary
        weights = _bm25_weights(np.array(words, np.int32), np.array(lengths, np.int32), len(vocabulary))
        in_terms = np.diff(sparse.csc_array(weights).indptr)
        common = np.flatnonzero(in_terms > _COMMON * len(owners))
        self._place_of_common = {int(column): place for place, column in enumerate(common)}
        # [common words, terms], each word's weights in one piece of memory.
        self._common_weights = np.ascontiguousarray(weights[:, common].toarray().T)
        self._terms_of_word = sparse.csr_array(weights.T)
        self._scores_of_common: dict[tuple[int, ...], tuple[np.ndarray, float]] = {}

    def ranks(self, spans: Sequence[Span], k: int = 20) -> list[int | None]:
        """Returns for each span the rank from 1 of its code among all codes, None if it is beyond k.

        Of codes with equal scores those that come first in the tabular list rank first. A code that the release lacks
        (or of another system), and one that shares no word with the span, has no rank.

        Raises:
            ValueError: `k` is not positive.
        """
        if k < 1:
            raise ValueError(f'k is {k}; it must be at least 1')
        # Most spans of a category differ in common words alone ('left', 'initial encounter'), so that the rest of
        # their score is worked out once.
        groups: dict[tuple[int, ...], list[tuple[int, int, tuple[int, ...]]]] = {}
        for number, span in enumerate(spans):
            code = self._codes.get(span.code)
            if code is not None and span.system == ICD10CM:
                rare, common = self._query(span.text)
                groups.setdefault(rare, []).append((number, code, common))
        ranks: list[int | None] = [None] * len(spans)
        scores = np.zeros(len(self._owners))
        for (terms, found), group in zip(self._rare_scores(list(groups)), groups.values(), strict=True):
            scores[terms] = found
            for number, code, common in group:
                ranks[number] = self._rank(_Scores(scores, terms, found), code, common, k)
            scores[terms] = 0.0
        return ranks

    def _query(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the different words of a text that the release has: the rare ones, and the places of the common."""
        known = {self._vocabulary[word] for word in fold(text).split() if word in self._vocabulary}
        rare = tuple(sorted(word for word in known if word not in self._place_of_common))
        return rare, tuple(sorted(self._place_of_common[word] for word in known if word in self._place_of_common))

    def _rare_scores(self, queries: Sequence[tuple[int, ...]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields for each query the terms that hold one of its words, and their scores."""
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            part = queries[start : start + _QUERIES_AT_ONCE]
            columns = np.fromiter(itertools.chain.from_iterable(part), np.int32)
            ends = np.cumsum([0, *map(len, part)], dtype=np.int32)
            shape = (len(part), len(self._vocabulary))
            found = sparse.csr_array((np.ones(len(columns)), columns, ends), shape=shape) @ self._terms_of_word
            for row in range(len(part)):
                inside = slice(found.indptr[row], found.indptr[row + 1])
                yield found.indices[inside], found.data[inside]

    def _rank(self, rare: '_Scores', code: int, common: tuple[int, ...], k: int) -> int | None:
        """Returns the rank of a code, if it is within k, by the scores of rare words and the places of common ones."""
        by_common, most = self._common_scores(common)
        own = slice(self._first_terms[code], self._first_terms[code + 1])
        best = float((rare.of_all[own] + by_common[own]).max())
        if best <= 0:
            return None
        # Common words add so much at most: only terms that come near enough by their rare ones can be ahead.
        near = rare.found >= best - most - _EQUAL
        ahead = self._ahead(rare.terms[near], rare.found[near], by_common, best, code)
        if most >= best - _EQUAL:
            # And those that come near enough by common words alone; the terms that are in both count once.
            others = np.flatnonzero(by_common >= best - _EQUAL)
            ahead = np.concatenate([ahead, self._ahead(others, rare.of_all[others], by_common, best, code)])
        # Mostly a glance tells that there are too many.
        if len(set(ahead[: _GLANCE * k].tolist())) >= k:
            return None
        rank = 1 + len(set(ahead.tolist()))
        return rank if rank <= k else None

    def _ahead(
        self, terms: np.ndarray, by_rare: np.ndarray, by_common: np.ndarray, best: float, code: int
    ) -> np.ndarray:
        """Returns the codes of those of the terms that are ahead of a code with this best score, some repeatedly."""
        total = by_rare + by_common[terms]
        reach = total >= best - _EQUAL
        codes, total = self._owners[terms[reach]], total[reach]
        return codes[(total > best + _EQUAL) | (codes < code)]

    def _common_scores(self, common: tuple[int, ...]) -> tuple[np.ndarray, float]:
        """Returns what the common words add to the score of every term, and the most of it."""
        known = self._scores_of_common.get(common)
        if known is None:
            by_common = np.zeros(len(self._owners))
            for place in common:
                by_common += self._common_weights[place]
            known = by_common, float(by_common.max())
            if len(self._scores_of_common) == _SUMS_KEPT:
                # The oldest: spans that follow each other have the same words.
                del self._scores_of_common[next(iter(self._scores_of_common))]
            self._scores_of_common[common] = known
        return known


class _Scores(NamedTuple):
    """Scores by the rare words of a query: of all terms, mostly 0; and the terms where they are not, with theirs."""

    of_all: np.ndarray
    terms: np.ndarray
    found: np.ndarray


def _bm25_weights(words: np.ndarray, lengths: np.ndarray, vocabulary_size: int) -> sparse.csr_array:
    """Returns what each word adds to the score of each term, [terms, words]."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    counts = sparse.csr_array((np.ones(len(words)), (rows, words)), shape=(len(lengths), vocabulary_size))
    counts.sum_duplicates()
    in_terms = np.bincount(counts.indices, minlength=vocabulary_size)
    idf = np.log1p((len(lengths) - in_terms + 0.5) / (in_terms + 0.5))
    norm = K1 * (1 - B + B * lengths / max(lengths.mean(), 1.0))
    per_entry = np.repeat(norm, np.diff(counts.indptr))
    counts.data = idf[counts.indices] * counts.data * (K1 + 1) / (counts.data + per_entry)
    return counts
