"""Training adapters: what is trained, saved and restored, the keys of dropout, and what is not computed."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import SHAPES, fit_tiny, losses, random_batch, spawn, tiny_lora, tiny_params

from ccl_jax.errors import UserError
from ccl_jax.model.settings import LoraSettings
from ccl_jax.training.checkpoints import restore_parameters
from ccl_jax.training.mesh import batch_sharding, make_mesh, path_name
from ccl_jax.training.objective import task_sums
from ccl_jax.training.settings import OptimizerSettings
from ccl_jax.training.step import abstract_batch, init_state, make_train_step

MESH = make_mesh(devices=jax.devices()[:1])
LORA = {'rank': 2, 'alpha': 8.0, 'dropout': 0.2, 'targets': 'query|output|up|down'}
COEFFICIENTS = np.array([0.05, 0.02, 0.01], np.float32)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('lora')
    state = fit_tiny(workdir, lora=LORA)
    return workdir, jax.tree.map(np.asarray, state)


def start(lora, settings, **options):
    graphdef, adapters, frozen = tiny_lora(MESH, LoraSettings(**lora))
    state = init_state(adapters, settings, MESH)
    options = {'coefficients': COEFFICIENTS, 'total_steps': 10, 'tile_tokens': 1000, **options}
    return state, frozen, make_train_step(graphdef, state, frozen, settings, MESH, **options)


def sizes(tree):
    return {path_name(path): leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_adapters_alone_are_trained(uninterrupted):
    _, state = uninterrupted
    _, initial, _ = tiny_lora(MESH, LoraSettings(**LORA))
    assert sizes(state.params) == sizes(initial)
    assert len(sizes(initial)) == 2 * 4
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(state.params))
    # Two moments of each factor, the optimizer's count, and nothing else.
    count = sum(sizes(initial).values())
    assert sum(sizes(state.opt_state).values()) == 2 * count + 1


def test_the_checkpoint_holds_the_trained_adapters_and_no_more(uninterrupted):
    workdir, state = uninterrupted
    _, initial, _ = tiny_lora(MESH, LoraSettings(**LORA))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), initial)
    step, restored = restore_parameters(workdir / 'checkpoints', abstract, fingerprint={'plan': 'p1'})
    assert step == 10
    jax.tree.map(np.testing.assert_array_equal, restored, state.params)
    with pytest.raises(UserError, match=r'do not belong .* plan was "p1" and is "p2"'):
        restore_parameters(workdir / 'checkpoints', abstract, fingerprint={'plan': 'p2'})
    _, weights = tiny_params(MESH)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), weights)
    with pytest.raises(UserError, match='does not fit'):
        restore_parameters(workdir / 'checkpoints', abstract)


@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_adapters_learn_and_frozen_weights_stay_as_they_are(name):
    settings = OptimizerSettings(name=name, learning_rate=0.02, weight_decay=0.1, schedule='constant')
    state, frozen, train_step = start({'rank': 2, 'alpha': 8.0, 'targets': 'query|down'}, settings)
    before = jax.tree.map(np.asarray, frozen)
    batch = jax.device_put(random_batch(0, 4, 16), batch_sharding(MESH))
    losses = []
    for _ in range(80):
        state, metrics = train_step(state, frozen, batch)
        losses.append(float(metrics['loss']))
    assert losses[-1] < 0.7 * losses[0]
    # Donated arrays could not be read any more.
    jax.tree.map(np.testing.assert_array_equal, frozen, before)


def test_a_run_that_failed_goes_on_with_the_same_losses_bit_for_bit(uninterrupted, tmp_path):
    def fail(step, batch):
        if step == 7:
            raise RuntimeError('no more data')
        return batch

    with pytest.raises(RuntimeError):
        fit_tiny(tmp_path, lora=LORA, change=fail)
    state = fit_tiny(tmp_path, lora=LORA)
    assert losses(tmp_path) == losses(uninterrupted[0])
    jax.tree.map(np.testing.assert_array_equal, state.params, uninterrupted[1].params)


@pytest.mark.slow
@pytest.mark.parametrize('accumulation', [1, 2])
def test_dropout_has_a_key_for_every_step_and_micro_batch(accumulation):
    settings = OptimizerSettings(learning_rate=0.05, schedule='constant')
    lora = {'rank': 2, 'alpha': 50.0, 'dropout': 0.5, 'targets': 'value|down'}
    state, frozen, train_step = start(lora, settings, accumulation=accumulation, dropout_seed=11)
    graphdef, _, _ = tiny_lora(MESH, LoraSettings(**lora))
    batch = random_batch(0, 4, 16)

    def loss(params, step, number):
        decoder = nnx.merge(graphdef, params, frozen)
        rows = {name: array[number::accumulation] for name, array in batch.items()}
        key = jax.random.fold_in(jax.random.key(11), step)
        key = key if accumulation == 1 else jax.random.fold_in(key, number)
        hidden = decoder(rows['tokens'], rows['positions'], rows['segment_ids'], dropout_key=key)
        parts = (rows['tokens'], rows['loss_weights'], rows['task_ids'])
        sums, _ = task_sums(hidden, decoder.output_embedding(), *parts, mesh=MESH, tile_tokens=1000)
        return jnp.sum(COEFFICIENTS * sums)

    loss = jax.jit(loss, static_argnums=2)
    for step in range(3):
        params = jax.tree.map(np.asarray, state.params)
        expected = sum(float(loss(params, step, number)) for number in range(accumulation))
        other = sum(float(loss(params, step + 1, number)) for number in range(accumulation))
        state, metrics = train_step(state, frozen, jax.device_put(batch, batch_sharding(MESH)))
        np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)
        if step:  # Before the first step B is 0.
            assert abs(other / expected - 1) > 1e-4


def test_no_gradient_of_a_frozen_weight_is_computed():
    """By XLA's count: forward, and backward to the activations alone, instead of backward to the weights too."""
    settings = OptimizerSettings()
    lora = {'rank': 1, 'targets': 'query'}

    def flops(graphdef, params, frozen):
        state = init_state(params, settings, MESH)
        step = make_train_step(
            graphdef, state, frozen, settings, MESH, coefficients=COEFFICIENTS, total_steps=10, tile_tokens=10_000
        )
        return step.lower(state, frozen, abstract_batch(16, 64, MESH)).compile().cost_analysis()['flops']

    graphdef, params = tiny_params(MESH)
    whole, adapters = flops(graphdef, params, {}), flops(*tiny_lora(MESH, LoraSettings(**lora)))
    tokens = 16 * 64
    in_layers = sum(size for name, size in sizes(params).items() if 'layers' in name and 'norm' not in name)
    # One product of 2 FLOPs a multiply-add per weight and token is gone; of its own an adapter has little.
    assert whole - adapters > 0.8 * 2 * tokens * in_layers


@pytest.mark.slow
def test_the_mesh_changes_nothing(tmp_path):
    """Dropout included: on 1 and on 8 devices, and moved to 8 with the checkpoint of 1."""
    options = {'steps': 20, 'shapes': SHAPES[:1], 'checkpoint_every': 10, 'keep': 3, 'lora': LORA}
    fit_tiny(tmp_path / 'one', **options)
    shutil.copytree(tmp_path / 'one', tmp_path / 'moved')
    shutil.rmtree(tmp_path / 'moved' / 'checkpoints' / '20')
    process = spawn(
        [
            [str(tmp_path / 'eight'), {'fsdp': 4, 'tensor': 2}, options],
            [str(tmp_path / 'moved'), {'replica': 2, 'fsdp': 2, 'tensor': 2}, options],
        ],
        devices=8,
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    for name in ('eight', 'moved'):
        np.testing.assert_allclose(losses(tmp_path / name), losses(tmp_path / 'one'), rtol=1e-5)
