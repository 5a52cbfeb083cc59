"""SIGTERM: saved at the next boundary, resumed with the same losses, agreed on by several processes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import SHAPES, fit_tiny, losses

from ccl_jax.errors import Interrupted
from ccl_jax.training.interrupt import Interrupt

ROOT = Path(__file__).parents[2]

# Two processes of two devices; only process 1 gets the signal, at a step of its own choice.
TWO_PROCESSES = """
import os, signal, sys
import jax
sys.path.insert(0, sys.argv[1])
address, process, workdir = sys.argv[2], int(sys.argv[3]), sys.argv[4]
jax.distributed.initialize(address, num_processes=2, process_id=process)
from tiny import SHAPES, fit_tiny
from ccl_jax.errors import Interrupted
from ccl_jax.training.mesh import make_mesh

def change(step, batch):
    if step == 5 and process == 1 and len(sys.argv) > 5:
        os.kill(os.getpid(), signal.SIGTERM)
    return batch

try:
    state = fit_tiny(workdir, mesh=make_mesh(), steps=20, shapes=SHAPES[:1], checkpoint_every=0, change=change)
    print('finished', int(state.step))
except Interrupted as interrupted:
    print(interrupted)
"""


def terminate_at(*steps):
    def change(step, batch):
        for _ in range(steps.count(step)):
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    return change


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('uninterrupted')
    fit_tiny(workdir)
    return losses(workdir)


def test_sigterm_saves_at_the_next_boundary_and_the_same_call_goes_on(uninterrupted, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    # Twice, as where a launcher forwards what the cluster has sent to everybody.
    with pytest.raises(Interrupted, match='saved after step 7 of 10'):
        fit_tiny(tmp_path, change=terminate_at(6, 6))
    assert signal.getsignal(signal.SIGTERM) is before
    assert losses(tmp_path) == uninterrupted[:7]
    assert (tmp_path / 'checkpoints' / '7' / 'manifest.json').exists()
    assert int(fit_tiny(tmp_path).step) == 10
    assert losses(tmp_path) == uninterrupted


def test_sigterm_in_the_last_step(uninterrupted, tmp_path):
    """The run is whole, but what was to come after it is not for this process."""
    with pytest.raises(Interrupted, match='saved after step 10 of 10'):
        fit_tiny(tmp_path, change=terminate_at(9))
    assert losses(tmp_path) == uninterrupted
    assert int(fit_tiny(tmp_path).step) == 10


def test_sigterm_after_the_last_boundary_is_passed_on():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append('passed on'))
    try:
        with Interrupt() as interrupt:
            assert not interrupt.agreed()
            signal.raise_signal(signal.SIGTERM)
            assert not seen
        assert seen == ['passed on']
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGTERM)
            assert interrupt.agreed()
        assert seen == ['passed on']
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_leaves_the_handler_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def run():
        with Interrupt() as interrupt:
            seen.append((signal.getsignal(signal.SIGTERM), interrupt.agreed()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def run_two(workdir, *more):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    environment = {
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=2',
        'PYTHONPATH': str(ROOT),
    }
    command = [sys.executable, '-c', TWO_PROCESSES, str(ROOT / 'tests' / 'training'), address]
    processes = [
        subprocess.Popen([*command, str(rank), str(workdir), *more], env=environment, stdout=-1, stderr=-1, text=True)
        for rank in range(2)
    ]
    try:
        deadline = time.monotonic() + 240
        results = [process.communicate(timeout=max(1, deadline - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, results, strict=True):
        assert process.returncode == 0, errors
    # Gloo prints before.
    return [out.strip().splitlines()[-1] for out, _ in results]


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step(tmp_path):
    said = run_two(tmp_path / 'two', 'terminate')
    assert said[0] == said[1]
    assert 'saved after step' in said[0]
    stopped = int(said[0].split('step ')[1].split()[0])
    assert 5 < stopped < 12
    assert [path.name for path in (tmp_path / 'two' / 'checkpoints').iterdir()] == [str(stopped)]
    assert run_two(tmp_path / 'two') == ['finished 20'] * 2
    fit_tiny(tmp_path / 'one', steps=20, shapes=SHAPES[:1])
    np.testing.assert_allclose(losses(tmp_path / 'two'), losses(tmp_path / 'one'), rtol=1e-5)
