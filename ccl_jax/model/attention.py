"""Attention over segments: one function and a short list of backends.

A query sees a key if both lie in the same segment of the row and the key's position is
not later. A backend honours both or says in `supports` that it can't; none ignores them.
"""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

# A query block never looks at the keys after it, so four blocks save 3/8 of the scores of a row;
# more blocks save little and cost compile time.
_QUERY_BLOCKS = 4
_SHORTEST_ROW_IN_BLOCKS = 128
# Finite, so that a query that sees no key gets an average instead of NaN.
_HIDDEN_SCORE = -1e30


@dataclasses.dataclass(frozen=True)
class Backend:
    """A way to compute attention.

    Attributes:
        supports: whether it runs, and gives right results, on a platform ('cpu', 'gpu', 'tpu').
        attend: (query, key, value, queries, keys, own_keys) -> [B, T, N, H], see `attend`.
    """

    name: str
    supports: Callable[[str], bool]
    attend: Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Places:
    """Where tokens lie: their segment and their position in it, both [B, T] int32."""

    segment_ids: jax.Array
    positions: jax.Array

    def __getitem__(self, index: slice) -> 'Places':
        return Places(self.segment_ids[:, index], self.positions[:, index])


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    queries: Places,
    keys: Places | None = None,
    *,
    backend: str | None = None,
) -> jax.Array:
    """Returns softmax(query key^T / sqrt(H)) value over the keys that each query sees.

    Args:
        query: [B, T, N, H].
        key, value: [B, S, K, H]; query head n uses key/value head n // (N / K).
        queries: where the queries lie.
        keys: where the keys lie; None if they belong to the same tokens as the
            queries (S = T). Then positions must rise along a segment.
        backend: a name in `BACKENDS`; by default the first that supports the platform.

    Returns:
        [B, T, N, H] in the type of `query`. The softmax is computed in float32. The
        result of a query that sees no key is finite and has no meaning.

    Raises:
        ValueError: the backend is unknown or does not support the platform.
    """
    platform = jax.default_backend()
    for candidate in BACKENDS:
        if backend in (None, candidate.name) and candidate.supports(platform):
            own_keys = keys is None
            return candidate.attend(query, key, value, queries, queries if own_keys else keys, own_keys)
    known = ', '.join(candidate.name for candidate in BACKENDS)
    raise ValueError(f'no attention backend {backend!r} for platform {platform!r}; known: {known}')


def _reference(query, key, value, queries: Places, keys: Places, own_keys: bool) -> jax.Array:
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    query = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim).transpose(0, 2, 3, 1, 4)
    key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
    blocks = _QUERY_BLOCKS if own_keys and length >= _SHORTEST_ROW_IN_BLOCKS else 1
    edges = [length * i // blocks for i in range(blocks + 1)]
    attended = []
    for begin, end in itertools.pairwise(edges):
        seen = slice(0, end if own_keys else None)
        visible = _visible(queries[begin:end], keys[seen])
        attended.append(_masked_attention(query[:, :, :, begin:end], key[:, :, seen], value[:, :, seen], visible))
    return jnp.concatenate(attended, axis=3).transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, head_dim)


@jax.custom_vjp
def _masked_attention(query, key, value, visible) -> jax.Array:
    """Attention of query [B, K, N/K, T, H] over key and value [B, K, S, H] with `visible` [B, T, S].

    The gradient is written out because XLA's CPU backend needs up to twice the time for the derived one.
    Queries of a group are treated as more tokens, so key/value heads are never repeated in memory.
    """
    return _masked_attention_forward(query, key, value, visible)[0]


def _masked_attention_forward(query, key, value, visible):
    batch, kv_heads, group, length, head_dim = query.shape
    query = query.reshape(batch, kv_heads, group * length, head_dim)
    scores = jnp.einsum('bkth,bksh->bkts', query * head_dim**-0.5, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, kv_heads, group, length, -1)
    weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, _HIDDEN_SCORE), axis=-1)
    weights = weights.reshape(batch, kv_heads, group * length, -1).astype(value.dtype)
    attended = jnp.einsum('bkts,bksh->bkth', weights, value)
    shape = (batch, kv_heads, group, length, head_dim)
    return attended.reshape(shape), (query, key, value, weights, attended)


def _masked_attention_backward(residuals, gradient):
    query, key, value, weights, attended = residuals
    shape, scale = gradient.shape, query.shape[-1] ** -0.5
    gradient = gradient.reshape(query.shape)
    value_gradient = jnp.einsum('bkts,bkth->bksh', weights, gradient)
    # Softmax: d score = weight * (d weight - sum over keys of weight * d weight); that sum is attended . d attended.
    mean = jnp.sum((attended * gradient).astype(jnp.float32), axis=-1, keepdims=True)
    weight_gradient = jnp.einsum('bkth,bksh->bkts', gradient, value, preferred_element_type=jnp.float32)
    score_gradient = (weights * (weight_gradient - mean)).astype(query.dtype)
    query_gradient = jnp.einsum('bkts,bksh->bkth', score_gradient, key) * scale
    key_gradient = jnp.einsum('bkts,bkth->bksh', score_gradient, query) * scale
    return query_gradient.reshape(shape), key_gradient, value_gradient, None


_masked_attention.defvjp(_masked_attention_forward, _masked_attention_backward)


def _dot_product(query, key, value, queries: Places, keys: Places, own_keys: bool) -> jax.Array:
    del own_keys  # The mask says it all.
    mask = _visible(queries, keys)[:, None]
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation='xla')


def _visible(queries: Places, keys: Places) -> jax.Array:
    """[B, T, S]: which key each query sees."""
    same_segment = queries.segment_ids[:, :, None] == keys.segment_ids[:, None, :]
    return same_segment & (queries.positions[:, :, None] >= keys.positions[:, None, :])


BACKENDS = (
    Backend('reference', lambda platform: platform == 'cpu', _reference),
    Backend('dot_product', lambda platform: True, _dot_product),
)
