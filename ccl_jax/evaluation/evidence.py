"""Evidence metrics as MDACE defines them, and where a quote stands in its note.

Source of the definitions: the MDACE paper (Cheng et al. 2023) and its scoring
program; items are sets per unit and sums run over units. End to end: evidence
of a wrong code is wrong. Three cases that MDACE does not have:

- A discontinuous reference is one span from its first start to its last end; its
  tokens are those of its parts.
- A predicted quote without offsets is placed at its first exact, else its first
  folded occurrence (whole words before parts of words).
- A quote that occurs nowhere is a wrong item of its own; only the position-free
  metrics, which compare words, can still count it as right.
"""

import bisect
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ccl_jax.evaluation.metrics import (
    Code,
    Estimate,
    Grouping,
    Statistics,
    align,
    bootstrap,
    code_key,
    ratio,
    set_scores,
)
from ccl_jax.records import Document, Evidence, PredictedCode, Prediction, slice_evidence

EVIDENCE_METRICS = ('evidence_span_exact', 'evidence_span_free', 'evidence_token_exact', 'evidence_token_free')
GROUNDING_KINDS = ('exact', 'folded', 'not_found')

Parts = tuple[tuple[int, int], ...]

# A letter or digit with the combining accents that follow it: decomposed text gives the same words as composed text.
_WORD = re.compile(r'(?:[^\W_][\u0300-\u036f]*)+')
_MDACE_TOKEN = re.compile(r'\w+')


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
        self._words = folded_words(text)
        self._folded = _joined(word for word, _, _ in self._words)
        self._starts: list[int] = []
        position = 0
        for word, _, _ in self._words:
            self._starts.append(position)
            position += len(word) + 1

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


def evidence_metrics(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    *,
    by: Grouping = 'document',
    seed: int,
    samples: int = 1000,
) -> dict[str, Estimate]:
    """All evidence metrics of one system; see `evidence_statistics`. Raises UserError as `align` does."""
    return bootstrap(evidence_statistics(gold, predictions, by=by), seed=seed, samples=samples)


def evidence_statistics(
    gold: Sequence[Document], predictions: Sequence[Prediction], *, by: Grouping = 'document'
) -> Statistics:
    """Evidence metrics as functions of the units' weights.

    `_precision`, `_recall` and `_f1` of each of `EVIDENCE_METRICS`:
    - `evidence_span_exact`: items (document, begin, end, code).
    - `evidence_span_free`: items (lower-cased text, code).
    - `evidence_token_exact`: items (document, begin of the token, code).
    - `evidence_token_free`: items (token, code).
    Tokens are runs of word characters in lower case without pure numbers above 10.
    They are undefined where the gold documents carry no evidence at all.

    `grounding_rate` and `grounding_{exact,folded,not_found}`: shares of the predicted
    quotes that occur in their document, letter by letter or folded, or do not.
    """
    units = align(gold, predictions, by=by)
    counts = np.zeros((len(units), len(EVIDENCE_METRICS), 3))
    kinds = np.zeros((len(units), len(GROUNDING_KINDS)))
    for u, (_, pairs) in enumerate(units):
        gold_items: list[set[tuple]] = [set() for _ in EVIDENCE_METRICS]
        predicted_items: list[set[tuple]] = [set() for _ in EVIDENCE_METRICS]
        for document, prediction in pairs:
            for annotation in document.annotations:
                for evidence in annotation.evidence:
                    _add_items(gold_items, document, code_key(annotation), evidence.parts, evidence.text)
            for predicted, evidence, kind, parts in placed_evidence(document, prediction):
                kinds[u, GROUNDING_KINDS.index(kind)] += 1
                _add_items(predicted_items, document, code_key(predicted), parts, evidence.text)
        for m, (g, p) in enumerate(zip(gold_items, predicted_items, strict=True)):
            counts[u, m] = len(g & p), len(g), len(p)

    def compute(weights: np.ndarray) -> dict[str, np.ndarray]:
        values: dict[str, np.ndarray] = {}
        for m, name in enumerate(EVIDENCE_METRICS):
            hits, in_gold, in_predicted = (weights @ counts[:, m, k] for k in range(3))
            scores = set_scores(name, hits, in_gold, in_predicted)
            values |= {key: np.where(in_gold == 0, np.nan, score) for key, score in scores.items()}
        return values | _grounding(weights @ kinds)

    return Statistics(tuple(unit for unit, _ in units), compute, max(len(units), 1))


def grounding_counts(gold: Sequence[Document], predictions: Sequence[Prediction]) -> dict[str, int]:
    """How many predicted quotes occur in their document: exact, folded, not_found."""
    counts = dict.fromkeys(GROUNDING_KINDS, 0)
    for _, pairs in align(gold, predictions):
        for document, prediction in pairs:
            for _, _, kind, _ in placed_evidence(document, prediction):
                counts[kind] += 1
    return counts


def placed_evidence(document: Document, prediction: Prediction) -> Iterator[tuple[PredictedCode, Evidence, str, Parts]]:
    """Yields each predicted quote with its code, one of `GROUNDING_KINDS` and its offsets; empty quotes are skipped."""
    finder = QuoteFinder(document.text)
    for predicted in prediction.codes:
        for evidence in predicted.evidence:
            if evidence.parts or evidence.text.strip():
                yield predicted, evidence, *finder.place(evidence)


def mdace_tokens(text: str) -> list[tuple[str, int]]:
    """(lower-cased token, offset) of a text; pure numbers above 10 are dropped."""
    # Matched before lower-casing: a few letters grow when lower-cased, which would shift the offsets.
    tokens = ((match.group().lower(), match.start()) for match in _MDACE_TOKEN.finditer(text))
    return [(token, begin) for token, begin in tokens if not (token.isdecimal() and _above_ten(token))]


def _add_items(items: list[set[tuple]], document: Document, code: Code, parts: Parts, quote: str) -> None:
    """Adds one piece of evidence to the four item sets, in the order of `EVIDENCE_METRICS`."""
    span_exact, span_free, token_exact, token_free = items
    if not parts:
        span_exact.add((document.doc_id, None, quote, code))
        span_free.add((quote.lower(), code))
        for token, _ in mdace_tokens(quote):
            token_exact.add((document.doc_id, None, token, code))
            token_free.add((token, code))
        return
    span_exact.add((document.doc_id, min(begin for begin, _ in parts), max(end for _, end in parts), code))
    span_free.add((slice_evidence(document.text, parts).lower(), code))
    for begin, end in parts:
        for token, offset in mdace_tokens(document.text[begin:end]):
            token_exact.add((document.doc_id, begin + offset, code))
            token_free.add((token, code))


def _above_ten(digits: str) -> bool:
    significant = digits.lstrip('0')
    # Python refuses to convert thousands of digits, and a note may hold them.
    return len(significant) > 2 or int(significant or '0') > 10


def _grounding(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Shares [R] from the weighted counts [R, kinds]; NaN where nothing was quoted."""
    total = sums.sum(axis=1)
    shares = np.where(total[:, None] == 0, np.nan, ratio(sums, np.broadcast_to(total[:, None], sums.shape)))
    values = {f'grounding_{kind}': shares[:, k] for k, kind in enumerate(GROUNDING_KINDS)}
    return {'grounding_rate': values['grounding_exact'] + values['grounding_folded']} | values


def _fold(text: str) -> str:
    return _joined(word for word, _, _ in folded_words(text))


def _joined(words: Iterable[str]) -> str:
    return f' {" ".join(words)} '
