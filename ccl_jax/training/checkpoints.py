"""Checkpoints of a run: asynchronous, checksummed, restored onto any mesh.

A checkpoint is a folder `<step>` that Orbax writes. Once it is committed, a manifest
with the SHA-256 of every file is added, and only a folder with a manifest is a
checkpoint: what a killed process left behind is not. The manifest is verified before
a restore, because Orbax notices a truncated file but loads a flipped byte silently.
A fingerprint (config, plan, tokenizer, ...) goes with it; a run that resumes with
another one is refused.
"""

import concurrent.futures
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ccl_jax.errors import UserError
from ccl_jax.training.mesh import path_name

MANIFEST = 'manifest.json'
_DAMAGED = '.damaged'
_ORBAX_PARTIAL = '.orbax-checkpoint-tmp'
_NONE, _NONE_GOOD = -1, -2

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of the run that writes to `directory`; every process has one.

    A context manager: leaving it waits for the save under way. Only one run may
    write to a directory at a time; others read it through `restore_parameters`.

    Args:
        directory: shared by all processes; made if it does not exist.
        keep: how many of the latest to keep; at least 2, so that there is one to
            fall back to.
        fingerprint: JSON fields, possibly nested, that must be equal on resume.

    Raises:
        UserError: `keep` is less than 2.
    """

    def __init__(self, directory: str | Path, *, keep: int, fingerprint: Mapping[str, Any]):
        if keep < 2:
            raise UserError(
                f'keep is {keep}; keep at least 2 checkpoints, the second is what a damaged one falls back to'
            )
        self._directory = Path(directory).absolute()
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._keep = keep
        self._writer: Any = None
        self._executor = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix='manifest')
        self._pending: concurrent.futures.Future | None = None

    def newest(self) -> int | None:
        """Returns the step of the newest good checkpoint, or None where there is none yet.

        To be called before the first save. What an interrupted save left is deleted; a
        damaged checkpoint is renamed to `<step>.damaged`, with a warning.

        Raises:
            UserError: no checkpoint is good, or its fingerprint differs.
        """
        step = _from_process_zero(self._newest_good_step)
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
            abstract: name -> tree of `jax.ShapeDtypeStruct` with shardings, which need
                not be those that it was saved with.

        Raises:
            UserError: paths or shapes differ from `abstract`.
        """
        return _load(self._directory / str(step), abstract)

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Starts to save; returns as soon as the arrays are copied, after the save before has ended.

        Args:
            step: the number of steps done.
            state: name -> tree of arrays.
        """
        self.wait()
        if self._writer is None:
            self._writer = _make_writer(self._directory, self._keep)
        response = self._writer.save_checkpointables_async(
            step, dict(state), force=True, custom_metadata={'fingerprint': self._fingerprint, 'step': step}
        )
        self._pending = self._executor.submit(_finish, response, self._directory / str(step))

    def wait(self) -> None:
        """Waits for the save under way; raises what went wrong in it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._executor.shutdown()
            if self._writer is not None:
                self._writer.close()

    def _newest_good_step(self) -> int:
        """Looks from the newest down, on process 0 alone; clears away what is not good."""
        self._directory.mkdir(parents=True, exist_ok=True)
        finished = _finished_steps(self._directory)
        for path in list(self._directory.iterdir()):
            unfinished = path.name.isdecimal() and int(path.name) not in finished
            if unfinished or _ORBAX_PARTIAL in path.name:
                logger.warning('removed %s, a checkpoint whose save was interrupted', path)
                shutil.rmtree(path)
        for step in finished:
            path = self._directory / str(step)
            damage = _damage(path)
            if not damage:
                return step
            aside = _free_name(path.with_name(path.name + _DAMAGED))
            path.rename(aside)
            logger.warning('checkpoint %d is damaged (%s), moved it to %s, trying the one before', step, damage, aside)
        any_damaged = any(path.name.endswith(_DAMAGED) for path in self._directory.iterdir())
        return _NONE_GOOD if any_damaged else _NONE


def restore_parameters(directory: str | Path, abstract: Any, *, name: str = 'params') -> tuple[int, Any]:
    """Loads one tree of the newest good checkpoint, e.g. the parameters alone; changes nothing on disk.

    Args:
        directory: where a run's checkpoints lie.
        abstract: a tree of `jax.ShapeDtypeStruct` with shardings.

    Returns:
        (step, tree of arrays).

    Raises:
        UserError: there is no good checkpoint, or it does not fit `abstract`.
    """
    directory = Path(directory).absolute()
    step = _from_process_zero(
        lambda: next(
            (step for step in _finished_steps(directory) if not _reported_damage(directory / str(step))), _NONE
        )
    )
    if step == _NONE:
        raise UserError(f'there is no good checkpoint in {directory}; train first, or name another workdir')
    return step, _load(directory / str(step), {name: abstract})[name]


def _make_writer(directory: Path, keep: int) -> Any:
    return ocp.training.Checkpointer(
        directory,
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
    )


def _finish(response: Any, path: Path) -> None:
    """Waits for the commit, then adds the manifest; from here on the folder is a checkpoint."""
    response.result()
    if jax.process_index() == 0:
        partial = path / (MANIFEST + '.partial')
        with open(partial, 'w', encoding='utf-8') as out:
            json.dump({'sha256': _checksums(path)}, out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path / MANIFEST)


def _checksums(path: Path) -> dict[str, str]:
    """Returns relative path -> SHA-256 of every file under `path` but the manifest."""

    def checksum(file: Path) -> str:
        with open(file, 'rb') as data:
            return hashlib.file_digest(data, 'sha256').hexdigest()

    files = sorted(file for file in path.rglob('*') if file.is_file() and not file.name.startswith(MANIFEST))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return {
            str(file.relative_to(path)): digest for file, digest in zip(files, pool.map(checksum, files), strict=True)
        }


def _damage(path: Path) -> str:
    """Returns what differs from the manifest, '' for nothing."""
    try:
        expected = json.loads((path / MANIFEST).read_text(encoding='utf-8'))['sha256']
    except (OSError, ValueError, KeyError, TypeError):
        return f'{MANIFEST} is unreadable'
    found = _checksums(path)
    bad = sorted(file for file in expected.keys() | found.keys() if expected.get(file) != found.get(file))
    if not bad:
        return ''
    return f'{bad[0]} differs' + (f' and {len(bad) - 1} more' if bad[1:] else '')


def _reported_damage(path: Path) -> str:
    damage = _damage(path)
    if damage:
        logger.warning('checkpoint %s is damaged (%s), trying the one before', path, damage)
    return damage


def _finished_steps(directory: Path) -> list[int]:
    """Steps of the folders with a manifest, newest first."""
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir() if (path / MANIFEST).is_file())
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def _free_name(path: Path) -> Path:
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(path.name.removesuffix(_DAMAGED) + f'.{number}{_DAMAGED}')
    return candidate


def _fingerprint_of(path: Path) -> dict[str, Any]:
    return (ocp.checkpointables_metadata(path).custom_metadata or {}).get('fingerprint', {})


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


def _load(path: Path, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """Loads the named trees. Raises UserError where their paths or shapes differ from `abstract`."""
    metadata = ocp.checkpointables_metadata(path).metadata
    wanted, saved = _shapes(dict(abstract)), _shapes({name: metadata.get(name, {}) for name in abstract})
    for name in sorted(wanted.keys() | saved.keys()):
        if wanted.get(name) != saved.get(name):
            raise UserError(
                f'checkpoint {path} does not fit: {name} is {saved.get(name, "absent")} in it and '
                f'{wanted.get(name, "absent")} in this model and optimizer; use the config that it was trained with'
            )
    return ocp.load_checkpointables(path, dict(abstract))


def _shapes(tree: Any) -> dict[str, list[int]]:
    return {path_name(path): list(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _from_process_zero(function: Any) -> int:
    """Calls `function` on process 0 and returns its result on every process."""
    if jax.process_count() == 1:
        return function()
    result = function() if jax.process_index() == 0 else 0
    return int(multihost_utils.broadcast_one_to_all(np.int32(result)))
