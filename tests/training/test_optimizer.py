"""Optimizers against their formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.errors import UserError
from ccl_jax.training.optimizer import make_optimizer, schedule_factor
from ccl_jax.training.settings import OptimizerSettings


def random_tree(seed):
    rng = np.random.default_rng(seed)
    shapes = {
        'embedding': (9, 4),
        'final_norm': (4,),
        'layers': {
            'attention_norm': (3, 4),
            'query_bias': (3, 8),
            'query': (3, 4, 8),
            'down': (3, 8, 4),
            'adapters': {'down': {'a': (3, 8, 2), 'b': (3, 2, 4)}},
        },
    }
    return jax.tree.map(lambda shape: rng.normal(size=shape), shapes, is_leaf=lambda x: isinstance(x, tuple))


def run(settings, steps=3):
    """Returns the initial tree, the gradients, and the tree after some steps at the peak learning rate."""
    optimizer = make_optimizer(settings)
    start = random_tree(0)
    gradients = [random_tree(seed) for seed in range(1, steps + 1)]
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradient), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return start, gradients, params


def adamw(parameter, gradients, rate, decay, b1=0.9, b2=0.95, eps=1e-8):
    """Algorithm 2 of arXiv 1711.05101, float64."""
    first = second = np.zeros_like(parameter)
    for count, gradient in enumerate(gradients, start=1):
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient**2
        step = (first / (1 - b1**count)) / (np.sqrt(second / (1 - b2**count)) + eps)
        parameter = parameter - rate * (step + decay * parameter)
    return parameter


@pytest.mark.parametrize('decay_embeddings', [False, True])
def test_adamw_decays_matrices_only(decay_embeddings):
    settings = OptimizerSettings(learning_rate=0.1, weight_decay=0.5, decay_embeddings=decay_embeddings)
    start, gradients, result = run(settings)
    decays = {
        'embedding': 0.5 if decay_embeddings else 0.0,
        'final_norm': 0.0,
        'layers': {
            'attention_norm': 0.0,
            'query_bias': 0.0,
            'query': 0.5,
            'down': 0.5,
            'adapters': {'down': {'a': 0.5, 'b': 0.5}},
        },
    }
    expected = jax.tree.map(lambda p, d, *g: adamw(p, g, 0.1, d), start, decays, *gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), result, expected)


def test_muon_turns_each_layer_s_matrix_into_a_nearly_orthogonal_step():
    """One step: the direction is U V^T of the layer's gradient; singular values are 1 up to the 5 iterations' error."""
    settings = OptimizerSettings(name='muon', learning_rate=0.1, adamw_learning_rate=0.3, weight_decay=0.5)
    start, gradients, result = run(settings, steps=1)
    layers = [tree['layers'] for tree in (start, gradients[0], result)]
    matrices = [[tree[name] for tree in layers] for name in ('query', 'down')]
    matrices += [[tree['adapters']['down'][factor] for tree in layers] for factor in ('a', 'b')]
    for before, gradient, after in matrices:
        for layer in range(3):
            step = -(np.asarray(after[layer]) - before[layer]) / 0.1 - 0.5 * before[layer]
            u, _, vt = np.linalg.svd(gradient[layer], full_matrices=False)
            inner = u.T @ (step / (0.2 * np.sqrt(max(step.shape)))) @ vt.T
            assert np.abs(inner - np.diag(np.diag(inner))).max() < 1e-3
            assert (np.diag(inner) > 0.65).all()
            assert (np.diag(inner) < 1.25).all()
    vectors = [[tree[name] for tree in (start, gradients[0], result)] for name in ('embedding', 'final_norm')]
    vectors += [[tree[name] for tree in layers] for name in ('attention_norm', 'query_bias')]
    for before, gradient, after in vectors:
        np.testing.assert_allclose(after, adamw(before, [gradient], 0.3, 0.0), rtol=1e-4, atol=1e-6)


def factors(**options):
    factor = schedule_factor(OptimizerSettings(end_fraction=0.1, **options), 10)
    return [float(factor(jnp.int32(step))) for step in range(10)]


def test_schedules():
    np.testing.assert_allclose(factors(schedule='constant', warmup_steps=4), [0.25, 0.5, 0.75] + [1.0] * 7)
    linear = [0.5, 1.0, *(1 - 0.9 * k / 8 for k in range(1, 9))]
    np.testing.assert_allclose(factors(schedule='linear', warmup_steps=2), linear, rtol=1e-6)
    cosine = [0.1 + 0.45 * (1 + np.cos(np.pi * k / 10)) for k in range(1, 11)]
    np.testing.assert_allclose(factors(schedule='cosine'), cosine, rtol=1e-6)
    np.testing.assert_allclose(factors(schedule='cosine', warmup_steps=10), np.arange(1, 11) / 10, rtol=1e-6)


@pytest.mark.parametrize(
    'options',
    [
        {'name': 'adam'},
        {'schedule': 'exponential'},
        {'learning_rate': 0.0},
        {'learning_rate': float('nan')},
        {'clip_norm': -1.0},
        {'b2': 1.0},
        {'end_fraction': 1.5},
        {'weight_decay': -0.1},
        {'warmup_steps': -1},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=str(next(iter(options.values())))):
        OptimizerSettings(**options)


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match='warmup_steps is 11'):
        schedule_factor(OptimizerSettings(warmup_steps=11), 10)
