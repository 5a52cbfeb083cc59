"""Real processes: each holds its rows of every global batch, and a run goes on with another number of them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ccl_jax.data.examples import write_examples
from ccl_jax.data.plan import make_plan
from tests.data.test_loader import FIELDS, SETTINGS, expected_batch, some_examples

ROOT = Path(__file__).parents[2]
DEVICES = 4
PROCESS = """
import sys
import jax
port, index, processes, workers, start, end = map(int, sys.argv[1:7])
store_path, out = sys.argv[7:]
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 4 // processes)
jax.distributed.initialize(f'localhost:{port}', processes, index)
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ccl_jax.data.examples import ExampleStore
from ccl_jax.data.loader import make_loader
from ccl_jax.data.plan import make_plan
from ccl_jax.errors import UserError
from tests.data.test_loader import SETTINGS
store = ExampleStore.open(store_path)
read = []
inner = ExampleStore.read
ExampleStore.read = lambda self, indices: read.append(len(indices)) or inner(self, indices)
plan = make_plan(store.lengths, store.task_ids, store.target_starts, SETTINGS)
# The first device of every process, then the second ones: the rows of a process are not in one piece.
devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
mesh = jax.sharding.Mesh(
    np.array(devices).reshape(processes, -1).T.reshape(2, 2), ('replica', 'fsdp'), axis_types=(AxisType.Auto,) * 2
)
sharding = NamedSharding(mesh, PartitionSpec(('replica', 'fsdp')))
arrays = {}
for step, batch in make_loader(store, plan, sharding, start_step=start, end_step=end, workers=workers, threads=1):
    for name, array in batch.items():
        for shard in array.addressable_shards:
            arrays[f'{step}/{name}/{shard.index[0].start or 0}'] = np.asarray(shard.data)
np.savez(out, hash=plan.hash, read=sum(read), **arrays)
three = jax.sharding.Mesh(np.array(devices[:3]), 'fsdp', axis_types=(AxisType.Auto,))
try:
    make_loader(store, plan, NamedSharding(three, PartitionSpec('fsdp')))
except UserError as error:
    assert 'row_multiple' in str(error)
else:
    raise AssertionError('4 rows on 3 devices')
"""


def run(processes, workers, start, end, store, folder):
    """Returns what each process saved."""
    port = str(20_000 + np.random.default_rng().integers(20_000))
    started = [
        subprocess.Popen(
            [sys.executable, '-c', PROCESS, port]
            + [str(x) for x in (i, processes, workers, start, end, store.directory, folder / f'{processes}-{i}.npz')],
            env={'PYTHONPATH': str(ROOT), 'PATH': '/usr/bin:/bin'},
            stderr=subprocess.PIPE,
        )
        for i in range(processes)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors.decode()[-2000:]
    finally:
        for process in started:
            process.kill()
    return [dict(np.load(folder / f'{processes}-{i}.npz')) for i in range(processes)]


@pytest.mark.slow
def test_two_processes_with_workers_begin_and_four_without_go_on(tmp_path):
    store = write_examples(some_examples(), tmp_path / 'store', {})
    plan = make_plan(store.lengths, store.task_ids, store.target_starts, SETTINGS)
    middle = plan.steps // 2
    first = run(2, 2, 0, middle, store, tmp_path)
    second = run(4, 0, middle, plan.steps, store, tmp_path)
    expected = [expected_batch(plan, step) for step in range(plan.steps)]
    covered = set()
    for share in first + second:
        assert share.pop('hash') == plan.hash
        for key in set(share) - {'read'}:
            step, name, begin = key.split('/')
            rows = plan.shape(int(step))[0] // DEVICES
            np.testing.assert_array_equal(
                share[key], expected[int(step)][name][int(begin) :][:rows], err_msg=key, strict=True
            )
            assert key not in covered
            covered.add(key)
    assert len(covered) == plan.steps * len(FIELDS) * DEVICES
    # Each process read its own rows and no others; what workers read is not seen here.
    examples = sum(len(row) for step in range(middle, plan.steps) for row in plan.rows(step))
    assert [sum(int(share['read']) for share in shares) for shares in (first, second)] == [0, examples]
