"""How a step keeps its speed as chips are added with their own rows: compiled for every size, timed by its bounds."""

import dataclasses
import math
from collections.abc import Sequence

from ccl_jax.config import Config
from ccl_jax.errors import UserError
from ccl_jax.studies.chips import Chip, Slice, parse_slice
from ccl_jax.studies.feasibility import Estimate, estimate, job_of

# A loss smaller than this, of the first size's speed, is not called a bend.
_BEND = 0.05
_REASONS = {
    'compute': 'a chip has more to compute',
    'hbm': 'a chip moves more through its memory',
    'ici': 'the weights of a layer are gathered, and its gradients summed, over links that do not grow with the slice',
    'network': 'the gradients cross the network between slices',
}


def weak_scaling(config: Config, topology: str, counts: Sequence[int]) -> list[Estimate]:
    """Compiles the step of the longest bucket for each number of chips, with as many rows a chip as on `topology`.

    The tensor axis stays, fsdp fills a slice, and replica runs over slices where one is too small.

    Raises:
        UserError: a number is no power of 2, or the rows do not divide.
    """
    base = parse_slice(topology)
    job = job_of(config, config.training.plan.longest_row, topology, 1)
    estimates = []
    for count in counts:
        part, slices = slices_of(base.chip, count)
        if job.rows * count % base.chips:
            raise UserError(
                f'{job.rows} rows on {base.chips} chips leave no whole rows on {count}; choose other numbers'
            )
        rows = job.rows * count // base.chips
        mesh = (slices, -1, job.mesh[2])
        larger = dataclasses.replace(job, rows=rows, mesh=mesh, topology=part.name, slices=slices)
        estimates.append(estimate(larger, part))
    return estimates


def scaling_report(estimates: Sequence[Estimate]) -> str:
    """Returns a table of the sizes and where their efficiency bends; efficiency is relative to the first size."""
    lines = [
        'chips  slices         rows  compute     HBM     ICI  network  at least  at most  tokens/s/chip  efficiency'
    ]
    for one, efficiency in zip(estimates, efficiencies(estimates), strict=True):
        bounds, slices = one.roofline, f'{one.job.slices} x {one.slice.name if one.slice else ""}'
        lines.append(f'{one.devices:>5}  {slices:<12} {one.job.rows:>6}  ')
        if bounds is None:
            lines[-1] += 'does not fit'
            continue
        lines[-1] += (
            f'{bounds.compute:>7.3f} {bounds.hbm:>7.3f} {bounds.ici:>7.3f}  {bounds.network:>7.3f}  '
            f'{bounds.at_least:>8.3f}  {bounds.at_most:>7.3f}  '
            f'{one.tokens / bounds.at_most / one.devices:>13,.0f}  {efficiency:>10.0%}'
        )
    lines.append('seconds at peak rates; tokens/s and efficiency if nothing overlaps ("at most")')
    return '\n'.join([*lines, bend(estimates)])


def efficiencies(estimates: Sequence[Estimate]) -> list[float]:
    """Returns tokens a second and chip of each size over those of the first, where nothing overlaps."""
    speeds = [0.0 if one.roofline is None else one.tokens / one.devices / one.roofline.at_most for one in estimates]
    return [speed / speeds[0] if speeds[0] else 0.0 for speed in speeds]


def bend(estimates: Sequence[Estimate]) -> str:
    """Returns a sentence: from which size on efficiency falls and what takes the time, or how far off that is."""
    sized = [one for one in estimates if one.roofline is not None]
    ratios = efficiencies(sized)
    for index in range(1, len(sized)):
        best = max(range(index), key=lambda earlier: ratios[earlier])
        if ratios[index] < ratios[best] - _BEND:
            growth = {name: _seconds(sized[index], name) - _seconds(sized[best], name) for name in _REASONS}
            name = max(growth, key=lambda part: growth[part])
            return (
                f'efficiency bends at {sized[index].devices} chips, from {ratios[best]:.0%} to {ratios[index]:.0%}: '
                f'{name} takes {growth[name]:.3f} s more, because {_REASONS[name]}'
            )
    if not sized:
        return 'no size fits'
    compute, ici, network = (max(_seconds(one, name) for one in sized) for name in ('compute', 'ici', 'network'))
    return (
        f'efficiency does not bend up to {sized[-1].devices} chips: beside {compute:.3f} s of compute, the links in a '
        f'slice are busy for {ici:.3f} s at most and the network between slices for {network:.3f} s'
    )


def _seconds(one: Estimate, part: str) -> float:
    return getattr(one.roofline, part)


def slices_of(chip: Chip, count: int) -> tuple[Slice, int]:
    """Returns the most even slice of `count` chips, or the largest one and how many are needed."""
    if count < 4 or count & (count - 1):
        raise UserError(f'{count} chips are no power of 2 of at least 4; choose such numbers')
    largest = sorted(chip.largest)
    shape = [1] * len(largest)
    while math.prod(shape) < count:
        longer = sorted([2 * shape[0], *shape[1:]])
        if any(size > most for size, most in zip(longer, largest, strict=True)):
            break
        shape = longer
    return Slice(chip, tuple(shape)), count // math.prod(shape)
