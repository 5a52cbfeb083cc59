"""Values with bootstrap intervals, and two systems compared by a paired bootstrap.

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

Array letters here: R resamples, U units.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ccl_jax.errors import UserError

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


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A metric that is a sum over the units divided by another; all arrays [U].

    Attributes:
        numerator: what each unit adds above the line.
        denominator: what it adds below; 0/0 counts as 0, as in scikit-learn.
        defined: the metric is undefined where the sum of this is 0; None for the denominator.
    """

    numerator: np.ndarray
    denominator: np.ndarray
    defined: np.ndarray | None = None


def ratio_statistics(ratios: Mapping[str, Ratio]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The `compute` of metrics that are ratios of sums: one matrix product for all of them."""
    parts = [
        (ratio.numerator, ratio.denominator, ratio.denominator if ratio.defined is None else ratio.defined)
        for ratio in ratios.values()
    ]
    columns = np.stack([part for of_ratio in parts for part in of_ratio], axis=1)

    def compute(weights: np.ndarray) -> dict[str, np.ndarray]:
        sums = weights @ columns.astype(weights.dtype)
        values = divided(sums[:, 0::3], sums[:, 1::3])
        values[sums[:, 2::3] == 0] = np.nan
        return {name: values[:, i] for i, name in enumerate(ratios)}

    return compute


def divided(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator != 0)


def bootstrap(statistics: Statistics, *, seed: int, samples: int = 1000) -> dict[str, Estimate]:
    """Values with 95 % intervals over resamples of the units, as the module's docstring says.

    The units are sorted by id, so the same seed gives the same interval whatever
    the order of the documents. Draws in which a metric is undefined are left out.
    """
    return _bootstrap({'': statistics}, seed, samples, (0.0, 1.0))['']


def bootstrap_parts(
    parts: Mapping[str, Statistics], *, seed: int, samples: int = 1000
) -> dict[str, dict[str, Estimate]]:
    """As `bootstrap` for several parts (strata, ...) of one split, which share the resamples.

    Raises:
        UserError: the parts have different units.
    """
    return _bootstrap(parts, seed, samples, (0.0, 1.0))


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
    return _bootstrap({'': Statistics(first.unit_ids, compute, width)}, seed, samples, (-1.0, 1.0))['']


def combined_bootstrap(terms: Sequence[tuple[float, str, Statistics]], *, seed: int, samples: int = 1000) -> Estimate:
    """The sum of factor * metric over terms (factor, metric, statistics) of one split, resampled together.

    The sum may be any number, so its interval is not cut off at the ends of a range.

    Raises:
        UserError: the terms were computed on different documents.
    """
    unit_ids = terms[0][2].unit_ids
    if any(statistics.unit_ids != unit_ids for _, _, statistics in terms):
        raise UserError('systems can only be compared on the same documents; evaluate all on one split')

    def compute(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {'sum': np.sum([factor * of.compute(weights)[metric] for factor, metric, of in terms], axis=0)}

    whole = Statistics(unit_ids, compute, max(statistics.width for _, _, statistics in terms))
    return _bootstrap({'': whole}, seed, samples, (-np.inf, np.inf))['']['sum']


def _bootstrap(
    parts: Mapping[str, Statistics], seed: int, samples: int, bounds: tuple[float, float]
) -> dict[str, dict[str, Estimate]]:
    unit_ids = {statistics.unit_ids for statistics in parts.values()}
    if len(unit_ids) > 1:
        raise UserError('parts of a split can only be resampled together over the same documents')
    units = len(unit_ids.pop())
    # Values in double precision; for the draws single precision is plenty, and twice as fast.
    values = {part: statistics.compute(np.ones((1, units))) for part, statistics in parts.items()}
    draws: dict[str, dict[str, list[np.ndarray]]] = {part: {name: [] for name in values[part]} for part in parts}
    width = max(statistics.width for statistics in parts.values())
    for weights in _resamples(units, width, seed, samples):
        for part, statistics in parts.items():
            for name, drawn in statistics.compute(weights).items():
                draws[part][name].append(drawn)
    return {
        part: {name: _estimate(name, float(values[part][name][0]), draws[part][name], bounds) for name in values[part]}
        for part in parts
    }


def _resamples(units: int, width: int, seed: int, samples: int) -> Iterator[np.ndarray]:
    """Yields how often each unit was drawn, in blocks [rows, U] that add up to `samples` rows."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // max(units, width))
    for start in range(0, samples, at_once):
        rows = min(at_once, samples - start)
        drawn = generator.integers(0, units, size=(rows, units)) + np.arange(rows)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float32)


def _estimate(name: str, value: float, blocks: list[np.ndarray], bounds: tuple[float, float]) -> Estimate:
    draws = np.concatenate(blocks).astype(float) if blocks else np.empty(0)
    draws = draws[~np.isnan(draws)]
    if np.isnan(value):
        return Estimate(None, None, None)
    if not draws.size:
        return Estimate(value, None, None)
    # All metrics are shares but the means of counts, whose differences may be any number.
    within = (-np.inf, np.inf) if name in COUNT_METRICS else bounds
    low, high = np.clip(np.percentile(draws, [2.5, 97.5]) - draws.mean() + value, *within)
    return Estimate(value, float(low), float(high))
