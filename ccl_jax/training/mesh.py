"""The device mesh and where each array lies on it.

Rows of a batch lie over replica x fsdp. Parameters lie as the table of `model.sharding` says; it is
matched against the end of a path, so an optimizer's moments lie like their parameters.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ccl_jax.errors import UserError
from ccl_jax.model.sharding import AXES, BATCH_AXES, axes_of

__all__ = ['AXES', 'BATCH_AXES', 'batch_sharding', 'make_mesh', 'path_name', 'sharding_for', 'tree_shardings']


def make_mesh(replica: int = 1, fsdp: int = -1, tensor: int = 1, *, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh over all devices; one size may be -1 and takes what is left.

    On several TPU slices, `replica` runs over the slices first, so that only it crosses the network between them.

    Raises:
        UserError: the sizes do not multiply to the number of devices, or replica is no multiple of the slices.
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
    types = (AxisType.Auto,) * len(AXES)
    # On GPUs the number means a host; their networks are for NCCL to tell apart.
    slices = len({getattr(device, 'slice_index', 0) for device in devices}) if devices[0].platform == 'tpu' else 1
    if slices == 1:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    if shape[0] % slices:
        raise UserError(
            f'mesh {wanted} on {slices} TPU slices: replica is {shape[0]}; make it a multiple of {slices}, because '
            'the network between slices is too slow for the other axes'
        )
    inside = (shape[0] // slices, *shape[1:])
    arranged = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES, axis_types=types)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How [B, T] arrays lie: rows over replica x fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def sharding_for(mesh: Mesh, path: str, shape: Sequence[int]) -> NamedSharding:
    """Returns how the parameter (or its optimizer moment) at `path` lies on the mesh.

    Args:
        path: names joined by '/', e.g. 'layers/query'.
        shape: its shape; a dimension that its axis does not divide stays whole.
    """
    return NamedSharding(mesh, PartitionSpec(*axes_of(path, shape, mesh)))


def tree_shardings(mesh: Mesh, tree: Any) -> Any:
    """Returns the tree of shardings of a tree of arrays (or of their shapes)."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: sharding_for(mesh, path_name(path), leaf.shape), tree)


def path_name(path: Sequence[Any]) -> str:
    """Joins a key path of `jax.tree_util` to 'a/b/c'; the `.value` of a Flax variable is left out."""
    if path and path[-1] == jax.tree_util.GetAttrKey('value'):
        path = path[:-1]
    return '/'.join(str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', None)))) for key in path)
