"""One run at a time on a workdir, and what process 0 alone does."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from ccl_jax.errors import UserError
from ccl_jax.pipeline.workdir import only_run
from tests.pipeline.conftest import MINIATURE, ccl_jax, environment

HOLDS = """
import sys, time
from pathlib import Path
from ccl_jax.pipeline.workdir import only_run
with only_run(Path(sys.argv[1])):
    print('locked', flush=True)
    time.sleep(600)
"""

# Process 0 cannot do its part: each says a sentence, none waits.
FAILS = """
import sys
from pathlib import Path
import jax
from ccl_jax.errors import UserError
from ccl_jax.pipeline.workdir import on_process_zero
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))

def write():
    raise UserError('the disk is made of cheese')

try:
    on_process_zero(write, Path('/nowhere/file'))
except UserError as error:
    print(error)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that works in the workdir."""
    command = [sys.executable, '-c', HOLDS, str(tmp_path / 'w')]
    process = subprocess.Popen(command, env=environment(), stdout=-1, text=True)
    assert process.stdout.readline() == 'locked\n'
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_and_a_killed_one_leaves_no_lock(other, tmp_path):
    workdir = tmp_path / 'w'
    # The second says who is there, and leaves that as it is.
    for _ in range(2):
        with pytest.raises(UserError, match=f'another run works in .*process {other.pid} on '), only_run(workdir):
            pass
    done = ccl_jax(*MINIATURE, f'--workdir={workdir}')
    assert done.returncode == 2
    assert str(other.pid) in done.stderr
    assert sorted(path.name for path in workdir.iterdir()) == ['lock']
    other.send_signal(signal.SIGKILL)
    other.wait()
    with only_run(workdir):
        assert (workdir / 'lock').read_text().startswith(f'process {os.getpid()} on ')


def test_the_lock_ends_with_the_run(tmp_path):
    for _ in range(2):
        with only_run(tmp_path):
            pass


def test_two_runs_of_one_process(tmp_path):
    """As in a notebook, or a sweep gone wrong."""
    with only_run(tmp_path), pytest.raises(UserError, match='another run'), only_run(tmp_path):
        pass


@pytest.mark.slow
def test_what_process_zero_cannot_do_ends_the_others_too():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    processes = [
        subprocess.Popen([sys.executable, '-c', FAILS, address, str(rank)], env=environment(), stdout=-1, text=True)
        for rank in range(2)
    ]
    try:
        deadline = time.monotonic() + 120
        said = [process.communicate(timeout=max(1, deadline - time.monotonic()))[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert 'made of cheese' in said[0]
    assert 'process 0 could not make /nowhere/file' in said[1]
