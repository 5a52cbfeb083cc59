"""Attention written in plain operations: right on every platform, slow where scores don't fit.

`Call` and `Places` say what is asked for; `reference` and `dot_product` compute it.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp

# A query block never looks at the keys after it, so four blocks save 3/8 of the scores of a row;
# more blocks save little and cost compile time.
_QUERY_BLOCKS = 4
_SHORTEST_ROW_IN_BLOCKS = 128
# Finite, so that a query that sees no key gets an average instead of NaN.
_HIDDEN_SCORE = -1e30


@dataclasses.dataclass(frozen=True)
class Places:
    """Where tokens lie: their segment and their position in it, both [B, T] int32."""

    segment_ids: jax.Array
    positions: jax.Array

    def __getitem__(self, index: slice) -> 'Places':
        return Places(self.segment_ids[:, index], self.positions[:, index])


# What a plan puts in a row by default, the padding tail included.
MAX_SEGMENTS = 64


@dataclasses.dataclass(frozen=True)
class Call:
    """What a call of `attend` asks for, known before any number is.

    Attributes:
        platform: 'cpu', 'gpu' or 'tpu'.
        query_shape: (B, T, N, H).
        key_shape: (B, S, K, H).
        dtype: that of query, key and value.
        own_keys: keys belong to the same tokens as queries.
        scale: factor of the scores.
        window: how many positions back a query sees, itself included; None for all.
        softcap: bound of the scores; None for none.
        mesh: that of the arrays, for kernels that XLA can't distribute by itself.
        compute_capability: that of an NVIDIA GPU, 9.0 for Hopper; None for other devices.
        max_segments: see `attend`.
    """

    platform: str
    query_shape: tuple[int, ...]
    key_shape: tuple[int, ...]
    dtype: jnp.dtype
    own_keys: bool
    scale: float
    window: int | None = None
    softcap: float | None = None
    mesh: jax.sharding.Mesh | None = None
    compute_capability: float | None = None
    max_segments: int = MAX_SEGMENTS


def reference(query, key, value, queries: Places, keys: Places, call: Call) -> jax.Array:
    """Attention as `attend` defines it, with the gradient written out."""
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    query = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim).transpose(0, 2, 3, 1, 4)
    key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
    blocks = _QUERY_BLOCKS if call.own_keys and length >= _SHORTEST_ROW_IN_BLOCKS else 1
    edges = [length * i // blocks for i in range(blocks + 1)]
    attended = []
    for begin, end in itertools.pairwise(edges):
        seen = slice(None)
        if call.own_keys:
            seen = slice(0 if call.window is None else max(0, begin - call.window + 1), end)
        visible = visibility(queries[begin:end], keys[seen], call.window)
        part = query[:, :, :, begin:end], key[:, :, seen], value[:, :, seen], visible
        attended.append(_masked_attention(call.scale, call.softcap, *part))
    return jnp.concatenate(attended, axis=3).transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, head_dim)


def dot_product(query, key, value, queries: Places, keys: Places, call: Call) -> jax.Array:
    """The same through `jax.nn.dot_product_attention` with a mask; it has no soft-cap."""
    mask = visibility(queries, keys, call.window)[:, None]
    return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=call.scale, implementation='xla')


def visibility(queries: Places, keys: Places, window: int | None) -> jax.Array:
    """Returns which key each query sees, bool [B, T, S]."""
    back = queries.positions[:, :, None] - keys.positions[:, None, :]
    visible = (queries.segment_ids[:, :, None] == keys.segment_ids[:, None, :]) & (back >= 0)
    return visible if window is None else visible & (back < window)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _masked_attention(scale: float, softcap: float | None, query, key, value, visible) -> jax.Array:
    """Attention of query [B, K, N/K, T, H] over key and value [B, K, S, H] with `visible` [B, T, S].

    The gradient is written out because XLA's CPU backend needs up to twice the time for the derived one.
    Queries of a group are treated as more tokens, so key/value heads are never repeated in memory.
    """
    return _masked_attention_forward(scale, softcap, query, key, value, visible)[0]


def _masked_attention_forward(scale, softcap, query, key, value, visible):
    batch, kv_heads, group, length, head_dim = query.shape
    query = query.reshape(batch, kv_heads, group * length, head_dim)
    scores = _scores(scale, softcap, query, key).reshape(batch, kv_heads, group, length, -1)
    weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, _HIDDEN_SCORE), axis=-1)
    weights = weights.reshape(batch, kv_heads, group * length, -1).astype(value.dtype)
    attended = jnp.einsum('bkts,bksh->bkth', weights, value)
    shape = (batch, kv_heads, group, length, head_dim)
    return attended.reshape(shape), (query, key, value, weights, attended)


def _masked_attention_backward(scale, softcap, residuals, gradient):
    query, key, value, weights, attended = residuals
    shape = gradient.shape
    gradient = gradient.reshape(query.shape)
    value_gradient = jnp.einsum('bkts,bkth->bksh', weights, gradient)
    # Softmax: d score = weight * (d weight - sum over keys of weight * d weight); that sum is attended . d attended.
    mean = jnp.sum((attended * gradient).astype(jnp.float32), axis=-1, keepdims=True)
    weight_gradient = jnp.einsum('bkth,bksh->bkts', gradient, value, preferred_element_type=jnp.float32)
    score_gradient = weights * (weight_gradient - mean)
    if softcap is not None:
        # d tanh(x) = 1 - tanh(x)^2. The scores are computed again: kept, they would double what a layer keeps.
        score_gradient *= 1 - jnp.square(_scores(scale, softcap, query, key) / softcap)
    score_gradient = score_gradient.astype(query.dtype)
    query_gradient = jnp.einsum('bkts,bksh->bkth', score_gradient, key) * scale
    key_gradient = jnp.einsum('bkts,bkth->bksh', score_gradient, query) * scale
    return query_gradient.reshape(shape), key_gradient, value_gradient, None


_masked_attention.defvjp(_masked_attention_forward, _masked_attention_backward)


def _scores(scale: float, softcap: float | None, query, key) -> jax.Array:
    scores = jnp.einsum('bkth,bksh->bkts', query * scale, key, preferred_element_type=jnp.float32)
    return scores if softcap is None else softcap * jnp.tanh(scores / softcap)
