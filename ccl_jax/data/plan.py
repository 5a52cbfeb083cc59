"""The batch plan: step -> row length -> rows -> examples.

A pure function of the examples' lengths, tasks and target starts and of the
settings; hosts, devices and workers play no part. One rule for every task:

- An example longer than half of the shortest bucket is a long one. It opens a row
  of the smallest bucket that holds it, and no other long one joins that row.
- The others are short ones. In random order, each goes to the row with the smallest
  room that holds it (best fit), else it opens a row of the shortest bucket.
- A row takes at most max_segments - 1 examples: its padding tail is a segment too.
- A step holds rows of one bucket, as many as make about `tokens_per_step` positions.
  Rows that fill no step of their bucket move to a longer one. Only the last step of an
  epoch is padded with empty rows; the order of the others is random.

Every epoch is packed anew. Random numbers come from (seed, epoch) alone.
"""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS

# Part of the hash: raised whenever the same inputs give another plan.
_ALGORITHM = 1

# Row length at which causal attention costs as much as all else, for Llama 3.1 8B:
# 2 x 7.5e9 multiplied weights a token over 2 x 32 layers x 4,096 a token and position.
_ATTENTION_CROSSOVER = 57_000


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """What the plan depends on besides the examples.

    Attributes:
        buckets: row lengths T, ascending.
        tokens_per_step: positions that a step should have, rows x T.
        row_multiple: rows of a step are a multiple of it; devices that hold
            rows x accumulation must divide it.
        max_segments: segments of a row at most, the padding tail included.
        epochs: passes over the examples; of a fraction, that share of the steps. Or
        steps: number of steps, over as many epochs as they take.
        mix: share of the target tokens that each task gets, in any unit. An
            epoch then holds as many target tokens as the examples do: every
            example of a task as often as its share asks, by whole copies and
            a random rest. Empty: every example once per epoch.
        normalization: `token`, every target token weighs 1; or `example`, every
            example weighs 1.

    Raises:
        UserError: a setting is out of range.
    """

    buckets: tuple[int, ...]
    tokens_per_step: int
    row_multiple: int = 1
    max_segments: int = 64
    seed: int = 0
    epochs: float | None = None
    steps: int | None = None
    mix: Mapping[str, float] = dataclasses.field(default_factory=dict)
    normalization: str = 'token'

    def __post_init__(self) -> None:
        # One form of the same settings, whatever the caller's types and order: they are part of the hash.
        object.__setattr__(self, 'buckets', tuple(int(bucket) for bucket in self.buckets))
        object.__setattr__(self, 'mix', {task: float(share) for task, share in sorted(self.mix.items())})
        object.__setattr__(self, 'epochs', None if self.epochs is None else float(self.epochs))
        if not self.buckets or self.buckets[0] < 2 or list(self.buckets) != sorted(set(self.buckets)):
            raise UserError(f'buckets are {list(self.buckets)}; give ascending row lengths of at least 2')
        for name, least in (('tokens_per_step', 1), ('row_multiple', 1), ('max_segments', 2), ('seed', 0)):
            if getattr(self, name) < least:
                raise UserError(f'{name} is {getattr(self, name)}; it must be at least {least}')
        if (self.epochs is None) == (self.steps is None):
            raise UserError('give the length of the plan as epochs or as steps, one of the two')
        length = self.epochs if self.steps is None else self.steps
        if length is None or not 0 < length < math.inf:
            raise UserError(f'the plan is {length} long; epochs or steps must be above 0')
        if self.normalization not in ('token', 'example'):
            raise UserError(f'normalization is {self.normalization!r}; it must be token or example')
        unknown = sorted(set(self.mix) - set(TASKS))
        if unknown:
            raise UserError(f'the mix names the unknown task {unknown[0]!r}; tasks are {", ".join(TASKS)}')
        if self.mix and not (all(0 <= share < math.inf for share in self.mix.values()) and sum(self.mix.values()) > 0):
            raise UserError('the shares of the mix must be 0 or more, and one of them above 0')

    def rows_per_step(self, bucket: int) -> int:
        """The multiple of `row_multiple`, at least one, nearest to tokens_per_step / bucket."""
        return self.row_multiple * max(1, math.floor(self.tokens_per_step / (bucket * self.row_multiple) + 0.5))


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Which examples make up the rows of every step.

    Attributes:
        settings: what it was made with.
        examples: number of examples it was made for.
        step_lengths: int32 [steps], the row length T of each step.
        step_rows: int64 [steps + 1]; step s has the rows step_rows[s] to step_rows[s + 1].
        row_starts: int64 [rows + 1]; row r has the examples
            example_indices[row_starts[r]:row_starts[r + 1]], none where it is empty.
        example_indices: int32 [placed examples].
        task_constants: N_t by task, the mean total loss weight of task t per
            step; only tasks that occur.
        hash: SHA-256 over the inputs and the plan itself.
        report: counts, as JSON; see `_report`.
    """

    settings: PlanSettings
    examples: int
    step_lengths: np.ndarray
    step_rows: np.ndarray
    row_starts: np.ndarray
    example_indices: np.ndarray
    task_constants: dict[str, float]
    hash: str
    report: dict[str, Any]

    @property
    def steps(self) -> int:
        return len(self.step_lengths)

    @property
    def buckets(self) -> tuple[int, ...]:
        return self.settings.buckets

    def shape(self, step: int) -> tuple[int, int]:
        """(rows B, row length T) of a step."""
        return int(self.step_rows[step + 1] - self.step_rows[step]), int(self.step_lengths[step])

    def rows(self, step: int) -> list[np.ndarray]:
        """The example indices of every row of a step, in the order of their segments."""
        bounds = self.row_starts[self.step_rows[step] : self.step_rows[step + 1] + 1]
        return [self.example_indices[a:b] for a, b in itertools.pairwise(bounds)]


def make_plan(lengths: np.ndarray, task_ids: np.ndarray, target_starts: np.ndarray, settings: PlanSettings) -> Plan:
    """Plans all steps.

    Args:
        lengths: tokens of each example, [examples].
        task_ids: index in `TASKS` of each example, [examples].
        target_starts: index of the first target token of each example, [examples].

    Raises:
        UserError: there are no examples, an example is longer than the longest
            bucket, or the mix does not fit the tasks of the examples.
        ValueError: an example has no target token.
    """
    lengths, task_ids, target_starts = (np.asarray(a, np.int64) for a in (lengths, task_ids, target_starts))
    targets = lengths - target_starts
    _check(lengths, task_ids, targets, target_starts, settings)
    epochs: list[_Epoch] = []
    planned = 0
    while planned < settings.steps if settings.steps is not None else len(epochs) < (settings.epochs or 0):
        rng = np.random.default_rng([settings.seed, len(epochs)])
        chosen = _choose_examples(task_ids, targets, settings.mix, rng)
        epoch = _plan_epoch(lengths, chosen, settings, rng)
        if settings.steps is not None:
            epoch = epoch.first(settings.steps - planned)
        elif settings.epochs is not None and settings.epochs - len(epochs) < 1:
            epoch = epoch.first(max(1, round(len(epoch.step_lengths) * (settings.epochs - len(epochs)))))
        epochs.append(epoch)
        planned += len(epoch.step_lengths)
    return _finish(lengths, task_ids, target_starts, settings, epochs)


@dataclasses.dataclass(frozen=True, eq=False)
class _Epoch:
    """Steps in order: row length and number of rows of each, number of examples of each row, examples."""

    step_lengths: np.ndarray
    step_sizes: np.ndarray
    row_sizes: np.ndarray
    example_indices: np.ndarray

    def first(self, steps: int) -> '_Epoch':
        rows = self.step_sizes[:steps].sum()
        placed = self.row_sizes[:rows].sum()
        return _Epoch(
            self.step_lengths[:steps], self.step_sizes[:steps], self.row_sizes[:rows], self.example_indices[:placed]
        )


def _check(
    lengths: np.ndarray,
    task_ids: np.ndarray,
    targets: np.ndarray,
    target_starts: np.ndarray,
    settings: PlanSettings,
) -> None:
    if not len(lengths):
        raise UserError('there are no examples to plan; check the sources and the filters')
    if target_starts.min() < 1 or targets.min() < 1:
        raise ValueError('target_start must be at least 1 and less than the length')
    longest = settings.buckets[-1]
    too_long = int((lengths > longest).sum())
    if too_long:
        raise UserError(
            f'{too_long} of {len(lengths)} examples are longer than the longest bucket of {longest} tokens, the '
            f'longest has {lengths.max()}; add a longer bucket, or truncate or window the documents'
        )
    present = [TASKS[task] for task in np.unique(task_ids)]
    for task in present:
        if settings.mix and task not in settings.mix:
            raise UserError(f'the mix gives no share to the task {task!r}; add one (0 leaves its examples out)')
    for task, share in settings.mix.items():
        if share and task not in present:
            raise UserError(f'the mix gives a share to the task {task!r}, of which there are no examples')


def _choose_examples(
    task_ids: np.ndarray, targets: np.ndarray, mix: Mapping[str, float], rng: np.random.Generator
) -> np.ndarray:
    """Returns the examples of one epoch: all of them, or as often as the mix asks."""
    if not mix:
        return np.arange(len(task_ids))
    chosen = []
    for task_id in np.unique(task_ids):
        members = np.flatnonzero(task_ids == task_id)
        share = mix[TASKS[task_id]] / sum(mix.values())
        whole, rest = divmod(share * targets.sum(), targets[members].sum())
        chosen += [members] * int(whole)
        shuffled = rng.permutation(members)
        sums = np.concatenate([[0], np.cumsum(targets[shuffled])])
        chosen.append(shuffled[: np.abs(sums - rest).argmin()])
    return np.concatenate(chosen)


def _plan_epoch(lengths: np.ndarray, chosen: np.ndarray, settings: PlanSettings, rng: np.random.Generator) -> _Epoch:
    """Packs the chosen examples into rows, and the rows into steps."""
    chosen = rng.permutation(chosen)
    is_long = 2 * lengths[chosen] > settings.buckets[0]
    chosen = np.concatenate([chosen[is_long], chosen[~is_long]])
    row_of, row_lengths = _fill_rows(lengths[chosen], int(is_long.sum()), settings)
    step_lengths, step_sizes, rows = _form_steps(row_lengths, settings, rng)
    # Examples sorted by row, then those groups in the order of the rows; row -1 is an empty one.
    by_row = chosen[np.argsort(row_of, kind='stable')]
    sizes = np.bincount(row_of, minlength=len(row_lengths) + 1)
    row_sizes = sizes[rows]
    offsets = (np.cumsum(sizes) - sizes)[rows] - (np.cumsum(row_sizes) - row_sizes)
    return _Epoch(step_lengths, step_sizes, row_sizes, by_row[np.repeat(offsets, row_sizes) + np.arange(len(by_row))])


def _fill_rows(lengths: np.ndarray, long_ones: int, settings: PlanSettings) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row of each example and the bucket of each row; the first `long_ones` examples are the long ones."""
    buckets = np.asarray(settings.buckets)
    shortest = settings.buckets[0]
    row_lengths = buckets[np.searchsorted(buckets, lengths[:long_ones])]
    most = settings.max_segments - 1
    # Open rows by room; bit i of `rooms` is set where a row with room i is open.
    rows_by_room: list[list[int]] = [[] for _ in range(settings.buckets[-1] + 1)]
    if most > 1:
        for row, room in enumerate((row_lengths - lengths[:long_ones]).tolist()):
            rows_by_room[room].append(row)
    rooms = sum(1 << room for room, rows in enumerate(rows_by_room) if rows and room)
    sizes = [1] * long_ones
    row_of = list(range(long_ones))
    for length in lengths[long_ones:].tolist():
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                rooms ^= 1 << room
        else:
            room, row = shortest, len(sizes)
            sizes.append(0)
        row_of.append(row)
        sizes[row] += 1
        room -= length
        if room and sizes[row] < most:
            if not rows_by_room[room]:
                rooms |= 1 << room
            rows_by_room[room].append(row)
    opened = np.full(len(sizes) - long_ones, shortest)
    return np.array(row_of, np.int64), np.concatenate([row_lengths, opened])


def _form_steps(
    row_lengths: np.ndarray, settings: PlanSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns row length and number of rows of each step, and the rows in order (-1: an empty one).

    Rows that are left over when their bucket's steps are full are taken longest
    bucket first: a step of that bucket is filled up with rows of the next shorter ones.
    """
    steps: list[tuple[int, np.ndarray]] = []
    left: list[np.ndarray] = []
    for bucket in reversed(settings.buckets):
        rows = rng.permutation(np.flatnonzero(row_lengths == bucket))
        size = settings.rows_per_step(bucket)
        full = len(rows) // size * size
        steps += [(bucket, step) for step in rows[:full].reshape(-1, size)]
        left.append(rows[full:])
    rest = np.concatenate(left)
    while len(rest):
        bucket = int(row_lengths[rest[0]])
        size = settings.rows_per_step(bucket)
        steps.append((bucket, rest[:size]))
        rest = rest[size:]
    order = rng.permutation(len(steps))
    last_bucket, last = steps[-1]
    empty = settings.rows_per_step(last_bucket) - len(last)
    if empty:
        order = np.append(order[order != len(steps) - 1], len(steps) - 1)
        steps[-1] = last_bucket, np.concatenate([last, np.full(empty, -1)])
    return (
        np.array([steps[i][0] for i in order]),
        np.array([len(steps[i][1]) for i in order]),
        np.concatenate([steps[i][1] for i in order]),
    )


def _finish(
    lengths: np.ndarray,
    task_ids: np.ndarray,
    target_starts: np.ndarray,
    settings: PlanSettings,
    epochs: list[_Epoch],
) -> Plan:
    """Joins the epochs and adds constants, hash and report."""
    row_sizes = np.concatenate([epoch.row_sizes for epoch in epochs])
    step_sizes = np.concatenate([epoch.step_sizes for epoch in epochs])
    step_lengths = np.concatenate([epoch.step_lengths for epoch in epochs]).astype(np.int32)
    step_rows = np.concatenate([[0], np.cumsum(step_sizes)]).astype(np.int64)
    row_starts = np.concatenate([[0], np.cumsum(row_sizes)]).astype(np.int64)
    placed = np.concatenate([epoch.example_indices for epoch in epochs]).astype(np.int32)
    targets = lengths - target_starts
    weights = targets if settings.normalization == 'token' else np.ones_like(targets)
    totals = np.bincount(task_ids[placed], weights[placed], minlength=len(TASKS))
    described = json.dumps([_ALGORITHM, TASKS, dataclasses.asdict(settings)], sort_keys=True)
    digest = hashlib.sha256(described.encode())
    for array in (lengths, task_ids, target_starts, step_lengths, step_rows, row_starts, placed):
        digest.update(str(array.shape).encode() + array.tobytes())
    return Plan(
        settings=settings,
        examples=len(lengths),
        step_lengths=step_lengths,
        step_rows=step_rows,
        row_starts=row_starts,
        example_indices=placed,
        task_constants={TASKS[task]: float(totals[task] / len(step_sizes)) for task in np.unique(task_ids[placed])},
        hash=digest.hexdigest(),
        report=_report(lengths, task_ids, targets, np.repeat(step_lengths, step_sizes), row_sizes, placed)
        | {'epochs': len(epochs), 'steps': len(step_sizes), 'steps_per_bucket': _steps_per_bucket(step_lengths)},
    )


def _steps_per_bucket(step_lengths: np.ndarray) -> dict[str, int]:
    buckets, counts = np.unique(step_lengths, return_counts=True)
    return {str(bucket): int(count) for bucket, count in zip(buckets, counts, strict=True)}


def _report(
    lengths: np.ndarray,
    task_ids: np.ndarray,
    targets: np.ndarray,
    row_lengths: np.ndarray,
    row_sizes: np.ndarray,
    placed: np.ndarray,
) -> dict[str, Any]:
    """Counts of a plan, as JSON.

    `fill` is real tokens over positions; `modelled_cost` is the FLOPs of the rows over
    those of the examples alone, unpadded and unpacked (an 8B model, causal attention over
    the whole row); `repeats` is how often an example of the task occurs on average.
    """
    tasks = np.unique(task_ids)
    available = np.bincount(task_ids, minlength=len(TASKS))
    examples = np.bincount(task_ids[placed], minlength=len(TASKS))
    target_tokens = np.bincount(task_ids[placed], targets[placed], minlength=len(TASKS))
    row_lengths = row_lengths.astype(np.int64)

    def flops(segments: np.ndarray) -> float:
        return float((segments * (1 + segments / _ATTENTION_CROSSOVER)).sum())

    return {
        'rows': len(row_sizes),
        'empty_rows': int((row_sizes == 0).sum()),
        'most_examples_per_row': int(row_sizes.max()),
        'positions': int(row_lengths.sum()),
        'tokens': int(lengths[placed].sum()),
        'fill': float(lengths[placed].sum() / row_lengths.sum()),
        'modelled_cost': flops(row_lengths) / flops(lengths[placed]),
        'examples': {TASKS[t]: int(examples[t]) for t in tasks},
        'repeats': {TASKS[t]: float(examples[t] / available[t]) for t in tasks},
        'target_tokens': {TASKS[t]: int(target_tokens[t]) for t in tasks},
        'mix': {TASKS[t]: float(target_tokens[t] / target_tokens.sum()) for t in tasks},
    }
