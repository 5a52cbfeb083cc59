"""What each step measured: metrics.jsonl, TensorBoard, and the progress display.

MFU (model FLOPs utilisation, arXiv 2204.02311, appendix B) is the FLOPs that the step's examples need over those
that all devices could do in bfloat16 in the step's time. Needed is what `model.counts` counts, for each
example by itself: attention causally halved, padding and recomputation nothing. None where the
peak of the device is not known, as on a CPU.
"""

import collections
import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS
from ccl_jax.training.chips import peak_flops
from ccl_jax.training.console import say
from ccl_jax.training.run import Run
from ccl_jax.training.settings import TrainingSettings
from ccl_jax.training.step import Metrics

METRICS, SKIPPED, DEV, SCORES = 'metrics.jsonl', 'skipped.jsonl', 'dev.jsonl', 'scores.jsonl'

# Metrics are fetched this many steps late, so that the host prepares the next step while the device works.
_LAG = 2
_GIB = 2**30
# Of the scores, what the progress line shows.
_SHOWN_SCORES = ('micro_f1', 'macro_f1_active')
_SCALARS = ('loss', 'learning_rate', 'grad_norm', 'tokens_per_second', 'mfu', 'memory_bytes', 'data_wait')


@dataclasses.dataclass(frozen=True)
class _Step:
    """A step whose metrics may still be under way; waits of the host in seconds."""

    step: int
    shape: tuple[int, int]
    metrics: Metrics
    data_wait: float
    checkpoint_wait: float


class Recorder:
    """Records the steps of a run from `start` on; a context manager.

    In `workdir` it writes `metrics.jsonl`, one line per step; `skipped.jsonl`, the example ids of each
    step that was skipped; `dev.jsonl`, one line per evaluation; `scores.jsonl`, one line per scoring; and
    `tensorboard/`. Lines of steps at or after `start` are dropped first. On processes other than 0 it
    fetches, which keeps the processes in step, and writes nothing.

    Attributes:
        dropped: the lines of metrics.jsonl that were dropped.
    """

    def __init__(self, workdir: Path, start: int, run: Run, settings: TrainingSettings):
        self._run = run
        self._settings = settings
        self._workdir = workdir
        self._queue: collections.deque[_Step] = collections.deque()
        self._skipped_in_a_row = 0
        self._last_time = time.perf_counter()
        self._peak = _peak_of_all_devices() if run.flops else None
        self._writes = jax.process_index() == 0
        self._open = contextlib.ExitStack()
        self._bar = None
        self._since = _Interval()
        self.dropped: list[dict[str, Any]] = []
        if self._writes:
            workdir.mkdir(parents=True, exist_ok=True)
            self.dropped = cut_lines(workdir / METRICS, start)
            cut_lines(workdir / SKIPPED, start)
            cut_lines(workdir / DEV, start)
            cut_lines(workdir / SCORES, start)
            self._lines = self._open.enter_context(open(workdir / METRICS, 'a', encoding='utf-8'))  # noqa: SIM115
            writer = SummaryWriter(str(workdir / 'tensorboard'), purge_step=start or None)
            self._tensorboard = self._open.enter_context(writer)
            if sys.stderr.isatty():
                bar = tqdm(total=run.total_steps, initial=start, unit='step', dynamic_ncols=True)
                self._bar = self._open.enter_context(bar)

    def add(
        self, step: int, shape: tuple[int, int], metrics: Metrics, data_wait: float = 0.0, checkpoint_wait: float = 0.0
    ) -> None:
        """Takes the metrics of a step, and the seconds that the loop waited before it.

        Raises:
            UserError: too many steps in a row were skipped.
        """
        self._queue.append(_Step(step, shape, metrics, data_wait, checkpoint_wait))
        if len(self._queue) > _LAG:
            self._record(self._queue.popleft())

    def drain(self) -> None:
        """Records every step that was added, and makes sure that the lines are on disk. Raises as `add`."""
        while self._queue:
            self._record(self._queue.popleft())
        if self._writes:
            self._lines.flush()
            os.fsync(self._lines.fileno())

    def evaluated(self, done: int, measured: Mapping[str, float], seconds: float) -> None:
        """Records an evaluation after `done` steps; its time belongs to no step."""
        self._last_time += seconds
        if self._writes:
            _append(
                self._workdir / DEV, {'step': done - 1, **{name: _finite(value) for name, value in measured.items()}}
            )
            for name, value in measured.items():
                if math.isfinite(value):
                    self._tensorboard.add_scalar(f'dev/{name}', value, done - 1)
            self._say(
                f'dev after {done} steps: ' + ', '.join(f'{name} {value:.4f}' for name, value in measured.items())
            )

    def scored(self, done: int, scores: Mapping[str, Any], cost: Mapping[str, float], seconds: float) -> None:
        """Records the scores after `done` steps; their time belongs to no step.

        Args:
            scores: `split`, `metrics` and `decoding`, see `Scoring`.
            cost: of the training up to here: `tokens`, `flops`, `device_seconds`.
        """
        self._last_time += seconds
        if self._writes:
            decoding = {**scores['decoding'], 'device_seconds': round(seconds * jax.device_count(), 3)}
            line = {'step': done - 1, **scores, 'cost': dict(cost), 'decoding': decoding}
            _append(self._workdir / SCORES, line)
            metrics = {name: value for name, value in scores['metrics'].items() if value is not None}
            for name, value in metrics.items():
                self._tensorboard.add_scalar(f'{scores["split"]}/{name}', value, done - 1)
            shown = ', '.join(f'{name} {metrics[name]:.3f}' for name in _SHOWN_SCORES if name in metrics)
            self._say(f'{scores["split"]} after {done} steps: {shown}')

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            say(text)

    def __enter__(self) -> 'Recorder':
        return self

    def __exit__(self, error_type: Any, *_: object) -> None:
        with self._open:
            if error_type is None:
                self.drain()

    def _record(self, of: _Step) -> None:
        metrics = jax.device_get(of.metrics)
        now = time.perf_counter()
        seconds, self._last_time = now - self._last_time, now
        if self._writes:
            line = self._line(of, metrics, seconds)
            self._lines.write(json.dumps(line) + '\n')
            self._lines.flush()
            self._write_tensorboard(line)
            self._show(line)
        if metrics['finite']:
            self._skipped_in_a_row = 0
        else:
            self._skip(of.step)

    def _skip(self, step: int) -> None:
        self._skipped_in_a_row += 1
        if self._writes and self._run.example_ids is not None:
            ids = list(self._run.example_ids(step))
            _append(self._workdir / SKIPPED, {'step': step, 'example_ids': ids})
        if self._skipped_in_a_row == self._settings.most_skipped:
            named = f'; {self._workdir / SKIPPED} names their examples' if self._run.example_ids else ''
            raise UserError(
                f'the loss or a gradient was not finite in {self._skipped_in_a_row} steps in a row, up to step '
                f'{step}{named}; look at these, or lower learning_rate or raise warmup_steps and train into another '
                'workdir'
            )

    def _line(self, of: _Step, metrics: Any, seconds: float) -> dict[str, Any]:
        """One line of metrics.jsonl; a number that is not finite is null, which JSON has."""
        real_tokens = int(self._run.real_tokens[of.step])
        weights = {task: float(w) for task, w in zip(TASKS, metrics['task_weights'], strict=True) if w > 0}
        sums = dict(zip(TASKS, metrics['task_sums'], strict=True))
        rate = None
        if self._peak is not None and self._run.flops is not None:
            rate = self._run.flops(of.step) / max(seconds, 1e-9) / self._peak
        return {
            'step': of.step,
            'loss': _finite(metrics['loss']),
            'task_losses': {task: _finite(sums[task] / weight) for task, weight in weights.items()},
            'task_weights': weights,
            'learning_rate': _finite(metrics['learning_rate']),
            'grad_norm': _finite(metrics['grad_norm']),
            'skipped': int(metrics['skipped']),
            'bucket': of.shape[1],
            'rows': of.shape[0],
            'tokens': real_tokens,
            'padded_tokens': of.shape[0] * of.shape[1],
            'seconds': round(seconds, 6),
            'tokens_per_second': round(real_tokens / max(seconds, 1e-9), 1),
            'mfu': rate if rate is None else round(rate, 6),
            'memory_bytes': _memory_bytes(),
            'data_wait': round(of.data_wait, 6),
            'checkpoint_wait': round(of.checkpoint_wait, 6),
        }

    def _write_tensorboard(self, line: dict[str, Any]) -> None:
        for name in _SCALARS:
            if line[name] is not None:
                self._tensorboard.add_scalar(f'train/{name}', line[name], line['step'])
        for task, loss in line['task_losses'].items():
            if loss is not None:
                self._tensorboard.add_scalar(f'train/loss_{task}', loss, line['step'])

    def _show(self, line: dict[str, Any]) -> None:
        """Moves the bar, and says every so many steps what they measured together."""
        self._since.add(line)
        if self._bar is not None:
            self._bar.update()
        done = line['step'] + 1
        if done % self._settings.log_every and done != self._run.total_steps:
            return
        text = self._since.text(line)
        self._since = _Interval()
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
        else:
            say(f'step {done} of {self._run.total_steps}: {text}')


class _Interval:
    """The steps since something was shown."""

    def __init__(self) -> None:
        self._total: collections.Counter[str] = collections.Counter()
        self._losses: dict[str, float] = {}
        self._weights: collections.Counter[str] = collections.Counter()

    def add(self, line: Mapping[str, Any]) -> None:
        for name in ('tokens', 'padded_tokens', 'seconds', 'data_wait', 'checkpoint_wait'):
            self._total[name] += line[name]
        self._total['used'] += (line['mfu'] or 0.0) * line['seconds']
        for task, loss in line['task_losses'].items():
            weight = line['task_weights'][task]
            self._weights[task] += weight
            self._losses[task] = self._losses.get(task, 0.0) + (math.nan if loss is None else loss) * weight

    def text(self, line: Mapping[str, Any]) -> str:
        """Means over the interval, and of the last line what is of the moment."""
        total, seconds = self._total, max(self._total['seconds'], 1e-9)
        parts = [_loss(task, self._losses[task] / weight) for task, weight in self._weights.items()]
        if line['skipped']:
            parts.append(f'skipped {line["skipped"]}')
        parts.append(f'{total["tokens"] / seconds:,.0f} tokens/s')
        parts.append(f'padding {1 - total["tokens"] / total["padded_tokens"]:.0%}')
        if line['mfu'] is not None:
            parts.append(f'MFU {total["used"] / seconds:.1%}')
        parts.append(f'learning rate {line["learning_rate"]:.2g}')
        if line['grad_norm'] is not None:
            parts.append(f'gradient {line["grad_norm"]:.3g}')
        if line['memory_bytes'] is not None:
            parts.append(f'{line["memory_bytes"] / _GIB:.1f} GiB')
        for name in ('data_wait', 'checkpoint_wait'):
            if total[name] >= 0.0005 * seconds:
                parts.append(f'{name.replace("_", " ")} {total[name] / seconds:.1%}')
        return ', '.join(parts)


def cut_lines(path: Path, start: int) -> list[dict[str, Any]]:
    """Drops the lines of steps at or after `start`, and lines that a killed process left torn.

    Returns:
        The lines that were dropped and can be read, without those of a step that came before.
    """
    if not path.exists():
        return []
    kept, dropped = [], {}
    for text in path.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            line = json.loads(text)
            step = line['step']
        except (ValueError, KeyError, TypeError):
            continue
        if step < start:
            kept.append(text + '\n')
        else:
            dropped[step] = line
    partial = path.with_name(path.name + '.partial')
    partial.write_text(''.join(kept), encoding='utf-8')
    partial.replace(path)
    return list(dropped.values())


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with open(path, 'a', encoding='utf-8') as out:
        out.write(json.dumps(line) + '\n')


def _peak_of_all_devices() -> float | None:
    peak = peak_flops(jax.devices()[0].device_kind)
    return None if peak is None else peak * jax.device_count()


def _memory_bytes() -> int | None:
    """The most that any device of this process has held so far."""
    peaks = [(device.memory_stats() or {}).get('peak_bytes_in_use') for device in jax.local_devices()]
    return max((peak for peak in peaks if peak is not None), default=None)


def _loss(task: str, loss: float) -> str:
    return f'{task} {loss:.3f}' if math.isfinite(loss) else f'{task} not finite'


def _finite(number: Any) -> float | None:
    return float(number) if math.isfinite(number) else None
