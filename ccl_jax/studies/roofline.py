"""How fast a step can be at best: its arithmetic, memory traffic and communication over the chip's peak rates.

Nothing here is measured: peaks are never reached, and how much of the communication runs beside
the arithmetic is only known on the machine. So there are two bounds: all beside each other, or all one after the other.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from ccl_jax.model.architecture import Architecture
from ccl_jax.model.counts import flops_per_token
from ccl_jax.studies.chips import Slice
from ccl_jax.studies.hlo import Collective


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a device of the mesh lies: the number of its slice, and its place in the slice's grid."""

    slice_index: int
    coordinates: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that each part of a step takes at the chip's peak rate.

    Attributes:
        compute: of the matrix products, what is computed again in the backward pass included.
        hbm: of large memory.
        ici: between chips of a slice.
        network: between slices.
        model_flops: of the step on all chips, without what is computed again.
    """

    compute: float
    hbm: float
    ici: float
    network: float
    model_flops: float

    @property
    def at_least(self) -> float:
        """Seconds of a step if everything runs beside everything else."""
        return max(self.compute, self.hbm, self.ici, self.network)

    @property
    def at_most(self) -> float:
        """Seconds of a step if nothing does; still at peak rates."""
        return self.compute + self.hbm + self.ici + self.network

    @property
    def limit(self) -> str:
        """What takes the longest."""
        return max(('compute', 'hbm', 'ici', 'network'), key=lambda name: getattr(self, name))


def roofline(
    architecture: Architecture,
    rows: int,
    length: int,
    *,
    backward: Literal['full', 'lora'],
    lora_parameters: int,
    recomputed: float,
    traffic: int,
    collectives: Sequence[Collective],
    places: Sequence[Place],
    slice_: Slice,
) -> Roofline:
    """Returns the bounds of a step of `rows` rows of `length` tokens, each row one segment.

    Args:
        backward, lora_parameters: see `flops_per_token`.
        recomputed: FLOPs a token that the backward pass spends on computing again what it did not keep.
        traffic: bytes of large memory that a chip moves.
        collectives: of a chip.
        places: of the devices, in the order of the mesh.
    """
    tokens = rows * length
    model = tokens * flops_per_token(architecture, length, backward=backward, lora_parameters=lora_parameters)
    times = [collective_seconds(collective, places, slice_) for collective in collectives]
    return Roofline(
        compute=(model + recomputed * tokens) / len(places) / slice_.chip.flops,
        hbm=traffic / slice_.chip.hbm_bandwidth,
        ici=math.fsum(ici for ici, _ in times),
        network=math.fsum(network for _, network in times),
        model_flops=model,
    )


def collective_seconds(collective: Collective, places: Sequence[Place], slice_: Slice) -> tuple[float, float]:
    """Returns the seconds that all runs of a collective take (between chips of a slice, between slices).

    With n devices and links of W bytes a second along the axes of the grid that the group spans, an all-gather
    or reduce-scatter of V bytes takes V (n - 1) / n / W, an all-reduce twice that; of an all-to-all, a byte crosses a
    quarter of the longest axis on average ("How to Scale Your Model", part 3, jax-ml.github.io/scaling-book/sharding).
    """
    size = collective.size * collective.count
    if collective.between_slices:
        slices = len({place.slice_index for place in places})
        return 0.0, _units(collective.kind, slices, slices) * size / slice_.chip.network_bandwidth
    group = [places[device] for device in collective.group] or [place for place in places if place.slice_index == 0]
    extents = [len(set(values)) for values in zip(*(place.coordinates for place in group), strict=True)]
    bandwidth = math.fsum(slice_.axis_bandwidth(axis) for axis in range(len(slice_.shape)) if extents[axis] > 1)
    return _units(collective.kind, len(group), max(extents)) * size / bandwidth if bandwidth else 0.0, 0.0


def _units(kind: str, devices: int, longest: int) -> float:
    """Returns how many times the whole array crosses a chip's links."""
    if devices == 1:
        return 0.0
    if kind == 'all-to-all':
        return longest / 4
    if kind in ('collective-permute', 'collective-broadcast', 'one-to-one'):
        return 1.0
    return (2 if kind == 'all-reduce' else 1) * (devices - 1) / devices
