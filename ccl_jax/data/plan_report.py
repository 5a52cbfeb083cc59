"""What a plan achieves: counts of its steps, and the report made of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ccl_jax.data.cost import modelled_cost
from ccl_jax.data.packing import Steps
from ccl_jax.data.plan_settings import UNITS, PlanSettings
from ccl_jax.data.sampling import Columns
from ccl_jax.tasks import TASKS

# The course of a mix that changes is told in so many parts of the plan.
_PARTS = 5


class Tally:
    """Counts of every step, window by window.

    Attributes:
        step_lengths: int32 [steps], row length T.
        step_tokens: int64 [steps], tokens without padding.
    """

    def __init__(self, columns: Columns, settings: PlanSettings):
        self._columns = columns
        self._settings = settings
        self._windows: list[dict[str, np.ndarray]] = []
        self._steps: dict[str, np.ndarray] = {}
        self.carried = 0
        self.moved_rows = 0

    def add(self, window: Steps) -> None:
        steps = len(window.step_lengths)
        step_of_row = np.repeat(np.arange(steps), window.step_sizes)
        step_of = np.repeat(step_of_row, window.row_sizes)
        tasks = self._columns.tasks(window.example_indices)

        def by_task(amounts: np.ndarray) -> np.ndarray:
            sums = np.bincount(step_of * len(TASKS) + tasks, amounts, minlength=steps * len(TASKS))
            return sums.reshape(steps, len(TASKS)).astype(np.int64)

        amounts = {unit: self._columns.measure(window.example_indices, unit) for unit in UNITS}
        most = np.zeros(steps, np.int64)
        np.maximum.at(most, step_of_row, window.row_sizes)
        self._windows.append(
            {
                'lengths': window.step_lengths,
                'rows': window.step_sizes,
                'empty_rows': np.bincount(step_of_row[window.row_sizes == 0], minlength=steps),
                'most_examples': most,
                'ideal': np.bincount(step_of, modelled_cost(amounts['tokens']), minlength=steps),
                **{unit: by_task(values) for unit, values in amounts.items()},
            }
        )
        self.carried += len(window.carried)
        self.moved_rows += window.moved_rows

    def cut(self, steps: int) -> None:
        """Ends the counting: the plan has the first `steps` steps."""
        # One count after the other, so that memory does not hold all of them twice.
        for name in list(self._windows[0]):
            self._steps[name] = np.concatenate([window.pop(name) for window in self._windows])[:steps]

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns a count of every step: `lengths`, `rows`, `empty_rows`, `most_examples`, `ideal` (cost of its
        examples by themselves), or one of `UNITS`, [steps, tasks]."""
        return self._steps[name]

    @property
    def step_lengths(self) -> np.ndarray:
        return self['lengths']

    @property
    def step_tokens(self) -> np.ndarray:
        return self['tokens'].sum(axis=1)

    def task_constants(self) -> dict[str, float]:
        """Returns N_t by task, the mean total loss weight per step, of the tasks that occur."""
        weights = self['target_tokens' if self._settings.normalization == 'token' else 'examples'].sum(axis=0)
        return {TASKS[t]: float(weights[t] / len(self.step_lengths)) for t in np.flatnonzero(weights)}

    @property
    def settings(self) -> PlanSettings:
        return self._settings


def report_of(tally: Tally, totals: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Counts of a plan, as JSON.

    `fill` is real tokens over positions; `modelled_cost` is the FLOPs of the rows over
    those of the examples alone, unpadded and unpacked (an 8B model, causal attention over
    the whole row); `repeats` is how often an example of the task occurs on average; `mix`
    is the share of the target tokens and `mix_by` that of every unit; `mix_course`, where
    the mix changes, is the share (in the unit of the settings) in each fifth of the steps;
    `carried` counts examples handed from a window to the next, once each time, and
    `moved_rows` those that went into a step of a longer bucket.

    Args:
        totals: of all examples, see `sampling.sum_columns`.
    """
    settings = tally.settings
    tasks = np.flatnonzero(totals['examples'])
    sums = {unit: tally[unit].sum(axis=0) for unit in UNITS}
    lengths, rows = tally['lengths'].astype(np.int64), tally['rows']
    positions = int((lengths * rows).sum())
    cost = float((modelled_cost(lengths) * rows).sum())

    def by_task(values: np.ndarray, kind: type) -> dict[str, Any]:
        return {TASKS[t]: kind(values[t]) for t in tasks}

    report = {
        'steps': len(lengths),
        'buckets': list(settings.buckets),
        'steps_per_bucket': {str(b): int((lengths == b).sum()) for b in settings.buckets if (lengths == b).any()},
        'rows_per_step': {str(b): settings.rows_per_step(b) for b in settings.buckets},
        'rows': int(rows.sum()),
        'empty_rows': int(tally['empty_rows'].sum()),
        'moved_rows': tally.moved_rows,
        'carried': tally.carried,
        'most_examples_per_row': int(tally['most_examples'].max()),
        'positions': positions,
        'tokens': int(sums['tokens'].sum()),
        'fill': float(sums['tokens'].sum() / positions),
        'modelled_cost': cost / float(tally['ideal'].sum()),
        'examples': by_task(sums['examples'], int),
        'repeats': by_task(sums['examples'] / np.maximum(1, totals['examples']), float),
        'target_tokens': by_task(sums['target_tokens'], int),
        'mix': by_task(sums['target_tokens'] / sums['target_tokens'].sum(), float),
        'mix_by': {unit: by_task(sums[unit] / sums[unit].sum(), float) for unit in UNITS},
    }
    if settings.mix_end:
        parts = [part.sum(axis=0) for part in np.array_split(tally[settings.mix_by], _PARTS)]
        report['mix_course'] = [by_task(part / max(1, part.sum()), float) for part in parts]
    return report
