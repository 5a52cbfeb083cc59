"""A plan for the eye: its report as text, and a picture."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ccl_jax.data.plan import Plan
from ccl_jax.data.plan_settings import UNITS
from ccl_jax.tasks import TASKS

_BINS = 60


def format_plan(plan: Plan, title: str) -> str:
    """Returns the report of a plan as text."""
    report, settings = plan.report, plan.settings
    lines = [
        f'{title}: {plan.examples:,} examples, {plan.steps:,} steps in {report["epochs"]} epochs, planned in '
        f'{report["windows"]} windows',
        f'{"row length":>12}{"rows":>8}{"positions":>12}{"steps":>9}{"fill":>9}',
    ]
    for bucket in settings.buckets:
        in_bucket = plan.step_lengths == bucket
        rows = settings.rows_per_step(bucket)
        steps = int(in_bucket.sum())
        fill = f'{plan.step_tokens[in_bucket].sum() / (steps * rows * bucket):.1%}' if steps else ''
        lines.append(f'{bucket:>12,}{rows:>8,}{rows * bucket:>12,}{steps:>9,}{fill:>9}')
    lines += [
        f'fill {report["fill"]:.1%}: {report["tokens"]:,} tokens in {report["positions"]:,} positions',
        f'modelled cost {report["modelled_cost"]:.4f} x the ideal, every example by itself without padding',
        f'leftovers: {report["carried"]:,} examples handed on to the next window, {report["moved_rows"]:,} rows moved '
        f'to a longer bucket, {report["empty_rows"]:,} of {report["rows"]:,} rows empty',
        f'most examples in a row {report["most_examples_per_row"]} (max_segments {settings.max_segments}, padding '
        'included)',
        f'{"task":>12}{"examples":>12}{"repeats":>9}{"N_t":>14}' + ''.join(f'{unit:>15}' for unit in UNITS),
    ]
    for task, count in report['examples'].items():
        shares = ''.join(f'{report["mix_by"][unit][task]:>15.2%}' for unit in UNITS)
        constant = plan.task_constants.get(task, 0.0)
        lines.append(f'{task:>12}{count:>12,}{report["repeats"][task]:>9.2f}{constant:>14,.1f}{shares}')
    if settings.mix:
        lines.append(f'mix by {settings.mix_by}: asked {_shares(settings.mix)}')
    if settings.mix_end:
        course = '; '.join(_shares(part) for part in report['mix_course'])
        lines.append(f'in a straight line to {_shares(settings.mix_end)}; in each fifth of the steps: {course}')
    return '\n'.join(lines)


def draw_plan(plan: Plan, lengths: np.ndarray, task_ids: np.ndarray, path: Path) -> None:
    """Draws the lengths of the examples against the buckets, and where the positions of the plan go, as PNG.

    Args:
        lengths, task_ids: of the examples that the plan was made for.
    """
    with matplotlib.rc_context({'font.size': 9}):
        figure = Figure(figsize=(11, 4), layout='constrained')
        left, right = figure.subplots(1, 2)
        _draw_lengths(left, plan, np.asarray(lengths), np.asarray(task_ids))
        _draw_positions(right, plan)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)


def _draw_lengths(axes: Axes, plan: Plan, lengths: np.ndarray, task_ids: np.ndarray) -> None:
    edges = np.linspace(0, plan.buckets[-1], _BINS + 1)
    bottom = np.zeros(_BINS)
    for task in np.unique(task_ids):
        own = lengths[task_ids == task]
        tokens = np.histogram(own, edges, weights=own)[0]
        axes.bar(edges[:-1], tokens, np.diff(edges), bottom, align='edge', label=TASKS[task])
        bottom += tokens
    for bucket in plan.buckets:
        axes.axvline(bucket, color='black', linewidth=0.8, linestyle=':')
    axes.set(xlabel='tokens of an example (dotted: row lengths)', ylabel='tokens', title='The examples')
    axes.legend()


def _draw_positions(axes: Axes, plan: Plan) -> None:
    of_bucket = [plan.step_lengths == bucket for bucket in plan.buckets]
    per_step = [bucket * plan.settings.rows_per_step(bucket) for bucket in plan.buckets]
    positions = np.array([int(steps.sum()) for steps in of_bucket]) * per_step
    tokens = np.array([int(plan.step_tokens[s].sum()) for s in of_bucket])
    names = [f'{bucket:,}' for bucket in plan.buckets]
    axes.bar(names, tokens, label='tokens')
    axes.bar(names, positions - tokens, bottom=tokens, label='padding', color='lightgrey')
    fill, cost = plan.report['fill'], plan.report['modelled_cost']
    axes.set(xlabel='row length', ylabel='positions', title=f'The plan: fill {fill:.1%}, modelled cost {cost:.3f}')
    axes.tick_params(axis='x', rotation=45)
    axes.legend()


def _shares(mix: Mapping[str, float]) -> str:
    total = sum(mix.values())
    return ', '.join(f'{task} {share / total:.1%}' for task, share in mix.items())
