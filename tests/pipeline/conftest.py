"""A run of the demo in miniature, shared by the tests of the verbs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def ccl_jax(*arguments: str, stdin: str = '', **extra: str) -> subprocess.CompletedProcess:
    """Runs the command line in a process of its own, from the root of the repository."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(**extra),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope='session')
def miniature(tmp_path_factory) -> Path:
    """The workdir of a finished miniature run."""
    workdir = tmp_path_factory.mktemp('runs') / 'miniature'
    done = ccl_jax(*MINIATURE, f'--workdir={workdir}')
    assert done.returncode == 0, done.stderr
    (workdir / 'printed.txt').write_text(done.stdout)
    return workdir
