"""`cost`: what runs have cost beside each other, and what score each had reached at which cost.

Compared is the stage `training` of each ledger (see `pipeline.cost`): `base`, the stand-in for pretraining, is what a
pretrained checkpoint would spare, and has columns of its own. The curve of a run is its scores on the way
(scores.jsonl) over the cost of the training up to there; between two points it is a straight line, and beyond the
first and last one nothing is known.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ccl_jax.errors import UserError

COSTS = ('tokens', 'flops', 'device_seconds')

Curve = list[tuple[float, float]]
"""(cost, score), by ascending cost."""

_UNITS = {'tokens': 'tokens', 'flops': 'FLOPs', 'device_seconds': 'device-seconds'}


def compare_runs(
    ledgers: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    reference: str,
    metric: str,
    cost: str = 'flops',
) -> dict[str, Any]:
    """Returns the comparison as JSON: for each run its costs, their ratios to the reference's, and its curve.

    Args:
        ledgers: cost.json by the name of the run.
        scores: the lines of scores.jsonl by the name of the run; none where nothing was scored on the way.
        metric: of the curves.
        cost: of the curves, one of `COSTS`.

    Raises:
        UserError: the scores have no such metric, or runs were scored on different splits.
    """
    check_scores(scores, metric, cost)
    costs = {name: training_costs(ledger) for name, ledger in ledgers.items()}
    curves = {name: curve(scores[name], metric, cost) for name in ledgers}
    best = best_score(curves[reference])
    rows = {}
    for name, ledger in ledgers.items():
        reached = None if best is None else cost_to_reach(curves[name], best)
        reference_reached = None if best is None else cost_to_reach(curves[reference], best)
        stages = ledger['stages']
        rows[name] = {
            'training': costs[name],
            'ratio': {unit: _ratio(costs[name][unit], costs[reference][unit]) for unit in COSTS},
            'base': stage_costs(stages['base']) if 'base' in stages else None,
            'expansion_tokens': stages['expansion'].get('tokens', 0),
            'evaluation': evaluation_costs(stages['evaluation']),
            'device': ledger['device'],
            'curve': curves[name],
            'best': best_score(curves[name]),
            'cost_to_reach_best_of_reference': reached,
            'ratio_to_reach_best_of_reference': _ratio(reached, reference_reached),
            'at_equal_cost': at_equal_cost(curves[name], curves[reference]),
        }
    return {'reference': reference, 'metric': metric, 'cost': cost, 'runs': rows}


def training_costs(ledger: Mapping[str, Any]) -> dict[str, float]:
    """The costs of the stage `training` of a ledger; zeros where there is none yet."""
    stage = ledger['stages'].get('training')
    return stage_costs(stage) if stage else dict.fromkeys(COSTS, 0)


def stage_costs(stage: Mapping[str, Any]) -> dict[str, float]:
    """Tokens of all tasks, FLOPs forward and backward, device-seconds of a training."""
    return {
        'tokens': sum(sum(task.values()) for task in stage['tokens'].values()),
        'flops': sum(stage['flops'].values()),
        'device_seconds': stage['device_seconds'],
    }


def evaluation_costs(evaluation: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The sum over everything that was evaluated."""
    return {
        'tokens': sum(entry['prompt_tokens'] + entry['new_tokens'] for entry in evaluation.values()),
        'flops': sum(entry['flops'] for entry in evaluation.values()),
        'device_seconds': sum(entry['device_seconds'] for entry in evaluation.values()),
    }


def curve(scores: Sequence[Mapping[str, Any]], metric: str, cost: str) -> Curve:
    """The scores over the cost of the training up to them; where the metric is undefined there is no point."""
    points = [(line['cost'][cost], line['metrics'][metric]) for line in scores]
    return sorted((spent, score) for spent, score in points if score is not None)


def best_score(points: Curve) -> float | None:
    return max((score for _, score in points), default=None)


def cost_to_reach(points: Curve, score: float) -> float | None:
    """The cost at which a curve first reaches `score`; None where it never does.

    At its first point it may have been reached before: then this is an upper bound.
    """
    for k, (cost, reached) in enumerate(points):
        if reached >= score:
            if k == 0:
                return cost
            before, lower = points[k - 1]
            return before + (cost - before) * (score - lower) / (reached - lower)
    return None


def score_at(points: Curve, cost: float) -> float | None:
    """The score of a curve at `cost`; None outside of it."""
    for (before, first), (after, second) in itertools.pairwise(points):
        if before <= cost <= after:
            return first + (second - first) * (cost - before) / (after - before) if after > before else second
    return next((score for at, score in points if at == cost), None)


def at_equal_cost(points: Curve, reference: Curve, cost: float | None = None) -> dict[str, float] | None:
    """Score and difference to the reference at a cost, by default the greatest that both have reached.

    None where one of the two has no score at that cost.
    """
    if not points or not reference:
        return None
    if cost is None:
        cost = min(points[-1][0], reference[-1][0])
    own, other = score_at(points, cost), score_at(reference, cost)
    if own is None or other is None:
        return None
    return {'cost': cost, 'score': own, 'reference_score': other, 'difference': own - other}


def check_scores(scores: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, cost: str) -> None:
    """Raises UserError: the scores have no such metric or cost, or are of different documents."""
    if cost not in COSTS:
        raise UserError(f'the cost "{cost}" is unknown; choose one of {", ".join(COSTS)}')
    lines = [line for of_run in scores.values() for line in of_run]
    known = sorted(set().union(*(line['metrics'] for line in lines)))
    if lines and metric not in known:
        raise UserError(f'the scores have no metric "{metric}"; choose one of {", ".join(known)}')
    scored = sorted({(line['split'], line['decoding']['documents']) for line in lines})
    if len(scored) > 1:
        sets = ', '.join(f'{documents} documents of {split}' for split, documents in scored)
        raise UserError(
            f'the scores are of different documents ({sets}), so they do not compare; score all runs on one'
        )


def read_run(workdir: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns cost.json and the lines of scores.jsonl of a run.

    Raises:
        UserError: there is no ledger, or it cannot be read.
    """
    path = workdir / 'cost.json'
    if not path.is_file():
        raise UserError(f'{path} is missing; name the workdir of a run that "ccl-jax train" has ended')
    try:
        ledger = json.loads(path.read_text(encoding='utf-8'))
        scores = read_scores(workdir)
        version = ledger['format']
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f'cost.json or scores.jsonl in {workdir} cannot be read; run "ccl-jax train" on it again'
        ) from None
    if version != 1:
        raise UserError(f'{path} has format {version} and this version reads 1; read it with the version that wrote it')
    return ledger, scores


def read_scores(workdir: Path) -> list[dict[str, Any]]:
    """Returns the lines of scores.jsonl, none where it is missing. Raises ValueError if one is no JSON."""
    path = workdir / 'scores.jsonl'
    return [json.loads(text) for text in path.read_text(encoding='utf-8').splitlines()] if path.exists() else []


def name_runs(workdirs: Sequence[str]) -> dict[str, Path]:
    """Names each run by its folder, or by its whole path where two folders have one name.

    Raises:
        UserError: a run is named twice.
    """
    paths = [Path(workdir) for workdir in workdirs]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError('a run is named twice; name each once')
    names = [path.resolve().name for path in paths]
    return {name if names.count(name) == 1 else str(path): path for name, path in zip(names, paths, strict=True)}


def cost_report(comparison: Mapping[str, Any]) -> str:
    """The comparison as text."""
    reference, metric = comparison['reference'], comparison['metric']
    rows = comparison['runs']
    width = max(len('run'), *map(len, rows))
    head = f'{"run":<{width}}' + ''.join(f'  {_UNITS[unit]:>14}  {"ratio":>6}' for unit in COSTS)
    head += f'  {"base FLOPs":>10}  {"evaluation s":>12}  {"expansion tokens":>16}'
    lines = [head, '-' * len(head)]
    for name, row in rows.items():
        cells = ''.join(f'  {_number(row["training"][unit]):>14}  {_two(row["ratio"][unit]):>6}' for unit in COSTS)
        base = '-' if row['base'] is None else _number(row['base']['flops'])
        evaluation = f'{row["evaluation"]["device_seconds"]:,.1f}'
        lines.append(f'{name:<{width}}{cells}  {base:>10}  {evaluation:>12}  {row["expansion_tokens"]:>16,}')
    lines += ['', f'Costs are those of the training alone; ratios are to {reference}.']
    if len({row['device']['kind'] for row in rows.values()}) > 1:
        kinds = ', '.join(f'{name}: {row["device"]["kind"]}' for name, row in rows.items())
        lines.append(f'The runs were on different devices, so their device-seconds do not compare ({kinds}).')
    if not any(row['curve'] for row in rows.values()):
        return '\n'.join(
            [*lines, '', 'No run was scored on the way: set eval.score_every for the curve of scores over cost.']
        )
    unit = _UNITS[comparison['cost']]
    head = f'{"run":<{width}}  {"best " + metric:>20}  {unit + " to the best of " + reference:>36}  {"ratio":>6}'
    head += f'  {"at equal cost":>13}  {"difference":>10}'
    lines += ['', head, '-' * len(head)]
    for name, row in rows.items():
        equal, reached = row['at_equal_cost'], row['cost_to_reach_best_of_reference']
        lines.append(
            f'{name:<{width}}  {_three(row["best"]):>20}  {"never" if reached is None else _number(reached):>36}  '
            f'{_two(row["ratio_to_reach_best_of_reference"]):>6}  {_three(equal and equal["score"]):>13}  '
            f'{_three(equal and equal["difference"], "+"):>10}'
        )
    lines += ['', f'At equal cost: {metric} at the most {unit} that the run and {reference} have both reached.']
    return '\n'.join(lines)


def plot_curves(comparison: Mapping[str, Any], path: Path) -> None:
    """Draws score over cost.

    Raises:
        UserError: no run was scored on the way, or the file cannot be written.
    """
    if not any(row['curve'] for row in comparison['runs'].values()):
        raise UserError('no run was scored on the way, so there is no curve to plot; train with eval.score_every')
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout='constrained')
    for name, row in comparison['runs'].items():
        if row['curve']:
            axes.plot(*zip(*row['curve'], strict=True), marker='o', markersize=3, label=name)
    axes.set_xlabel(f'{_UNITS[comparison["cost"]]} of the training')
    axes.set_ylabel(comparison['metric'])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f'cannot write the plot to {path} ({error}); name a file such as cost.png') from None
    finally:
        pyplot.close(figure)


def _ratio(number: float | None, reference: float | None) -> float | None:
    return None if number is None or not reference else number / reference


def _number(value: float) -> str:
    if value >= 1e9:
        return f'{value:.3e}'
    return f'{value:,.0f}' if value == int(value) or value >= 1e5 else f'{value:,.1f}'


def _two(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'


def _three(value: float | None, sign: str = '') -> str:
    return '-' if value is None else f'{value:{sign}.3f}'
