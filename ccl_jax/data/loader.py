"""Batches of a plan, read by Grain: each process reads and assembles only the rows that its devices hold.

A batch is a function of the step alone, so a run resumes from its step and the
plan's hash, on any number of processes, threads and workers.
"""

import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Sharding

from ccl_jax.data.examples import ExampleStore
from ccl_jax.data.plan import Plan
from ccl_jax.errors import UserError

_INT_FIELDS = ('tokens', 'positions', 'segment_ids', 'task_ids')

# Batches on the devices beside the one in use: one is copied while the step before it runs.
_PLACED_AHEAD = 2


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
        threads: reading threads of each process, or of each worker; 0 reads in the one that copies to the devices.
        prefetch: steps read ahead of the one in use, by each process or worker.
        workers: processes that read and assemble beside this one; 0 for none.

    Raises:
        UserError: the plan was made for other examples, the rows of a step do not
            divide over the devices, or the main script is imported again by a worker; and
            when iterating: the store is damaged or was replaced, or a worker was killed.
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
    # Without this a script that lacks that line would make Grain wait forever for workers that have ended.
    if workers and getattr(multiprocessing.current_process(), '_inheriting', False):
        raise UserError('workers import the main script again; put what it runs under if __name__ == "__main__"')
    rows = {length: _local_rows(sharding, length, plan) for length in plan.settings.buckets}
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

    def __reduce__(self) -> tuple[Any, ...]:
        fields = tuple(getattr(self, field.name) for field in dataclasses.fields(self))
        return _received_source, (self.store.fingerprint, fields)


def _received_source(fingerprint: str, fields: tuple[Any, ...]) -> _StepSource:
    """A worker opens the store by its path: what lies there must still be what was planned."""
    source = _StepSource(*fields)
    if source.store.fingerprint != fingerprint:
        raise UserError(f'the example store in {source.store.directory} was replaced meanwhile; start the run again')
    return source


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
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), _end_with_parent)

    def place(local: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        row_length = local['tokens'].shape[1]
        shape = source.plan.settings.rows_per_step(row_length), row_length
        return {name: jax.make_array_from_process_local_data(sharding, array, shape) for name, array in local.items()}

    placed = grain.experimental.ThreadPrefetchIterDataset(dataset.map(place), prefetch_buffer_size=_PLACED_AHEAD)
    iterator = iter(placed)
    try:
        yield from enumerate(iterator, start=source.start_step)
    except RuntimeError as error:  # Grain has no type of its own for this
        if 'terminated unexpectedly' not in str(error):
            raise
        raise UserError(
            'a worker process of the loader was killed, perhaps for want of memory; lower data.workers or '
            'data.prefetch, and start the run again: it goes on from its last checkpoint'
        ) from error
    finally:
        iterator.close()


def _end_with_parent(worker: int, workers: int) -> None:
    """Ends this worker when the process that started it is gone, which could be killed before it says so.

    SIGTERM, which a cluster sends to every process, is left to that process: it still needs batches until it has saved.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


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
