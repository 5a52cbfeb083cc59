import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.model.attention import BACKENDS, Backend, Places, attend

NAMES = [backend.name for backend in BACKENDS]


def compiled(query, key, value, queries, keys=None, *, backend):
    return jax.jit(lambda *inputs: attend(*inputs, queries, keys, backend=backend))(query, key, value)


def brute_force(query, key, value, query_places, key_places):
    """Attention by loops, in float64."""
    batch, length, heads, head_dim = query.shape
    group = heads // key.shape[2]
    result = np.zeros(query.shape)
    for b in range(batch):
        for t in range(length):
            seen = [
                s
                for s in range(key.shape[1])
                if key_places.segment_ids[b, s] == query_places.segment_ids[b, t]
                and key_places.positions[b, s] <= query_places.positions[b, t]
            ]
            for n in range(heads):
                scores = np.array([query[b, t, n] @ key[b, s, n // group] for s in seen]) / np.sqrt(head_dim)
                weights = np.exp(scores - scores.max())
                values = np.stack([value[b, s, n // group] for s in seen])
                result[b, t, n] = weights / weights.sum() @ values
    return result


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def packed_places(lengths):
    segment_ids = np.concatenate([np.full(n, i) for i, n in enumerate(lengths, start=1)])
    positions = np.concatenate([np.arange(n) for n in lengths])
    return Places(segment_ids[None].astype(np.int32), positions[None].astype(np.int32))


@pytest.mark.parametrize('backend', NAMES)
@pytest.mark.parametrize(
    ('heads', 'lengths'), [((4, 2), (5, 1, 7)), ((4, 4), (61, 80, 2)), ((6, 1), (128,))], ids=['few', 'many', 'one']
)
def test_equals_brute_force_on_packed_rows(backend, heads, lengths):
    length = sum(lengths)
    query = normal(0, 1, length, heads[0], 8)
    key, value = normal(1, 1, length, heads[1], 8), normal(2, 1, length, heads[1], 8)
    places = packed_places(lengths)
    attended = compiled(query, key, value, places, backend=backend)
    np.testing.assert_allclose(attended, brute_force(query, key, value, places, places), atol=2e-5)


@pytest.mark.parametrize('backend', NAMES)
def test_equals_brute_force_with_other_keys(backend):
    rng = np.random.default_rng(0)
    query, key, value = normal(0, 3, 2, 4, 8), normal(1, 3, 9, 2, 8), normal(2, 3, 9, 2, 8)
    queries = Places(np.ones((3, 2), np.int32), np.array([[4, 5], [2, 3], [8, 9]], np.int32))
    segment_ids = rng.integers(0, 2, (3, 9)).astype(np.int32)
    segment_ids[:, 0] = 1
    keys = Places(segment_ids, rng.permuted(np.tile(np.arange(9, dtype=np.int32), (3, 1)), axis=1))
    keys.positions[:, 0] = 0
    attended = compiled(query, key, value, queries, keys, backend=backend)
    np.testing.assert_allclose(attended, brute_force(query, key, value, queries, keys), atol=2e-5)


@pytest.mark.parametrize('backend', NAMES)
@pytest.mark.parametrize('heads', [(4, 4), (6, 2)])
def test_packed_equals_unpacked_values_and_gradients(backend, heads):
    lengths = (70, 3, 90)
    edges = np.cumsum((0, *lengths))
    inputs = (normal(0, 1, edges[-1], heads[0], 8), *(normal(i, 1, edges[-1], heads[1], 8) for i in (1, 2)))
    weights = normal(3, 1, edges[-1], heads[0], 8)

    def packed(query, key, value):
        return jnp.sum(weights * jnp.sin(attend(query, key, value, packed_places(lengths), backend=backend)))

    def unpacked(query, key, value):
        total = 0.0
        for begin, end in itertools.pairwise(edges):
            part = slice(begin, end)
            alone = attend(
                query[:, part], key[:, part], value[:, part], packed_places([end - begin]), backend='dot_product'
            )
            total += jnp.sum(weights[:, part] * jnp.sin(alone))
        return total

    left = jax.jit(jax.value_and_grad(packed, argnums=(0, 1, 2)))(*inputs)
    right = jax.jit(jax.value_and_grad(unpacked, argnums=(0, 1, 2)))(*inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5), left, right)


@pytest.mark.parametrize('backend', NAMES)
def test_a_query_without_keys_stays_finite_and_leaves_the_others_alone(backend):
    query, key, value = normal(0, 1, 2, 2, 4), normal(1, 1, 3, 2, 4), normal(2, 1, 3, 2, 4)
    queries = Places(np.array([[1, 7]], np.int32), np.array([[2, 0]], np.int32))
    keys = Places(np.ones((1, 3), np.int32), np.arange(3, dtype=np.int32)[None])
    attended = compiled(query, key, value, queries, keys, backend=backend)
    alone = brute_force(query[:, :1], key, value, queries[:1], keys)
    assert np.isfinite(attended).all()
    np.testing.assert_allclose(attended[:, :1], alone, atol=2e-5)


def test_an_unknown_or_unsupporting_backend_is_refused(monkeypatch):
    query = normal(0, 1, 2, 2, 4)
    with pytest.raises(ValueError, match='flash'):
        attend(query, query, query, packed_places([2]), backend='flash')
    monkeypatch.setattr('ccl_jax.model.attention.BACKENDS', (Backend('elsewhere', lambda platform: False, None),))
    with pytest.raises(ValueError, match='elsewhere'):
        attend(query, query, query, packed_places([2]), backend='elsewhere')
