"""Curves of a sweep: the scores on the way (`eval.score_every`) against the FLOPs of the training up to them.

Compared are seeds that an arm and the reference arm both have. The curve of an arm is the mean over them, at every
cost where one of them was scored and all have scores: between two scores a straight line. The last score is that of
the end of the training. FLOPs are those of the training alone, without the stand-in for pretraining.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ccl_jax.evaluation.bootstrap import Estimate
from ccl_jax.studies.cost import Curve, at_equal_cost, best_score, check_scores, cost_to_reach, curve, score_at
from ccl_jax.studies.sweep_config import Sweep
from ccl_jax.studies.sweep_result import UNDEFINED, Result
from ccl_jax.studies.sweep_table import by_seed, cell, columns, over_seeds, to_csv_text, to_table

COST = 'flops'
# Of what the reference's run of the same seed cost; None: the greatest cost that both runs have reached.
_POINTS = {'1/5': 0.2, '2/5': 0.4, '3/5': 0.6, '4/5': 0.8, 'end': None}


@dataclasses.dataclass(frozen=True)
class Curves:
    """The curves of one metric: arm -> seed -> curve, of arms and runs that have one."""

    metric: str
    runs: Mapping[str, Mapping[int, Curve]]


@dataclasses.dataclass(frozen=True)
class Point:
    """An arm and the reference at equal cost.

    Attributes:
        share: the cost as a share of what the reference's runs cost in all, mean over the seeds; None without any.
        cost: in FLOPs, mean over the seeds.
        score: mean over the seeds.
        difference: to the reference, paired by seed.
    """

    name: str
    share: float | None
    cost: float | None
    score: Estimate
    difference: Estimate


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An arm against the reference.

    Attributes:
        seeds: those that both have.
        best: the best score of the reference's mean curve.
        ratio: the cost at which the arm's mean curve reaches `best`, by that at which the reference's does; None
            for never.
        ratios: by seed, the same of single runs, each against the best score of the reference's run.
    """

    arm: str
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    best: float | None
    ratio: float | None
    ratios: Mapping[int, float | None]


def gather_curves(sweep: Sweep, results: Sequence[Result]) -> list[Curves]:
    """Returns the curves of the sweep's metrics that every score has, none where nothing was scored on the way.

    Raises:
        UserError: runs were scored on different documents.
    """
    scores = {f'{result.arm} seed {result.seed}': result.scores for result in results if result.scores}
    found = []
    for metric in sweep.metrics if scores else ():
        if not all(metric in line['metrics'] for lines in scores.values() for line in lines):
            continue
        check_scores(scores, metric, COST)
        curves = {
            arm: {seed: points for seed, r in of_arm.items() if (points := curve(r.scores, metric, COST))}
            for arm, of_arm in by_seed(sweep, results).items()
        }
        runs = {arm: of_arm for arm, of_arm in curves.items() if of_arm}
        if runs:
            found.append(Curves(metric, runs))
    return found


def mean_curve(curves: Iterable[Curve]) -> Curve:
    """The mean of several curves at every cost where one has a point and all have scores."""
    of_seeds = list(curves)
    means = []
    for cost in sorted({cost for points in of_seeds for cost, _ in points}):
        scores = [score for points in of_seeds if (score := score_at(points, cost)) is not None]
        if len(scores) == len(of_seeds):
            means.append((cost, float(np.mean(scores))))
    return means


def compare(curves: Curves, reference: str) -> list[Comparison]:
    """Compares every arm that has a curve with the reference arm, and that with itself."""
    of_reference = curves.runs.get(reference, {})
    return [_compare(arm, own, of_reference) for arm, own in curves.runs.items()]


def _compare(arm: str, own: Mapping[int, Curve], reference: Mapping[int, Curve]) -> Comparison:
    seeds = [seed for seed in own if seed in reference]
    pairs = [(own[seed], reference[seed]) for seed in seeds]
    mean, mean_of_reference = (mean_curve(side) for side in zip(*pairs, strict=True)) if pairs else ([], [])
    return Comparison(
        arm,
        tuple(seeds),
        tuple(_point(name, share, pairs) for name, share in _POINTS.items()),
        best_score(mean_of_reference),
        _ratio_to_reach(mean, mean_of_reference),
        {seed: _ratio_to_reach(*pair) for seed, pair in zip(seeds, pairs, strict=True)},
    )


def _point(name: str, share: float | None, pairs: Sequence[tuple[Curve, Curve]]) -> Point:
    whole = [reference[-1][0] for _, reference in pairs]
    found = [
        (at, cost)
        for (own, reference), cost in zip(pairs, whole, strict=True)
        if (at := at_equal_cost(own, reference, None if share is None else share * cost)) is not None
    ]
    # A mean over fewer seeds than its neighbours would not compare with them.
    if not found or len(found) < len(pairs):
        return Point(name, share, None, UNDEFINED, UNDEFINED)
    return Point(
        name,
        float(np.mean([at['cost'] / cost for at, cost in found])),
        float(np.mean([at['cost'] for at, _ in found])),
        over_seeds([at['score'] for at, _ in found]),
        over_seeds([at['difference'] for at, _ in found]),
    )


def _ratio_to_reach(points: Curve, reference: Curve) -> float | None:
    best = best_score(reference)
    if best is None:
        return None
    reached, of_reference = cost_to_reach(points, best), cost_to_reach(reference, best)
    return reached / of_reference if reached is not None and of_reference else None


def curves_to_markdown(sweep: Sweep, curves: Sequence[Curves], results: Sequence[Result]) -> str:
    """A table per metric, and what they say."""
    header = ['arm', 'seeds', *_POINTS, 'end at', f"cost to {sweep.reference}'s best", 'by seed']
    parts = []
    for of_metric in curves:
        lines = [_cells(sweep, comparison) for comparison in compare(of_metric, sweep.reference)]
        parts += [f'## {of_metric.metric}', to_table(header, lines)]
    return '\n\n'.join([*parts, _caption(sweep, results)]) + '\n'


def _cells(sweep: Sweep, comparison: Comparison) -> list[str]:
    cells = [comparison.arm, str(len(comparison.seeds))]
    for point in comparison.points:
        score = cell(Estimate(point.score.value, None, None), None, '.3f')
        has_difference = comparison.arm != sweep.reference and point.difference.value is not None
        cells.append(f'{score}, {cell(point.difference, None, "+.3f")}' if has_difference else score)
    end = comparison.points[-1].share
    by_seed = ', '.join(_or_never(ratio, '.2f') for ratio in comparison.ratios.values())
    return [*cells, '-' if end is None else f'{end:.2f}', _overall(comparison, '.2f'), by_seed]


def _overall(comparison: Comparison, form: str) -> str:
    return '' if comparison.best is None else _or_never(comparison.ratio, form)


def _or_never(ratio: float | None, form: str) -> str:
    return 'never' if ratio is None else f'{ratio:{form}}'


def _caption(sweep: Sweep, results: Sequence[Result]) -> str:
    line = next(line for result in results for line in result.scores)
    name = sweep.reference
    return (
        f'{sweep.experiment}, scored on the way on {line["decoding"]["documents"]} documents of {line["split"]}. '
        f"At 1/5 to 4/5 of the training FLOPs of {name}'s run of the same seed, and at the end, the greatest cost that "
        f"both have reached (end at: as a share of {name}'s): the mean over seeds, and the difference to {name} paired "
        "by seed with Student's 95 % interval in brackets. Between two scores a straight line; - : one of the two has "
        f"no score there. Cost to {name}'s best: where the arm's mean curve first reaches the best score of {name}'s, "
        f"as a ratio to where {name}'s does; by seed, run against run. A curve's best is its highest point, also "
        'where noise has lifted it; what is reached by the first score was reached at that cost at most.'
    )


def curves_to_csv(sweep: Sweep, curves: Sequence[Curves]) -> str:
    """One line per metric, arm and point; what belongs to the whole curve is repeated in each."""

    def lines() -> Iterable[dict[str, Any]]:
        for of_metric in curves:
            for comparison in compare(of_metric, sweep.reference):
                by_seed = ' '.join(f'{seed}:{_or_never(r, ".6g")}' for seed, r in comparison.ratios.items())
                for point in comparison.points:
                    line: dict[str, Any] = {'metric': of_metric.metric, 'arm': comparison.arm}
                    line |= {'seeds': ' '.join(map(str, comparison.seeds)), 'at': point.name}
                    line |= {'share': point.share, COST: point.cost}
                    line |= columns('mean', point.score) | columns('difference', point.difference)
                    line |= {'best_of_reference': comparison.best, 'ratio_to_reach_it': _overall(comparison, '.6g')}
                    yield line | {'ratio_by_seed': by_seed}

    return to_csv_text(lines())
