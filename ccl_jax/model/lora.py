"""LoRA (arXiv 2106.09685): small trained products beside the linear layers of a frozen decoder.

A linear with an adapter computes x W + (alpha / rank) dropout(x) A B. The factors are
float32 whatever the type of W; like W they are cast to the type of x for the product, so
that an adapter costs what its size says. Stacked over layers they are A [L, in, r] and B [L, r, out].
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Sharding

from ccl_jax.model.decoder import Decoder
from ccl_jax.model.settings import LINEARS, LoraSettings

ShardingFor = Callable[[str, tuple[int, ...]], Sharding]


class LoraParam(nnx.Variable):
    """A factor of an adapter. No `nnx.Param`, so that the frozen weights and the trained ones are told apart."""


class Adapter(nnx.Module):
    """The adapter of one linear: factors `a` [L, in, r] and `b` [L, r, out] of all layers; a call wants one layer's.

    Attributes:
        scale: of the product, alpha / rank.
        dropout: share of the inputs set to 0 where a call has a key.
    """

    def __init__(self, a: jax.Array, b: jax.Array, *, scale: float, dropout: float = 0.0):
        self.a = LoraParam(a)
        self.b = LoraParam(b)
        self.scale = scale
        self.dropout = dropout

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Returns what is added to the linear's output: [B, T, in] -> [B, T, out], in the type of x.

        Args:
            key: of this layer's dropout in this step; None for none, as in evaluation.
        """
        if key is not None and self.dropout > 0:
            # The bits of a position are the same however rows are divided over devices (threefry is partitionable).
            kept = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(kept, x / (1 - self.dropout), 0).astype(x.dtype)
        narrow = (x @ self.a[...].astype(x.dtype)) * self.scale
        return narrow @ self.b[...].astype(x.dtype)


def add_lora(decoder: Decoder, settings: LoraSettings, seed: int, *, sharding_for: ShardingFor | None = None) -> None:
    """Gives the decoder new adapters, which change nothing yet: A is drawn, B is 0.

    A is uniform within 1 / sqrt(in), as `peft` draws it (Kaiming with a = sqrt(5)). The
    numbers depend on the seed and the linear's name, not on the other targets or the mesh.

    Args:
        sharding_for: gives the sharding of a factor from its path ('layers/adapters/query/a') and shape,
            as in `load_decoder`.
    """
    adapters = {}
    for name in settings.names:
        layers, inputs, outputs = getattr(decoder.layers, name).shape
        key = jax.random.fold_in(jax.random.key(seed), LINEARS.index(name))
        shapes = {'a': (layers, inputs, settings.rank), 'b': (layers, settings.rank, outputs)}
        shardings = None
        if sharding_for is not None:
            shardings = {factor: sharding_for(factor_path(name, factor), shape) for factor, shape in shapes.items()}
        factors = jax.jit(_draw, static_argnums=(1, 2), out_shardings=shardings)(key, shapes['a'], shapes['b'])
        adapters[name] = Adapter(**factors, scale=settings.alpha / settings.rank, dropout=settings.dropout)
    decoder.layers.adapters = nnx.Dict(adapters)


def merge_lora(decoder: Decoder) -> None:
    """Adds the adapters' products to the weights, in float32 and rounded to their type once, and drops the adapters.

    In place and layer by layer: the weights' old arrays are used up, and no second set of them is held.
    """
    for name, adapter in decoder.layers.adapters.items():
        weights = getattr(decoder.layers, name)
        old = weights[...]
        merge = jax.jit(functools.partial(_merged, scale=adapter.scale), donate_argnums=0, out_shardings=old.sharding)
        weights.set_value(merge(old, adapter.a[...], adapter.b[...]))
    decoder.layers.adapters = nnx.Dict()


def split_trained(decoder: Decoder) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Returns the structure, what is trained (the adapters if there are any, else all weights), and the rest."""
    graphdef, *states = nnx.split(decoder, LoraParam, nnx.Param)
    adapters, weights = states
    return (graphdef, adapters, weights) if adapters else (graphdef, weights, adapters)


def factor_path(name: str, factor: str) -> str:
    """The path of a factor ('a' or 'b') of a linear's adapter."""
    return f'layers/adapters/{name}/{factor}'


def _draw(key: jax.Array, a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> dict[str, jax.Array]:
    bound = 1 / math.sqrt(a_shape[1])
    return {
        'a': jax.random.uniform(key, a_shape, jnp.float32, -bound, bound),
        'b': jnp.zeros(b_shape, jnp.float32),
    }


def _merged(weights: jax.Array, a: jax.Array, b: jax.Array, *, scale: float) -> jax.Array:
    def layer(parts: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        weight, a, b = parts
        product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        return (weight.astype(jnp.float32) + scale * product).astype(weight.dtype)

    return jax.lax.map(layer, (weights, a, b))
