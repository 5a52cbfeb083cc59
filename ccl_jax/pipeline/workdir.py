"""The folder of a run: its config, and who writes."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from ccl_jax.config import Config, check_config
from ccl_jax.errors import UserError
from ccl_jax.pipeline.files import write_text

CONFIG_FILE = 'config.json'

# Sections and keys that may differ between calls on one workdir: where a run is done,
# how it is read and shown, how often it is saved, and what is evaluated.
_FREE_SECTIONS = ('mesh', 'eval')
_FREE_KEYS = ('threads', 'workers', 'processes', 'prefetch', 'log_every', 'checkpoint_every', 'keep')

# What tells that a workdir holds more than prepared data.
_TRAINED = ('base/init', 'checkpoints', 'metrics.jsonl')


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
        if path.exists():
            differences = list(_differences(_read(path), config.tree))
            if differences and not any((workdir / name).exists() for name in _TRAINED):
                shutil.rmtree(workdir / 'data', ignore_errors=True)
            elif differences:
                shown = '; '.join(differences[:5]) + ('; ...' if len(differences) > 5 else '')
                raise UserError(
                    f'{workdir} holds a run of another config ({shown}); use its config or another --workdir'
                )
        write_text(path, json.dumps(config.tree, indent=2) + '\n')

    on_process_zero(claim, path)


def workdir_config(workdir: Path) -> Config:
    """Returns the config of the run in `workdir`. Raises UserError if there is none."""
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise UserError(f'{workdir} holds no run ({CONFIG_FILE} is missing); give the --workdir of a finished training')
    return check_config(_read(path))


def on_process_zero(write: Callable[[], Any], result: Path) -> None:
    """Runs `write` on process 0 while the others wait; then `result` must be there for all.

    Raises:
        UserError: another process does not see `result`: the workdir is not shared.
    """
    if jax.process_index() == 0:
        write()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f'written {result}')
        if not result.exists():
            raise UserError(
                f'process {jax.process_index()} does not see {result}; '
                'choose a --workdir on a file system that all hosts share'
            )


def say(message: str) -> None:
    """Prints a progress line on process 0."""
    if jax.process_index() == 0:
        print(message, file=sys.stderr, flush=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        raise UserError(f'{path} cannot be read as JSON; restore it or use another --workdir') from None


def _differences(saved: Any, current: Any, prefix: str = '') -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(current, dict):
        for name in sorted(saved.keys() | current.keys()):
            path = f'{prefix}{name}'
            if path in _FREE_SECTIONS or name in _FREE_KEYS:
                continue
            yield from _differences(saved.get(name), current.get(name), f'{path}.')
    elif saved != current:
        yield f'{prefix.rstrip(".")} was {json.dumps(saved)}, is {json.dumps(current)}'
