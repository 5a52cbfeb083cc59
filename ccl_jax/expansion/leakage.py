"""Keeps spans out of training that come from the documents of the evaluation.

A span is refused if its provenance names such a document, or if a run of its
words stands in one. Short equal terms ('fever') stay: they are knowledge, and
the evaluation reports its results also by whether the evidence was seen.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from ccl_jax.icd.folding import fold
from ccl_jax.records import Document, Span

DRAWN = 'drawn from an evaluation document'
SHARED = 'shares a run of words with an evaluation document'
_MARK = 'doc:'
# Odd, so that multiplying loses nothing modulo 2^64 (the constant of Fibonacci hashing).
_BASE = 0x9E3779B97F4A7C15
_SPANS_AT_ONCE = 50_000


class Leakage:
    """What the evaluation documents say: their ids, and the runs of words in them.

    Words are those of the folded text (`ccl_jax.icd.folding`), so case, accents and punctuation do not matter. Runs are
    kept as 64-bit hashes, 8 bytes each: that two different runs have the same one is less likely than 1 in 10^6 for
    3 million runs of documents and a million of spans, and would cost one span.

    Args:
        documents: the evaluation documents, of all splits that must not leak.
        run: a span that shares this many successive words is refused.

    Raises:
        ValueError: `run` is not positive.
    """

    def __init__(self, documents: Iterable[Document], run: int = 8):
        if run < 1:
            raise ValueError(f'run is {run}; it must be at least 1')
        self.run = run
        self._word_hashes: dict[str, int] = {}
        self._doc_ids: set[str] = set()
        runs = [np.empty(0, np.uint64)]
        for document in documents:
            self._doc_ids.add(document.doc_id)
            runs.append(self._run_hashes(fold(document.text).split()))
        self._runs = np.unique(np.concatenate(runs))

    def reasons(self, spans: Sequence[Span]) -> list[str]:
        """Returns for each span why it is refused, `DRAWN` or `SHARED`, or '' where it is not."""
        reasons: list[str] = []
        for start in range(0, len(spans), _SPANS_AT_ONCE):
            part = spans[start : start + _SPANS_AT_ONCE]
            shared = self.shares([span.text for span in part])
            reasons += [
                DRAWN if self.is_drawn(span) else SHARED if among else ''
                for span, among in zip(part, shared, strict=True)
            ]
        return reasons

    def is_drawn(self, span: Span) -> bool:
        """Whether the words of a span are, or were edited from, those of an evaluation document."""
        if not span.provenance.startswith(_MARK):
            return False
        # An id may hold a comma itself, so every beginning that ends before one is tried.
        pieces = span.provenance.removeprefix(_MARK).split(',')
        return any(','.join(pieces[:count]) in self._doc_ids for count in range(1, len(pieces) + 1))

    def shares(self, texts: Sequence[str]) -> list[bool]:
        """Returns for each text whether a run of its words stands in an evaluation document."""
        hashes, owners = [np.empty(0, np.uint64)], []
        for number, text in enumerate(texts):
            words = fold(text).split()
            if len(words) >= self.run:
                hashes.append(self._run_hashes(words))
                owners.append((number, len(words) - self.run + 1))
        flat = np.concatenate(hashes)
        shared = [False] * len(texts)
        if not len(self._runs):
            return shared
        places = np.minimum(np.searchsorted(self._runs, flat), len(self._runs) - 1)
        found = self._runs[places] == flat
        begin = 0
        for number, count in owners:
            shared[number] = bool(found[begin : begin + count].any())
            begin += count
        return shared

    def _run_hashes(self, words: Sequence[str]) -> np.ndarray:
        """Returns the hash of every run of `run` successive words: the sum of word_i * base^i modulo 2^64."""
        count = len(words) - self.run + 1
        if count < 1:
            return np.empty(0, np.uint64)
        hashes = np.fromiter(map(self._word_hash, words), np.uint64, len(words))
        runs = np.zeros(count, np.uint64)
        for offset in range(self.run):
            runs = runs * np.uint64(_BASE) + hashes[offset : offset + count]
        return runs

    def _word_hash(self, word: str) -> int:
        value = self._word_hashes.get(word)
        if value is None:
            # Not hash(), which differs from process to process.
            digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
            value = self._word_hashes[word] = int.from_bytes(digest)
        return value
