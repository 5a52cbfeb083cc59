"""The folder of a run: its config, and who writes."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ccl_jax.config import Config, check_config
from ccl_jax.errors import UserError
from ccl_jax.pipeline.files import write_text
from ccl_jax.training.cluster import start_cluster
from ccl_jax.training.console import say

CONFIG_FILE = 'config.json'
LOCK_FILE = 'lock'

# Sections and keys that may differ between calls on one workdir: where and in how much memory a run
# is done, how it is read and shown, how often it is saved, and what is evaluated.
_FREE_SECTIONS = ('mesh', 'eval')
FREE_KEYS = (
    *('threads', 'workers', 'processes', 'prefetch'),
    *('remat', 'tile_tokens', 'compilation_cache'),
    *('log_every', 'profile_start', 'profile_steps', 'most_skipped'),
    *('checkpoint_every', 'checkpoint_minutes', 'keep', 'keep_best'),
)

# What tells that a workdir holds more than prepared data.
_TRAINED = ('base/init', 'checkpoints', 'metrics.jsonl')


def join_processes() -> None:
    """Joins the processes of the run, where there are several, and shows them; to be called before jax is used."""
    if not jax.distributed.is_initialized():
        table = start_cluster()
        if table is not None:
            say(table)


@contextlib.contextmanager
def only_run(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of the workdir. The lock ends with the process that holds it, however that ends.

    Raises:
        UserError: another run is in it, or it cannot be written.
    """
    path = workdir / LOCK_FILE
    with contextlib.ExitStack() as stack:
        on_process_zero(lambda: stack.enter_context(locked(workdir)), path)
        yield


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Like `only_run`, for this process alone, and without waking its devices."""
    path = workdir / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror}; choose a folder that can be written') from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f'another run works in {path.parent} ({file.read().strip() or "not yet named"}); '
                'wait until it has ended, or use another --workdir'
            ) from None
        except OSError as error:
            # A file system without locks: the run goes on without this protection.
            say(f'warning: {path} cannot be locked ({error.strerror}); do not start a second run on this workdir')
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
        yield


def claim_workdir(workdir: Path, config: Config) -> None:
    """Writes the config into a new workdir, or checks that the workdir is of the same config.

    Where nothing is trained yet, another config takes the workdir over and what was
    prepared under the former is prepared anew: a mistyped path must not cost a workdir.

    Raises:
        UserError: the workdir holds a run of another config (the keys that differ are
            named), or cannot be written.
    """
    path = workdir / CONFIG_FILE

    def claim() -> None:
        if check_workdir(workdir, config):
            shutil.rmtree(workdir / 'data', ignore_errors=True)
        write_text(path, json.dumps(config.tree, indent=2) + '\n')

    on_process_zero(claim, path)


def check_workdir(workdir: Path, config: Config) -> list[str]:
    """Returns in what the workdir's config differs; an empty list where it does not, or there is none.

    Raises:
        UserError: it differs, and there are weights of it.
    """
    path = workdir / CONFIG_FILE
    differences = list(_differences(_read(path), config.tree)) if path.exists() else []
    if differences and any((workdir / name).exists() for name in _TRAINED):
        shown = '; '.join(differences[:5]) + ('; ...' if len(differences) > 5 else '')
        raise UserError(f'{workdir} holds a run of another config ({shown}); use its config or another --workdir')
    return differences


def workdir_config(workdir: Path) -> Config:
    """Returns the config of the run in `workdir`. Raises UserError if there is none."""
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise UserError(f'{workdir} holds no run ({CONFIG_FILE} is missing); give the --workdir of a finished training')
    return check_config(_read(path))


def on_process_zero(write: Callable[[], Any], result: Path) -> None:
    """Runs `write` on process 0 while the others wait; then `result` must be there for all.

    Raises:
        UserError: another process does not see `result`: the workdir is not shared. Or `write`
            failed, which the other processes then say too.
    """
    if jax.process_count() == 1:
        write()
        return
    failure: Exception | None = None
    if jax.process_index() == 0:
        try:
            write()
        except Exception as error:  # the others would wait forever
            failure = error
    failed = multihost_utils.broadcast_one_to_all(np.int32(failure is not None))
    if failure is not None:
        raise failure
    if failed:
        raise UserError(f'process 0 could not make {result}; it says why')
    await_file(result)


def await_file(result: Path) -> None:
    """Waits until every process is here; then `result`, which process 0 wrote, must be there for all.

    Raises:
        UserError: as `on_process_zero`.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f'written {result}')
        if not result.exists():
            raise UserError(
                f'process {jax.process_index()} does not see {result}; '
                'choose a --workdir on a file system that all hosts share'
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        raise UserError(f'{path} cannot be read as JSON; restore it or use another --workdir') from None


def _differences(saved: Any, current: Any, prefix: str = '') -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(current, dict):
        for name in sorted(saved.keys() | current.keys()):
            path = f'{prefix}{name}'
            if path in _FREE_SECTIONS or name in FREE_KEYS:
                continue
            yield from _differences(saved.get(name), current.get(name), f'{path}.')
    elif saved != current:
        yield f'{prefix.rstrip(".")} was {json.dumps(saved)}, is {json.dumps(current)}'
