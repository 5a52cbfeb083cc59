"""Examples to rows, and rows to steps; the rules are those of `plan`."""

import dataclasses

import numpy as np

from ccl_jax.data.plan_settings import PlanSettings

# Row length T and the numbers of its rows; -1 is an empty row.
_Step = tuple[int, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """Steps in order.

    Attributes:
        step_lengths: int32, row length T of each step.
        step_sizes: int64, number of rows of each step.
        row_sizes: int64, number of examples of each row; 0 where a row is empty.
        example_indices: the examples, row by row.
        moved_rows: number of rows that were taken into a step of a longer bucket.
        carried: examples of the rows that fill no step.
    """

    step_lengths: np.ndarray
    step_sizes: np.ndarray
    row_sizes: np.ndarray
    example_indices: np.ndarray
    moved_rows: int
    carried: np.ndarray


def pack(
    examples: np.ndarray, lengths: np.ndarray, settings: PlanSettings, rng: np.random.Generator, last: bool
) -> Steps:
    """Packs examples into rows, and the rows into steps.

    Args:
        examples: indices of the examples.
        lengths: tokens of each of them.
        last: whether rows that fill no step of their bucket move to longer ones, the very
            last step being padded; else their examples are carried.
    """
    order, row_of, row_lengths = assign_rows(lengths, settings, rng)
    steps, left = _full_steps(row_lengths, settings, rng)
    moved: list[_Step] = []
    ending: list[_Step] = []
    if last:
        moved = _mixed_steps(left, row_lengths, settings)
        steps += moved
        left = left[:0]
        if moved and -1 in moved[-1][1]:
            ending = [steps.pop()]
    steps = [steps[i] for i in rng.permutation(len(steps))] + ending
    by_row = examples[order][np.argsort(row_of, kind='stable')]
    sizes = np.bincount(row_of, minlength=len(row_lengths) + 1)  # the additional one is that of row -1
    rows = np.concatenate([left[:0], *(rows for _, rows in steps)])
    return Steps(
        step_lengths=np.array([bucket for bucket, _ in steps], np.int32),
        step_sizes=np.array([len(rows) for _, rows in steps], np.int64),
        row_sizes=sizes[rows],
        example_indices=_examples_of(rows, by_row, sizes),
        moved_rows=sum(int((row_lengths[rows[rows >= 0]] < bucket).sum()) for bucket, rows in moved),
        carried=_examples_of(left, by_row, sizes),
    )


def assign_rows(
    lengths: np.ndarray, settings: PlanSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the order in which examples are placed, the row of each in that order, and the length T of each row."""
    order = rng.permutation(len(lengths))
    is_long = 2 * lengths[order] > settings.buckets[0]
    long_ones = order[is_long]
    longest_first = np.argsort(-lengths[long_ones], kind='stable')
    order = np.concatenate([long_ones[longest_first], order[~is_long]])
    return order, *_fill_rows(lengths[order], settings)


def _fill_rows(lengths: np.ndarray, settings: PlanSettings) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row of each example, placed in the order given, and the bucket of each row."""
    buckets = np.asarray(settings.buckets)
    smallest = buckets[np.searchsorted(buckets, lengths)]
    most = settings.max_segments - 1
    # Open rows by room; bit i of `rooms` is set where a row with room i is open.
    rows_by_room: list[list[int]] = [[] for _ in range(settings.buckets[-1] + 1)]
    rooms = 0
    row_of: list[int] = []
    row_lengths: list[int] = []
    sizes: list[int] = []
    for length, bucket in zip(lengths.tolist(), smallest.tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                rooms ^= 1 << room
        else:
            room, row = bucket, len(sizes)
            row_lengths.append(bucket)
            sizes.append(0)
        row_of.append(row)
        sizes[row] += 1
        room -= length
        if room and sizes[row] < most:
            if not rows_by_room[room]:
                rooms |= 1 << room
            rows_by_room[room].append(row)
    return np.array(row_of, np.int64), np.array(row_lengths, np.int64)


def _full_steps(
    row_lengths: np.ndarray, settings: PlanSettings, rng: np.random.Generator
) -> tuple[list[_Step], np.ndarray]:
    """Returns the steps whose rows are all of their bucket, and the rows left over, longest bucket first."""
    steps: list[_Step] = []
    left = []
    for bucket in reversed(settings.buckets):
        rows = rng.permutation(np.flatnonzero(row_lengths == bucket))
        size = settings.rows_per_step(bucket)
        full = len(rows) // size * size
        steps += [(bucket, step) for step in rows[:full].reshape(-1, size)]
        left.append(rows[full:])
    return steps, np.concatenate(left)


def _mixed_steps(rows: np.ndarray, row_lengths: np.ndarray, settings: PlanSettings) -> list[_Step]:
    """Fills each step with a bucket's rows and those of the next shorter ones; the last with empty rows.

    Args:
        rows: longest bucket first.
    """
    steps: list[_Step] = []
    while len(rows):
        bucket = int(row_lengths[rows[0]])
        size = settings.rows_per_step(bucket)
        empty = np.full(max(0, size - len(rows)), -1)
        steps.append((bucket, np.concatenate([rows[:size], empty])))
        rows = rows[size:]
    return steps


def _examples_of(rows: np.ndarray, by_row: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns the examples of `rows`, row by row.

    Args:
        by_row: all examples, sorted by row.
        sizes: number of examples of every row.
    """
    chosen = sizes[rows]
    offsets = (np.cumsum(sizes) - sizes)[rows] - (np.cumsum(chosen) - chosen)
    return by_row[np.repeat(offsets, chosen) + np.arange(chosen.sum())]
