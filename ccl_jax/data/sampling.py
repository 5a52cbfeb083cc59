"""Which examples are drawn, and when: the streams of the tasks, and the windows that draw from them.

A stream holds the examples of a task (or, without a mix, all of them) in a random order,
again and again, anew each time. A window takes the next ones of every stream, as many as
its share asks; what an example is too much or too little, the next window makes up for.
"""

import dataclasses
import math
import mmap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ccl_jax.data.permutation import endless_permutation
from ccl_jax.data.plan_settings import UNITS, PlanSettings
from ccl_jax.tasks import TASKS

# A schedule of the mix is planned in so many windows at least: within one the shares stay.
_STAGES = 20
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """What is known of each example.

    Memory maps of whole files are sent to other processes by name, other arrays by value.

    Attributes:
        lengths, task_ids, target_starts: integers, [examples].
    """

    lengths: np.ndarray
    task_ids: np.ndarray
    target_starts: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def chunks(self) -> Iterator[list[np.ndarray]]:
        """Yields lengths, task ids and target starts of a million examples at a time, int64."""
        for begin in range(0, len(self), _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            yield [_read(column, chunk) for column in (self.lengths, self.task_ids, self.target_starts)]

    def tasks(self, examples: np.ndarray) -> np.ndarray:
        return _read(self.task_ids, examples)

    def measure(self, examples: np.ndarray, unit: str) -> np.ndarray:
        """Returns how much each of `examples` is, in one of `UNITS`; int64."""
        if unit == 'examples':
            return np.ones(len(examples), np.int64)
        lengths = _read(self.lengths, examples)
        return lengths if unit == 'tokens' else lengths - _read(self.target_starts, examples)

    def __getstate__(self) -> dict[str, Any]:
        return {name: _reference(column) for name, column in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, column in state.items():
            if isinstance(column, tuple):
                filename, dtype, offset, shape = column
                column = np.memmap(filename, dtype, 'r', offset, shape)
            object.__setattr__(self, name, column)


def sum_columns(columns: Columns) -> dict[str, np.ndarray]:
    """Returns the sums over all examples by task id, for each of `UNITS`; int64 [tasks]."""
    totals = {unit: np.zeros(len(TASKS), np.int64) for unit in UNITS}
    for lengths, task_ids, target_starts in columns.chunks():
        for unit, values in (('target_tokens', lengths - target_starts), ('tokens', lengths), ('examples', None)):
            # Sums in float64 are exact: a chunk has less than 2^53 tokens.
            totals[unit] += np.bincount(task_ids, values, minlength=len(TASKS)).astype(np.int64)
    return totals


@dataclasses.dataclass(frozen=True, eq=False)
class Draw:
    """Where the streams are: their next positions, and the amounts drawn and asked for so far; [streams]."""

    positions: np.ndarray
    drawn: np.ndarray
    asked: np.ndarray


class Sampler:
    """The windows of a plan: how many an epoch has, and what each draws.

    Attributes:
        windows_per_epoch: at least 1.
        start: where the streams are before the first window.
    """

    def __init__(self, columns: Columns, totals: Mapping[str, np.ndarray], settings: PlanSettings):
        """Args: totals: see `sum_columns`."""
        self._columns = columns
        self._unit = settings.mix_by if settings.mix else 'examples'
        amounts = totals[self._unit]
        self._amount = int(amounts.sum())  # of an epoch
        shares = _shares(settings)
        tasks = np.flatnonzero(shares.any(axis=0))
        self._shares = shares[:, tasks] if settings.mix else np.ones((2, 1))
        self._members = [_Members(columns.task_ids, t) for t in (tasks.tolist() if settings.mix else [None])]
        self._means = amounts[tasks] / totals['examples'][tasks] if settings.mix else np.ones(1)
        self._keys = np.random.SeedSequence(settings.seed).generate_state(len(self._members), np.uint64)
        examples = (self._shares * self._amount / self._means).sum(axis=1)  # of an epoch, at the beginning and the end
        self.windows_per_epoch = math.ceil(examples.max() / settings.window)
        self._windows = math.inf
        if settings.mix_end:
            tokens = (self._shares * self._amount / amounts[tasks] * totals['tokens'][tasks]).sum(axis=1).mean()
            epochs = settings.epochs or (settings.steps or 1) * settings.tokens_per_step / tokens
            self.windows_per_epoch = max(self.windows_per_epoch, math.ceil(_STAGES / epochs))
            self._windows = epochs * self.windows_per_epoch
        none = np.zeros(len(self._members))
        self.start = Draw(none.astype(np.int64), none, none)

    def shares(self, window: int) -> np.ndarray:
        """Returns the shares that a window asks for, by stream; they sum to 1."""
        progress = min(1.0, (window + 0.5) / self._windows)
        return (1 - progress) * self._shares[0] + progress * self._shares[1]

    def advance(self, before: Draw, window: int) -> Draw:
        """Returns where the streams are after a window.

        Args:
            before: where they were before it.
        """
        asked = before.asked + self.shares(window) * self._amount / self.windows_per_epoch
        after = [self._reach(s, before.positions[s], before.drawn[s], asked[s]) for s in range(len(asked))]
        positions, drawn = zip(*after, strict=True)
        return Draw(np.array(positions, np.int64), np.array(drawn, np.float64), asked)

    def examples(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Returns the examples from the positions `begin` to `end` of the streams."""
        parts = [self._take(s, int(begin[s]), int(end[s])) for s in range(len(begin))]
        return np.concatenate(parts)

    def _take(self, stream: int, begin: int, end: int) -> np.ndarray:
        members = self._members[stream]
        return members[endless_permutation(np.arange(begin, end), len(members), int(self._keys[stream]))]

    def _reach(self, stream: int, position: int, drawn: float, asked: float) -> tuple[int, float]:
        """Goes on from `position` to where the amount drawn comes nearest to the amount asked."""
        if self._unit == 'examples':
            return round(asked), float(round(asked))
        while True:
            count = int(1.1 * max(0.0, asked - drawn) / self._means[stream]) + 16
            taken = self._take(stream, position, position + count)
            sums = drawn + np.concatenate([[0], np.cumsum(self._columns.measure(taken, self._unit))])
            if sums[-1] > asked:
                nearest = int(np.abs(sums - asked).argmin())
                return position + nearest, float(sums[nearest])
            position, drawn = position + count, float(sums[-1])


class _Members:
    """The examples of a task, or all (None); kept as runs, which are few because examples are stored task by task."""

    def __init__(self, task_ids: np.ndarray, task: int | None):
        begins, ends = [], []
        inside = False
        for start in range(0, len(task_ids), _CHUNK):
            chunk = np.asarray(task_ids[start : start + _CHUNK])
            is_member = np.ones(len(chunk), bool) if task is None else chunk == task
            edges = start + np.flatnonzero(np.diff(is_member, prepend=inside))
            begins.append(edges[int(inside) :: 2])
            ends.append(edges[1 - int(inside) :: 2])
            inside = bool(is_member[-1])
        ends.append(np.array([len(task_ids)] * inside, np.int64))
        self._ends = np.concatenate(ends)
        self._counts = np.cumsum(self._ends - np.concatenate(begins))  # members up to the end of each run

    def __len__(self) -> int:
        return int(self._counts[-1])

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        runs = np.searchsorted(self._counts, numbers, side='right')
        return self._ends[runs] - self._counts[runs] + numbers


def _shares(settings: PlanSettings) -> np.ndarray:
    """Returns the shares at the beginning and at the end, [2, tasks]; 0 without a mix."""
    mixes = settings.mix, settings.mix_end or settings.mix
    shares = np.array([[mix.get(task, 0.0) for task in TASKS] for mix in mixes])
    return shares / np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def _read(column: np.ndarray, index: slice | np.ndarray) -> np.ndarray:
    """Copies a part of a column as int64.

    The pages of a memory map are given back at once: random examples touch them all, and as
    long as they are mapped they count as memory of this process.
    """
    part = np.array(column[index], np.int64)
    pages = getattr(column, '_mmap', None)
    # Pages of a private map that were written to would be lost.
    if pages is not None and not column.flags.writeable and hasattr(pages, 'madvise'):
        pages.madvise(mmap.MADV_DONTNEED)
    return part


def _reference(column: np.ndarray) -> Any:
    # A view of a part of a map has a map as its base, and the offset of the whole.
    if isinstance(column, np.memmap) and isinstance(column.base, mmap.mmap):
        return column.filename, column.dtype.str, column.offset, column.shape
    return column
