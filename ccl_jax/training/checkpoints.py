"""Checkpoints of a run: asynchronous, checksummed, restored onto any mesh.

A checkpoint is a folder `<step>` that Orbax writes and that a manifest completes: what a
killed process or a full disk left behind has none, and is no checkpoint. The manifest
is verified before a restore. Older checkpoints are deleted only after it is written.
A fingerprint (config, plan, tokenizer, ...) goes with a checkpoint; a run that resumes
with another one is refused.
"""

import concurrent.futures
import contextlib
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from ccl_jax.errors import UserError
from ccl_jax.training.intervals import Interval, from_process_zero
from ccl_jax.training.manifest import damage_of, is_complete, remove, write_manifest
from ccl_jax.training.mesh import path_name
from ccl_jax.training.storage import absolute, quieten_orbax, refusal_of, uncompressed

MODES = ('min', 'max')
_DAMAGED = '.damaged'
_ORBAX_PARTIAL = '.orbax-checkpoint-tmp'
_METRICS = 'metrics.json'
_NONE, _NONE_GOOD = -1, -2

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of the run that writes to `directory`; every process has one and makes the same calls.

    A context manager: leaving it waits for the save under way. Only one run may
    write to a directory at a time; others read it through `restore_parameters`.

    Args:
        directory: shared by all processes, e.g. a local folder or `gs://bucket/folder`;
            made if it does not exist.
        keep: how many of the latest to keep; at least 2, so that there is one to
            fall back to.
        fingerprint: JSON fields, possibly nested, that must be equal on resume.
        every_steps, every_seconds: when `due` says that a save is due; None for never.
        keep_best: how many of the best to keep beside the latest.
        best_metric: which of the metrics given to `save` says what is best.
        best_mode: whether 'min' or 'max' of it is.

    Attributes:
        blocked_seconds: how long the caller has waited in `save` and `wait` so far.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int,
        fingerprint: Mapping[str, Any],
        every_steps: int | None = None,
        every_seconds: float | None = None,
        keep_best: int = 0,
        best_metric: str | None = None,
        best_mode: str = 'min',
    ):
        if keep < 2:
            raise UserError(
                f'keep is {keep}; keep at least 2 checkpoints, the second is what a damaged one falls back to'
            )
        if keep_best < 0 or (keep_best and best_metric is None):
            raise UserError(f'keep_best is {keep_best}; it must be at least 0, and where it is above, give best_metric')
        quieten_orbax()
        self._directory = absolute(directory)
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._keep, self._keep_best = keep, keep_best
        self._order = _Order(best_metric, best_mode)
        self._interval = Interval(every_steps, every_seconds)
        self._executor = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix='checkpoint')
        self._pending: tuple[int, concurrent.futures.Future[None]] | None = None
        self.blocked_seconds = 0.0

    def newest(self) -> int | None:
        """Returns the step of the newest good checkpoint, or None where there is none yet.

        To be called before the first save. What an interrupted save left is deleted; a
        damaged checkpoint is renamed to `<step>.damaged`, with a warning.

        Raises:
            UserError: no checkpoint is good, or its fingerprint differs.
        """
        step = _on_process_zero(self._newest_good_step)
        if step == _NONE:
            return None
        if step == _NONE_GOOD:
            raise UserError(
                f'every checkpoint in {self._directory} is damaged; put back a copy, or train into another workdir'
            )
        differences = _differences(_fingerprint_of(self._directory / str(step)), self._fingerprint)
        if differences:
            raise UserError(
                f'the run in {self._directory.parent} cannot be resumed, it was started with other settings: '
                f'{"; ".join(differences)}; restore these settings, or train into another workdir'
            )
        return step

    def load(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """Loads the trees of the checkpoint at `step`, which `newest` has found good.

        Args:
            abstract: name -> tree of `jax.ShapeDtypeStruct` with shardings; neither types nor
                shardings need be those that it was saved with.

        Raises:
            UserError: paths or shapes differ from `abstract`.
        """
        return _load(self._directory / str(step), abstract)

    def due(self, step: int) -> bool:
        """Whether a save is due after `step` steps, the same on every process; asked after every step."""
        return self._interval.due(step)

    def save(self, step: int, state: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Starts to save; returns as soon as the arrays are copied, after the save before has ended.

        Args:
            step: the number of steps done.
            state: name -> tree of arrays.
            metrics: what was measured of this very state.

        Raises:
            UserError: this save or the one before could not be written.
        """
        self.wait()
        with self._blocking():
            saved_with = {'fingerprint': self._fingerprint, 'step': step}
            folder = self._directory / str(step)
            with self._reporting(step), uncompressed():
                response = ocp.save_checkpointables_async(folder, dict(state), custom_metadata=saved_with)
            self._pending = step, self._executor.submit(self._complete, response, folder, metrics or {})
        self._interval.restart(step)

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
            UserError: it could not be written; what was good before still is.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            step, future = pending
            with self._blocking(), self._reporting(step):
                future.result()

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, error_type: Any, *_: object) -> None:
        try:
            self.wait()
        except UserError as error:
            # What ended the run is the error to report.
            if error_type is None:
                raise
            logger.warning('%s', error)
        finally:
            self._executor.shutdown()

    def _complete(self, response: Any, folder: epath.Path, metrics: Mapping[str, float]) -> None:
        """Waits until all processes have written, adds the manifest, and deletes what need not be kept."""
        response.result()
        if jax.process_index() == 0:
            comparable = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
            (folder / _METRICS).write_text(json.dumps(comparable))
            write_manifest(folder)
            steps = _complete_steps(self._directory)
            kept = {*steps[: self._keep], *self._order.best(self._directory, steps)[: self._keep_best]}
            for step in steps:
                if step not in kept:
                    remove(self._directory / str(step))

    def _newest_good_step(self) -> int:
        """Looks from the newest down, on process 0 alone; clears away what is not good."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in list(self._directory.iterdir()):
            if _ORBAX_PARTIAL in path.name or (path.name.isdecimal() and not is_complete(path)):
                logger.warning('removed %s, a checkpoint whose save was interrupted', path)
                remove(path)
        for step in _complete_steps(self._directory):
            path = self._directory / str(step)
            damage = damage_of(path)
            if not damage:
                return step
            aside = _free_name(path)
            path.rename(aside)
            logger.warning('checkpoint %d is damaged (%s), moved it to %s, trying the one before', step, damage, aside)
        any_damaged = any(path.name.endswith(_DAMAGED) for path in self._directory.iterdir())
        return _NONE_GOOD if any_damaged else _NONE

    @contextlib.contextmanager
    def _blocking(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.blocked_seconds += time.perf_counter() - began

    @contextlib.contextmanager
    def _reporting(self, step: int) -> Iterator[None]:
        """Turns what the storage refuses into one sentence."""
        try:
            yield
        except Exception as error:
            reason = refusal_of(error)
            if reason is None:
                raise
            good = next(iter(_complete_steps(self._directory)), None)
            raise UserError(
                f'the checkpoint at step {step} could not be written to {self._directory} ({reason}); '
                + ('there is none before it' if good is None else f'the one at step {good} is good')
                + '; make room or mend the storage, and the same command goes on from there'
            ) from error


def restore_parameters(
    directory: str | os.PathLike[str],
    abstract: Any,
    *,
    name: str = 'params',
    fingerprint: Mapping[str, Any] | None = None,
    best_metric: str | None = None,
    best_mode: str = 'min',
) -> tuple[int, Any]:
    """Loads one tree of the newest good checkpoint, e.g. the parameters alone; changes nothing on disk.

    Args:
        directory: where a run's checkpoints lie.
        abstract: a tree of `jax.ShapeDtypeStruct` with shardings.
        fingerprint: fields that must be those of the run, e.g. the model that adapters belong to.
        best_metric, best_mode: load the best good checkpoint by this metric instead; the
            newest where none was saved with it.

    Returns:
        (step, tree of arrays).

    Raises:
        UserError: there is no good checkpoint, or it does not fit `abstract` or `fingerprint`.
    """
    root = absolute(directory)
    order = _Order(best_metric, best_mode)

    def choose() -> int:
        steps = _complete_steps(root)
        candidates = dict.fromkeys([*order.best(root, steps), *steps])
        return next((step for step in candidates if not _reported_damage(root / str(step))), _NONE)

    step = _on_process_zero(choose)
    if step == _NONE:
        raise UserError(f'there is no good checkpoint in {root}; train first, or name another workdir')
    if fingerprint:
        saved = _fingerprint_of(root / str(step))
        differences = _differences({key: saved.get(key) for key in fingerprint}, fingerprint)
        if differences:
            raise UserError(
                f'the checkpoints in {root} do not belong to what is loaded: {"; ".join(differences)}; '
                'put back what the run was trained with'
            )
    return step, _load(root / str(step), {name: abstract})[name]


class _Order:
    """Which checkpoints are best by a metric; none where it is None."""

    def __init__(self, metric: str | None, mode: str):
        if mode not in MODES:
            raise UserError(f'best_mode is "{mode}"; choose {" or ".join(MODES)}')
        self._metric, self._sign = metric, 1 if mode == 'min' else -1

    def best(self, directory: epath.Path, steps: Sequence[int]) -> list[int]:
        """Returns those of `steps` that were saved with the metric, best first, the later of equals first."""
        if self._metric is None:
            return []
        found = {step: _metrics_of(directory / str(step)).get(self._metric) for step in steps}
        measured = [(self._sign * value, -step) for step, value in found.items() if value is not None]
        return [-step for _, step in sorted(measured)]


def _complete_steps(directory: epath.Path) -> list[int]:
    """Steps of the folders with a manifest, newest first."""
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir() if path.name.isdecimal() and is_complete(path))
    return sorted(map(int, names), reverse=True)


def _reported_damage(folder: epath.Path) -> str:
    damage = damage_of(folder)
    if damage:
        logger.warning('checkpoint %s is damaged (%s), trying the one before', folder, damage)
    return damage


def _free_name(folder: epath.Path) -> epath.Path:
    """Returns a name for a damaged checkpoint that is not taken."""
    numbers = itertools.count(2)
    candidate = folder.with_name(folder.name + _DAMAGED)
    while candidate.exists():
        candidate = folder.with_name(f'{folder.name}.{next(numbers)}{_DAMAGED}')
    return candidate


def _fingerprint_of(folder: epath.Path) -> dict[str, Any]:
    return (ocp.checkpointables_metadata(folder).custom_metadata or {}).get('fingerprint', {})


def _metrics_of(folder: epath.Path) -> dict[str, float]:
    """The metrics of a checkpoint that may be damaged; none where they cannot be read."""
    try:
        return json.loads((folder / _METRICS).read_text())
    except (OSError, ValueError):
        return {}


def _differences(saved: Mapping[str, Any], current: Mapping[str, Any], prefix: str = '') -> list[str]:
    """Names the fields that differ, with both values."""
    differences = []
    for key in sorted(saved.keys() | current.keys()):
        was, now = saved.get(key), current.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            differences += _differences(was, now, f'{prefix}{key}.')
        elif was != now:
            differences.append(f'{prefix}{key} was {json.dumps(was)} and is {json.dumps(now)}')
    return differences


def _load(folder: epath.Path, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """Loads the named trees. Raises UserError where their paths or shapes differ from `abstract`."""
    metadata = ocp.checkpointables_metadata(folder).metadata
    wanted, saved = _shapes(dict(abstract)), _shapes({name: metadata.get(name, {}) for name in abstract})
    for name in sorted(wanted.keys() | saved.keys()):
        if wanted.get(name) != saved.get(name):
            raise UserError(
                f'checkpoint {folder} does not fit: {name} is {saved.get(name, "absent")} in it and '
                f'{wanted.get(name, "absent")} in this model and optimizer; use the config that it was trained with'
            )
    return ocp.load_checkpointables(folder, dict(abstract))


def _shapes(tree: Any) -> dict[str, list[int]]:
    return {path_name(path): list(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _on_process_zero(function: Callable[[], int]) -> int:
    """Calls `function` on process 0 and returns its result on every process."""
    return from_process_zero(function() if jax.process_index() == 0 else 0)
