import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.model.attention import BACKENDS, Backend, Call, Places, attend

PLAIN = ('reference', 'dot_product')
EVERY = (*PLAIN, 'splash_interpret')
# What a call may ask for beyond the segments; the windows are shorter than the segments and than splash's tiles.
OPTIONS = (
    {},
    {'window': 1},
    {'window': 20},
    {'softcap': 2.0},
    {'scale': 0.9},
    {'window': 33, 'softcap': 1.5, 'scale': 0.7},
)
CASES = [
    (name, options) for name in EVERY for options in OPTIONS if not (name == 'dot_product' and 'softcap' in options)
]
IDS = ['-'.join([name, *options]) for name, options in CASES]


def compiled(query, key, value, queries, keys=None, **options):
    return jax.jit(lambda *inputs: attend(*inputs, queries, keys, **options))(query, key, value)


def brute_force(query, key, value, queries, keys, window=None, softcap=None, scale=None):
    """Attention by loops, in float64."""
    batch, length, heads, head_dim = query.shape
    group = heads // key.shape[2]
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    scale = 1 / np.sqrt(head_dim) if scale is None else scale
    result = np.zeros(query.shape)
    for b, t in itertools.product(range(batch), range(length)):
        back = queries.positions[b, t] - keys.positions[b]
        seen = (keys.segment_ids[b] == queries.segment_ids[b, t]) & (back >= 0)
        if window is not None:
            seen &= back < window
        for n in range(heads):
            scores = scale * key[b, seen, n // group] @ query[b, t, n]
            if softcap is not None:
                scores = softcap * np.tanh(scores / softcap)
            weights = np.exp(scores - scores.max())
            result[b, t, n] = weights / weights.sum() @ value[b, seen, n // group]
    return result


def one_segment(query, key, value, window=None, softcap=None, scale=None):
    """Attention within one segment by plain products that jax can derive, without segment ids and positions."""
    length, heads, head_dim = query.shape
    key, value = (jnp.repeat(x, heads // key.shape[1], axis=1) for x in (key, value))
    scores = jnp.einsum('tnh,snh->nts', query, key) * (head_dim**-0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    seen = np.tril(np.ones((length, length), bool))
    if window is not None:
        seen &= ~np.tril(seen, -window)
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    return jnp.einsum('nts,snh->tnh', weights, value)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs_of(length, heads, head_dim=8, rows=1):
    return (
        normal(0, rows, length, heads[0], head_dim),
        normal(1, rows, length, heads[1], head_dim),
        normal(2, rows, length, heads[1], head_dim),
    )


def packed_places(*rows):
    segment_ids = [np.concatenate([np.full(n, i) for i, n in enumerate(row, start=1)]) for row in rows]
    positions = [np.concatenate([np.arange(n) for n in row]) for row in rows]
    return Places(np.stack(segment_ids).astype(np.int32), np.stack(positions).astype(np.int32))


def call(**changes):
    given = {
        'platform': 'cpu',
        'query_shape': (2, 256, 4, 128),
        'key_shape': (2, 256, 2, 128),
        'dtype': jnp.dtype(jnp.bfloat16),
        'own_keys': True,
        'scale': 0.1,
    }
    return Call(**{**given, **changes})


def first_choice(**changes):
    return next(backend.name for backend in BACKENDS if backend.supports(call(**changes)))


def supports(name, **changes):
    return next(backend for backend in BACKENDS if backend.name == name).supports(call(**changes))


@pytest.mark.parametrize(('backend', 'options'), CASES, ids=IDS)
def test_equals_brute_force_on_packed_rows(backend, options):
    inputs = inputs_of(128, (6, 2), rows=2)
    places = packed_places((61, 64, 3), (1, 127))
    attended = compiled(*inputs, places, backend=backend, **options)
    np.testing.assert_allclose(attended, brute_force(*inputs, places, places, **options), atol=2e-5)


@pytest.mark.parametrize('backend', PLAIN)
@pytest.mark.parametrize('heads', [(4, 4), (6, 1)])
def test_equals_brute_force_on_rows_of_any_length(backend, heads):
    inputs = inputs_of(13, heads)
    places = packed_places((5, 1, 7))
    attended = compiled(*inputs, places, backend=backend, window=3)
    np.testing.assert_allclose(attended, brute_force(*inputs, places, places, window=3), atol=2e-5)


@pytest.mark.parametrize('backend', PLAIN)
@pytest.mark.parametrize('window', [None, 4])
def test_equals_brute_force_with_other_keys(backend, window):
    rng = np.random.default_rng(0)
    query, key, value = normal(0, 3, 2, 4, 8), normal(1, 3, 9, 2, 8), normal(2, 3, 9, 2, 8)
    queries = Places(np.ones((3, 2), np.int32), np.array([[4, 5], [2, 3], [7, 8]], np.int32))
    segment_ids = rng.integers(0, 2, (3, 9)).astype(np.int32)
    keys = Places(segment_ids, rng.permuted(np.tile(np.arange(9, dtype=np.int32), (3, 1)), axis=1))
    for row, positions in enumerate(queries.positions):
        keys.segment_ids[row, np.isin(keys.positions[row], positions)] = 1  # Every query sees itself.
    attended = compiled(query, key, value, queries, keys, backend=backend, window=window)
    expected = brute_force(query, key, value, queries, keys, window=window)
    np.testing.assert_allclose(attended, expected, atol=2e-5)


@pytest.mark.parametrize(
    ('backend', 'options', 'heads'),
    [(*case, (6, 2)) for case in CASES] + [(name, {}, (2, 2)) for name in EVERY],
    ids=[*IDS, *(f'{name}-ungrouped' for name in EVERY)],
)
def test_packed_equals_unpacked_values_and_gradients(backend, options, heads):
    lengths = (70, 3, 55, 128)
    edges = np.cumsum((0, *lengths))
    inputs = inputs_of(256, heads)
    weights = normal(3, 256, heads[0], 8)

    def packed(*inputs):
        attended = attend(*inputs, packed_places(lengths), backend=backend, **options)[0]
        return jnp.sum(weights * jnp.sin(attended)), attended

    def unpacked(*inputs):
        parts = [one_segment(*(x[0, a:b] for x in inputs), **options) for a, b in itertools.pairwise(edges)]
        attended = jnp.concatenate(parts)
        return jnp.sum(weights * jnp.sin(attended)), attended

    left = jax.jit(jax.value_and_grad(packed, argnums=(0, 1, 2), has_aux=True))(*inputs)
    right = jax.jit(jax.value_and_grad(unpacked, argnums=(0, 1, 2), has_aux=True))(*inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5), left, right)


@pytest.mark.parametrize('backend', EVERY)
def test_rounded_inputs_stay_near_the_exact_result(backend):
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in inputs_of(128, (4, 2))]
    places = packed_places((100, 28))
    attended = compiled(*inputs, places, backend=backend, window=40)
    assert attended.dtype == jnp.bfloat16
    exact = brute_force(*inputs, places, places, window=40)
    np.testing.assert_allclose(np.asarray(attended, np.float32), exact, atol=0.03)


@pytest.mark.parametrize('backend', PLAIN)
def test_a_query_without_keys_stays_finite_and_leaves_the_others_alone(backend):
    query, key, value = normal(0, 1, 2, 2, 4), normal(1, 1, 3, 2, 4), normal(2, 1, 3, 2, 4)
    queries = Places(np.array([[1, 7]], np.int32), np.array([[2, 0]], np.int32))
    keys = Places(np.ones((1, 3), np.int32), np.arange(3, dtype=np.int32)[None])
    attended = compiled(query, key, value, queries, keys, backend=backend)
    alone = brute_force(query[:, :1], key, value, queries[:1], keys)
    assert np.isfinite(attended).all()
    np.testing.assert_allclose(attended[:, :1], alone, atol=2e-5)


@hypothesis.settings(deadline=None, max_examples=12)
@hypothesis.given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6).map(tuple),
    window=st.none() | st.integers(1, 12),
    softcap=st.none() | st.floats(0.1, 60),
)
def test_reference_equals_brute_force_for_any_segments(lengths, window, softcap):
    places = packed_places(lengths)
    inputs = inputs_of(sum(lengths), (2, 1), head_dim=4)
    attended = attend(*inputs, places, window=window, softcap=softcap, backend='reference')
    expected = brute_force(*inputs, places, places, window=window, softcap=softcap)
    np.testing.assert_allclose(attended, expected, atol=2e-5)


def test_the_platform_and_the_call_choose_the_backend():
    assert first_choice(platform='cpu') == 'reference'
    assert first_choice(platform='tpu', window=7, softcap=50.0) == 'splash'
    assert first_choice(platform='tpu', own_keys=False) == 'dot_product'
    assert first_choice(platform='gpu', window=7) == 'dot_product'
    assert first_choice(platform='gpu', softcap=50.0) == 'reference'


def test_splash_refuses_what_it_cannot_compute():
    assert supports('splash', platform='tpu')
    assert not supports('splash', platform='gpu')
    assert not supports('splash', platform='tpu', own_keys=False)
    assert not supports('splash', platform='tpu', query_shape=(2, 200, 4, 128))
    assert not supports('splash', platform='tpu', query_shape=(2, 256, 4, 80))


def test_a_backend_that_cannot_do_what_is_asked_is_refused_by_name():
    query = normal(0, 1, 2, 2, 4)
    places = packed_places([2])
    for backend, options in [
        ('flash', {}),
        ('dot_product', {'softcap': 1.0}),
        ('splash_interpret', {}),  # Two tokens are no tile.
        ('splash', {}),
        ('cudnn', {}),
    ]:
        with pytest.raises(ValueError, match=f"'{backend}'"):
            attend(query, query, query, places, backend=backend, **options)


def test_an_unsupporting_backend_is_not_chosen(monkeypatch):
    query = normal(0, 1, 2, 2, 4)
    monkeypatch.setattr('ccl_jax.model.attention.BACKENDS', (Backend('elsewhere', lambda call: False, None),))
    with pytest.raises(ValueError, match='elsewhere'):
        attend(query, query, query, packed_places([2]))


def test_the_reference_gradient_equals_the_derived_one_in_blocks():
    """Rows long enough for blocks, windows that begin inside them."""
    inputs = inputs_of(160, (4, 2))
    weights = normal(3, 160, 4, 8)
    for window in (None, 17, 90):
        options = {'window': window, 'softcap': 3.0}

        def ours(*inputs, options=options):
            return jnp.sum(weights * attend(*inputs, packed_places((160,)), backend='reference', **options)[0])

        def derived(*inputs, options=options):
            return jnp.sum(weights * one_segment(*(x[0] for x in inputs), **options))

        left, right = (jax.jit(jax.grad(f, argnums=(0, 1, 2)))(*inputs) for f in (ours, derived))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5), left, right)
