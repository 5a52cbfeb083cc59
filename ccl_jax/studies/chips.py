"""TPU generations: what a chip computes, holds and sends, and which slices of them exist."""

import dataclasses
import math
import re

from ccl_jax.errors import UserError
from ccl_jax.training.chips import BF16_FLOPS

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip of a generation; rates are per second, peaks that no program reaches.

    Attributes:
        flops: of bfloat16 matrix products.
        hbm_bytes: what XLA lets a program use, a little less than what is sold.
        hbm_bandwidth: bytes read or written.
        link_bandwidth: bytes that one link between neighbouring chips carries one way. Along each axis of
            its slice a chip has two links.
        network_bandwidth: bytes that a chip's share of its host's network to other slices carries one way.
        largest: the largest slice, in chips along each axis.
        ring: an axis whose length is a multiple of this is closed to a ring; in 3 dimensions, where all are.
    """

    name: str
    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    largest: tuple[int, ...]
    ring: int


# HBM, network and largest slices: cloud.google.com/tpu/docs/{v5e,v5p,v6e}, "System architecture" and
# "Configurations" (network: bits per second of a pod over its chips; v5p gives it per chip). Links: "How to Scale Your
# Model", part 2, jax-ml.github.io/scaling-book/tpus, also for when an axis is a ring; they agree with the pages'
# bandwidth per chip of 400, 1200 and 800 GB/s both ways. What XLA lets a program use: the limit in the message
# of libtpu 0.0.42 when a program is too large.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip('v5e', BF16_FLOPS['v5e'], int(15.75 * _GIB), 819e9, 50e9, 6.4e12 / 8 / 256, (16, 16), 16),
        Chip('v5p', BF16_FLOPS['v5p'], int(95.74 * _GIB), 2765e9, 100e9, 50e9 / 8, (16, 16, 24), 4),
        Chip('v6e', BF16_FLOPS['v6e'], int(31.25 * _GIB), 1640e9, 100e9, 25.6e12 / 8 / 256, (16, 16), 16),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips of one generation, in a grid with links between neighbours.

    Attributes:
        shape: chips along each axis.
    """

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As libtpu spells it: 'v5e:8x8'."""
        return f'{self.chip.name}:{"x".join(map(str, self.shape))}'

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    def axis_bandwidth(self, axis: int) -> float:
        """Returns the bytes a second that a chip sends along an axis of the grid, over both links if it is a ring."""
        needed = self.shape if len(self.shape) == 3 else self.shape[axis : axis + 1]
        rings = all(size % self.chip.ring == 0 for size in needed)
        return self.chip.link_bandwidth * (2 if rings else 1)


def parse_slice(topology: str) -> Slice:
    """Reads 'v5e:8x8'.

    Raises:
        UserError: the text is no topology, the generation is unknown, or it has no such slice.
    """
    match = re.fullmatch(r'(\w+):(\d+(?:x\d+)+)', topology)
    if match is None:
        raise UserError(f'topology "{topology}" is not like v5e:8x8; known are {known_slices()}')
    name, shape = match[1], tuple(map(int, match[2].split('x')))
    if name not in CHIPS:
        raise UserError(f'there is no TPU "{name}" in the table of chips; known are {known_slices()}')
    chip = CHIPS[name]
    fits = len(shape) == len(chip.largest) and all(
        0 < size <= most for size, most in zip(sorted(shape), sorted(chip.largest), strict=True)
    )
    if not fits:
        raise UserError(f'{name} has no slice of {match[2]} chips; known are {known_slices()}')
    # Hosts of four chips; a cube of 4 x 4 x 4 is the unit of larger 3D slices.
    host = (2, 2, *[1] * (len(shape) - 2))
    if any(size % part for size, part in zip(shape, host, strict=True)):
        raise UserError(
            f'a slice of {topology} would share hosts of {"x".join(map(str, host))} chips; known are {known_slices()}'
        )
    return Slice(chip, shape)


def known_slices() -> str:
    """Names the largest slice of each generation."""
    return ', '.join(f'{chip.name} up to {"x".join(map(str, chip.largest))}' for chip in CHIPS.values())
