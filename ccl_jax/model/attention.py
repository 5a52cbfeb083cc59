"""Attention over segments: one function and a short list of backends.

A query sees a key if both lie in the same segment of the row and the key's position is
not later. A backend honours both or says in `supports` that it can't; none ignores them.
"""

import dataclasses
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
    length = query.shape[1]
    blocks = _QUERY_BLOCKS if own_keys and length >= _SHORTEST_ROW_IN_BLOCKS else 1
    edges = [length * i // blocks for i in range(blocks + 1)]
    attended = []
    for begin, end in zip(edges, edges[1:], strict=False):
        seen = slice(0, end if own_keys else None)
        visible = _visible(queries[begin:end], keys[seen])
        attended.append(_grouped_attention(query[:, begin:end], key[:, seen], value[:, seen], visible))
    return jnp.concatenate(attended, axis=1)


def _grouped_attention(query, key, value, visible) -> jax.Array:
    """Attention with [B, T, S] `visible`; key/value heads are shared by groups, never repeated in memory."""
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    query = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim) * head_dim**-0.5
    # With T before the group the scores come out of the product as they are stored: only small arrays are transposed.
    scores = jnp.einsum('btkgh,bskh->bktgs', query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(visible[:, None, :, None, :], scores, _HIDDEN_SCORE)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum('bktgs,bskh->btkgh', weights, value).reshape(batch, length, heads, head_dim)


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
