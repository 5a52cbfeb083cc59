"""The training loop: restore, compile, run the plan's steps, record each one, save.

Interrupted anywhere, the same call goes on from the latest checkpoint and gives the
losses that an uninterrupted run would have given, bit for bit on the same machine.
"""

import collections
import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tensorboardX import SummaryWriter
from tqdm import tqdm

from ccl_jax.data.plan import Plan
from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS
from ccl_jax.training.checkpoints import Checkpoints
from ccl_jax.training.objective import task_coefficients
from ccl_jax.training.settings import OptimizerSettings, TrainingSettings
from ccl_jax.training.step import (
    Batch,
    Metrics,
    TrainState,
    abstract_batch,
    abstract_state,
    init_state,
    make_train_step,
)

# Metrics are fetched this many steps late, so that the host prepares the next step while the device works.
_LAG = 2
_MOST_SKIPPED_IN_A_ROW = 25


@dataclasses.dataclass(frozen=True)
class Run:
    """What the loop needs to know of the batch plan.

    Attributes:
        total_steps: of the whole run, from step 0.
        shapes: the different (rows, length) of its batches.
        real_tokens: per step, its tokens without padding.
        task_constants: N_t by task name.
    """

    total_steps: int
    shapes: tuple[tuple[int, int], ...]
    real_tokens: np.ndarray
    task_constants: Mapping[str, float]

    @classmethod
    def from_plan(cls, plan: Plan) -> 'Run':
        return cls(
            total_steps=plan.steps,
            shapes=tuple(sorted(plan.shapes)),
            real_tokens=plan.step_tokens,
            task_constants=plan.task_constants,
        )


def fit(
    graphdef: nnx.GraphDef,
    params: Any,
    *,
    mesh: Mesh,
    run: Run,
    batches: Callable[[int], Iterator[tuple[int, Batch]]],
    optimizer: OptimizerSettings,
    settings: TrainingSettings,
    fingerprint: Mapping[str, Any],
    workdir: str | Path,
) -> TrainState:
    """Trains to the end of the run and returns the last state.

    Writes `checkpoints/`, `metrics.jsonl` (one object per step) and `tensorboard/`
    in `workdir`; continues from the latest checkpoint there.

    Args:
        graphdef, params: of the decoder, see `make_train_step`; parameters lie on
            the mesh already. They are used up: do not use them afterwards.
        batches: start step -> iterator of (step, batch), every step once, in order.
        fingerprint: what must be the same on resume, see `Checkpoints`.

    Raises:
        UserError: a setting does not fit, a checkpoint differs or is damaged, or
            the loss is not finite for many steps in a row.
    """
    workdir = Path(workdir)
    params = nnx.to_pure_dict(params) if isinstance(params, nnx.State) else params
    _check_rows(run, mesh, settings.accumulation)
    coefficients = task_coefficients(settings.task_weights, run.task_constants)

    with Checkpoints(workdir / 'checkpoints', keep=settings.keep, fingerprint=fingerprint) as checkpoints:
        abstract = abstract_state(params, optimizer, mesh)
        start = checkpoints.newest()
        if start is None:
            start, state = 0, init_state(params, optimizer, mesh)
        else:
            # Room for the parameters that come instead.
            jax.tree.map(lambda x: x.delete(), params)
            trees = checkpoints.load(start, _to_save(abstract))
            state = TrainState(params=trees['params'], **trees['optimizer'])
            _say(f'resuming from the checkpoint at step {start} of {run.total_steps}')
        if start >= run.total_steps:
            return state

        train_step = make_train_step(
            graphdef,
            abstract,
            optimizer,
            mesh,
            coefficients=coefficients,
            total_steps=run.total_steps,
            tile_tokens=settings.tile_tokens,
            accumulation=settings.accumulation,
        )
        compiled = _compile(train_step, abstract, run.shapes, mesh)

        with _Recorder(workdir, start, run, settings.log_every) as recorder:
            for step, batch in _expect_steps(batches(start), start, run.total_steps):
                rows, length = batch['tokens'].shape
                state, metrics = compiled[rows, length](state, batch)
                recorder.add(step, (rows, length), metrics)
                done = step + 1
                if done % settings.checkpoint_every == 0 or done == run.total_steps:
                    # The lines of all steps up to here must be on disk before a resumed run may begin after them.
                    recorder.drain()
                    checkpoints.save(done, _to_save(state))
    return state


def _to_save(state: TrainState) -> dict[str, Any]:
    """Parameters apart, so that they can be read without knowing the optimizer."""
    return {
        'params': state.params,
        'optimizer': {'step': state.step, 'skipped': state.skipped, 'opt_state': state.opt_state},
    }


def _check_rows(run: Run, mesh: Mesh, accumulation: int) -> None:
    needed = mesh.shape['replica'] * mesh.shape['fsdp'] * accumulation
    for rows, length in run.shapes:
        if rows % needed:
            raise UserError(
                f'{rows} rows of {length} tokens cannot be divided by replica x fsdp x accumulation = {needed}; '
                f'make row_multiple of the plan a multiple of {needed}'
            )


def _compile(train_step: Any, state: TrainState, shapes: tuple[tuple[int, int], ...], mesh: Mesh) -> dict[Any, Any]:
    """Compiles the step for every shape at the start, so that no compilation falls into the run."""
    compiled = {}
    for number, (rows, length) in enumerate(shapes, start=1):
        _say(f'compiling the step for {rows} rows of {length} tokens ({number} of {len(shapes)}) ...', end=' ')
        began = time.perf_counter()
        compiled[rows, length] = train_step.lower(state, abstract_batch(rows, length, mesh)).compile()
        _say(f'{time.perf_counter() - began:.1f} s')
    return compiled


def _expect_steps(batches: Iterator[tuple[int, Batch]], start: int, stop: int) -> Iterator[tuple[int, Batch]]:
    """Yields the batches of steps start..stop-1 and makes sure that it is these."""
    for expected in range(start, stop):
        step, batch = next(batches, (None, {}))
        if step != expected:
            raise ValueError(f'the loader gave step {step} where step {expected} was due')
        yield expected, batch


class _Recorder:
    """Writes what each step measured: metrics.jsonl, TensorBoard, and the progress display.

    On processes other than 0 it fetches, which keeps the processes in step, and writes nothing.
    """

    def __init__(self, workdir: Path, start: int, run: Run, log_every: int):
        self._run = run
        self._log_every = log_every
        self._queue: collections.deque[tuple[int, tuple[int, int], Metrics]] = collections.deque()
        self._skipped_in_a_row = 0
        self._last_time = time.perf_counter()
        self._writes = jax.process_index() == 0
        self._open = contextlib.ExitStack()
        self._bar = None
        if self._writes:
            workdir.mkdir(parents=True, exist_ok=True)
            cut_metrics(workdir / 'metrics.jsonl', start)
            self._lines = self._open.enter_context(open(workdir / 'metrics.jsonl', 'a', encoding='utf-8'))  # noqa: SIM115
            writer = SummaryWriter(str(workdir / 'tensorboard'), purge_step=start or None)
            self._tensorboard = self._open.enter_context(writer)
            if sys.stderr.isatty():
                bar = tqdm(total=run.total_steps, initial=start, unit='step', dynamic_ncols=True)
                self._bar = self._open.enter_context(bar)

    def add(self, step: int, shape: tuple[int, int], metrics: Metrics) -> None:
        self._queue.append((step, shape, metrics))
        if len(self._queue) > _LAG:
            self._record(*self._queue.popleft())

    def drain(self) -> None:
        """Records every step that was added, and makes sure that the lines are on disk."""
        while self._queue:
            self._record(*self._queue.popleft())
        if self._writes:
            self._lines.flush()
            os.fsync(self._lines.fileno())

    def __enter__(self) -> '_Recorder':
        return self

    def __exit__(self, error_type: Any, *_: object) -> None:
        with self._open:
            if error_type is None:
                self.drain()

    def _record(self, step: int, shape: tuple[int, int], device_metrics: Metrics) -> None:
        metrics = jax.device_get(device_metrics)
        now = time.perf_counter()
        seconds, self._last_time = now - self._last_time, now
        self._skipped_in_a_row = 0 if metrics['finite'] else self._skipped_in_a_row + 1
        if self._writes:
            line = _line(step, shape, metrics, int(self._run.real_tokens[step]), seconds)
            self._lines.write(json.dumps(line) + '\n')
            self._lines.flush()
            self._write_tensorboard(line)
            self._show(line)
        if self._skipped_in_a_row == _MOST_SKIPPED_IN_A_ROW:
            raise UserError(
                f'the loss or a gradient was not finite in {_MOST_SKIPPED_IN_A_ROW} steps in a row, up to step {step}; '
                'lower learning_rate or raise warmup_steps, and train into another workdir'
            )

    def _write_tensorboard(self, line: dict[str, Any]) -> None:
        for name in ('loss', 'learning_rate', 'grad_norm', 'tokens_per_second'):
            if line[name] is not None:
                self._tensorboard.add_scalar(f'train/{name}', line[name], line['step'])
        for task, loss in line['task_losses'].items():
            if loss is not None:
                self._tensorboard.add_scalar(f'train/loss_{task}', loss, line['step'])

    def _show(self, line: dict[str, Any]) -> None:
        losses = {task: 'not finite' if loss is None else f'{loss:.3f}' for task, loss in line['task_losses'].items()}
        if line['skipped']:
            losses['skipped'] = str(line['skipped'])
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix(losses, refresh=False)
            return
        done = line['step'] + 1
        if done % self._log_every == 0 or done == self._run.total_steps:
            numbers = ', '.join(f'{name} {value}' for name, value in losses.items())
            _say(f'step {done} of {self._run.total_steps}: {numbers}, {line["tokens_per_second"]:,.0f} tokens/s')


def cut_metrics(path: Path, start: int) -> None:
    """Drops the lines of steps at or after `start`, and lines that a killed process left torn."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            step = json.loads(line)['step']
        except (ValueError, KeyError, TypeError):
            continue
        if step < start:
            kept.append(line + '\n')
    partial = path.with_name(path.name + '.partial')
    partial.write_text(''.join(kept), encoding='utf-8')
    partial.replace(path)


def _line(step: int, shape: tuple[int, int], metrics: Any, real_tokens: int, seconds: float) -> dict[str, Any]:
    """One line of metrics.jsonl; a number that is not finite is null, which JSON has."""
    weights = {task: float(w) for task, w in zip(TASKS, metrics['task_weights'], strict=True) if w > 0}
    sums = dict(zip(TASKS, metrics['task_sums'], strict=True))
    return {
        'step': step,
        'loss': _finite(metrics['loss']),
        'task_losses': {task: _finite(sums[task] / weight) for task, weight in weights.items()},
        'task_weights': weights,
        'learning_rate': _finite(metrics['learning_rate']),
        'grad_norm': _finite(metrics['grad_norm']),
        'skipped': int(metrics['skipped']),
        'bucket': shape[1],
        'rows': shape[0],
        'tokens': real_tokens,
        'padded_tokens': shape[0] * shape[1],
        'seconds': round(seconds, 6),
        'tokens_per_second': round(real_tokens / max(seconds, 1e-9), 1),
    }


def _finite(number: Any) -> float | None:
    return float(number) if math.isfinite(number) else None


def _say(message: str, end: str = '\n') -> None:
    if jax.process_index() == 0:
        print(message, end=end, file=sys.stderr, flush=True)
