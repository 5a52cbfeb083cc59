"""Code-level metrics, each named after its convention, with bootstrap intervals.

Every metric is a function of one weight per unit (a document, or a group of
documents): weight 1 everywhere gives the value, the counts of a resample with
replacement give one bootstrap draw. So a draw is the metric of the resampled
split itself: a code that is gold only in documents that were not drawn is not a
gold code of that draw.

The interval is the 2.5 % and 97.5 % percentile of the draws, moved so that the
mean of the draws lies on the value. For micro metrics the move is nearly nothing.
A resample holds about 63 % of the documents, so its codes are rarer and have
fewer false positives: the macro averages of the draws are centred elsewhere, and
their plain percentiles may leave out the value itself (CodiEsp dev, a dictionary:
`macro_f1_active` 0.324, percentiles 0.337 to 0.372).

Array letters here: R resamples, U units, C codes, E (unit, code) pairs.

A fraction 0/0 counts as 0, as in scikit-learn; a metric of a split (or stratum)
that has neither gold nor predicted codes is undefined: None in the results.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

import numpy as np

from ccl_jax.errors import UserError
from ccl_jax.records import Annotation, Document, PredictedCode, Prediction

Code = tuple[str, str]
"""(system, code): a code is compared together with its system."""

Grouping = Literal['document', 'group']

COUNT_METRICS = ('mean_predicted', 'mean_gold')
"""The metrics that are not shares."""

_CELLS_AT_ONCE = 4_000_000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % bootstrap interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Metrics of one system on one split, as functions of the units' weights.

    Attributes:
        unit_ids: the units in the order of the weights.
        compute: weights [R, U] -> metric name -> values [R], NaN where undefined.
        width: numbers that `compute` holds per resample, to bound its memory.
    """

    unit_ids: tuple[str, ...]
    compute: Callable[[np.ndarray], dict[str, np.ndarray]]
    width: int


def code_key(item: Annotation | PredictedCode) -> Code:
    return item.system, item.code


def document_codes(documents: Collection[Document]) -> frozenset[Code]:
    """The codes that at least one of the documents carries."""
    return frozenset(code_key(a) for document in documents for a in document.annotations)


def align(
    gold: Sequence[Document], predictions: Sequence[Prediction], *, by: Grouping = 'document'
) -> list[tuple[str, list[tuple[Document, Prediction]]]]:
    """Pairs documents with predictions and groups them into units, sorted by unit id.

    A document without a prediction gets an empty one. With `by='group'` the
    documents of one `group_id` (an admission) form one unit.

    Raises:
        UserError: there are no documents, a document or a prediction occurs twice,
            or a prediction names an unknown document.
    """
    if not gold:
        raise UserError('there are no gold documents to evaluate on; check the split')
    known = {document.doc_id for document in gold}
    if len(known) < len(gold):
        twice = _first_duplicate(document.doc_id for document in gold)
        raise UserError(f'document {twice!r} occurs twice in the gold documents; keep one of them')
    by_id: dict[str, Prediction] = {}
    for prediction in predictions:
        if prediction.doc_id not in known:
            raise UserError(
                f'the prediction for {prediction.doc_id!r} has no document in the evaluated split; check the split'
            )
        if prediction.doc_id in by_id:
            raise UserError(f'there are two predictions for {prediction.doc_id!r}; keep one of them')
        by_id[prediction.doc_id] = prediction
    units: dict[str, list[tuple[Document, Prediction]]] = {}
    for document in gold:
        unit = document.doc_id if by == 'document' else document.group_id or document.doc_id
        units.setdefault(unit, []).append((document, by_id.get(document.doc_id, Prediction(document.doc_id, ()))))
    return sorted(units.items())


def code_metrics(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    *,
    valid_codes: Collection[Code],
    label_space: Collection[Code] = frozenset(),
    by: Grouping = 'document',
    seed: int,
    samples: int = 1000,
) -> dict[str, Estimate]:
    """All code-level metrics of one system; see `code_statistics` and `bootstrap`."""
    statistics = code_statistics(gold, predictions, valid_codes=valid_codes, label_space=label_space, by=by)
    return bootstrap(statistics, seed=seed, samples=samples)


def code_statistics(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    *,
    valid_codes: Collection[Code],
    label_space: Collection[Code] = frozenset(),
    by: Grouping = 'document',
) -> Statistics:
    """The code-level metrics, with G and P the gold and predicted sets of a unit.

    - `micro_precision`, `micro_recall`, `micro_f1`: hits, false positives and false
      negatives summed over all (unit, code).
    - `macro_f1_active`: mean of the codes' F1 over codes that are gold or predicted
      somewhere (Code Like Humans).
    - `macro_f1_gold`: the same over codes that are gold somewhere in the split.
    - `macro_f1_edin`, `micro_f1_edin`: units without gold are dropped, then codes
      that are never gold in the split are removed from the predictions (Edin 2023).
    - `macro_f1_caml`: harmonic mean of macro precision and macro recall over the
      label space (Mullenbach 2018): `label_space` and every gold or predicted code.
    - `samples_f1`, `exact_match_ratio`: means of F1(G, P) and of [G = P] over units
      with a gold or predicted code; in a stratum most units have neither.
    - `mean_predicted`, `mean_gold`: codes per unit.
    - `invalid_code_rate`: share of the predicted (unit, code) outside `valid_codes`;
      undefined without predictions.
    """
    units = align(gold, predictions, by=by)
    gold_sets = [{code_key(a) for document, _ in pairs for a in document.annotations} for _, pairs in units]
    predicted_sets = [{code_key(c) for _, prediction in pairs for c in prediction.codes} for _, pairs in units]
    codes = sorted(set().union(*gold_sets, *predicted_sets))
    per_unit = _PerUnit.count(gold_sets, predicted_sets, valid_codes)
    per_code = _PerCode.count(gold_sets, predicted_sets, codes, label_space)

    def compute(weights: np.ndarray) -> dict[str, np.ndarray]:
        return per_unit.metrics(weights) | per_code.metrics(weights)

    width = max(len(units), len(codes), len(per_code.gold.codes), len(per_code.predicted.codes), 1)
    return Statistics(tuple(unit for unit, _ in units), compute, width)


def bootstrap(statistics: Statistics, *, seed: int, samples: int = 1000) -> dict[str, Estimate]:
    """Values with 95 % intervals over resamples of the units, as the module's docstring says.

    The units are sorted by id, so the same seed gives the same interval whatever
    the order of the documents. Draws in which a metric is undefined are left out.
    """
    return _bootstrap(statistics, seed, samples, lowest=0.0)


def paired_bootstrap(first: Statistics, second: Statistics, *, seed: int, samples: int = 1000) -> dict[str, Estimate]:
    """The differences first - second of two systems on the same split, resampled together.

    Raises:
        UserError: the two were computed on different documents.
    """
    if first.unit_ids != second.unit_ids:
        raise UserError('two systems can only be compared on the same documents; evaluate both on one split')

    def compute(weights: np.ndarray) -> dict[str, np.ndarray]:
        a, b = first.compute(weights), second.compute(weights)
        return {name: a[name] - b[name] for name in a if name in b}

    width = max(first.width, second.width)
    return _bootstrap(Statistics(first.unit_ids, compute, width), seed, samples, lowest=-1.0)


def set_scores(name: str, hits: np.ndarray, gold: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 [R] from summed set sizes [R]; NaN where both sets are empty."""
    scores = {
        f'{name}_precision': ratio(hits, predicted),
        f'{name}_recall': ratio(hits, gold),
        f'{name}_f1': ratio(2 * hits, gold + predicted),
    }
    empty = gold + predicted == 0
    return {key: np.where(empty, np.nan, values) for key, values in scores.items()}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator, dtype=float), where=denominator != 0)


@dataclasses.dataclass(frozen=True)
class _PerUnit:
    """What the metrics need of every unit; all arrays [U]."""

    hits: np.ndarray
    gold: np.ndarray
    predicted: np.ndarray
    invalid: np.ndarray

    @classmethod
    def count(
        cls, gold_sets: list[set[Code]], predicted_sets: list[set[Code]], valid_codes: Collection[Code]
    ) -> '_PerUnit':
        return cls(
            hits=np.array([len(g & p) for g, p in zip(gold_sets, predicted_sets, strict=True)], float),
            gold=np.array([len(g) for g in gold_sets], float),
            predicted=np.array([len(p) for p in predicted_sets], float),
            invalid=np.array([sum(code not in valid_codes for code in p) for p in predicted_sets], float),
        )

    def metrics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        active = (self.gold + self.predicted > 0).astype(float)
        samples_f1 = ratio(2 * self.hits, self.gold + self.predicted)
        exact = active * (self.hits == self.gold) * (self.hits == self.predicted)
        gold, predicted, units, active_units = (
            weights @ column for column in (self.gold, self.predicted, np.ones_like(self.gold), active)
        )
        return set_scores('micro', weights @ self.hits, gold, predicted) | {
            'samples_f1': _fraction(weights @ samples_f1, active_units),
            'exact_match_ratio': _fraction(weights @ exact, active_units),
            'mean_predicted': predicted / units,
            'mean_gold': gold / units,
            'invalid_code_rate': _fraction(weights @ self.invalid, predicted),
        }


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """(unit, code) pairs as two index arrays [E], sorted by unit."""

    units: np.ndarray
    codes: np.ndarray
    code_count: int

    @classmethod
    def of(cls, sets: list[set[Code]], index: dict[Code, int]) -> '_Pairs':
        pairs = [(unit, index[code]) for unit, codes in enumerate(sets) for code in sorted(codes)]
        columns = np.array(pairs, np.int64).reshape(-1, 2)
        return cls(columns[:, 0], columns[:, 1], len(index))

    def per_code(self, weights: np.ndarray) -> np.ndarray:
        """Weights [R, U] summed over the units that hold each code: [R, C]."""
        rows = len(weights)
        cells = np.arange(rows)[:, None] * self.code_count + self.codes
        sums = np.bincount(cells.ravel(), weights[:, self.units].ravel(), minlength=rows * self.code_count)
        return sums.reshape(rows, self.code_count)


@dataclasses.dataclass(frozen=True)
class _PerCode:
    """What the macro metrics need: who holds which code.

    Attributes:
        predicted_beside_gold: the predicted pairs of units that have gold codes.
        in_label_space: [C], whether the label space given by the caller has the code.
        other_labels: codes of that label space that are neither gold nor predicted.
    """

    hits: _Pairs
    gold: _Pairs
    predicted: _Pairs
    predicted_beside_gold: _Pairs
    in_label_space: np.ndarray
    other_labels: int

    @classmethod
    def count(
        cls,
        gold_sets: list[set[Code]],
        predicted_sets: list[set[Code]],
        codes: list[Code],
        label_space: Collection[Code],
    ) -> '_PerCode':
        index = {code: i for i, code in enumerate(codes)}
        beside_gold = [p if g else set() for g, p in zip(gold_sets, predicted_sets, strict=True)]
        return cls(
            hits=_Pairs.of([g & p for g, p in zip(gold_sets, predicted_sets, strict=True)], index),
            gold=_Pairs.of(gold_sets, index),
            predicted=_Pairs.of(predicted_sets, index),
            predicted_beside_gold=_Pairs.of(beside_gold, index),
            in_label_space=np.array([code in label_space for code in codes], bool),
            other_labels=len(set(label_space) - index.keys()),
        )

    def metrics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        hits, gold, predicted = (pairs.per_code(weights) for pairs in (self.hits, self.gold, self.predicted))
        is_gold, is_active = gold > 0, gold + predicted > 0
        f1 = ratio(2 * hits, gold + predicted)

        edin_predicted = np.where(is_gold, self.predicted_beside_gold.per_code(weights), 0.0)
        edin_f1 = ratio(2 * hits, gold + edin_predicted)

        labels = self.other_labels + (is_active | self.in_label_space).sum(axis=1)
        macro_precision = ratio(ratio(hits, predicted).sum(axis=1), labels)
        macro_recall = ratio(ratio(hits, gold).sum(axis=1), labels)
        caml = ratio(2 * macro_precision * macro_recall, macro_precision + macro_recall)
        return {
            'macro_f1_active': _fraction((f1 * is_active).sum(axis=1), is_active.sum(axis=1)),
            'macro_f1_gold': _fraction((f1 * is_gold).sum(axis=1), is_gold.sum(axis=1)),
            'macro_f1_edin': _fraction((edin_f1 * is_gold).sum(axis=1), is_gold.sum(axis=1)),
            'micro_f1_edin': _fraction(2 * hits.sum(axis=1), (gold + edin_predicted).sum(axis=1)),
            'macro_f1_caml': np.where(is_active.any(axis=1), caml, np.nan),
        }


def _fraction(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN (undefined) where the denominator is 0."""
    return np.where(denominator == 0, np.nan, ratio(numerator, denominator))


def _resamples(units: int, width: int, seed: int, samples: int) -> Iterator[np.ndarray]:
    """Yields how often each unit was drawn, in blocks [rows, U] that add up to `samples` rows."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // width)
    for start in range(0, samples, at_once):
        rows = min(at_once, samples - start)
        drawn = generator.integers(0, units, size=(rows, units)) + np.arange(rows)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(float)


def _bootstrap(statistics: Statistics, seed: int, samples: int, lowest: float) -> dict[str, Estimate]:
    values = statistics.compute(np.ones((1, len(statistics.unit_ids))))
    draws: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for weights in _resamples(len(statistics.unit_ids), statistics.width, seed, samples):
        for name, drawn in statistics.compute(weights).items():
            draws[name].append(drawn)
    estimates = {}
    for name in values:
        # All metrics are shares but the means of counts, whose differences may be any number.
        bounds = (-np.inf, np.inf) if name in COUNT_METRICS else (lowest, 1.0)
        estimates[name] = _estimate(float(values[name][0]), np.concatenate(draws[name]), bounds)
    return estimates


def _estimate(value: float, draws: np.ndarray, bounds: tuple[float, float]) -> Estimate:
    draws = draws[~np.isnan(draws)]
    if np.isnan(value):
        return Estimate(None, None, None)
    if not draws.size:
        return Estimate(value, None, None)
    low, high = np.clip(np.percentile(draws, [2.5, 97.5]) - draws.mean() + value, *bounds)
    return Estimate(value, float(low), float(high))


def _first_duplicate(items: Iterator[str]) -> str:
    seen: set[str] = set()
    return next(item for item in items if item in seen or seen.add(item))  # type: ignore[func-returns-value]
