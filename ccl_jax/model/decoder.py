"""The decoder: token ids in, hidden states out, with or without a key/value cache.

The Llama family (arXiv 2307.09288, 2407.21783): RMSNorm before each block, rotary positions,
grouped-query attention, SwiGLU, no biases. Linear weights are [in, out].
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.model.architecture import Architecture
from ccl_jax.model.attention import Places, attend

# Unrolling saves a copy of every residual into the stack of its layer, about an eighth of a
# training step of a small model on CPU. Deeper stacks loop, which keeps compile time flat.
_DEEPEST_UNROLLED = 8

Cache = dict[str, jax.Array]


class Decoder(nnx.Module):
    """A decoder-only transformer.

    Parameters: `embedding` [V, D]; `layers/...`, each with a leading L axis; `final_norm` [D];
    `lm_head` [D, V] unless the embeddings are tied.

    A cache is a dict of `key` and `value` [L, B, K, S, H], and `positions` and `segment_ids` [B, S]
    of the tokens in its S slots. Segment 0 marks a free slot: real tokens have segment ids from 1.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        rngs: nnx.Rngs,
        param_dtype: jnp.dtype | type = jnp.float32,
        compute_dtype: jnp.dtype | type = jnp.float32,
        remat: bool = False,
    ):
        """Fills the parameters at random: normal with `initializer_range`, norms 1.

        Args:
            param_dtype: type in which parameters are kept.
            compute_dtype: type of the matrix products; norms, rotations, softmax and logits are float32.
            remat: recompute each layer in the backward pass instead of keeping its activations.
        """
        self.architecture = architecture
        self.compute_dtype = jnp.dtype(compute_dtype)
        self.remat = remat
        vocab, hidden = architecture.vocab_size, architecture.hidden_size
        normal = jax.nn.initializers.normal(architecture.initializer_range)
        self.embedding = nnx.Param(normal(rngs.params(), (vocab, hidden), param_dtype))
        self.layers = Layer(architecture, rngs=rngs, param_dtype=param_dtype)
        self.final_norm = nnx.Param(jnp.ones((hidden,), param_dtype))
        if not architecture.tie_word_embeddings:
            self.lm_head = nnx.Param(normal(rngs.params(), (hidden, vocab), param_dtype))

    def __call__(self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
        """Returns the normed hidden states [B, T, D] of packed rows; all arguments are [B, T] int32.

        Positions restart at 0 and rise by 1 in each segment; a token sees the earlier tokens of its segment only.
        """
        hidden, _ = self._forward(tokens, Places(segment_ids, positions), keep_keys=False)
        return hidden

    def output_embedding(self) -> jax.Array:
        """Returns the [D, V] matrix that maps hidden states to logits, in the parameters' type."""
        if self.architecture.tie_word_embeddings:
            return self.embedding[...].T
        return self.lm_head[...]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns float32 logits [..., V] of hidden states [..., D]."""
        weights = self.output_embedding().astype(hidden.dtype)
        return jnp.dot(hidden, weights, preferred_element_type=jnp.float32)

    def prefill(
        self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array, slots: int
    ) -> tuple[jax.Array, Cache]:
        """Runs prompts and returns their hidden states [B, T, D] and a cache of `slots` >= T slots.

        The prompts, padded left or right to T, take the first T slots. Padding has segment id 0.
        """
        places = Places(segment_ids, positions)
        hidden, kept = self._forward(tokens, places, keep_keys=True)
        free = slots - tokens.shape[1]
        key, value = (jnp.pad(x.swapaxes(2, 3), ((0, 0),) * 3 + ((0, free), (0, 0))) for x in kept)
        positions, segment_ids = (jnp.pad(x, ((0, 0), (0, free))) for x in (positions, segment_ids))
        return hidden, {'key': key, 'value': value, 'positions': positions, 'segment_ids': segment_ids}

    def decode(
        self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array, cache: Cache, slot: jax.Array | int
    ) -> tuple[jax.Array, Cache]:
        """Runs one more token a row and returns its hidden states [B, D] and the cache with it.

        Args:
            tokens, positions, segment_ids: [B] int32; positions may differ between rows.
            slot: the slot that takes the tokens, the same in all rows; it must be free.
        """
        queries = Places(segment_ids[:, None], positions[:, None])
        keys = Places(
            jax.lax.dynamic_update_slice(cache['segment_ids'], queries.segment_ids, (0, slot)),
            jax.lax.dynamic_update_slice(cache['positions'], queries.positions, (0, slot)),
        )
        rotation = _rotation(self.architecture, queries.positions)
        graphdef, stacked = nnx.split(self.layers)

        # The whole cache is carried, so that XLA writes the new token in place instead of copying a layer's slots.
        def step(carry, layer_and_weights):
            x, all_keys, all_values = carry
            index, weights = layer_and_weights
            layer = nnx.merge(graphdef, weights)
            query, key, value = layer.project(x, rotation)
            start = (index, 0, 0, slot, 0)
            all_keys = jax.lax.dynamic_update_slice(all_keys, key.swapaxes(1, 2)[None], start)
            all_values = jax.lax.dynamic_update_slice(all_values, value.swapaxes(1, 2)[None], start)
            key, value = (
                jax.lax.dynamic_index_in_dim(x, index, keepdims=False).swapaxes(1, 2) for x in (all_keys, all_values)
            )
            attended = attend(query, key, value, queries, keys)
            return (layer.finish(x, attended), all_keys, all_values), None

        indices = jnp.arange(self.architecture.num_hidden_layers)
        carry = (self._embed(tokens[:, None]), cache['key'], cache['value'])
        (x, key, value), _ = jax.lax.scan(step, carry, (indices, stacked))
        cache = {'key': key, 'value': value, 'positions': keys.positions, 'segment_ids': keys.segment_ids}
        return self._normed(x)[:, 0], cache

    def _forward(self, tokens: jax.Array, places: Places, *, keep_keys: bool):
        """Returns hidden states and, if asked, rotated keys and values, each [L, B, T, K, H]."""
        rotation = _rotation(self.architecture, places.positions)
        graphdef, stacked = nnx.split(self.layers)

        def step(x, weights):
            layer = nnx.merge(graphdef, weights)
            query, key, value = layer.project(x, rotation)
            x = layer.finish(x, attend(query, key, value, places))
            return x, (key, value) if keep_keys else None

        unroll = self.architecture.num_hidden_layers <= _DEEPEST_UNROLLED and not keep_keys
        if self.remat:
            # The loop itself keeps XLA from merging the recomputation with the forward pass.
            step, unroll = jax.checkpoint(step, prevent_cse=False), False
        x, kept = jax.lax.scan(step, self._embed(tokens), stacked, unroll=unroll)
        return self._normed(x), kept

    def _embed(self, tokens: jax.Array) -> jax.Array:
        return self.embedding[...][tokens].astype(self.compute_dtype)

    def _normed(self, x: jax.Array) -> jax.Array:
        return _rms_norm(x, self.final_norm[...], self.architecture.rms_norm_eps)


class Layer(nnx.Module):
    """The layers of a decoder: parameters are created with a leading L axis, the methods want one layer's slice.

    Parameters, without L: `attention_norm` and `mlp_norm` [D]; `query` [D, N*H], `key` and `value` [D, K*H],
    `output` [N*H, D]; `gate` and `up` [D, F], `down` [F, D].
    """

    def __init__(self, architecture: Architecture, *, rngs: nnx.Rngs, param_dtype: jnp.dtype | type):
        self.architecture = architecture
        layers, hidden, inner = (
            architecture.num_hidden_layers,
            architecture.hidden_size,
            architecture.intermediate_size,
        )
        query_size = architecture.num_attention_heads * architecture.head_dim
        key_size = architecture.num_key_value_heads * architecture.head_dim
        normal = jax.nn.initializers.normal(architecture.initializer_range)

        def linear(inputs: int, outputs: int) -> nnx.Param:
            # Drawn in two dimensions, because XLA compiles a draw in three for twice as long.
            drawn = normal(rngs.params(), (layers, inputs * outputs), param_dtype)
            return nnx.Param(drawn.reshape(layers, inputs, outputs))

        self.attention_norm = nnx.Param(jnp.ones((layers, hidden), param_dtype))
        self.query = linear(hidden, query_size)
        self.key = linear(hidden, key_size)
        self.value = linear(hidden, key_size)
        self.output = linear(query_size, hidden)
        self.mlp_norm = nnx.Param(jnp.ones((layers, hidden), param_dtype))
        self.gate = linear(hidden, inner)
        self.up = linear(hidden, inner)
        self.down = linear(inner, hidden)

    def project(self, x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the rotated query [B, T, N, H] and key, and the value [B, T, K, H], of x [B, T, D]."""
        normed = _rms_norm(x, self.attention_norm[...], self.architecture.rms_norm_eps)

        def heads(weights: nnx.Param) -> jax.Array:
            return _linear(normed, weights).reshape(*x.shape[:2], -1, self.architecture.head_dim)

        return _rotate(heads(self.query), rotation), _rotate(heads(self.key), rotation), heads(self.value)

    def finish(self, x: jax.Array, attended: jax.Array) -> jax.Array:
        """Adds the attention's result [B, T, N, H] and then the feed-forward block to x [B, T, D]."""
        x = x + _linear(attended.reshape(*x.shape[:2], -1), self.output)
        normed = _rms_norm(x, self.mlp_norm[...], self.architecture.rms_norm_eps)
        return x + _linear(jax.nn.silu(_linear(normed, self.gate)) * _linear(normed, self.up), self.down)


def inverse_frequencies(architecture: Architecture) -> np.ndarray:
    """Returns the angle per position of each pair of a head's dimensions, float32 [H / 2].

    RoPE is arXiv 2104.09864. The scaling of Llama 3.1 is given by transformers'
    `_compute_llama3_parameters`; computed in float64 and rounded once.
    """
    frequencies = architecture.rope_theta ** (-np.arange(0, architecture.head_dim, 2) / architecture.head_dim)
    scaling = architecture.rope_scaling
    if scaling is not None:
        turns = frequencies * scaling.original_max_position_embeddings / (2 * math.pi)
        blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        kept = np.clip(blend, 0, 1)
        frequencies = kept * frequencies + (1 - kept) * frequencies / scaling.factor
    return frequencies.astype(np.float32)


def _rotation(architecture: Architecture, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns cosine and sine, float32 [B, T, 1, H / 2]."""
    angles = positions[:, :, None, None].astype(jnp.float32) * inverse_frequencies(architecture)
    return jnp.cos(angles), jnp.sin(angles)


def _rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates x [B, T, heads, H]; dimension i is paired with i + H / 2, as in Hugging Face's weights."""
    cos, sin = rotation
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def _linear(x: jax.Array, weights: nnx.Param) -> jax.Array:
    return x @ weights[...].astype(x.dtype)


def _rms_norm(x: jax.Array, weight: jax.Array, epsilon: float) -> jax.Array:
    """RMSNorm (arXiv 1910.07467) over the last axis, computed in float32."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + epsilon)
    return (normed * weight.astype(jnp.float32)).astype(x.dtype)
