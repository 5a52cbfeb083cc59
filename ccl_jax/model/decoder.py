"""The decoder: token ids in, hidden states out, with or without a key/value cache.

Root-mean-square norms, rotary positions, grouped-query attention and a gated feed-forward block
(arXiv 2307.09288), and what an `Architecture` adds: biases or norms of queries and keys, norms
after a block, soft-caps, sliding windows. Linear weights are [in, out].
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ccl_jax.model.architecture import Architecture
from ccl_jax.model.attention import MAX_SEGMENTS, Places, attend
from ccl_jax.model.remat import PRODUCT, recomputed
from ccl_jax.model.rope import Rotation, inverse_frequencies, rotate, rotation
from ccl_jax.model.sharding import divided, gathered

# Unrolling saves a copy of every residual into the stack of its layer, about an eighth of a
# training step of a small model on CPU. Deeper stacks loop, which keeps compile time flat.
_DEEPEST_UNROLLED = 8
# The linear products of a layer; the order numbers their random keys.
LINEARS = ('query', 'key', 'value', 'output', 'gate', 'up', 'down')
_BIASED = ('query', 'key', 'value')
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    'silu': jax.nn.silu,
    'gelu_pytorch_tanh': functools.partial(jax.nn.gelu, approximate=True),
}

Cache = dict[str, tuple[jax.Array, ...]]
# Of a stack. Keys lie so that scores, sums over H, are made of whole stretches of slots, which CPUs are quickest at.
SLOT_AXES = {'key': 4, 'value': 3}


class Decoder(nnx.Module):
    """A decoder-only transformer.

    Parameters: `embedding` [V, D]; `layers/...`, each with a leading L axis; `final_norm` [D];
    `lm_head` [D, V] unless the embeddings are tied.

    A cache is a dict of `key` and `value`; slot s of a row holds its token at position s. Each is a tuple of stacks of
    layers, keys [., B, K, H, S] and values [., B, K, S, H]: one for all layers, or one for each where there are few,
    which spares a copy of the layer.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        rngs: nnx.Rngs,
        param_dtype: jnp.dtype | type = jnp.float32,
        compute_dtype: jnp.dtype | type = jnp.float32,
        remat: str = 'none',
        mesh: jax.sharding.Mesh | None = None,
        attention: str | None = None,
        max_segments: int = MAX_SEGMENTS,
    ):
        """Fills the parameters at random: normal with `initializer_range`, norms 1, biases 0.

        Args:
            param_dtype: type in which parameters are kept.
            compute_dtype: type of the matrix products; norms, rotations, softmax and logits are float32.
            remat: what of a layer the backward pass computes again instead of keeping it, see `REMAT`.
            mesh: where the arrays lie: rows over replica x fsdp, heads and feed-forward columns over tensor.
            attention: name of an attention backend; by default the first that supports the call.
            max_segments: see `attend`.
        """
        self.architecture = architecture
        self.compute_dtype = jnp.dtype(compute_dtype)
        self.remat = remat
        self.mesh = mesh
        self.attention = attention
        self.max_segments = max_segments
        vocab, hidden = architecture.vocab_size, architecture.hidden_size
        normal = jax.nn.initializers.normal(architecture.initializer_range)
        self.embedding = nnx.Param(normal(rngs.params(), (vocab, hidden), param_dtype))
        self.layers = Layer(architecture, rngs=rngs, param_dtype=param_dtype, mesh=mesh)
        self.final_norm = nnx.Param(_initial_norm(architecture, (hidden,), param_dtype))
        if not architecture.tie_word_embeddings:
            self.lm_head = nnx.Param(normal(rngs.params(), (hidden, vocab), param_dtype))

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the normed hidden states [B, T, D] of packed rows; the arrays are [B, T] int32.

        Positions restart at 0 and rise by 1 in each segment; a token sees the earlier tokens of its segment only.

        Args:
            dropout_key: for the dropout of adapters; None for none.
        """
        hidden, _ = self._forward(tokens, Places(segment_ids, positions), dropout_key, keep_keys=False)
        return hidden

    def output_embedding(self) -> jax.Array:
        """Returns the [D, V] matrix that maps hidden states to logits, in the parameters' type."""
        if self.architecture.tie_word_embeddings:
            return self.embedding[...].T
        return self.lm_head[...]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns float32 logits [..., V] of hidden states [..., D], soft-capped if the architecture says so."""
        weights = self.output_embedding().astype(hidden.dtype)
        logits = jnp.dot(hidden, weights, preferred_element_type=jnp.float32)
        return soft_capped(logits, self.architecture.final_softcap)

    def prefill(self, tokens: jax.Array) -> tuple[jax.Array, Cache]:
        """Runs prompts [B, T], padded on the right, and returns their hidden states [B, T, D] and a cache of T slots.

        No token sees a later one, so none of a prompt sees padding; what is computed of padding has no meaning.
        """
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        hidden, (key, value) = self._forward(tokens, Places(jnp.ones_like(positions), positions), None, keep_keys=True)
        return hidden, {'key': self._stacks(key.transpose(0, 1, 3, 4, 2)), 'value': self._stacks(value.swapaxes(2, 3))}

    def empty_cache(self, rows: int, slots: int) -> Cache:
        """Returns a cache of zeros."""
        architecture = self.architecture
        stack = (architecture.num_hidden_layers, rows, architecture.num_key_value_heads)
        shapes = {'key': (*stack, architecture.head_dim, slots), 'value': (*stack, slots, architecture.head_dim)}
        return {name: self._stacks(jnp.zeros(shape, self.compute_dtype)) for name, shape in shapes.items()}

    def decode(self, tokens: jax.Array, positions: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Runs one more token a row and returns its hidden states [B, D] and the cache with it.

        Args:
            tokens: [B] int32.
            positions: [B] int32, which may differ between rows; the slots before must be filled, and what lies in
                this one and later ones does not matter.
        """
        rows, slots = len(positions), cache['value'][0].shape[3]
        places = jnp.broadcast_to(jnp.arange(slots, dtype=jnp.int32), (rows, slots))
        keys = Places(jnp.ones_like(places), places)
        queries = Places(jnp.ones_like(positions)[:, None], positions[:, None])
        rotations = self._rotations(queries.positions)

        # The whole cache is carried, so that XLA writes the new token in place instead of copying a layer's slots.
        def step(carry, layer, index, windowed):
            x, *cache = carry
            query, *new = layer.project(x, rotations[windowed], None)
            stack, place = (index, 0) if self._few_layers else (0, index)
            cache = [
                _written(stacks, stack, place, part[:, 0], positions, slot_axis)
                for stacks, part, slot_axis in zip(cache, new, SLOT_AXES.values(), strict=True)
            ]
            keys_of_layer, values_of_layer = (_at(stacks[stack], place) for stacks in cache)
            key, value = keys_of_layer.transpose(0, 3, 1, 2), values_of_layer.swapaxes(1, 2)
            attended = self._attend(query, key, value, queries, keys, windowed=windowed)
            return (layer.finish(x, attended, None), *cache), None

        carry = (self._embed(tokens[:, None]), cache['key'], cache['value'])
        if self._few_layers:
            graphdef, stacked = nnx.split(self.layers)
            windowed = self.architecture.windowed or (False,) * self.architecture.num_hidden_layers
            for index, has_window in enumerate(windowed):
                carry, _ = step(carry, nnx.merge(graphdef, _at(stacked, index)), index, has_window)
        else:
            carry, _ = self._over_layers(step, carry)
        x, key, value = carry
        return self._normed(x)[:, 0], {'key': key, 'value': value}

    @property
    def _few_layers(self) -> bool:
        return self.architecture.num_hidden_layers <= _DEEPEST_UNROLLED

    def _stacks(self, layers: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the stacks of a cache from one of all layers."""
        return tuple(layers[i : i + 1] for i in range(len(layers))) if self._few_layers else (layers,)

    def _forward(self, tokens: jax.Array, places: Places, dropout_key: jax.Array | None, *, keep_keys: bool):
        """Returns hidden states and, if asked, rotated keys and values, each [L, B, T, K, H]."""
        rotations = self._rotations(places.positions)

        def step(x, layer, index, windowed):
            layer_key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
            query, key, value = layer.project(x, rotations[windowed], layer_key)
            attended = self._attend(query, key, value, places, None, windowed=windowed)
            return layer.finish(x, attended, layer_key), (key, value) if keep_keys else None

        unroll = self._few_layers and not keep_keys and self.remat == 'none'
        x, kept = self._over_layers(step, self._embed(tokens), remat=self.remat, unroll=unroll)
        return self._normed(x), kept

    def _over_layers(self, step: Callable, carry: Any, *, remat: str = 'none', unroll: bool = False) -> tuple[Any, Any]:
        """Loops over the layers: `step` maps (carry, layer, index, windowed) to (carry, what is kept of the layer).

        The loop runs over periods of layers, so that what a layer sees is known when it is
        compiled; layers that fill no period come after it. What is kept is stacked, [L, ...].
        """
        graphdef, stacked = nnx.split(self.layers)
        pattern = self.architecture.layer_pattern
        rest = self.architecture.num_hidden_layers % len(pattern)
        looped = self.architecture.num_hidden_layers - rest

        def run(carry, weights, place, index, windowed, in_loop=True):
            """Runs one layer, which lies at `place` of `weights` if these are stacked."""

            def of_layer(carry):
                # The layer is cut out in here, so that its recomputation does not keep a copy of the weights.
                layer = nnx.merge(graphdef, weights if place is None else _at(weights, place))
                return step(carry, layer, index, windowed)

            return recomputed(of_layer, remat, in_loop=in_loop)(carry)

        if len(pattern) == 1:
            # A loop over the weights themselves keeps no copy of them, with or without recomputation.
            def layer(carry, index_and_weights):
                index, weights = index_and_weights
                return run(carry, weights, None, index, pattern[0], looped > 1)

            return jax.lax.scan(layer, carry, (jnp.arange(looped), stacked), unroll=unroll)

        def period(carry, first):
            kept = []
            for offset, windowed in enumerate(pattern):
                index = first + offset
                carry, of_layer = run(carry, stacked, index, index, windowed, looped > len(pattern))
                kept.append(of_layer)
            return carry, jax.tree.map(lambda *arrays: jnp.stack(arrays), *kept)

        carry, kept = jax.lax.scan(period, carry, jnp.arange(0, looped, len(pattern)), unroll=unroll)
        kept = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), kept)
        # Cut out together, because each cut costs the backward pass a copy of all gradients.
        last = jax.tree.map(lambda array: array[looped:], stacked)
        for place, windowed in enumerate(pattern[:rest]):
            carry, of_layer = run(carry, last, place, looped + place, windowed, False)
            kept = jax.tree.map(lambda array, more: jnp.concatenate([array, more[None]]), kept, of_layer)
        return carry, kept

    def _attend(self, query, key, value, queries: Places, keys: Places | None, *, windowed: bool) -> jax.Array:
        return attend(
            query,
            key,
            value,
            queries,
            keys,
            window=self.architecture.sliding_window if windowed else None,
            softcap=self.architecture.attention_softcap,
            scale=self.architecture.query_scale,
            backend=self.attention,
            mesh=self.mesh,
            max_segments=self.max_segments,
        )

    def _rotations(self, positions: jax.Array) -> dict[bool, Rotation]:
        """Returns the rotation of layers without (False) and with (True) a window."""
        architecture = self.architecture
        ropes = dict.fromkeys((False, True), (architecture.rope_theta, architecture.rope_scaling))
        if architecture.local_rope_theta is not None:
            ropes[True] = (architecture.local_rope_theta, None)
        return {
            windowed: rotation(inverse_frequencies(architecture.head_dim, *ropes[windowed]), positions)
            for windowed in set(architecture.layer_pattern)
        }

    def _embed(self, tokens: jax.Array) -> jax.Array:
        embedded = self.embedding[...][tokens]
        if self.architecture.scale_embeddings:
            # Rounded to the embedding's type like the models were trained: sqrt(3072) is 55.5 in bfloat16.
            embedded = embedded * jnp.asarray(math.sqrt(self.architecture.hidden_size), embedded.dtype)
        return divided(embedded.astype(self.compute_dtype), self.mesh)

    def _normed(self, x: jax.Array) -> jax.Array:
        return _rms_norm(x, self.final_norm, self.architecture)


class Layer(nnx.Module):
    """The layers of a decoder: parameters are created with a leading L axis, the methods want one layer's slice.

    Parameters, without L: `attention_norm` and `mlp_norm` [D]; `query` [D, N*H], `key` and `value` [D, K*H],
    `output` [N*H, D]; `gate` and `up` [D, F], `down` [F, D]. Some architectures have `query_bias` [N*H],
    `key_bias` and `value_bias` [K*H]; `query_norm` and `key_norm` [H]; `attention_post_norm` and
    `mlp_post_norm` [D], which norm a block's output before it is added.

    Attributes:
        adapters: by name of a linear product, what is added to it: called with its input [B, T, in]
            and a random key or None. Its variables have a leading L axis too.
        mesh: where weights and activations lie.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        rngs: nnx.Rngs,
        param_dtype: jnp.dtype | type,
        mesh: jax.sharding.Mesh | None = None,
    ):
        self.architecture = architecture
        self.mesh = mesh
        self.adapters: Any = nnx.Dict()
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

        def norm(size: int) -> nnx.Param:
            return nnx.Param(_initial_norm(architecture, (layers, size), param_dtype))

        self.attention_norm = norm(hidden)
        self.query = linear(hidden, query_size)
        self.key = linear(hidden, key_size)
        self.value = linear(hidden, key_size)
        self.output = linear(query_size, hidden)
        self.mlp_norm = norm(hidden)
        self.gate = linear(hidden, inner)
        self.up = linear(hidden, inner)
        self.down = linear(inner, hidden)
        if architecture.qkv_bias:
            self.query_bias = nnx.Param(jnp.zeros((layers, query_size), param_dtype))
            self.key_bias = nnx.Param(jnp.zeros((layers, key_size), param_dtype))
            self.value_bias = nnx.Param(jnp.zeros((layers, key_size), param_dtype))
        if architecture.qk_norm:
            self.query_norm = norm(architecture.head_dim)
            self.key_norm = norm(architecture.head_dim)
        if architecture.post_norms:
            self.attention_post_norm = norm(hidden)
            self.mlp_post_norm = norm(hidden)

    def project(
        self, x: jax.Array, by: Rotation, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns query [B, T, N, H] and key, rotated by `by`, and value [B, T, K, H] of x [B, T, D]."""
        normed = self._norm(x, self.attention_norm)
        query, key, value = (
            self._linear(name, normed, dropout_key).reshape(*x.shape[:2], -1, self.architecture.head_dim)
            for name in ('query', 'key', 'value')
        )
        if self.architecture.qk_norm:
            query, key = self._norm(query, self.query_norm), self._norm(key, self.key_norm)
        query, key = rotate(query, by), rotate(key, by)
        return divided(query, self.mesh, 2), divided(key, self.mesh, 2), divided(value, self.mesh, 2)

    def finish(self, x: jax.Array, attended: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Adds the attention's result [B, T, N, H] and then the feed-forward block to x [B, T, D]."""
        attended = self._linear('output', attended.reshape(*x.shape[:2], -1), dropout_key)
        if self.architecture.post_norms:
            attended = self._norm(attended, self.attention_post_norm)
        x = divided(x + attended, self.mesh)
        normed = self._norm(x, self.mlp_norm)
        gate = _ACTIVATIONS[self.architecture.hidden_act](self._linear('gate', normed, dropout_key))
        inner = divided(gate * self._linear('up', normed, dropout_key), self.mesh, 2)
        down = self._linear('down', inner, dropout_key)
        if self.architecture.post_norms:
            down = self._norm(down, self.mlp_post_norm)
        return divided(x + down, self.mesh)

    def _linear(self, name: str, x: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """Returns x [B, T, in] times the weights called `name`, with its bias and adapter where there are any."""
        product = x @ gathered(getattr(self, name)[...].astype(x.dtype), name, self.mesh)
        product = checkpoint_name(product, PRODUCT)
        if self.architecture.qkv_bias and name in _BIASED:
            product = product + getattr(self, f'{name}_bias')[...].astype(x.dtype)
        if name in self.adapters:
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, LINEARS.index(name))
            product = product + self.adapters[name](x, key).astype(x.dtype)
        return product

    def _norm(self, x: jax.Array, weight: nnx.Param) -> jax.Array:
        return _rms_norm(x, weight, self.architecture)


def soft_capped(x: jax.Array, cap: float | None) -> jax.Array:
    """Returns cap * tanh(x / cap), which keeps x between -cap and cap (arXiv 2408.00118); x if there is no cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def _written(
    stacks: tuple[jax.Array, ...],
    stack: int,
    place: jax.Array | int,
    new: jax.Array,
    positions: jax.Array,
    slot_axis: int,
) -> tuple[jax.Array, ...]:
    """Returns stacks of a cache with new [B, K, H] at `place` of one and in the slot of each row's position [B]."""
    rows = jnp.arange(len(positions))
    slots = (slice(None),) * (slot_axis - 2)
    written = stacks[stack].at[(place, rows, *slots, positions)].set(new, mode='clip', unique_indices=True)
    return (*stacks[:stack], written, *stacks[stack + 1 :])


def _at(stacked: Any, index: jax.Array | int) -> Any:
    """Returns the slices at `index` of arrays with a leading axis."""
    if isinstance(index, int):
        return jax.tree.map(lambda array: array[index], stacked)
    return jax.tree.map(lambda array: jax.lax.dynamic_index_in_dim(array, index, keepdims=False), stacked)


def _initial_norm(architecture: Architecture, shape: tuple[int, ...], dtype: jnp.dtype | type) -> jax.Array:
    return jnp.zeros(shape, dtype) if architecture.norm_plus_one else jnp.ones(shape, dtype)


def _rms_norm(x: jax.Array, weight: nnx.Param, architecture: Architecture) -> jax.Array:
    """RMSNorm (arXiv 1910.07467) over the last axis, in float32; rounded before or after the weight as in training."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + architecture.rms_norm_eps)
    if architecture.norm_plus_one:
        return (normed * (1 + weight[...].astype(jnp.float32))).astype(x.dtype)
    return normed.astype(x.dtype) * weight[...].astype(x.dtype)
