"""The objective against brute force in float64 over single examples, nothing packed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from tiny import SHAPES, VOCABULARY, random_batch

from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS
from ccl_jax.training.mesh import make_mesh
from ccl_jax.training.objective import task_coefficients, task_sums

WIDTH = 6
MESH = make_mesh(devices=jax.devices()[:1])


def features(embedding, batch):
    """A model without layers: the running mean of the segment's embeddings."""
    steps = np.arange(batch['tokens'].shape[1])
    segments = batch['segment_ids']
    seen = (segments[:, :, None] == segments[:, None, :]) & (steps[:, None] >= steps[None, :])
    return jnp.einsum('bts,bsd->btd', seen / (batch['positions'][:, :, None] + 1), embedding[batch['tokens']])


def packed_sums(embedding, output, batch, **options):
    return task_sums(
        features(embedding, batch),
        output,
        batch['tokens'],
        batch['loss_weights'],
        batch['task_ids'],
        **{'mesh': MESH, 'tile_tokens': 10**6, **options},
    )


def examples_of(batch):
    """Unpacks to (task, tokens, weights of predicting tokens[1:])."""
    for row, segments in enumerate(batch['segment_ids']):
        for segment in np.unique(segments):
            here = segments == segment
            weights = batch['loss_weights'][row, here]
            if weights.any():
                assert weights[-1] == 0
                yield batch['task_ids'][row, here][0], batch['tokens'][row, here], weights[:-1].astype(np.float64)


def brute_force(embedding, output, batches):
    """Per task: sum of weighted losses, of weights, and the gradients of the former; float64, one example at a time."""
    losses, weights_sum = np.zeros(len(TASKS)), np.zeros(len(TASKS))
    d_embedding, d_output = np.zeros((len(TASKS), *embedding.shape)), np.zeros((len(TASKS), *output.shape))
    for batch in batches:
        for task, tokens, weights in examples_of(batch):
            for position in range(len(tokens) - 1):
                seen = tokens[: position + 1]
                hidden = embedding[seen].mean(axis=0)
                logits = hidden @ output
                probabilities = np.exp(logits - logits.max())
                probabilities /= probabilities.sum()
                losses[task] -= weights[position] * np.log(probabilities[tokens[position + 1]])
                weights_sum[task] += weights[position]
                d_logits = probabilities.copy()
                d_logits[tokens[position + 1]] -= 1
                d_logits *= weights[position]
                d_output[task] += np.outer(hidden, d_logits)
                np.add.at(d_embedding[task], seen, output @ d_logits / len(seen))
    return losses, weights_sum, d_embedding, d_output


@pytest.fixture(scope='module')
def weights():
    rng = np.random.default_rng(0)
    return rng.normal(size=(VOCABULARY, WIDTH)), rng.normal(size=(WIDTH, VOCABULARY))


def float32(arrays):
    return [jnp.asarray(a, jnp.float32) for a in arrays]


def test_sums_equal_brute_force(weights):
    batch = random_batch(0, 8, 24)
    sums, totals = packed_sums(*float32(weights), batch)
    expected_sums, expected_totals, _, _ = brute_force(*weights, [batch])
    assert (expected_totals > 0).all()
    np.testing.assert_allclose(sums, expected_sums, rtol=2e-6)
    np.testing.assert_allclose(totals, expected_totals, rtol=1e-6)


def test_gradients_averaged_over_an_epoch_are_those_of_the_full_data_objective(weights):
    # Buckets of two shapes; one step lacks a task, another holds almost nothing.
    batches = [random_batch(step, *SHAPES[step % 2]) for step in range(4)]
    batches += [random_batch(4, 8, 24, tasks=('span',)), random_batch(5, 1, 12, tasks=('document',))]
    task_weights = {'document': 1.0, 'span': 0.5, 'lm': 2.0}
    losses, totals, d_embedding, d_output = brute_force(*weights, batches)
    lambdas = np.array([task_weights[task] for task in TASKS])
    full = [np.tensordot(lambdas / totals, d, 1) for d in (d_embedding, d_output)]

    constants = dict(zip(TASKS, totals / len(batches), strict=True))
    coefficients = task_coefficients(task_weights, constants)

    def loss(parameters, batch):
        return jnp.sum(coefficients * packed_sums(*parameters, batch, tile_tokens=37)[0])

    value_and_gradient = jax.jit(jax.value_and_grad(loss))
    values, gradients = zip(*[value_and_gradient(float32(weights), batch) for batch in batches], strict=True)
    np.testing.assert_allclose(np.mean(values), np.sum(lambdas * losses / totals), rtol=2e-6)
    for got, expected in zip(jax.tree.map(lambda *g: np.mean(g, axis=0), *gradients), full, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=6, deadline=None)
@given(tile_tokens=st.integers(1, 100), seed=st.integers(0, 5))
def test_tiles_change_nothing(weights, tile_tokens, seed):
    batch = random_batch(seed, 4, 18)

    def total(tile_tokens):
        def loss(parameters):
            sums, totals = packed_sums(*parameters, batch, tile_tokens=tile_tokens)
            return sums @ jnp.array([1.0, 2.0, 3.0]), (sums, totals)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(float32(weights))

    jax.tree.map(
        lambda tiled, whole: np.testing.assert_allclose(tiled, whole, rtol=1e-5, atol=1e-5),
        total(tile_tokens),
        total(10**6),
    )


def equations(jaxpr, in_loop=False):
    """Yields every equation at any depth, and whether it is inside a loop."""
    for equation in jaxpr.eqns:
        yield equation, in_loop
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner, in_loop or equation.primitive.name in ('scan', 'while'))


def gradient_equations(weights, batch, tile_tokens):
    def loss(parameters):
        return packed_sums(*parameters, batch, tile_tokens=tile_tokens)[0].sum()

    return list(equations(jax.make_jaxpr(jax.grad(loss))(float32(weights)).jaxpr))


def test_logits_of_the_whole_batch_never_exist(weights):
    batch = random_batch(0, 16, 64)

    def most_logits(tile_tokens):
        results = [v.aval for e, _ in gradient_equations(weights, batch, tile_tokens) for v in e.outvars]
        return max(aval.size for aval in results if aval.shape[-1:] == (VOCABULARY,))

    assert most_logits(10**6) == 16 * 64 * VOCABULARY
    assert most_logits(64) == 64 * VOCABULARY


def test_devices_are_summed_over_once_not_per_tile(weights):
    found = gradient_equations(weights, random_batch(0, 16, 64), 64)
    assert any(e.primitive.name == 'scan' for e, _ in found)
    sums = [in_loop for e, in_loop in found if e.primitive.name.startswith('psum')]
    assert len(sums) >= 2
    assert not any(sums)


def test_an_absent_task_adds_nothing(weights):
    batch = random_batch(1, 4, 18, tasks=('span',))
    sums, totals = packed_sums(*float32(weights), batch, tile_tokens=7)
    np.testing.assert_allclose(sums, brute_force(*weights, [batch])[0], rtol=1e-5)
    assert sums[0] == sums[2] == totals[0] == totals[2] == 0


@pytest.mark.parametrize('tile_tokens', [7, 10**6])
def test_soft_capped_logits(weights, tile_tokens):
    """Sums and gradients are those of plain, untiled cross-entropy over capped logits."""
    batch = random_batch(2, 4, 18)
    targets = np.roll(batch['tokens'], -1, axis=1)

    def plain(parameters, cap):
        logits = features(parameters[0], batch) @ parameters[1]
        logits = logits if cap is None else cap * jnp.tanh(logits / cap)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
        return jnp.sum(batch['loss_weights'] * losses)

    def tiled(parameters):
        return packed_sums(*parameters, batch, tile_tokens=tile_tokens, softcap=1.5)[0].sum()

    parameters = float32(weights)
    value, gradients = jax.jit(jax.value_and_grad(tiled))(parameters)
    expected, expected_gradients = jax.value_and_grad(lambda p: plain(p, 1.5))(parameters)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert abs(plain(parameters, None) / expected - 1) > 0.05
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_coefficients():
    np.testing.assert_allclose(task_coefficients({'span': 0.5}, {'document': 4.0, 'span': 2.0}), [0.25, 0.25, 0.0])
    np.testing.assert_allclose(task_coefficients({'span': 0.0}, {'document': 4.0, 'span': 2.0}), [0.25, 0.0, 0.0])
    for weights, constants in (
        ({'spam': 1.0}, {'span': 1.0}),
        ({'span': -1.0}, {'span': 1.0}),
        ({'span': float('nan')}, {'span': 1.0}),
        ({'span': 0.0}, {'span': 1.0}),
        ({}, {}),
    ):
        with pytest.raises(UserError):
            task_coefficients(weights, constants)
