"""Optimizers against their formulas in numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.errors import UserError
from ccl_jax.training.mesh import path_name
from ccl_jax.training.optimizer import (
    apply_gradients,
    check_patterns,
    init_optimizer,
    make_optimizer,
    schedule_factor,
)
from ccl_jax.training.settings import NAMES, OptimizerSettings


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


@pytest.mark.parametrize('pattern', [None, 'query$|embedding'])
def test_adamw_decays_what_the_pattern_finds_by_default_matrices(pattern):
    settings = OptimizerSettings(learning_rate=0.1, weight_decay=0.5, **({'decay_pattern': pattern} if pattern else {}))
    start, gradients, result = run(settings)
    decays = {
        'embedding': 0.5 if pattern else 0.0,
        'final_norm': 0.0,
        'layers': {
            'attention_norm': 0.0,
            'query_bias': 0.0,
            'query': 0.5,
            'down': 0.0 if pattern else 0.5,
            'adapters': {'down': dict.fromkeys('ab', 0.0 if pattern else 0.5)},
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


def test_lion_steps_by_signs():
    """Algorithm 2 of arXiv 2302.06675."""
    settings = OptimizerSettings(name='lion', learning_rate=0.1, b1=0.8, b2=0.9, weight_decay=0.5)
    start, gradients, result = run(settings)
    for name, decay in (('embedding', 0.0), ('final_norm', 0.0), ('query', 0.5)):
        pick = (lambda tree: tree['layers']['query']) if name == 'query' else (lambda tree, name=name: tree[name])
        parameter, moment = pick(start), 0.0
        for gradient in map(pick, gradients):
            parameter = parameter - 0.1 * (np.sign(0.8 * moment + 0.2 * gradient) + decay * parameter)
            moment = 0.9 * moment + 0.1 * gradient
        np.testing.assert_allclose(pick(result), parameter, rtol=1e-5, atol=1e-6)


def test_adafactor_keeps_sums_over_rows_and_columns():
    """Algorithm 4 of arXiv 1804.04235 on each layer's matrix, with absolute steps: no scale of the parameter."""
    rng = np.random.default_rng(0)
    shape = (2, 130, 160)
    start = rng.normal(size=shape)
    gradients = [rng.normal(size=shape) * rng.gamma(1.0, size=(2, 130, 1)) for _ in range(3)]
    optimizer = make_optimizer(OptimizerSettings(name='adafactor', learning_rate=0.1, weight_decay=0.5))
    params = {'layers': {'up': jnp.asarray(start, jnp.float32)}}
    state = optimizer.init(params)
    kept = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert kept < 2 * (130 + 160) + 5
    for gradient in gradients:
        updates, state = optimizer.update({'layers': {'up': jnp.asarray(gradient, jnp.float32)}}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    expected, rows, columns = start, np.zeros((2, 130)), np.zeros((2, 160))
    for count, gradient in enumerate(gradients, start=1):
        decay = 1 - count**-0.8
        rows = decay * rows + (1 - decay) * np.mean(gradient**2, axis=2)
        columns = decay * columns + (1 - decay) * np.mean(gradient**2, axis=1)
        variance = rows[:, :, None] * columns[:, None, :] / rows.mean(axis=1)[:, None, None]
        step = gradient / np.sqrt(variance)
        step = step / max(1.0, np.sqrt(np.mean(step**2)))
        expected = expected - 0.1 * (step + 0.5 * expected)
    np.testing.assert_allclose(params['layers']['up'], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_rate_factors_scale_the_whole_update_of_what_they_find_first(name):
    factors = (('query$', 0.0), ('layers', 0.5))
    settings = OptimizerSettings(name=name, learning_rate=0.1, weight_decay=0.5)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), random_tree(0))
    gradients = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), random_tree(1))
    plain, scaled = (
        optimizer.update(gradients, optimizer.init(params), params)[0]
        for optimizer in map(make_optimizer, (settings, dataclasses.replace(settings, rate_factors=factors)))
    )
    for (path, before), after in zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(scaled), strict=True):
        path = path_name(path)
        factor = 0.0 if path.endswith('query') else 0.5 if path.startswith('layers') else 1.0
        np.testing.assert_allclose(after, factor * before, rtol=1e-6)
        assert np.abs(before).max() > 0


def test_masters_keep_what_bfloat16_would_round_away():
    """Steps of about a thousandth of the distance between bfloat16 numbers, against the same in float32."""
    settings = OptimizerSettings(name='lion', learning_rate=1e-5)
    optimizer = make_optimizer(settings)
    moved = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        params = {'final_norm': jnp.ones(3, dtype), 'embedding': jnp.full((2, 3), 0.5, dtype)}
        state = init_optimizer(optimizer, params)
        gradients = jax.tree.map(lambda x: jnp.ones(x.shape, jnp.float32), params)
        for _ in range(400):
            params, state = apply_gradients(optimizer, gradients, state, params, jnp.float32(0.5))
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        moved[dtype] = params, state
    (expected, _), (rounded, state) = moved.values()
    np.testing.assert_allclose(expected['final_norm'], 1 - 400 * 0.5e-5, rtol=1e-5)
    for name, array in expected.items():
        np.testing.assert_array_equal(state.masters[name], array)
        np.testing.assert_array_equal(rounded[name], array.astype(jnp.bfloat16))
    assert (rounded['embedding'] < 0.5).all()


def test_patterns_that_find_nothing_are_refused():
    adapters = {'layers': {'adapters': {'query': {'a': jnp.zeros((2, 4, 2)), 'b': jnp.zeros((2, 2, 4))}}}}
    check_patterns(OptimizerSettings(weight_decay=0.1, rate_factors=(('/b$', 16.0),)), adapters)
    with pytest.raises(UserError, match=r'rate_factors: "embedding" .* layers/adapters/query/a'):
        check_patterns(OptimizerSettings(rate_factors=(('embedding', 0.1),)), adapters)
    with pytest.raises(UserError, match='decay_pattern: "norm" is found in no parameter'):
        check_patterns(OptimizerSettings(weight_decay=0.1, decay_pattern='norm'), adapters)
    check_patterns(OptimizerSettings(weight_decay=0.0, decay_pattern='norm'), adapters)


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
    stable = [0.5, *[1.0] * 5, 0.775, 0.55, 0.325, 0.1]
    decaying = factors(schedule='warmup_stable_decay', warmup_steps=2, decay_fraction=0.4)
    np.testing.assert_allclose(decaying, stable, rtol=1e-6)


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
        {'decay_fraction': -0.5},
        {'decay_pattern': '(query'},
        {'rate_factors': ('embedding', 0.5)},
        {'rate_factors': (('embedding', -0.5),)},
        {'rate_factors': ((['('], 0.5),)},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options)) if 'name' not in options else 'optimizer "adam"'):
        OptimizerSettings(**options)


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match='warmup_steps is 11'):
        schedule_factor(OptimizerSettings(warmup_steps=11), 10)
    with pytest.raises(UserError, match='10 steps, of which the last 2 decay'):
        schedule_factor(OptimizerSettings(warmup_steps=9, schedule='warmup_stable_decay'), 10)


def test_rate_factors_from_json_are_those_of_python():
    settings = OptimizerSettings(rate_factors=(('embedding', 0.5),))
    assert OptimizerSettings(rate_factors=[['embedding', 0.5]]) == settings
