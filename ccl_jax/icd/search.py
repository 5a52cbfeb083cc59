"""Finds codes by words: BM25 over the terms of a release, forgiving spelling mistakes.

BM25 as in Robertson and Zaragoza (2009), 'The Probabilistic Relevance
Framework: BM25 and Beyond', every term a document of its own; a code scores by
its best term. It is a few lines over a sparse matrix here, because the library
bm25s initialises JAX when it is imported.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz import fuzz, process
from scipy import sparse

from ccl_jax.icd.codes import normalize_code
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release, Term
from ccl_jax.icd.terms import natural_form

# Saturation of repeated words and weight of the length, for terms of a few words.
_K1, _B = 1.2, 0.75
# Terms of a header name the codes below it too, but less well than their own.
_INHERITED = 0.9
_OWN_BESIDE_INHERITED = 0.01
_INHERITED_ORIGINS = frozenset(('includes', 'inclusion_term'))
# How alike (of 100) a word of the release must be to stand for a misspelled one, and how many may.
_ALIKE, _STAND_INS = 75, 3
# Stand-ins that are less alike than the best one by this much are not meant.
_AS_ALIKE = 5
_FIRST_WORD = 1.05
_LONGEST_ENDING = 3
_ENDING_WEIGHT = 0.7
# Words in more than this part of all terms ('of', 'unspecified', 'encounter') make no term longer.
_COMMON = 0.05


class Hit(NamedTuple):
    """A code found by words, with the term that they match best: its own, or one of a code above it."""

    code: str
    score: float
    term: Term


def search(release: Release, words: str, limit: int = 10) -> list[Hit]:
    """Returns the codes whose terms match the words best, best first; words that are misspelled match similar ones.

    Searched are the terms of every code and the inclusion terms and includes
    of the codes above it. Of equal codes the billable ones come first.
    """
    return _term_index(release).search(words, limit)


def suggest_codes(release: Release, code: str, limit: int = 5) -> list[str]:
    """Returns codes that may have been meant by one that the release lacks, likeliest first.

    First what begins with the same characters ('W19.XXX' gives 'W19.XXXA'),
    then the other codes around its nearest living ancestor, then codes spelled
    alike. Words in place of a code are searched for.
    """
    wanted = normalize_code(code)
    suggestions: list[str] = []
    ancestor = release.nearest_living_ancestor(wanted)
    if ancestor is not None:
        below = [child for child in _descendants(release, ancestor) if child.startswith(wanted)]
        family = [*release.children(ancestor), ancestor, *release.siblings(ancestor)]
        suggestions = below + sorted(family, key=lambda other: -fuzz.ratio(wanted, other))
    elif not any(character.isdigit() for character in wanted):
        suggestions = [hit.code for hit in search(release, code, limit)]
    alike = process.extract(wanted, release.codes(), scorer=fuzz.ratio, limit=limit)
    return list(dict.fromkeys([*suggestions, *(other for other, _, _ in alike)]))[:limit]


def _descendants(release: Release, code: str) -> Iterator[str]:
    for child in release.children(code):
        yield child
        yield from _descendants(release, child)


@functools.lru_cache(maxsize=2)
def _term_index(release: Release) -> '_TermIndex':
    return _TermIndex(release)


class _TermIndex:
    """BM25 over all terms of a release."""

    def __init__(self, release: Release):
        self._release = release
        self._codes = release.codes()
        rows = {code: row for row, code in enumerate(self._codes)}
        self._terms: list[Term] = []
        owners: list[int] = []
        for code, term in release.term_table():
            self._terms.append(term)
            owners.append(rows[code])
        self._owners = np.array(owners, dtype=np.int64)
        documents = [fold(term.text).split() for term in self._terms]
        self._vocabulary: dict[str, int] = {}
        for word in itertools.chain.from_iterable(documents):
            self._vocabulary.setdefault(word, len(self._vocabulary))
        essential = [
            fold(natural_form(term.text)).split() if '(' in term.text else words
            for term, words in zip(self._terms, documents, strict=True)
        ]
        self._weights_by_word = sparse.csr_array(_bm25(documents, essential, self._vocabulary).T)
        self._first_words = np.array([self._vocabulary[words[0]] if words else -1 for words in documents])

    def search(self, words: str, limit: int) -> list[Hit]:
        """See `search`."""
        scores = np.zeros(len(self._terms))
        for word in fold(words).split():
            # The best of the words that may stand for it, not their sum: 'pneumoniae' adds nothing to 'pneumonia'.
            alternatives = [weight * self._scores_of(other) for other, weight in self._stand_ins(word)]
            scores += np.max(alternatives, axis=0, initial=0.0)
        own_best, own_term = self._best_terms(scores)
        from_above, term_above = self._best_terms(np.where(self._is_inherited, scores, 0.0) * _INHERITED)
        for row, parent in self._parents:
            if from_above[parent] > from_above[row]:
                from_above[row], term_above[row] = from_above[parent], term_above[parent]
        best_term = np.where(own_best >= from_above, own_term, term_above)
        # Of the codes that inherit the same term, those whose own terms match too come first.
        score = np.maximum(own_best, from_above) + _OWN_BESIDE_INHERITED * own_best
        found = np.flatnonzero(score > 0)
        found = found[np.lexsort((found, ~self._billable[found], -score[found].round(6)))][:limit]
        return [Hit(self._codes[row], float(score[row]), self._terms[best_term[row]]) for row in found]

    @functools.cached_property
    def _is_inherited(self) -> np.ndarray:
        return np.array([term.origin in _INHERITED_ORIGINS for term in self._terms])

    @functools.cached_property
    def _billable(self) -> np.ndarray:
        return np.array([self._release.billable(code) for code in self._codes])

    @functools.cached_property
    def _parents(self) -> list[tuple[int, int]]:
        """(row, row of the code above) of every code that has one, a code after the code above it."""
        rows = {code: row for row, code in enumerate(self._codes)}
        pairs = ((row, self._release.parent(code)) for row, code in enumerate(self._codes))
        return [(row, rows[parent]) for row, parent in pairs if parent is not None]

    def _scores_of(self, word: str) -> np.ndarray:
        """Returns the weight of a word of the vocabulary in every term."""
        row = self._weights_by_word[[self._vocabulary[word]]]
        scores = np.zeros(len(self._terms))
        scores[row.indices] = row.data
        # Titles begin with what they are: 'Pneumonia, unspecified organism' before 'Typhoid pneumonia'.
        scores[self._first_words == self._vocabulary[word]] *= _FIRST_WORD
        return scores

    def _stand_ins(self, word: str) -> list[tuple[str, float]]:
        """Returns the words of the release that a word of a query may stand for, with their weights."""
        if word in self._vocabulary:
            return [
                (word, 1.0),
                *((other, _ENDING_WEIGHT) for other in self._vocabulary if _same_but_ending(word, other)),
            ]
        alike = process.extract(word, list(self._vocabulary), scorer=fuzz.ratio, limit=_STAND_INS, score_cutoff=_ALIKE)
        best = max((score for _, score, _ in alike), default=0.0)
        return [(other, (score / 100) ** 2) for other, score, _ in alike if score > best - _AS_ALIKE]

    def _best_terms(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns for every code the best score of its terms, and which term that is."""
        # Ascending, so that the last assignment to a code is that of its best term, the first of equals.
        order = np.lexsort((-np.arange(len(scores)), scores))
        best, term = np.zeros(len(self._codes)), np.zeros(len(self._codes), dtype=np.int64)
        best[self._owners[order]] = scores[order]
        term[self._owners[order]] = order
        return best, term


def _bm25(
    documents: Sequence[Sequence[str]], essential: Sequence[Sequence[str]], vocabulary: dict[str, int]
) -> sparse.csr_array:
    """Returns the BM25 weights [documents, words].

    The length of a document is the number of its essential words that are not common: 'Hypertension (benign)
    (primary)' and 'Pneumonia, unspecified' are as short as 'Hypertension' and 'Pneumonia'.
    """
    columns = np.fromiter((vocabulary[word] for words in documents for word in words), dtype=np.int32)
    rows = np.repeat(np.arange(len(documents)), [len(words) for words in documents])
    counts = sparse.csr_array((np.ones(len(columns)), (rows, columns)), shape=(len(documents), len(vocabulary)))
    counts.sum_duplicates()
    frequency = np.bincount(counts.indices, minlength=len(vocabulary))
    idf = np.log1p((len(documents) - frequency + 0.5) / (frequency + 0.5))
    common = frequency > _COMMON * len(documents)
    lengths = np.array([sum(not common[vocabulary.get(word, 0)] for word in words) for words in essential])
    norm = _K1 * (1 - _B + _B * lengths / max(lengths.mean(), 1.0))
    per_entry = np.repeat(norm, np.diff(counts.indptr))
    counts.data = idf[counts.indices] * counts.data * (_K1 + 1) / (counts.data + per_entry)
    return counts


def _same_but_ending(word: str, other: str) -> bool:
    """Whether one of two words is the other with a short ending: 'infarct' and 'infarction', 'hips' and 'hip'."""
    short, long = sorted((word, other), key=len)
    return len(short) > _LONGEST_ENDING and 0 < len(long) - len(short) <= _LONGEST_ENDING and long.startswith(short)
