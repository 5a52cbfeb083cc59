"""The same run on any mesh, accumulation and number of processes; gradients of an epoch against brute force.

As a script it trains, in a process with other devices than the tests have; see the end.
"""

import dataclasses
import functools
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import ARCHITECTURE, VOCABULARY

from ccl_jax.data.examples import ExampleStore, TokenizedExample, write_examples
from ccl_jax.data.loader import make_loader
from ccl_jax.data.plan import PlanSettings, make_plan
from ccl_jax.model.decoder import Decoder
from ccl_jax.tasks import TASKS
from ccl_jax.training.mesh import batch_sharding, make_mesh, tree_shardings
from ccl_jax.training.objective import task_coefficients
from ccl_jax.training.optimizer import make_optimizer
from ccl_jax.training.settings import OptimizerSettings
from ccl_jax.training.step import init_state, make_gradients, make_train_step

TASK_WEIGHTS = {'document': 1.0, 'span': 0.5, 'lm': 2.0}
# 32 rows at least, so that 8 devices times 4 micro-batches divide them.
PLAN = PlanSettings((16, 40), 1024, row_multiple=32, normalization='example', steps=20)
MESHES = {'replica': {'replica': 8, 'fsdp': 1}, 'fsdp': {'replica': 2, 'fsdp': 4}, 'tensor': {'fsdp': 4, 'tensor': 2}}


def mixed_examples(count):
    """Many short spans, some documents and texts of all lengths."""
    rng = np.random.default_rng(0)
    for number in range(count):
        task = rng.choice(TASKS, p=[0.2, 0.6, 0.2])
        length = int(rng.integers(2, 9) if task == 'span' else rng.integers(10, 38))
        start = 1 if task == 'lm' else int(rng.integers(1, length))
        yield TokenizedExample(f'id:{number}', task, rng.integers(1, VOCABULARY, length).astype(np.int32), start)


def decoder_on(mesh, remat='none'):
    """Returns (graphdef, params on the mesh) of the tiny decoder."""
    decoder = Decoder(ARCHITECTURE, rngs=nnx.Rngs(0), mesh=mesh, remat=remat)
    graphdef, params = nnx.split(decoder, nnx.Param)
    params = nnx.to_pure_dict(params)
    return graphdef, jax.device_put(params, tree_shardings(mesh, params))


def plan_of(store, settings=PLAN):
    return make_plan(store.lengths, store.task_ids, store.target_starts, settings)


def train(store, mesh, accumulation, remat):
    """Returns the losses of 20 steps of packed, mixed batches."""
    settings = OptimizerSettings(learning_rate=0.01, warmup_steps=2, weight_decay=0.1, clip_norm=0.5)
    # Of one length, because nearly all time goes into compiling.
    plan = plan_of(store, dataclasses.replace(PLAN, buckets=(40,)))
    graphdef, params = decoder_on(mesh, remat)
    state = init_state(params, settings, mesh)
    step = make_train_step(
        graphdef,
        state,
        {},
        settings,
        mesh,
        coefficients=task_coefficients(TASK_WEIGHTS, plan.task_constants),
        total_steps=plan.steps,
        tile_tokens=50,
        accumulation=accumulation,
    )
    losses = []
    for _, batch in make_loader(store, plan, batch_sharding(mesh)):
        state, metrics = step(state, {}, batch)
        losses.append(float(metrics['loss']))
    return losses


def epoch_gradient(store, mesh, accumulation):
    """Returns (number of steps, gradients averaged over the steps of one epoch)."""
    plan = plan_of(store, dataclasses.replace(PLAN, steps=None, epochs=1))
    assert len(plan.shapes) == 2
    graphdef, params = decoder_on(mesh, remat='full')
    gradients_of = make_gradients(
        graphdef,
        mesh,
        jax.tree.map(lambda x: x.sharding, params),
        coefficients=task_coefficients(TASK_WEIGHTS, plan.task_constants),
        tile_tokens=50,
        accumulation=accumulation,
    )
    gradients_of = jax.jit(functools.partial(gradients_of, key=None))
    total = None
    for _, batch in make_loader(store, plan, batch_sharding(mesh)):
        gradients = jax.tree.map(lambda x: np.asarray(x, np.float64), gradients_of(params, {}, batch)[2])
        total = gradients if total is None else jax.tree.map(np.add, total, gradients)
    return plan.steps, jax.tree.map(lambda x: x / plan.steps, total)


def full_gradient(examples):
    """The gradient of the objective over all data: every example alone in its row, a plain softmax, no plan."""
    graphdef, params = decoder_on(make_mesh(devices=jax.devices()[:1]))
    tokens = np.zeros((len(examples), 40), np.int32)
    weights = np.zeros(tokens.shape, np.float32)
    for row, example in enumerate(examples):
        length, start = len(example.tokens), example.target_start
        tokens[row, :length] = example.tokens
        weights[row, start:length] = 1 / (length - start)
    for task in TASKS:
        rows = [row for row, example in enumerate(examples) if example.task == task]
        weights[rows] *= TASK_WEIGHTS[task] / len(rows)

    def loss(params, tokens, weights):
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        decoder = nnx.merge(graphdef, params)
        logits = decoder.logits(decoder(tokens, places, jnp.ones(tokens.shape, jnp.int32)))
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], axis=2)[:, :, 0]
        return -jnp.sum(weights[:, 1:] * chosen)

    return jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(params, tokens, weights))


def assert_same_gradients(got, expected):
    for name, difference, size in jax.tree.leaves(
        jax.tree_util.tree_map_with_path(
            lambda path, a, b: (jax.tree_util.keystr(path), np.abs(a - b).max(), np.abs(b).max()), got, expected
        ),
        is_leaf=lambda x: isinstance(x, tuple),
    ):
        assert difference <= 1e-5 * size, name


@pytest.mark.slow
def test_gradients_averaged_over_an_epoch_are_those_of_all_data(tmp_path):
    examples = list(mixed_examples(400))
    store = write_examples(iter(examples), tmp_path / 'store', {})
    steps, gradient = epoch_gradient(store, make_mesh(devices=jax.devices()[:1]), 4)
    assert steps >= 3
    assert_same_gradients(gradient, full_gradient(examples))


@pytest.mark.slow
def test_meshes_accumulation_and_processes_change_nothing(tmp_path):
    store = write_examples(mixed_examples(1500), tmp_path / 'store', {})
    expected = train(store, make_mesh(devices=jax.devices()[:1]), 1, 'none')
    assert np.mean(expected[-5:]) < 0.9 * np.mean(expected[:5])
    runs = [(sizes, accumulation) for sizes in MESHES.values() for accumulation in (1, 4)]
    found = _run(tmp_path, [('train', *run) for run in runs], processes=1, devices=8)
    found += _run(tmp_path, [('train', MESHES['tensor'], 4)], processes=2, devices=4)
    assert len(found) == 7
    for losses in found:
        assert len(losses) == 20
        np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.slow
def test_gradients_averaged_over_an_epoch_on_eight_devices(tmp_path):
    examples = list(mixed_examples(400))
    write_examples(iter(examples), tmp_path / 'store', {})
    _run(tmp_path, [('gradient', {'replica': 2, 'fsdp': 2, 'tensor': 2}, 2)], processes=1, devices=8)
    with np.load(tmp_path / 'gradient.npz') as arrays:
        gradients = list(arrays.values())
    expected = full_gradient(examples)
    assert_same_gradients(jax.tree.unflatten(jax.tree.structure(expected), gradients), expected)


@pytest.mark.slow
def test_muon_sends_matrices_to_whole_layers_and_back_and_steps_the_same(tmp_path):
    [(difference, collectives)] = _run(tmp_path, [('muon', {'fsdp': 4, 'tensor': 2}, 1)], processes=1, devices=8)
    assert difference < 1e-4
    assert set(collectives) == {'all-to-all'}


def muon_on_a_mesh(mesh):
    """Returns the largest relative difference from one device's updates, and the collectives of hidden matrices."""
    rng = np.random.default_rng(0)
    shapes = {'query': (3, 16, 32), 'down': (3, 32, 16)}
    params = {'layers': {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}}
    shardings = tree_shardings(mesh, params)
    updates = []
    for optimizer in (make_optimizer(OptimizerSettings(name='muon'), m) for m in (None, mesh)):
        state = optimizer.init(params)
        placed = jax.device_put((params, state), (shardings, tree_shardings(mesh, state)))
        update = jax.jit(lambda p, s, o=optimizer: o.update(p, s, p)[0], out_shardings=shardings)
        updates.append(jax.tree.map(np.asarray, update(*placed)))
    text = update.lower(*placed).compile().as_text()
    found = re.findall(r'\b(all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)\(', text)
    alone, divided = map(jax.tree.leaves, updates)
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(alone, divided, strict=True)), found


def _run(folder, jobs, *, processes, devices):
    """Runs jobs in new processes with so many devices each; returns what process 0 found."""
    flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={devices}'
    repository = Path(__file__).parents[2]
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags, 'PYTHONPATH': str(repository)}
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    command = [sys.executable, __file__, str(folder), json.dumps(jobs), address, str(processes)]
    started = [subprocess.Popen([*command, str(i)], env=environment, stderr=subprocess.PIPE) for i in range(processes)]
    try:
        for process in started:
            _, errors = process.communicate(timeout=500)
            assert process.returncode == 0, errors.decode()
    finally:
        for process in started:
            process.kill()
            process.wait()
    return json.loads((folder / 'found.json').read_text())


def _main(folder, jobs, address, processes, index):
    if int(processes) > 1:
        jax.distributed.initialize(address, int(processes), int(index))
    store = ExampleStore.open(Path(folder) / 'store') if (Path(folder) / 'store').exists() else None
    found = []
    for job, sizes, accumulation in json.loads(jobs):
        mesh = make_mesh(**sizes)
        assert mesh.size == 8
        if job == 'train':
            found.append(train(store, mesh, accumulation, remat='full'))
        elif job == 'gradient':
            _, gradient = epoch_gradient(store, mesh, accumulation)
            np.savez(Path(folder) / 'gradient.npz', *jax.tree.leaves(gradient))
        else:
            found.append(muon_on_a_mesh(mesh))
    if jax.process_index() == 0:
        (Path(folder) / 'found.json').write_text(json.dumps(found))


if __name__ == '__main__':
    _main(*sys.argv[1:])
