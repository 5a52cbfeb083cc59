"""The device mesh and where each array lies on it.

Axes: `replica` (whole copies, across slices or slow networks), `fsdp` (parameters
and rows are divided), `tensor` (heads, feed-forward and vocabulary are divided).
Rows of a batch lie over replica x fsdp. One table says how parameters lie; it is
matched against the end of a path, so an optimizer's moments lie like their parameters.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ccl_jax.errors import UserError

AXES = ('replica', 'fsdp', 'tensor')
BATCH_AXES = ('replica', 'fsdp')

# Path of a parameter -> axis of each dimension; what no row names, the norms, is whole on every device.
# Products divided by heads or feed-forward columns end in one divided by rows, so `tensor` sums once per block.
_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r'(^|/)embedding$', ('tensor', 'fsdp')),
    (r'(^|/)lm_head$', ('fsdp', 'tensor')),
    (r'(^|/)layers/(query|key|value|gate|up)$', (None, 'fsdp', 'tensor')),
    (r'(^|/)layers/(output|down)$', (None, 'tensor', 'fsdp')),
)


def make_mesh(replica: int = 1, fsdp: int = -1, tensor: int = 1, *, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh over all devices; one size may be -1 and takes what is left.

    Raises:
        UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {'replica': replica, 'fsdp': fsdp, 'tensor': tensor}
    wanted = ', '.join(f'{axis}={size}' for axis, size in sizes.items())
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f'mesh {wanted}: sizes must be whole numbers of at least 1, and only one may be -1')
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(devices) % fixed or (not open_axes and fixed != len(devices)):
        raise UserError(
            f'mesh {wanted} does not fit {len(devices)} device(s); '
            f'choose sizes whose product is {len(devices)}, or -1 for one of them'
        )
    shape = tuple(len(devices) // fixed if size == -1 else size for size in sizes.values())
    # Explicit, because the default type of an axis differs between versions of jax.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How [B, T] arrays lie: rows over replica x fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def sharding_for(mesh: Mesh, path: str, shape: Sequence[int]) -> NamedSharding:
    """Returns how the parameter (or its optimizer moment) at `path` lies on the mesh.

    Args:
        path: names joined by '/', e.g. 'layers/query'.
        shape: its shape; a dimension that its axis does not divide stays whole.
    """
    for pattern, spec in _RULES:
        if re.search(pattern, path) and len(spec) == len(shape):
            axes = [
                axis if axis is not None and size % mesh.shape[axis] == 0 else None
                for axis, size in zip(spec, shape, strict=True)
            ]
            return NamedSharding(mesh, PartitionSpec(*axes))
    return NamedSharding(mesh, PartitionSpec())


def tree_shardings(mesh: Mesh, tree: Any) -> Any:
    """Returns the tree of shardings of a tree of arrays (or of their shapes)."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: sharding_for(mesh, path_name(path), leaf.shape), tree)


def path_name(path: Sequence[Any]) -> str:
    """Joins a key path of `jax.tree_util` to 'a/b/c'; the `.value` of a Flax variable is left out."""
    if path and path[-1] == jax.tree_util.GetAttrKey('value'):
        path = path[:-1]
    return '/'.join(str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', None)))) for key in path)
