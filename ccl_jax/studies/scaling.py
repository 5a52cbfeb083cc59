"""`scaling`: runs of several model and data sizes, the law through them, and whether it foretells the largest."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ccl_jax.errors import UserError
from ccl_jax.model.hf import read_architecture
from ccl_jax.pipeline.workdir import workdir_config
from ccl_jax.studies.scaling_law import (
    CostModel,
    Law,
    Point,
    Prediction,
    best_size,
    bootstrap_laws,
    fit_cost,
    fit_law,
    interval,
    iso_cost,
    predict,
)

_COST, _DEV = 'cost.json', 'dev.jsonl'
# Tokens and FLOPs of the training alone count: the stand-in for pretraining is the same for all runs of a size.
_STAGE = 'training'


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The runs of the largest model, foretold by the law of all others."""

    law: Law
    predictions: tuple[tuple[Point, Prediction], ...]

    @property
    def error(self) -> float:
        """The mean of |foretold - measured| / measured."""
        return float(np.mean([abs(p.loss - point.loss) / point.loss for point, p in self.predictions]))


@dataclasses.dataclass(frozen=True)
class Study:
    """What the runs say.

    Attributes:
        unfinished: workdirs that were left out, with the reason.
        drawn: laws of the bootstrap, for intervals.
        held_out: None where the grid is too small without its largest model.
        following: the loss foretold for a model twice as large as the largest, at the most tokens.
    """

    points: tuple[Point, ...]
    unfinished: tuple[tuple[str, str], ...]
    law: Law
    drawn: tuple[Law, ...]
    cost: CostModel
    held_out: HeldOut | None
    following: Prediction


def study_runs(folders: Sequence[Path], task: str = 'loss') -> Study:
    """Reads runs and fits the law.

    Args:
        folders: workdirs, or folders with workdirs below them.
        task: which dev loss: 'loss', of all tasks, or a task's name.

    Raises:
        UserError: there are too few finished runs.
    """
    points, unfinished = read_runs(folders, task)
    law = fit_law(points)
    drawn = tuple(bootstrap_laws(points, law))
    largest, most = max(point.parameters for point in points), max(point.tokens for point in points)
    return Study(
        points=tuple(points),
        unfinished=tuple(unfinished),
        law=law,
        drawn=drawn,
        cost=fit_cost(points),
        held_out=_foretold(points, largest),
        following=predict(law, drawn, 2 * largest, most),
    )


def read_runs(folders: Sequence[Path], task: str = 'loss') -> tuple[list[Point], list[tuple[str, str]]]:
    """Returns (points of the finished runs, (workdir, why it is none) of the others).

    Raises:
        UserError: there is no run at all.
    """
    # A Hugging Face folder has a config.json too, and no data.
    found = {path.parent for folder in folders for path in folder.rglob('config.json')}
    workdirs = sorted(folder for folder in found if (folder / 'data').is_dir())
    if not workdirs:
        names = ', '.join(map(str, folders))
        raise UserError(f'there is no run in {names}; give workdirs, or the folder of a sweep, as --runs')
    points, unfinished = [], []
    for workdir in workdirs:
        try:
            points.append(_point(workdir, task))
        except _NoPoint as reason:
            unfinished.append((str(workdir), str(reason)))
    return points, unfinished


class _NoPoint(Exception):
    """Why a run is no point."""


def _point(workdir: Path, task: str) -> Point:
    for name, mend in ((_COST, 'train it to the end'), (_DEV, 'train it to the end, with eval.loss_every')):
        if not (workdir / name).is_file():
            raise _NoPoint(f'{name} is missing; {mend}')
    stage = json.loads((workdir / _COST).read_text())['stages'][_STAGE]
    lines = (workdir / _DEV).read_text().splitlines()
    last = json.loads(lines[-1]) if lines else {}
    if last.get('step') != stage['steps'] - 1:
        raise _NoPoint('it is not finished')
    if not isinstance(last.get(task), int | float) or not last[task] > 0:
        raise _NoPoint(f'its dev loss has no positive "{task}"')
    config = workdir_config(workdir)
    folder = workdir / 'base' / 'hf' if config.base.enabled else Path(config.model.path)
    return Point(
        name=f'{workdir.parent.name}/{workdir.name}',
        parameters=read_architecture(folder).parameter_count(),
        tokens=sum(sum(of_task.values()) for of_task in stage['tokens'].values()),
        flops=sum(stage['flops'].values()),
        loss=float(last[task]),
    )


def _foretold(points: Sequence[Point], largest: float) -> HeldOut | None:
    known = [point for point in points if point.parameters < largest]
    try:
        law = fit_law(known)
    except UserError:
        return None
    drawn = bootstrap_laws(known, law)
    held_out = [point for point in points if point.parameters == largest]
    return HeldOut(law, tuple((point, predict(law, drawn, point.parameters, point.tokens)) for point in held_out))


def report(study: Study) -> str:
    """Returns the study as text."""
    lines = [f'{"run":<32}{"parameters":>14}{"tokens":>14}{"FLOPs":>12}{"loss":>10}{"fitted":>10}']
    for point in sorted(study.points, key=lambda point: (point.parameters, point.tokens)):
        fitted = float(study.law.loss(point.parameters, point.tokens))
        lines.append(
            f'{point.name:<32}{point.parameters:>14,.0f}{point.tokens:>14,.0f}{point.flops:>12.2e}{point.loss:>10.4f}'
            f'{fitted:>10.4f}'
        )
    lines += [f'left out: {workdir}: {reason}' for workdir, reason in study.unfinished]
    law = study.law
    lines += ['', 'loss = E + A / N^alpha + B / D^beta, N parameters, D training tokens (95 % intervals: bootstrap)']
    for field in dataclasses.fields(Law):
        low, high = interval([getattr(other, field.name) for other in study.drawn])
        lines.append(f'  {field.name:<6}{getattr(law, field.name):>12.4g} [{low:.4g}, {high:.4g}]')
    lines.append(f'FLOPs per token: {study.cost.scale:.3g} x N^{study.cost.exponent:.3f}')
    lines.append('')
    if study.held_out is None:
        lines.append('the grid is too small to hold its largest model out')
    else:
        lines.append('the largest model, foretold by the law of the others:')
        for point, foretold in study.held_out.predictions:
            lines.append(
                f'  {point.tokens:>12,.0f} tokens: foretold {foretold.loss:.4f} [{foretold.low:.4f}, '
                f'{foretold.high:.4f}], measured {point.loss:.4f}, '
                f'error {foretold.loss / point.loss - 1:+.2%}'
            )
        lines.append(f'  mean error {study.held_out.error:.2%}')
    following = study.following
    lines.append(
        f'a model of {following.parameters:,.0f} parameters on {following.tokens:,.0f} tokens: foretold '
        f'{following.loss:.4f} [{following.low:.4f}, {following.high:.4f}]'
    )
    lines += ['', 'the best size for a cost (within the sizes that were trained):']
    for flops in costs(study):
        size = _best(study, flops)
        lines.append(
            f'  {flops:.2e} FLOPs: {size:,.0f} parameters, {float(study.cost.tokens(flops, size)):,.0f} tokens, loss '
            f'{float(iso_cost(law, study.cost, flops, np.array([size]))[0]):.4f}'
        )
    return '\n'.join(lines)


def to_json(study: Study) -> dict[str, Any]:
    """Returns the study as JSON values."""
    held_out = study.held_out
    return {
        'points': [dataclasses.asdict(point) for point in study.points],
        'left_out': [{'workdir': workdir, 'reason': reason} for workdir, reason in study.unfinished],
        'law': {
            field.name: {
                'value': getattr(study.law, field.name),
                **dict(zip(('low', 'high'), interval([getattr(o, field.name) for o in study.drawn]), strict=True)),
            }
            for field in dataclasses.fields(Law)
        },
        'flops_per_token': dataclasses.asdict(study.cost),
        'held_out': None
        if held_out is None
        else {
            'law': dataclasses.asdict(held_out.law),
            'runs': [{'name': p.name, 'measured': p.loss, **dataclasses.asdict(f)} for p, f in held_out.predictions],
            'mean_error': held_out.error,
        },
        'next': dataclasses.asdict(study.following),
        'best_size': [{'flops': flops, 'parameters': _best(study, flops)} for flops in costs(study)],
    }


def costs(study: Study) -> list[float]:
    """Returns three costs within those of the runs, for iso-cost curves."""
    low, high = (edge(point.flops for point in study.points) for edge in (min, max))
    return np.geomspace(low, high, 5)[1:4].tolist()


def draw(study: Study, path: Path) -> None:
    """Draws the runs with the law, and the curves of equal cost, as PNG."""
    with matplotlib.rc_context({'font.size': 9}):
        figure = Figure(figsize=(11, 4.5), layout='constrained')
        left, right = figure.subplots(1, 2)
        _draw_law(left, study)
        _draw_costs(right, study)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)


def _draw_law(axes: Axes, study: Study) -> None:
    sizes = sorted({point.parameters for point in study.points})
    tokens = [point.tokens for point in study.points]
    line = np.geomspace(min(tokens) / 1.2, max(tokens) * 1.2, 100)
    colors = matplotlib.colormaps['viridis'](np.linspace(0, 0.85, len(sizes)))
    for size, color in zip(sizes, colors, strict=True):
        own = [point for point in study.points if point.parameters == size]
        label = f'{size:,.0f} parameters'
        axes.plot([p.tokens for p in own], [p.loss for p in own], 'o', color=color, label=label)
        axes.plot(line, study.law.loss(size, line), color=color, linewidth=1)
    if study.held_out is not None:
        largest = sizes[-1]
        foretold = study.held_out.law.loss(largest, line)
        axes.plot(line, foretold, '--', color='black', linewidth=1, label='largest, foretold by the others')
    axes.set(xscale='log', yscale='log', xlabel='training tokens', ylabel='dev loss', title='Runs and the law')
    axes.legend(fontsize=7)


def _draw_costs(axes: Axes, study: Study) -> None:
    low, high = _size_range(study)
    sizes = np.geomspace(low, high, 200)
    for flops, style in zip(costs(study), ('-', '--', ':'), strict=True):
        losses = iso_cost(study.law, study.cost, flops, sizes)
        (line,) = axes.plot(sizes, losses, style, label=f'{flops:.1e} FLOPs')
        best = _best(study, flops)
        axes.plot([best], iso_cost(study.law, study.cost, flops, np.array([best])), 'v', color=line.get_color())
    axes.set(xscale='log', xlabel='parameters', ylabel='dev loss by the law', title='Curves of equal cost')
    axes.legend(fontsize=7)


def _best(study: Study, flops: float) -> float:
    return best_size(study.law, study.cost, flops, *_size_range(study))


def _size_range(study: Study) -> tuple[float, float]:
    sizes = [point.parameters for point in study.points]
    return math.floor(min(sizes)), math.ceil(max(sizes))
