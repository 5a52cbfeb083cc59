"""`feasibility`: whether a config's training step fits chips that need not be here, and how fast it can be at best.

The step is really compiled, by the compiler that would compile it there; what it needs of memory and what it
sends are read from the result. Times are bounds from peak rates (`roofline`), not measurements.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from ccl_jax.config import Config
from ccl_jax.errors import UserError
from ccl_jax.model.counts import flops_per_token, lora_parameter_count
from ccl_jax.studies.chips import Slice, parse_slice
from ccl_jax.studies.compiled_step import Job, Step, compile_step
from ccl_jax.studies.known_models import known_architecture
from ccl_jax.studies.roofline import Roofline, roofline

_GIB = 2**30
_SECONDS_PER_DAY = 86400


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A compiled step of one bucket, and its bounds where the chip is in the table."""

    job: Job
    step: Step
    slice: Slice | None
    roofline: Roofline | None

    @property
    def needed(self) -> int:
        """Bytes of HBM that the step needs of a chip."""
        return sum(self.step.memory.values())

    @property
    def devices(self) -> int:
        size = 1
        for axis in self.step.mesh.values():
            size *= axis
        return size

    @property
    def tokens(self) -> int:
        return self.job.rows * self.job.length

    @property
    def mfu(self) -> float | None:
        """Model FLOPs of the fastest possible step over the chips' peak."""
        if self.roofline is None or self.slice is None:
            return None
        return self.roofline.model_flops / self.roofline.at_least / self.devices / self.slice.chip.flops


def feasibility(config: Config, *, topology: str | None, slices: int = 1, buckets: str = 'longest') -> list[Estimate]:
    """Compiles the step of the longest bucket, or of all, and returns what is known of each.

    Args:
        topology: a slice such as 'v5e:8x8'; None for the devices of this machine.
        slices: how many such slices, joined by the network; `mesh.replica` must be a multiple.

    Raises:
        UserError: the topology is unknown, the model is not known, or the step can't be compiled.
    """
    if buckets not in ('longest', 'all'):
        raise UserError(f'--buckets is "{buckets}"; it must be longest or all')
    if topology is None and slices != 1:
        raise UserError('--num_slices needs a --topology')
    if slices < 1:
        raise UserError(f'--num_slices is {slices}; it must be at least 1')
    slice_ = None if topology is None else parse_slice(topology)
    lengths = config.training.plan.prompt_lengths if buckets == 'all' else (config.training.plan.longest_row,)
    jobs = [job_of(config, length, topology, slices) for length in lengths]
    return [estimate(job, slice_) for job in jobs]


def job_of(config: Config, length: int, topology: str | None, slices: int) -> Job:
    """Returns what to compile for the bucket of rows of `length` tokens.

    Raises:
        UserError: the config names no model, or one that is not known.
    """
    if config.base.enabled:
        raise UserError('this config makes a small model by itself; feasibility needs one that names model.path')
    return Job(
        architecture=known_architecture(config.model.path),
        param_dtype=config.model.param_dtype,
        compute_dtype=config.model.compute_dtype,
        remat=config.model.remat,
        lora=config.lora,
        optimizer=config.training.optimizer,
        mesh=(config.mesh.replica, config.mesh.fsdp, config.mesh.tensor),
        tile_tokens=config.training.train.tile_tokens,
        accumulation=config.training.train.accumulation,
        rows=config.training.plan.rows_per_step(length),
        length=length,
        topology=topology,
        slices=slices,
    )


def estimate(job: Job, slice_: Slice | None) -> Estimate:
    """Compiles one step and works out its bounds."""
    where = 'the devices of this machine' if slice_ is None else f'{job.slices} x {slice_.name}'
    print(f'compiling {job.rows} rows of {job.length} tokens for {where} ...', file=sys.stderr, flush=True)
    step = compile_step(job)
    lora = lora_parameter_count(job.architecture, job.lora.rank, job.lora.targets) if job.lora.enabled else 0
    bounds = None
    if slice_ is not None and step.fits:
        bounds = roofline(
            job.architecture,
            job.rows,
            job.length,
            backward='lora' if job.lora.enabled else 'full',
            lora_parameters=lora,
            recomputed=recomputed_flops(job, step, lora),
            traffic=step.traffic,
            collectives=step.collectives,
            places=step.places,
            slice_=slice_,
        )
    return Estimate(job, step, slice_, bounds)


def recomputed_flops(job: Job, step: Step, lora_parameters: int) -> float:
    """Returns the FLOPs a token that the backward pass spends on computing again what it did not keep; see `REMAT`."""
    architecture = job.architecture
    head = 2 * architecture.hidden_size * architecture.vocab_size
    tokens = job.rows * job.length // (job.accumulation * step.mesh['replica'] * step.mesh['fsdp'])
    again = float(head) if tokens > job.tile_tokens else 0.0
    if job.remat in ('save_attention', 'full'):
        # A text of one token has next to no attention.
        length = job.length if job.remat == 'full' else 1
        again += flops_per_token(architecture, length, lora_parameters=lora_parameters) - head
    return again


def report(estimates: Sequence[Estimate], epoch_tokens: float) -> str:
    """Returns the estimates as text; an epoch is `epoch_tokens` tokens."""
    return '\n\n'.join('\n'.join(_lines(one, epoch_tokens)) for one in estimates)


def as_json(estimates: Sequence[Estimate], epoch_tokens: float) -> str:
    """Returns the estimates as a JSON list; sizes in bytes, times in seconds."""
    return json.dumps([_numbers(one, epoch_tokens) for one in estimates], indent=2)


def _lines(one: Estimate, epoch_tokens: float) -> list[str]:
    job, step = one.job, one.step
    mesh = ', '.join(f'{axis}={size}' for axis, size in step.mesh.items())
    where = step.device_kind if one.slice is None else f'{job.slices} x {one.slice.name}'
    micro = f' in {job.accumulation} micro-batches' if job.accumulation > 1 else ''
    lines = [
        f'{where} ({one.devices} chips), mesh {mesh}',
        f'{job.rows} rows of {job.length:,} tokens{micro}; compiled in {step.seconds:.0f} s',
        'of the arguments on a chip, GiB: '
        + ', '.join(f'{kind} {size / _GIB:.2f}' for kind, size in step.arguments.items() if size),
        'memory of a chip, GiB: ' + ', '.join(f'{kind} {size / _GIB:.2f}' for kind, size in step.memory.items()),
        _verdict(one),
    ]
    if not step.fits:
        return lines
    lines.append('collectives of a chip and step:')
    for kind, (runs, size) in _by_kind(step).items():
        lines.append(f'  {kind:<26} {runs:>8,} runs {size / _GIB:>9.2f} GiB')
    if step.unknown_loops:
        lines.append(f'  {step.unknown_loops} loops of unknown length are counted once')
    if one.roofline is not None:
        lines += _bounds(one, one.roofline, epoch_tokens)
    return lines


def _verdict(one: Estimate) -> str:
    if one.slice is None:
        return f'in all {one.needed / _GIB:.2f} GiB; how much this device has is not in the table of chips'
    limit = one.slice.chip.hbm_bytes
    left = limit - one.needed
    fits = one.step.fits and left >= 0
    words = f'fits, {left / _GIB:.2f} GiB ({left / limit:.0%}) left' if fits else f'{-left / _GIB:.2f} GiB too much'
    return f'in all {one.needed / _GIB:.2f} of {limit / _GIB:.2f} GiB: {words}'


def _bounds(one: Estimate, bounds: Roofline, epoch_tokens: float) -> list[str]:
    speed = one.tokens / bounds.at_least
    return [
        f'at peak rates, seconds: compute {bounds.compute:.3f}, HBM {bounds.hbm:.3f}, '
        f'ICI {bounds.ici:.3f}, network {bounds.network:.3f}',
        f'step of at least {bounds.at_least:.3f} s, limited by {bounds.limit}; '
        f'{bounds.at_most:.3f} s if nothing overlaps',
        f'at most {speed:,.0f} tokens/s ({speed / one.devices:,.0f} a chip), MFU {one.mfu:.0%}; '
        f'{epoch_tokens:,.0f} tokens in {epoch_tokens / speed / _SECONDS_PER_DAY:.2f} days or more',
    ]


def _numbers(one: Estimate, epoch_tokens: float) -> dict[str, Any]:
    bounds = one.roofline
    numbers: dict[str, Any] = {
        'topology': None if one.slice is None else one.slice.name,
        'slices': one.job.slices,
        'device_kind': one.step.device_kind,
        'devices': one.devices,
        'mesh': one.step.mesh,
        'rows': one.job.rows,
        'length': one.job.length,
        'accumulation': one.job.accumulation,
        'compile_seconds': round(one.step.seconds, 1),
        'arguments_by_kind': one.step.arguments,
        'memory': one.step.memory,
        'memory_needed': one.needed,
        'memory_limit': None if one.slice is None else one.slice.chip.hbm_bytes,
        'fits': one.step.fits,
        'collectives': {kind: {'runs': n, 'bytes': size} for kind, (n, size) in _by_kind(one.step).items()},
        'hbm_traffic': one.step.traffic,
        'unknown_loops': one.step.unknown_loops,
    }
    if bounds is not None:
        numbers['roofline'] = dataclasses.asdict(bounds) | {
            'at_least': bounds.at_least,
            'at_most': bounds.at_most,
            'limit': bounds.limit,
            'mfu': one.mfu,
            'tokens_per_second': one.tokens / bounds.at_least,
            'epoch_tokens': epoch_tokens,
            'days_per_epoch': epoch_tokens / one.tokens * bounds.at_least / _SECONDS_PER_DAY,
        }
    return numbers


def _by_kind(step: Step) -> dict[str, tuple[int, int]]:
    """Returns (runs, bytes) of the collectives by kind, the largest first."""
    kinds: dict[str, tuple[int, int]] = {}
    for collective in step.collectives:
        kind = collective.kind + (' between slices' if collective.between_slices else '')
        runs, size = kinds.get(kind, (0, 0))
        kinds[kind] = runs + collective.count, size + collective.count * collective.size
    return dict(sorted(kinds.items(), key=lambda item: -item[1][1]))
