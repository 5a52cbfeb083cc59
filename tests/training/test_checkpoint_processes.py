"""Two processes of four devices save, one process of eight goes on: on another mesh, with the same numbers."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from ccl_jax.training.checkpoints import restore_parameters

TESTS = Path(__file__).parent
STEPS = {'steps': 12, 'checkpoint_every': 4, 'keep': 3, 'shapes': tiny.SHAPES[:1]}

COMMON = """
import json, sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec

folder, options = sys.argv[1], json.loads(sys.argv[2])
jax.config.update('jax_platforms', 'cpu')

def arrays(mesh):
    specs = {'matrix': ('fsdp', 'tensor'), 'rows': ('fsdp', None), 'whole': ()}
    shapes = {'matrix': (16, 8), 'rows': (24, 3), 'whole': (5,)}
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=shapes[name]).astype(np.float32) for name in sorted(shapes)}
    return values, {name: NamedSharding(mesh, PartitionSpec(*specs[name])) for name in values}
"""

# One of two processes: fsdp 4 x tensor 2.
TWO = (
    COMMON
    + """
jax.config.update('jax_num_cpu_devices', 4)
from ccl_jax.training.cluster import start_cluster
start_cluster()
import time
from tiny import fit_tiny
from ccl_jax.training.checkpoints import Checkpoints
from ccl_jax.training.mesh import make_mesh

mesh = make_mesh(fsdp=4, tensor=2)
values, shardings = arrays(mesh)
params = {
    name: jax.make_array_from_callback(value.shape, shardings[name], lambda index, value=value: value[index])
    for name, value in values.items()
}
with Checkpoints(
    f'{folder}/arrays', keep=2, fingerprint={'of': 'two'}, every_seconds=0.5, keep_best=1, best_metric='loss'
) as saves:
    assert saves.newest() is None
    for step in range(1, 6):
        saves.save(step, {'params': params}, {'loss': abs(step - 2)})
    # Process 1 is faster by its own clock, and hears process 0's answers.
    due = []
    for step in range(6, 200):
        time.sleep(0.01 / (1 + jax.process_index()))
        if saves.due(step):
            due.append(step)
            saves.save(step, {'params': params}, {'loss': 9})
print('due', due)
fit_tiny(f'{folder}/run', mesh=mesh, **options)
"""
)

ONE = (
    COMMON
    + """
jax.config.update('jax_num_cpu_devices', 8)
from tiny import fit_tiny
from ccl_jax.training.checkpoints import Checkpoints
from ccl_jax.training.mesh import make_mesh

mesh = make_mesh(fsdp=8)
values, shardings = arrays(mesh)
abstract = {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=shardings[name]) for name, value in values.items()
}
with Checkpoints(f'{folder}/arrays', keep=2, fingerprint={'of': 'two'}) as saves:
    loaded = saves.load(saves.newest(), {'params': abstract})['params']
for name, value in values.items():
    assert loaded[name].sharding == shardings[name]
    np.testing.assert_array_equal(loaded[name], value)
fit_tiny(f'{folder}/run', mesh=mesh, **options)
"""
)


def start(script, folder, environment):
    environment = {**os.environ, 'PYTHONPATH': f'{TESTS.parents[1]}:{TESTS}', **environment}
    arguments = [sys.executable, '-c', script, str(folder), json.dumps(STEPS)]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outputs(processes):
    try:
        results = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, results, strict=True):
        assert process.returncode == 0, errors
    return [(output.strip().splitlines(), errors) for output, errors in results]


def free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


@pytest.mark.slow
def test_from_two_processes_to_one_and_to_another_mesh(tmp_path):
    address = {'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{free_port()}', 'JAX_NUM_PROCESSES': '2'}
    two = [start(TWO, tmp_path, {**address, 'JAX_PROCESS_ID': str(index)}) for index in range(2)]
    first, second = ([line for line in output if line.startswith('due')] for output, _ in outputs(two))
    assert first == second
    due = json.loads(first[0].removeprefix('due'))
    assert due
    # Two of the latest and the best, which was the second.
    assert {path.name for path in (tmp_path / 'arrays').iterdir()} >= {'2', str(due[-1])}
    assert len(list((tmp_path / 'arrays').iterdir())) == 3

    # The run's two newest checkpoints are lost.
    for step in ('8', '12'):
        shutil.rmtree(tmp_path / 'run' / 'checkpoints' / step)
    ((_, errors),) = outputs([start(ONE, tmp_path, {})])
    assert 'resuming from the checkpoint at step 4 of 12' in errors
    tiny.fit_tiny(tmp_path / 'uninterrupted', **STEPS)
    resumed = tiny.losses(tmp_path / 'run')
    np.testing.assert_allclose(resumed, tiny.losses(tmp_path / 'uninterrupted'), rtol=1e-5)

    # What one process of eight devices saved, on one device here.
    _, params = tiny.tiny_params(tiny.make_mesh())
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    ends = [restore_parameters(tmp_path / name / 'checkpoints', abstract) for name in ('run', 'uninterrupted')]
    assert [step for step, _ in ends] == [12, 12]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *(tree for _, tree in ends))
