"""A run of the demo in miniature, shared by the tests of the verbs."""

import contextlib
import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from ccl_jax.cli import main

ROOT = Path(__file__).parent.parent.parent
STEPS = 12
MINIATURE = [
    'train',
    '--config=configs/demo.py:ci',
    '--config.sources.synthetic_notes.train=60',
    '--config.sources.synthetic_notes.test=8',
    '--config.base.texts=40',
    '--config.base.data.steps=4',
    f'--config.data.steps={STEPS}',
    '--config.train.checkpoint_every=4',
    '--config.eval.max_new_tokens=24',
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, '-c', 'import sys; from ccl_jax.cli import main; sys.exit(main())', *arguments]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), **extra}


@dataclasses.dataclass(frozen=True)
class Finished:
    returncode: int
    stdout: str
    stderr: str


def ccl_jax(*arguments: str, stdin: str = '') -> Finished:
    """Runs the command line in this process, which saves the start of another."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, 'argv', ['ccl-jax']),
        mock.patch.object(sys, 'stdin', io.TextIOWrapper(io.BytesIO(stdin.encode()))),
    ):
        code = main(arguments)
    return Finished(code, out.getvalue(), err.getvalue())


def ccl_jax_process(*arguments: str, **extra: str) -> subprocess.CompletedProcess:
    """Runs the command line in a process of its own, as a user does."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope='session')
def miniature(tmp_path_factory) -> Path:
    """The workdir of a finished miniature run."""
    workdir = tmp_path_factory.mktemp('runs') / 'miniature'
    done = ccl_jax_process(*MINIATURE, f'--workdir={workdir}')
    assert done.returncode == 0, done.stderr
    (workdir / 'printed.txt').write_text(done.stdout)
    return workdir
