"""Batches of a plan, read by Grain: each process reads and assembles only the rows that its devices hold.

A batch is a function of the step alone, so a run resumes from its step and the
plan's hash, on any number of processes, threads and workers.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Sharding

from ccl_jax.data.examples import ExampleStore
from ccl_jax.data.plan import Plan
from ccl_jax.errors import UserError

_INT_FIELDS = ('tokens', 'positions', 'segment_ids', 'task_ids')


def make_loader(
    store: ExampleStore,
    plan: Plan,
    sharding: Sharding,
    *,
    start_step: int = 0,
    end_step: int | None = None,
    threads: int = 4,
    prefetch: int = 8,
    workers: int = 0,
) -> Iterator[tuple[int, dict[str, jax.Array]]]:
    """Returns an iterator of (step, batch); a batch has the arrays of `assemble_rows`, [B, T] under `sharding`.

    Args:
        sharding: of [B, T] arrays; every process must hold whole rows.
        start_step, end_step: the steps from start_step up to, not including, end_step (default: the plan's end).
        threads: reading threads of each process, or of each worker; 0 reads in the caller's thread.
        prefetch: steps read ahead of the one in use, by each process or worker.
        workers: processes that read and assemble beside this one; 0 for none.

    Raises:
        UserError: the plan was made for other examples, the rows of a step do not
            divide over the devices, or (when iterating) the store is damaged.
        ValueError: the steps lie outside the plan.
    """
    end_step = plan.steps if end_step is None else end_step
    if not 0 <= start_step <= end_step <= plan.steps:
        raise ValueError(f'steps {start_step} to {end_step} do not lie in a plan of {plan.steps} steps')
    if plan.examples != len(store):
        raise UserError(
            f'the plan is for {plan.examples} examples and the store in {store.directory} has {len(store)}; '
            'make the plan from this store'
        )
    rows = {length: _local_rows(sharding, length, plan) for length in np.unique(plan.step_lengths).tolist()}
    # A generator runs only when asked for its first batch; checks above must not wait for that.
    return _batches(_StepSource(store, plan, rows, start_step, end_step), sharding, threads, prefetch, workers)


def assemble_rows(
    rows: Sequence[Sequence[np.ndarray]],
    row_length: int,
    target_starts: Sequence[Sequence[int]],
    task_ids: Sequence[Sequence[int]],
    normalization: str,
) -> dict[str, np.ndarray]:
    """Lays examples side by side in rows.

    Args:
        rows: the tokens of each example of each row; a row may be empty.
        row_length: T, at least the tokens of a row.
        target_starts: index of the first target token of each example, in the shape of `rows`.
        task_ids: the task of each example, in the shape of `rows`.
        normalization: `token`, a target token weighs 1; `example`, 1 / target tokens of its example.

    Returns:
        Arrays [B, T]: `tokens`, `positions` (from 0 in every segment), `segment_ids` (1..M, the
        padding tail is M + 1), `task_ids` (0 on padding), all int32, and `loss_weights` float32:
        the weight of predicting tokens[b, t + 1] from position t, 0 on prompts, on padding and at
        the last token of a segment.
    """
    shape = len(rows), row_length
    batch: dict[str, np.ndarray] = {name: np.zeros(shape, np.int32) for name in _INT_FIELDS}
    batch['loss_weights'] = np.zeros(shape, np.float32)
    for row, examples in enumerate(rows):
        begin = 0
        for segment, tokens in enumerate(examples):
            end = begin + len(tokens)
            target_start = target_starts[row][segment]
            weight = 1.0 if normalization == 'token' else 1.0 / (len(tokens) - target_start)
            batch['tokens'][row, begin:end] = tokens
            batch['positions'][row, begin:end] = np.arange(len(tokens))
            batch['segment_ids'][row, begin:end] = segment + 1
            batch['task_ids'][row, begin:end] = task_ids[row][segment]
            batch['loss_weights'][row, begin + target_start - 1 : end - 1] = weight
            begin = end
        batch['positions'][row, begin:] = np.arange(row_length - begin)
        batch['segment_ids'][row, begin:] = len(examples) + 1
    return batch


@dataclasses.dataclass(frozen=True, eq=False)
class _StepSource:
    """Random access from step - start_step to the rows of this process; Grain sends it to its workers."""

    store: ExampleStore
    plan: Plan
    local_rows: dict[int, np.ndarray]
    start_step: int
    end_step: int

    def __len__(self) -> int:
        return self.end_step - self.start_step

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        step = self.start_step + int(index)
        row_length = self.plan.shape(step)[1]
        rows = self.plan.rows(step)
        indices = [rows[row] for row in self.local_rows[row_length]]
        # One read for all rows: reading records singly is several times slower.
        tokens = iter(self.store.read(np.concatenate(indices)))
        return assemble_rows(
            [[next(tokens) for _ in row] for row in indices],
            row_length,
            [self.store.target_starts[row] for row in indices],
            [self.store.task_ids[row] for row in indices],
            self.plan.settings.normalization,
        )


def _batches(
    source: _StepSource, sharding: Sharding, threads: int, prefetch: int, workers: int
) -> Iterator[tuple[int, dict[str, jax.Array]]]:
    if not len(source):
        return
    if not flags.FLAGS.is_parsed():
        # Grain reads absl flags, which nobody has parsed in a notebook or a test; their defaults are what we want.
        flags.FLAGS.mark_as_parsed()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads) if threads else 0)
    dataset = grain.MapDataset.source(source).to_iter_dataset(options)
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    iterator = iter(dataset)
    try:
        for step, local in enumerate(iterator, start=source.start_step):
            shape = source.plan.shape(step)
            yield (
                step,
                {name: jax.make_array_from_process_local_data(sharding, array, shape) for name, array in local.items()},
            )
    finally:
        iterator.close()


def _local_rows(sharding: Sharding, row_length: int, plan: Plan) -> np.ndarray:
    """Returns the rows of a step that the devices of this process hold, ascending."""
    count = plan.settings.rows_per_step(row_length)
    try:
        indices = sharding.addressable_devices_indices_map((count, row_length)).values()
    except ValueError:
        raise UserError(
            f'{count} rows of {row_length} tokens do not divide over the devices; make row_multiple a multiple of '
            'the replica x fsdp sizes of the mesh'
        ) from None
    rows: set[int] = set()
    for index in indices:
        if index is None or index[1].indices(row_length) != (0, row_length, 1):
            raise ValueError('the sharding of a batch must keep rows whole')
        rows.update(range(*index[0].indices(count)))
    return np.array(sorted(rows), np.int64)
