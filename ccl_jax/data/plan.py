"""The batch plan: step -> row length -> rows -> examples.

A pure function of the examples' lengths, tasks and target starts and of the
settings; hosts, devices and workers play no part. One rule for every task:

- An epoch is drawn in windows, each a random sample of it of about `window` examples.
- An example goes to the row with the smallest room that holds it (best fit), else it
  opens a row of the smallest bucket that holds it.
- Those longer than half of the shortest bucket are placed first, the longest first; the
  others fill what room is left, in random order.
- A row takes at most max_segments - 1 examples: its padding tail is a segment too.
- A step holds rows of one bucket, as many as make about `tokens_per_step` positions. The
  examples of rows that fill no step of their bucket join those of the next window. In
  the last window of an epoch such rows move to a longer bucket, and only the last step
  of the epoch is padded with empty rows.
- The order of a window's steps is random.

Every epoch is packed anew. Random numbers come from (seed, number of the window) alone.

All windows are planned once, to know the steps, the constants N_t and the hash. What is
kept of a window is where it begins and what it was handed, so that the rows of any step
come from planning its window again: memory is the columns and a window or two.
"""

import bisect
import collections
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from ccl_jax.data.buckets import choose_buckets
from ccl_jax.data.packing import Steps, pack
from ccl_jax.data.plan_report import Tally, report_of
from ccl_jax.data.plan_settings import PlanSettings
from ccl_jax.data.sampling import Columns, Sampler, sum_columns
from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS

# Part of the hash: raised whenever the same inputs give another plan.
_ALGORITHM = 3

# Windows kept for the next calls of `Plan.rows`: threads that read ahead are in two at a time.
_KEPT_WINDOWS = 2


class Plan:
    """Which examples make up the rows of every step.

    Attributes:
        settings: what it was made with; the buckets are those that were chosen.
        examples: number of examples it was made for.
        step_lengths: int32 [steps], the row length T of each step.
        step_tokens: int64 [steps], tokens of each step without padding.
        task_constants: N_t by task, the mean total loss weight of task t per
            step; only tasks that occur.
        hash: SHA-256 over the inputs and the plan itself.
        report: counts, as JSON; see `plan_report.report_of`.
    """

    def __init__(
        self,
        settings: PlanSettings,
        columns: Columns,
        windows: '_Windows',
        step_lengths: np.ndarray,
        step_tokens: np.ndarray,
        task_constants: dict[str, float],
        hash: str,
        report: dict[str, Any],
    ):
        self.settings = settings
        self.examples = len(columns)
        self.step_lengths = step_lengths
        self.step_tokens = step_tokens
        self.task_constants = task_constants
        self.hash = hash
        self.report = report
        self._windows = windows

    @property
    def steps(self) -> int:
        return len(self.step_lengths)

    @property
    def buckets(self) -> tuple[int, ...]:
        return self.settings.buckets

    @property
    def shapes(self) -> set[tuple[int, int]]:
        """All that `shape` returns."""
        return {(self.settings.rows_per_step(length), length) for length in np.unique(self.step_lengths).tolist()}

    def shape(self, step: int) -> tuple[int, int]:
        """(rows B, row length T) of a step."""
        row_length = int(self.step_lengths[step])
        return self.settings.rows_per_step(row_length), row_length

    def rows(self, step: int) -> list[np.ndarray]:
        """The example indices of every row of a step, in the order of their segments; none where a row is empty.

        Plans the window of the step, unless it is one of the last ones used. Threads may call it.
        """
        return self._windows.rows(range(self.steps)[step])


def make_plan(lengths: np.ndarray, task_ids: np.ndarray, target_starts: np.ndarray, settings: PlanSettings) -> Plan:
    """Plans all steps.

    Args:
        lengths: tokens of each example, [examples]; the columns may be memory maps.
        task_ids: index in `TASKS` of each example, [examples].
        target_starts: index of the first target token of each example, [examples].

    Raises:
        UserError: there are no examples, an example is longer than the longest
            bucket, or the mix does not fit the tasks of the examples.
        ValueError: an example has no target token.
    """
    columns = Columns(*(np.asanyarray(column) for column in (lengths, task_ids, target_starts)))
    longest = _check_examples(columns, settings)
    totals = sum_columns(columns)
    _check_mix([TASKS[task] for task in np.flatnonzero(totals['examples'])], settings)
    sampler = Sampler(columns, totals, settings)
    if not settings.buckets:
        sample = sampler.examples(sampler.start.positions, sampler.advance(sampler.start, 0).positions)
        whole = sampler.windows_per_epoch == 1
        buckets = choose_buckets(columns.measure(sample, 'tokens'), longest, settings, whole)
        settings = dataclasses.replace(settings, buckets=buckets, longest=0)
    windows = _Windows(columns, sampler, settings)
    digest = _digest_of_inputs(columns, settings)
    tally = Tally(columns, settings)
    for window in windows.plan():
        tally.add(window)
        for array in (window.step_lengths, window.row_sizes, window.example_indices):
            digest.update(array.astype('<i8').tobytes())
    tally.cut(windows.steps)
    return Plan(
        settings=settings,
        columns=columns,
        windows=windows,
        step_lengths=tally.step_lengths,
        step_tokens=tally.step_tokens,
        task_constants=tally.task_constants(),
        hash=digest.hexdigest(),
        report=report_of(tally, totals) | {'epochs': windows.epochs, 'windows': windows.count},
    )


class _Windows:
    """The windows of a plan, each planned when it is needed.

    Attributes:
        steps, epochs, count: number of steps, of epochs begun and of windows; complete when `plan` has ended.
    """

    def __init__(self, columns: Columns, sampler: Sampler, settings: PlanSettings):
        self.steps = 0
        self.epochs = 0
        self._columns = columns
        self._sampler = sampler
        self._settings = settings
        # What a window needs to be planned: where its streams begin and end, and what it was handed.
        self._positions = [sampler.start.positions]
        self._carried = [np.empty(0, np.int32)]
        self._first_steps = [0]
        self._forget()

    @property
    def count(self) -> int:
        return len(self._positions) - 1

    def plan(self) -> Iterator[Steps]:
        """Yields all windows. Those of an epoch of which only a part is in the plan are whole."""
        draw = self._sampler.start
        begun = 0  # the step at which the epoch begins
        while True:
            draw = self._sampler.advance(draw, self.count)
            self._positions.append(draw.positions)
            window = self._plan(self.count - 1)
            self._carried.append(window.carried.astype(np.int32 if len(self._columns) < 2**31 else np.int64))
            self._first_steps.append(self._first_steps[-1] + len(window.step_lengths))
            self.epochs = -(-self.count // self._sampler.windows_per_epoch)
            yield window
            self.steps = self._first_steps[-1]
            if self._settings.steps is not None:
                if self.steps >= self._settings.steps:
                    self.steps = self._settings.steps
                    return
            elif self.count % self._sampler.windows_per_epoch == 0:
                rest = (self._settings.epochs or 0) - self.epochs
                if rest < 0:
                    self.steps = begun + max(1, round((1 + rest) * (self.steps - begun)))
                if rest <= 0:
                    return
                begun = self.steps

    def rows(self, step: int) -> list[np.ndarray]:
        number = bisect.bisect_right(self._first_steps, step) - 1
        # Threads that want the same window wait for the first of them.
        with self._lock:
            if number not in self._kept:
                window = self._plan(number)
                ends = np.cumsum(window.row_sizes)
                rows = np.split(window.example_indices, ends[:-1])
                self._kept[number] = rows, np.concatenate([[0], np.cumsum(window.step_sizes)])
            self._kept.move_to_end(number)
            if len(self._kept) > _KEPT_WINDOWS:
                self._kept.popitem(last=False)
            rows, step_rows = self._kept[number]
        begin, end = step_rows[step - self._first_steps[number] :][:2]
        return rows[begin:end]

    def _plan(self, number: int) -> Steps:
        drawn = self._sampler.examples(self._positions[number], self._positions[number + 1])
        examples = np.concatenate([self._carried[number], drawn])
        return pack(
            examples,
            self._columns.measure(examples, 'tokens'),
            self._settings,
            np.random.default_rng([self._settings.seed, number]),
            last=(number + 1) % self._sampler.windows_per_epoch == 0,
        )

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[int, tuple[list[np.ndarray], np.ndarray]] = collections.OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ('_lock', '_kept')}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()


def _check_examples(columns: Columns, settings: PlanSettings) -> int:
    """Returns the tokens of the longest example."""
    longest = settings.longest_row
    maximum = too_long = 0
    for lengths, _, target_starts in columns.chunks():
        if target_starts.min() < 1 or (target_starts >= lengths).any():
            raise ValueError('target_start must be at least 1 and less than the length')
        too_long += int((lengths > longest).sum())
        maximum = max(maximum, int(lengths.max()))
    if not maximum:
        raise UserError('there are no examples to plan; check the sources and the filters')
    if too_long:
        raise UserError(
            f'{too_long} of {len(columns)} examples are longer than the longest bucket of {longest} tokens, the '
            f'longest has {maximum}; add a longer bucket, or truncate or window the documents'
        )
    return maximum


def _check_mix(present: list[str], settings: PlanSettings) -> None:
    for name, mix in (('mix', settings.mix), ('mix_end', settings.mix_end)):
        for task in present:
            if mix and task not in mix:
                raise UserError(f'the {name} gives no share to the task {task!r}; add one (0 leaves its examples out)')
        for task, share in mix.items():
            if share and task not in present:
                raise UserError(f'the {name} gives a share to the task {task!r}, of which there are no examples')


def _digest_of_inputs(columns: Columns, settings: PlanSettings) -> Any:
    described = json.dumps([_ALGORITHM, TASKS, len(columns), dataclasses.asdict(settings)], sort_keys=True)
    digest = hashlib.sha256(described.encode())
    for chunk in columns.chunks():
        for column in chunk:
            digest.update(column.astype('<i4').tobytes())
    return digest
