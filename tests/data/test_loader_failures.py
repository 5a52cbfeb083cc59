"""What can go wrong while batches are read: each a clear error, none a hang or other batches."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from ccl_jax.data.examples import TokenizedExample, write_examples
from ccl_jax.data.loader import make_loader
from ccl_jax.data.plan import PlanSettings, make_plan
from ccl_jax.errors import UserError

ROOT = Path(__file__).parents[2]
WORKERS = [0, pytest.param(1, marks=pytest.mark.slow)]
# Parts of a script of its own: what it needs, and how it reads.
IMPORTS = """
import multiprocessing, os, signal, sys
import jax
from jax.sharding import SingleDeviceSharding
from ccl_jax.data.examples import ExampleStore
from ccl_jax.data.loader import make_loader
from ccl_jax.data.plan import PlanSettings, make_plan
"""
READS = """
store = ExampleStore.open(sys.argv[1])
plan = make_plan(store.lengths, store.task_ids, store.target_starts, PlanSettings((64,), 256, epochs=1))
batches = make_loader(store, plan, SingleDeviceSharding(jax.devices()[0]), workers=1, threads=1)
next(batches)
"""


def some_examples(seed=0, count=2_000):
    rng = np.random.default_rng(seed)
    lengths = np.random.default_rng(0).integers(2, 60, count)
    for i, length in enumerate(lengths.tolist()):
        yield TokenizedExample(f'id:{i}', 'span', rng.integers(0, 100_000, length, np.int32), length - 1)


@pytest.fixture
def store(tmp_path):
    return write_examples(some_examples(), tmp_path / 'store', {})


@pytest.fixture
def plan(store):
    return make_plan(store.lengths, store.task_ids, store.target_starts, PlanSettings((64,), 256, epochs=1))


def batches_of(store, plan, **settings):
    return make_loader(store, plan, SingleDeviceSharding(jax.devices()[0]), **{'threads': 1, 'prefetch': 1, **settings})


def records_of(store) -> Path:
    (path,) = store.directory.glob('*array_record*')
    return path


@pytest.mark.parametrize('workers', WORKERS)
@pytest.mark.parametrize('damage', ['zeros', 'truncated', 'vanished'])
def test_records_damaged_before_the_first_batch(store, plan, damage, workers):
    records = records_of(store)
    if damage == 'zeros':
        records.write_bytes(b'\0' * records.stat().st_size)
    elif damage == 'truncated':
        os.truncate(records, records.stat().st_size // 2)
    else:
        records.unlink()
    with pytest.raises(UserError, match='damaged'):
        list(batches_of(store, plan, workers=workers))


def test_records_truncated_while_they_are_read(store, plan):
    batches = batches_of(store, plan, threads=0)
    next(batches)
    os.truncate(records_of(store), 1_000)
    with pytest.raises(UserError, match='damaged'):
        list(batches)


def test_a_flipped_byte_never_gives_other_batches(store, plan):
    expected = [np.asarray(batch['tokens']) for _, batch in batches_of(store, plan)]
    records = records_of(store)
    content = records.read_bytes()
    refused = 0
    for place in np.random.default_rng(0).integers(0, len(content), 12).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        records.write_bytes(damaged)
        try:
            # Pickled and back, as a worker gets it: opened anew.
            read = [np.asarray(b['tokens']) for _, b in batches_of(type(store).open(store.directory), plan)]
        except UserError:
            refused += 1
        else:
            np.testing.assert_array_equal(np.concatenate(read), np.concatenate(expected))
    assert refused


@pytest.mark.slow
def test_a_store_replaced_under_a_run_is_noticed_by_its_workers(store, plan):
    replacing = write_examples(some_examples(seed=1), store.directory, {})
    assert (replacing.lengths == store.lengths).all()
    with pytest.raises(UserError, match='replaced'):
        next(batches_of(store, plan, workers=1))


@pytest.mark.slow
@pytest.mark.parametrize('batches_before', [2, 30])
def test_a_killed_worker_ends_the_run(store, plan, batches_before):
    batches = batches_of(store, plan, workers=2)
    others = set(multiprocessing.active_children())
    for _ in range(batches_before):
        next(batches)
    started = sorted(set(multiprocessing.active_children()) - others, key=lambda process: process.pid)
    assert len(started) == 2
    os.kill(started[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r'killed.*data\.workers.*start the run again'):
        list(batches)
    assert not any(process.is_alive() for process in started)


def _is_running(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc').exists(), reason='reads the state of processes from /proc')
def test_workers_end_with_a_killed_run(store):
    script = IMPORTS + READS + 'print(*[p.pid for p in multiprocessing.active_children()], flush=True)\n'
    script += 'os.kill(os.getpid(), signal.SIGKILL)\n'
    done = python('-c', script, str(store.directory))
    assert done.returncode == -signal.SIGKILL, done.stderr
    (pid,) = map(int, done.stdout.split())
    deadline = time.monotonic() + 60
    while _is_running(pid):
        assert time.monotonic() < deadline, 'the worker outlives the run'
        time.sleep(0.1)


@pytest.mark.slow
def test_a_script_that_workers_cannot_import_is_told_so(store, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(IMPORTS + READS)
    done = python(str(script), str(store.directory))
    assert done.returncode != 0
    assert 'if __name__ == "__main__"' in done.stderr


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
