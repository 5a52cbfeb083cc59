"""What the runs of a sweep give, as one table: CSV, Markdown and a plot.

Intervals are 95 %. Over n >= 2 seeds: Student's t, mean +- t(0.975, n - 1) s / sqrt(n), which is wide for few
seeds (12.7 s / sqrt(2) of two, 4.3 s / sqrt(3) of three). Of one seed: the bootstrap over documents of `eval`.

The difference to the reference arm is paired by seed: t over the differences of the seeds that both have.
Beside it, and alone where there is one seed, stands a paired bootstrap over documents, of the means over these
seeds: seeds tell how much a retrained model varies, documents how much another test set would. It covers the
metrics of codes and evidence, whole and by stratum. The strata are those of each arm's own training: where arms
differ in their documents or spans, S1 of one arm is not S1 of the other.

Below the arms stand the baselines of the reference arm's runs; one that is the same for all seeds counts as one.

Cost ratios are sums over these seeds, of `total` in the runs' `cost.json`; blank where runs have none.
"""

import csv
import dataclasses
import difflib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ccl_jax.errors import UserError
from ccl_jax.evaluation.bootstrap import Estimate, Statistics, paired_bootstrap
from ccl_jax.evaluation.strata import STRATA
from ccl_jax.studies.sweep_config import Sweep
from ccl_jax.studies.sweep_result import COSTS, UNDEFINED, Result

_COST_TITLES = {'tokens': 'tokens', 'flops': 'FLOPs', 'device_seconds': 'device seconds'}
# These need more than the documents to be computed again.
_NOT_RESAMPLED = ('invalid_code_rate', 'macro_f1_caml')
SAMPLES = 1000

Metrics = Mapping[str, Estimate]


@dataclasses.dataclass(frozen=True)
class Row:
    """One arm, or a baseline.

    Attributes:
        seeds: those that are finished; one, where a baseline is the same for all of them.
        metrics: name -> mean over the seeds.
        differences: name -> mean difference to the reference arm, paired by seed; empty for that arm itself.
        by_documents: name -> the same differences with their interval over documents.
        costs: mean of a run.
        cost_ratios: to the reference arm.
    """

    arm: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    by_documents: Mapping[str, Estimate]
    costs: Mapping[str, float]
    cost_ratios: Mapping[str, float]


def gather(sweep: Sweep, results: Sequence[Result]) -> list[Row]:
    """Returns one row per arm that has a finished run, in the order of the sweep.

    Raises:
        UserError: no run has a metric of the sweep.
    """
    check_metrics(sweep.metrics, results)
    by_arm = by_seed(sweep, results)
    reference = by_arm[sweep.reference]
    return [
        _row(name, own, reference if name != sweep.reference else None, sweep.metrics)
        for name, own in by_arm.items()
        if own
    ]


def gather_baselines(sweep: Sweep, results: Sequence[Result]) -> list[Row]:
    """Returns one row per baseline of the reference arm, by name; without costs and differences over documents."""
    reference = by_seed(sweep, results)[sweep.reference]
    rows = []
    # Sorted: a small result that is read back has lost the order in which they were made.
    for name in sorted({name for result in reference.values() for name in result.baselines}):
        own = {seed: result.baselines[name] for seed, result in reference.items() if name in result.baselines}
        first = next(iter(own.values()))
        # Resampled with the seed of each run, intervals differ where nothing else does.
        same = all(
            m.get(n, UNDEFINED).value == first.get(n, UNDEFINED).value for m in own.values() for n in sweep.metrics
        )
        rows.append(
            Row(
                arm=f'{name} ({sweep.reference})',
                seeds=tuple(own)[:1] if same else tuple(own),
                metrics={m: _mean([first] if same else own.values(), m) for m in sweep.metrics},
                differences={
                    m: _paired(((metrics, reference[seed].metrics) for seed, metrics in own.items()), m)
                    for m in sweep.metrics
                },
                by_documents={},
                costs={},
                cost_ratios={},
            )
        )
    return rows


def by_seed(sweep: Sweep, results: Sequence[Result]) -> dict[str, dict[int, Result]]:
    """Arm -> seed -> result, in the order of the sweep."""
    return {arm.name: {r.seed: r for r in results if r.arm == arm.name} for arm in sweep.arms}


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value per seed with Student's 95 % interval; without one below two values."""
    if not values:
        return UNDEFINED
    mean = float(np.mean(values))
    if len(values) == 1:
        return Estimate(mean, None, None)
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def _row(arm: str, own: Mapping[int, Result], reference: Mapping[int, Result] | None, metrics: Sequence[str]) -> Row:
    shared = [seed for seed in own if seed in (reference or {})]
    pairs = [(own[seed], reference[seed]) for seed in shared] if reference else []
    return Row(
        arm=arm,
        seeds=tuple(own),
        metrics={name: _mean((result.metrics for result in own.values()), name) for name in metrics},
        differences={n: _paired(((a.metrics, b.metrics) for a, b in pairs), n) for n in metrics} if pairs else {},
        by_documents=_over_documents(pairs, metrics) if pairs else {},
        costs={name: sum(r.cost[name] for r in own.values()) / len(own) for name in _known_costs(own.values())},
        cost_ratios={
            name: sum(a.cost[name] for a, _ in pairs) / total
            for name in _known_costs(result for pair in pairs for result in pair)
            if (total := sum(b.cost[name] for _, b in pairs))
        },
    )


def _mean(runs: Iterable[Metrics], name: str) -> Estimate:
    estimates = [found for metrics in runs if (found := metrics.get(name, UNDEFINED)).value is not None]
    if len(estimates) == 1:
        return estimates[0]
    return over_seeds([estimate.value for estimate in estimates if estimate.value is not None])


def _paired(pairs: Iterable[tuple[Metrics, Metrics]], name: str) -> Estimate:
    """The difference of one less the other over the seeds where both have the metric."""
    both = [(one.get(name, UNDEFINED).value, other.get(name, UNDEFINED).value) for one, other in pairs]
    return over_seeds([a - b for a, b in both if a is not None and b is not None])


def _known_costs(of: Iterable[Result]) -> list[str]:
    results = list(of)
    return [name for name in COSTS if results and all(name in result.cost for result in results)]


def _over_documents(pairs: Sequence[tuple[Result, Result]], metrics: Sequence[str]) -> dict[str, Estimate]:
    """The difference of the means over seeds under resampled documents, of what can be computed again."""
    estimates: dict[str, Estimate] = {}
    for part in dict.fromkeys(_part(name) for name in metrics if can_be_resampled(name)):
        one, other = (mean_statistics(side, part) for side in zip(*pairs, strict=True))
        found = paired_bootstrap(one, other, seed=0, samples=SAMPLES)
        estimates |= {f'{part}.{name}' if part else name: estimate for name, estimate in found.items()}
    return {name: estimates[name] for name in metrics if name in estimates and can_be_resampled(name)}


def can_be_resampled(metric: str) -> bool:
    part, _, name = metric.rpartition('.')
    return part in ('', *STRATA) and name not in _NOT_RESAMPLED


def mean_statistics(results: Sequence[Result], part: str) -> Statistics:
    """The means of several runs' metrics, on the codes of a stratum or on all for ''.

    Raises:
        UserError: they were evaluated on different documents.
    """
    runs = [result.coded.statistics(part) for result in results]

    def compute(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = [run.compute(weights) for run in runs]
        return {name: np.mean([value[name] for value in values], axis=0) for name in values[0]}

    if len({run.unit_ids for run in runs}) > 1:
        raise UserError('the seeds of an arm were evaluated on different documents; evaluate all on one split')
    return Statistics(runs[0].unit_ids, compute, max(run.width for run in runs))


def _part(name: str) -> str:
    return name.rpartition('.')[0]


def _last(name: str) -> str:
    return name.rpartition('.')[2]


def check_metrics(metrics: Iterable[str], results: Sequence[Result]) -> None:
    """Raises UserError if no run has one of the metrics, with the nearest one that there is."""
    known = sorted({name for result in results for name in result.metrics})
    for name in metrics:
        # A stratum may be empty in these runs; a name that no part has is a mistake.
        if known and _last(name) not in {_last(k) for k in known}:
            nearest = difflib.get_close_matches(name, known, 1, 0)[0]
            raise UserError(f'no run has the metric "{name}" of the sweep; the nearest one is "{nearest}"')


def to_markdown(sweep: Sweep, rows: Sequence[Row], finished: int, total: int) -> str:
    """The table for people; `finished` of the `total` runs of the sweep are."""
    costs = [name for name in COSTS if any(name in row.cost_ratios for row in rows)]
    header = ['arm', 'seeds']
    for name in sweep.metrics:
        header += [name, 'difference']
    header += [f'x {_COST_TITLES[name]}' for name in costs]
    lines = []
    for row in rows:
        cells = [row.arm, str(len(row.seeds))]
        for name in sweep.metrics:
            over_documents = row.metrics[name] if len(row.seeds) == 1 else None
            cells += [cell(row.metrics[name], over_documents, '.3f')]
            cells += [cell(row.differences.get(name), row.by_documents.get(name), '+.3f')]
        is_reference = row.arm == sweep.reference
        cells += [_ratio(1.0 if is_reference else row.cost_ratios.get(name)) for name in costs]
        lines.append(cells)
    return f'{to_table(header, lines)}\n\n{_caption(sweep, finished, total)}\n'


def to_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (header, ['---'] * len(header), *lines))


def _caption(sweep: Sweep, finished: int, total: int) -> str:
    state = f'{finished} runs' if finished == total else f'{finished} of {total} runs, the others are not finished'
    return (
        f'{sweep.experiment}, {state}. Means over seeds, and the difference to {sweep.reference} paired by seed, with '
        "95 % intervals: in brackets Student's t over seeds, in parentheses the (paired) bootstrap over documents. "
        f'x: cost of a run relative to {sweep.reference}.'
    )


def cell(over_seeds: Estimate | None, over_documents: Estimate | None, form: str) -> str:
    """A value with its interval over seeds in brackets and that over documents in parentheses; '' for none."""
    if over_seeds is None or over_seeds.value is None:
        return '' if over_seeds is None else '-'
    text = f'{over_seeds.value:{form}}'
    if over_seeds.low is not None and over_seeds is not over_documents:
        text += f' [{over_seeds.low:{form}}, {over_seeds.high:{form}}]'
    if over_documents is not None and over_documents.low is not None:
        text += f' ({over_documents.low:{form}}, {over_documents.high:{form}})'
    return text


def _ratio(value: float | None) -> str:
    return '' if value is None else f'{value:.2f}'


def to_csv(sweep: Sweep, rows: Sequence[Row]) -> str:
    """The table for programs: one line per arm and metric, costs repeated in each."""

    def lines() -> Iterable[dict[str, Any]]:
        for row in rows:
            for name in sweep.metrics:
                line: dict[str, Any] = {'arm': row.arm, 'seeds': ' '.join(map(str, row.seeds)), 'metric': name}
                line |= columns('mean', row.metrics[name])
                line['interval'] = 't over seeds' if len(row.seeds) > 1 else 'bootstrap over documents'
                line |= columns('difference', row.differences.get(name, UNDEFINED))
                documents = row.by_documents.get(name, UNDEFINED)
                line |= {'difference_documents_low': documents.low, 'difference_documents_high': documents.high}
                line |= {f'cost_{cost}': row.costs.get(cost) for cost in COSTS}
                line |= {f'cost_ratio_{cost}': row.cost_ratios.get(cost) for cost in COSTS}
                yield line

    return to_csv_text(lines())


def runs_to_csv(sweep: Sweep, results: Sequence[Result]) -> str:
    """One line per finished run: its metrics with their intervals over documents, and its cost."""

    def lines() -> Iterable[dict[str, Any]]:
        for result in results:
            line: dict[str, Any] = {'arm': result.arm, 'seed': result.seed}
            for name in sweep.metrics:
                line |= columns(name, result.metrics.get(name, UNDEFINED))
            yield line | {f'cost_{cost}': result.cost.get(cost) for cost in COSTS}

    return to_csv_text(lines())


def columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    """The cells of an estimate in a CSV table."""
    return {name: estimate.value, f'{name}_low': estimate.low, f'{name}_high': estimate.high}


def to_csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV of rows that all have the same columns, numbers with 6 digits."""
    lines = list(rows)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]) if lines else [], lineterminator='\n')
    writer.writeheader()
    writer.writerows({name: _number(value) for name, value in line.items()} for line in lines)
    return file.getvalue()


def _number(value: Any) -> Any:
    return f'{value:.6g}' if isinstance(value, float) else value
