"""Real processes on this machine: one that comes, one that never does, one that hangs."""

import os
import socket
import subprocess
import sys
import time

import pytest

from ccl_jax.errors import UserError
from ccl_jax.training.cluster import start_cluster

START = """
import sys
from ccl_jax.training.cluster import start_cluster
print(start_cluster(float(sys.argv[1])))
"""
# Joins the others and then does not take part in the first sum.
HANG = """
import os, sys, time
import jax
jax.distributed.initialize(os.environ['JAX_COORDINATOR_ADDRESS'], 2, int(os.environ['JAX_PROCESS_ID']))
jax.devices()
time.sleep(60)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def start(script: str, port: int, process: int, timeout: float) -> subprocess.Popen:
    environment = os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=2',
        'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
        'JAX_NUM_PROCESSES': '2',
        'JAX_PROCESS_ID': str(process),
    }
    command = [sys.executable, '-c', script, str(timeout)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_all_come_print_the_table_of_devices():
    port = free_port()
    both = [start(START, port, process, 50) for process in range(2)]
    for process in both:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        header, *rows = [line for line in output.splitlines() if not line.startswith('[Gloo]')]
        assert header.split() == ['process', 'host', 'devices']
        assert [row.split()[:4] for row in rows] == [
            [str(number), socket.gethostname()[:64], '2', 'x'] for number in range(2)
        ]


@pytest.mark.parametrize('process', [0, 1], ids=['another never comes', 'nobody is at the address'])
def test_who_stays_alone_ends_with_a_sentence(process):
    began = time.monotonic()
    alone = start(START, free_port(), process, 4)
    _, errors = alone.communicate(timeout=40)
    assert alone.returncode == 2
    assert 'did not all come within 4 s' in errors
    assert 'Traceback' not in errors
    assert time.monotonic() - began < 40


def test_the_environment_says_how_long_to_wait(monkeypatch):
    monkeypatch.setenv('CCL_JAX_JOIN_TIMEOUT', '3')
    alone = start(START.replace('float(sys.argv[1])', ''), free_port(), 0, 0)
    _, errors = alone.communicate(timeout=40)
    assert alone.returncode == 2
    assert 'did not all come within 3 s' in errors


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others_with_a_sentence():
    port = free_port()
    hangs = start(HANG, port, 1, 0)
    waits = start(START, port, 0, 10)
    try:
        _, errors = waits.communicate(timeout=50)
    finally:
        hangs.kill()
        hangs.communicate()
    assert waits.returncode == 2
    assert 'the first sum over all devices did not end within 10 s' in errors


def test_without_a_cluster_the_process_is_alone(monkeypatch):
    for name in ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, '-c', START, '20']
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, 'None\n')


@pytest.mark.parametrize(
    ('environment', 'says'),
    [
        ({'JAX_COORDINATOR_ADDRESS': 'somewhere'}, 'HOST:PORT'),
        ({'JAX_COORDINATOR_ADDRESS': '127.0.0.1:1', 'JAX_NUM_PROCESSES': 'two'}, 'JAX_NUM_PROCESSES is "two"'),
        ({'JAX_PROCESS_ID': '0'}, 'JAX_COORDINATOR_ADDRESS is not'),
        ({'CCL_JAX_JOIN_TIMEOUT': '1m'}, 'CCL_JAX_JOIN_TIMEOUT is "1m"'),
    ],
)
def test_a_wrong_environment_is_named(monkeypatch, environment, says):
    for name in ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        start_cluster()
