"""The plots of a sweep: a panel per metric, against the arms, against the numbers that they stand for, or against
what the training had cost."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ccl_jax.evaluation.bootstrap import Estimate
from ccl_jax.studies.sweep_config import Arm, Sweep
from ccl_jax.studies.sweep_curves import Curves, mean_curve
from ccl_jax.studies.sweep_result import Result
from ccl_jax.studies.sweep_table import Row

_WIDTH, _HEIGHT = 3.2, 3.2  # inches of a panel
_COLUMNS = 3  # panels of curves side by side
_LOGARITHMIC_FROM = 8  # largest number over the smallest


def draw_sweep(sweep: Sweep, rows: Sequence[Row], results: Sequence[Result], path: Path) -> None:
    """Draws means with the intervals of `Row.metrics`, and every run as a dot, as PNG."""
    arms = {arm.name: arm for arm in sweep.arms}
    names = [row.arm for row in rows]
    with matplotlib.rc_context({'font.size': 9}):
        figure = Figure(figsize=(_WIDTH * len(sweep.metrics), _HEIGHT), layout='constrained')
        panels = figure.subplots(1, len(sweep.metrics), squeeze=False)[0]
        for axes, metric in zip(panels, sweep.metrics, strict=True):
            measured = [(r.arm, r.value(metric)) for r in results]
            dots = [(arm, value) for arm, value in measured if value is not None]
            axes.set_title(metric)
            axes.grid(alpha=0.3)
            if sweep.axis:
                _draw_lines(axes, rows, arms, metric)
                axes.plot([arms[arm].x for arm, _ in dots], [value for _, value in dots], '.', color='black', alpha=0.4)
                axes.set_xlabel(sweep.axis)
            else:
                estimates = [row.metrics[metric] for row in rows]
                _draw_points(axes, range(len(rows)), estimates, 'o')
                axes.plot([names.index(arm) for arm, _ in dots], [v for _, v in dots], '.', color='black', alpha=0.4)
                axes.set_xticks(range(len(rows)), names, rotation=30, ha='right')
        if any(arm.line for arm in sweep.arms):
            panels[0].legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)


def draw_curves(curves: Sequence[Curves], path: Path) -> None:
    """Draws each run's scores on the way as a thin line, and the mean of each arm's as a thick one, as PNG."""
    arms = list(dict.fromkeys(arm for of_metric in curves for arm in of_metric.runs))
    palette = matplotlib.colormaps['tab10' if len(arms) <= 10 else 'tab20']
    colors = {arm: palette(number % palette.N) for number, arm in enumerate(arms)}
    columns = min(len(curves), _COLUMNS)
    lines = math.ceil(len(curves) / columns)
    with matplotlib.rc_context({'font.size': 9}):
        # An inch for the legend.
        figure = Figure(figsize=(_WIDTH * columns + 1, _HEIGHT * lines), layout='constrained')
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, of_metric in zip(panels, curves, strict=False):
            for arm, runs in of_metric.runs.items():
                for points in runs.values():
                    axes.plot(*zip(*points, strict=True), color=colors[arm], linewidth=0.7, alpha=0.4)
                mean = mean_curve(runs.values())
                costs, scores = [cost for cost, _ in mean], [score for _, score in mean]
                axes.plot(costs, scores, '.-', color=colors[arm], linewidth=2)
            axes.set_title(of_metric.metric)
            axes.set_xlabel('FLOPs of the training')
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
        for axes in panels[len(curves) :]:
            axes.remove()
        handles = [Line2D([], [], marker='.', linewidth=2, color=colors[arm], label=arm) for arm in arms]
        figure.legend(handles=handles, loc='outside right upper')
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)


def _draw_lines(axes: Axes, rows: Sequence[Row], arms: dict[str, Arm], metric: str) -> None:
    xs = [arms[row.arm].x or 0.0 for row in rows]
    if min(xs) > 0 and max(xs) >= _LOGARITHMIC_FROM * min(xs):
        axes.set_xscale('log')
        axes.set_xticks(sorted(set(xs)), [f'{x:g}' for x in sorted(set(xs))])
        axes.set_xticks([], minor=True)
    for line in dict.fromkeys(arms[row.arm].line for row in rows):
        own = sorted(
            ((x, row.metrics[metric]) for x, row in zip(xs, rows, strict=True) if arms[row.arm].line == line),
            key=lambda point: point[0],
        )
        _draw_points(axes, [x for x, _ in own], [estimate for _, estimate in own], 'o-', line)


def _draw_points(axes: Axes, xs: Sequence[float], estimates: Sequence[Estimate], form: str, label: str = '') -> None:
    known = [(x, e.value, e.low, e.high) for x, e in zip(xs, estimates, strict=True) if e.value is not None]
    values = [value for _, value, _, _ in known]
    below = [0.0 if low is None else value - low for _, value, low, _ in known]
    above = [0.0 if high is None else high - value for _, value, _, high in known]
    axes.errorbar([x for x, *_ in known], values, (below, above), fmt=form, capsize=3, label=label or None)
