"""The train step: its objective, clipping, accumulation and the skipping of steps that are not finite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import ARCHITECTURE, random_batch, tiny_params

from ccl_jax.errors import UserError
from ccl_jax.model.decoder import Decoder
from ccl_jax.tasks import TASKS
from ccl_jax.training.mesh import batch_sharding, make_mesh
from ccl_jax.training.settings import OptimizerSettings
from ccl_jax.training.step import abstract_batch, abstract_state, init_state, make_train_step

MESH = make_mesh(devices=jax.devices()[:1])
COEFFICIENTS = np.array([0.05, 0.02, 0.01], np.float32)
SETTINGS = OptimizerSettings(learning_rate=0.01, schedule='constant', clip_norm=None)
CLIPPED = OptimizerSettings(learning_rate=0.1, warmup_steps=4, clip_norm=0.1)


def start(settings=SETTINGS, dtype=jnp.float32, **options):
    graphdef, params = tiny_params(MESH)
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    state = init_state(params, settings, MESH)
    options = {'coefficients': COEFFICIENTS, 'total_steps': 10, 'tile_tokens': 1000, **options}
    return state, make_train_step(graphdef, state, {}, settings, MESH, **options)


def put(batch):
    return jax.device_put(batch, batch_sharding(MESH))


def as_numpy(tree):
    return jax.tree.map(np.array, tree)


def brute_force(params, batch):
    """The loss from full logits of every example alone in a row; and its gradient."""
    graphdef, _ = tiny_params(MESH)
    examples = [
        (row, np.flatnonzero(segments == segment))
        for row, segments in enumerate(batch['segment_ids'])
        for segment in range(1, segments.max())
    ]
    shape = len(examples), batch['tokens'].shape[1]
    tokens, targets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    weights = np.zeros(shape, np.float32)
    for number, (row, here) in enumerate(examples):
        tokens[number, : len(here)] = batch['tokens'][row, here]
        targets[number, : len(here) - 1] = batch['tokens'][row, here[1:]]
        coefficient = COEFFICIENTS[batch['task_ids'][row, here[0]]]
        weights[number, : len(here) - 1] = batch['loss_weights'][row, here[:-1]] * coefficient

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        decoder = nnx.merge(graphdef, params)
        positions = jnp.broadcast_to(jnp.arange(shape[1]), shape)
        logits = decoder.logits(decoder(tokens, positions, jnp.ones(shape, jnp.int32)))
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, :, None], axis=2)[:, :, 0]
        return -jnp.sum(weights * chosen)

    return loss(params)


def test_loss_and_gradient_norm_equal_single_examples():
    batch = random_batch(3, 4, 16)
    assert batch['segment_ids'].max() > 2
    state, train_step = start()
    loss, gradients = brute_force(state.params, batch)
    norm = np.sqrt(sum(np.sum(np.square(np.asarray(g, np.float64))) for g in jax.tree.leaves(gradients)))
    _, metrics = train_step(state, {}, put(batch))
    np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics['grad_norm'], norm, rtol=1e-5)
    weights = [batch['loss_weights'][batch['task_ids'] == task].sum() for task in range(len(TASKS))]
    np.testing.assert_allclose(metrics['task_weights'], weights, rtol=1e-6)
    np.testing.assert_allclose(metrics['loss'], np.sum(COEFFICIENTS * metrics['task_sums']), rtol=1e-6)


def test_micro_batches_add_up():
    batch = random_batch(0, 4, 16)
    results = []
    for accumulation in (1, 2):
        state, train_step = start(accumulation=accumulation)
        results.append(as_numpy(train_step(state, {}, put(batch))[1]))
    whole, accumulated = results
    assert accumulated.keys() == whole.keys()
    for name in whole:
        np.testing.assert_allclose(accumulated[name], whole[name], rtol=1e-5)


def test_clipping_scales_the_gradient_to_the_norm():
    # Under AdamW a scaled gradient gives the same first step, so the first moment is looked at.
    batch = put(random_batch(0, 4, 16))
    moments = []
    for settings in (SETTINGS, CLIPPED):
        state, train_step = start(settings)
        state, metrics = train_step(state, {}, batch)
        moments.append(as_numpy(state.opt_state[0].mu))
        assert metrics['grad_norm'] > CLIPPED.clip_norm
    expected = jax.tree.map(lambda m: m * CLIPPED.clip_norm / metrics['grad_norm'], moments[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), moments[1], expected)


@pytest.mark.parametrize(('name', 'dtype'), [('adamw', jnp.float32), ('muon', jnp.float32), ('lion', jnp.bfloat16)])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counts(name, dtype):
    settings = dataclasses.replace(CLIPPED, name=name)
    state, train_step = start(settings, dtype)
    good = random_batch(0, 4, 16)
    bad = {**good, 'loss_weights': np.where(good['loss_weights'] > 0, np.float32(np.inf), 0)}
    state, _ = train_step(state, {}, put(good))
    before = as_numpy((state.params, state.opt_state))
    state, metrics = train_step(state, {}, put(bad))
    assert not metrics['finite']
    assert metrics['skipped'] == 1
    jax.tree.map(np.testing.assert_array_equal, as_numpy((state.params, state.opt_state)), before)
    state, metrics = train_step(state, {}, put(good))
    assert metrics['finite']
    assert (int(state.step), int(state.skipped)) == (3, 1)
    # The schedule follows the run's step, skipped ones included.
    np.testing.assert_allclose(metrics['learning_rate'], 0.1 * 3 / 4, rtol=1e-6)


def test_parameters_in_bfloat16_are_their_masters_rounded():
    """And the first step differs from one in float32 by the rounding of gradients alone, 2^-9 each."""
    settings = OptimizerSettings(name='lion', learning_rate=1e-4, schedule='constant', clip_norm=None)
    batch = random_batch(0, 8, 16)
    exact, step = start(settings)
    exact = dataclasses.replace(
        exact, params=jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), exact.params)
    )
    rounded, rounded_step = start(settings, jnp.bfloat16, accumulation=4)
    first = as_numpy(rounded.params)
    jax.tree.map(np.testing.assert_array_equal, as_numpy(rounded.opt_state.masters), first)
    _, expected = step(exact, {}, put(batch))
    rounded, metrics = rounded_step(rounded, {}, put(batch))
    np.testing.assert_allclose(metrics['loss'], expected['loss'], rtol=1e-6)
    np.testing.assert_allclose(metrics['grad_norm'], expected['grad_norm'], rtol=2**-9)
    for _ in range(2):
        rounded, _ = rounded_step(rounded, {}, put(batch))
    masters = as_numpy(rounded.opt_state.masters)
    assert {leaf.dtype for leaf in jax.tree.leaves(masters)} == {np.dtype(np.float32)}
    jax.tree.map(
        np.testing.assert_array_equal, jax.tree.map(lambda m: m.astype(jnp.bfloat16), masters), as_numpy(rounded.params)
    )
    # Three steps of 1e-4 move most weights by less than what bfloat16 tells apart.
    moved = np.concatenate(
        [
            np.ravel(m - f.astype(np.float32))
            for m, f in zip(jax.tree.leaves(masters), jax.tree.leaves(first), strict=True)
        ]
    )
    assert np.mean(np.abs(moved) > 0.9e-4) > 0.9
    same = np.mean(
        [
            np.mean(a == b)
            for a, b in zip(jax.tree.leaves(as_numpy(rounded.params)), jax.tree.leaves(first), strict=True)
        ]
    )
    assert same > 0.5


def test_patterns_that_find_no_parameter_are_refused():
    with pytest.raises(UserError, match='rate_factors: "lm_head"'):
        start(dataclasses.replace(SETTINGS, rate_factors=(('lm_head', 2.0),)))


def test_compiled_ahead_it_takes_what_the_loader_gives():
    state, train_step = start()
    abstract = abstract_state(state.params, SETTINGS, MESH)
    compiled = train_step.lower(abstract, {}, abstract_batch(4, 16, MESH)).compile()
    new_state, _ = compiled(state, {}, put(random_batch(0, 4, 16)))
    for got, expected in zip(jax.tree.leaves(new_state), jax.tree.leaves(abstract), strict=True):
        assert (got.shape, got.dtype, got.sharding) == (expected.shape, expected.dtype, expected.sharding)
    assert int(new_state.step) == 1


def test_training_learns_a_batch_by_heart():
    state, train_step = start()
    batch = put(random_batch(0, 4, 16))
    losses = []
    for _ in range(60):
        state, metrics = train_step(state, {}, batch)
        losses.append(float(metrics['loss']))
    assert losses[-1] < 0.2 * losses[0]
    decoder = nnx.merge(nnx.split(Decoder(ARCHITECTURE, rngs=nnx.Rngs(0)), nnx.Param)[0], state.params)
    predicted = decoder.logits(decoder(batch['tokens'], batch['positions'], batch['segment_ids'])).argmax(-1)
    right = (predicted[:, :-1] == batch['tokens'][:, 1:])[batch['loss_weights'][:, :-1] > 0]
    assert right.mean() > 0.9
