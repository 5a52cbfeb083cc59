"""How weights are divided over a mesh, and how a layer's are gathered to be multiplied.

Axes of a mesh: `replica` (whole copies, across slices or slow networks), `fsdp` (parameters
and rows are divided), `tensor` (heads, feed-forward and vocabulary are divided).
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ('replica', 'fsdp', 'tensor')
BATCH_AXES = ('replica', 'fsdp')

# Path of a parameter -> axis of each dimension; what no row names, the norms, is whole on every device.
# Products divided by heads or feed-forward columns end in one divided by rows, so `tensor` sums once per block.
_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r'(^|/)embedding$', ('tensor', 'fsdp')),
    (r'(^|/)lm_head$', ('fsdp', 'tensor')),
    (r'(^|/)layers/(query|key|value|gate|up)$', (None, 'fsdp', 'tensor')),
    (r'(^|/)layers/(output|down)$', (None, 'tensor', 'fsdp')),
    # The factors of an adapter are small: they are divided like the side of the weights that `tensor` divides, and
    # whole over `fsdp`, which saves gathering each before its product.
    (r'(^|/)adapters/(query|key|value|gate|up)/b$', (None, None, 'tensor')),
    (r'(^|/)adapters/(output|down)/a$', (None, 'tensor', None)),
)


def axes_of(path: str, shape: Sequence[int], mesh: Mesh) -> tuple[str | None, ...]:
    """Returns the axis that divides each dimension of the parameter at `path`, () if none does.

    Args:
        path: names joined by '/', e.g. 'layers/query'; what stands before, as in an optimizer's state, does not matter.
        shape: its shape; a dimension that its axis does not divide stays whole.
    """
    for pattern, axes in _RULES:
        if re.search(pattern, path) and len(axes) == len(shape):
            return tuple(
                axis if axis is not None and size % mesh.shape[axis] == 0 else None
                for axis, size in zip(axes, shape, strict=True)
            )
    return ()


def gathered(weights: jax.Array, name: str, mesh: Mesh | None) -> jax.Array:
    """Returns one layer's weights [in, out] whole along `fsdp`, as a product wants them.

    Said before the product, so that they are gathered once, in the type of the product and for one layer at a time, and
    their gradient is divided again before it is kept. Left to itself, XLA for TPUs may send them around in small
    parts in each product, or keep whole gradients.

    Args:
        name: that of the linear, e.g. 'query'.
        mesh: None for no mesh.
    """
    if mesh is None:
        return weights
    axes = axes_of(f'layers/{name}', (1, *weights.shape), mesh)[1:]
    if 'fsdp' not in axes:
        return weights
    for part in (axes, tuple(None if axis == 'fsdp' else axis for axis in axes)):
        weights = jax.lax.with_sharding_constraint(weights, NamedSharding(mesh, PartitionSpec(*part)))
    return weights


def divided(x: jax.Array, mesh: Mesh | None, by_tensor: int | None = None) -> jax.Array:
    """Returns activations [B, T, ...] with the rows over replica x fsdp, where the axes divide them.

    Said of what enters and leaves each product, so that XLA never divides activations like the weights instead.

    Args:
        mesh: None for no mesh.
        by_tensor: the dimension of heads or feed-forward columns, which lies over `tensor`.
    """
    if mesh is None or mesh.size == 1:
        return x
    axes: list[Any] = [None] * x.ndim
    for dimension, names in ((0, BATCH_AXES), (by_tensor, ('tensor',))):
        if dimension is not None:
            divides = x.shape[dimension] % math.prod(mesh.shape[name] for name in names) == 0
            axes[dimension] = names if divides else PartitionSpec.UNCONSTRAINED
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))
