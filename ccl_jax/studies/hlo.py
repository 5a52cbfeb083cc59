"""Reads the text of a compiled program (optimised HLO): its loops, and what its devices send each other.

Only what the reading needs is parsed; the format is that of `jax.stages.Compiled.as_text`.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute', 'collective-broadcast')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    Attributes:
        size: bytes without padding.
        in_hbm: whether it lies in a device's large memory, not in one on the chip.
    """

    size: int
    in_hbm: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation; `attributes` is the text after the operands."""

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str

    def attribute(self, name: str) -> str:
        """Returns the computation that the attribute `name` names, '' if it has none."""
        match = re.search(rf'\b{name}=%?([\w.\-]+)', self.attributes)
        return match[1] if match else ''


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in order; `root` gives the result."""

    instructions: dict[str, Instruction]
    root: Instruction


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations by name; the program begins in `entry`."""

    computations: dict[str, Computation]
    entry: str


@dataclasses.dataclass(frozen=True)
class Running:
    """A computation whose instructions run one after the other: the entry, a loop's body, or what those call.

    Attributes:
        count: how often it runs in one run of the program.
        known: whether all loops around it have a known trip count; one that has none counts as 1.
    """

    name: str
    count: int
    known: bool


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation of the program.

    Attributes:
        kind: one of `COLLECTIVES`.
        size: bytes a device holds of the whole array: what it has after an all-gather, before a
            reduce-scatter, and on either side of the others.
        group: numbers of the devices, in the order of the mesh, of the first group that works
            together; () where the text does not say, which means all. On several TPU slices: of the first slice.
        count: how often one run of the program runs it.
        between_slices: whether it works between TPU slices instead; each chip then holds its part of the array alone.
    """

    kind: str
    size: int
    group: tuple[int, ...]
    count: int
    between_slices: bool = False


def parse(text: str) -> Program:
    """Parses a whole module.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    lines: dict[str, Instruction] = {}
    entry, name, root = None, None, None
    for line in text.splitlines():
        if name is None:
            header = re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', line)
            if header and not line.startswith(('HloModule', ' ')):
                name, lines, root = header[2], {}, None
                entry = name if header[1] else entry
        # An attribute can hold line breaks, so that only a whole line ends a computation.
        elif re.fullmatch(r'\}(, \w+=.*)?', line):
            if root is not None:
                computations[name] = Computation(lines, root)
            name = None
        else:
            instruction = _parse_instruction(line)
            if instruction is not None:
                lines[instruction.name] = instruction
                if line.lstrip().startswith('ROOT '):
                    root = instruction
    if entry is None:
        raise ValueError('the text has no ENTRY computation')
    return Program(computations, entry)


def running(program: Program, name: str | None = None, count: int = 1, known: bool = True) -> Iterator[Running]:
    """Yields the computations that run, loops' bodies with their trip counts multiplied; not what is fused."""
    name = program.entry if name is None else name
    yield Running(name, count, known)
    for instruction in program.computations[name].instructions.values():
        if instruction.opcode == 'while':
            trips = trip_count(program, program.computations[name], instruction)
            body = instruction.attribute('body')
            yield from running(program, body, count * (1 if trips is None else trips), known and trips is not None)
        elif instruction.opcode == 'call':
            yield from running(program, instruction.attribute('to_apply'), count, known)
        elif instruction.opcode == 'conditional':
            for branch in _branches(instruction):
                yield from running(program, branch, count, known)


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int | None:
    """Returns how often a loop runs: what the compiler noted, or the bound that a counter from 0 is compared with."""
    noted = re.search(r'known_trip_count\D+(\d+)', loop.attributes)
    if noted:
        return int(noted[1])
    condition = program.computations[loop.attribute('condition')]
    lines = list(condition.instructions.values())
    for line in tuple(lines):
        if line.opcode == 'fusion':
            lines += program.computations[line.attribute('calls')].instructions.values()
    compares = [line for line in lines if line.opcode == 'compare']
    bounds = [int(line.literal) for line in lines if line.opcode == 'constant' and re.fullmatch(r'-?\d+', line.literal)]
    if len(compares) != 1 or len(bounds) != 1 or 'direction=LT' not in compares[0].attributes:
        return None
    return max(0, bounds[0] - _start(condition, computation, loop))


def collectives(program: Program) -> list[Collective]:
    """Returns the collectives that a run of the program runs, those in loops with their counts."""
    places = [(place, list(_with_fused(program, place.name))) for place in running(program)]
    # TPUs spread a collective over the fusions that run beside it, even into a loop, and show it in each of
    # them. It counts where it is started, else once for each place where it runs.
    started = {
        channel
        for _, computations in places
        for computation, _ in computations
        for channel in _channels(computation)
        if _starts(computation)
    }
    found = []
    for place, computations in places:
        seen: set[str] = set()
        for computation, fused in computations:
            for line in computation.instructions.values():
                if not is_collective(line):
                    continue
                kind, channel = line.opcode.removesuffix('-start'), _channel(line)
                if channel in seen or (channel in started and not _starts(computation)):
                    continue
                seen |= {channel} if channel else set()
                if kind == 'all-reduce' and fused and computation.root.opcode == 'dynamic-slice':
                    # How TPUs write a reduce-scatter.
                    kind = 'reduce-scatter'
                found.append(Collective(kind, _full_size(line, kind, computation), _group(line), place.count))
        found += _between_slices(program.computations[place.name], place.count)
    return found


def is_collective(line: Instruction) -> bool:
    return line.opcode.removesuffix('-start') in COLLECTIVES


def unknown_loops(program: Program) -> int:
    """Returns how many running computations are in loops without a known trip count."""
    return sum(not place.known for place in running(program))


def _with_fused(program: Program, name: str, fused: bool = False) -> Iterator[tuple[Computation, bool]]:
    """Yields a computation, and those that its fusions and asynchronous operations are made of."""
    computation = program.computations[name]
    yield computation, fused
    for line in computation.instructions.values():
        if line.opcode in ('fusion', 'async-start'):
            inner = line.attribute('calls')
            if inner in program.computations:
                yield from _with_fused(program, inner, fused or line.opcode == 'fusion')


def _channel(line: Instruction) -> str:
    match = re.search(r'channel_id=(\d+)', line.attributes)
    return match[1] if match else ''


def _channels(computation: Computation) -> set[str]:
    return {_channel(line) for line in computation.instructions.values()} - {''}


def _starts(computation: Computation) -> bool:
    return any('"AsyncCollectiveStart"' in line.attributes for line in computation.instructions.values())


def _full_size(line: Instruction, kind: str, computation: Computation) -> int:
    results = [array.size for array in line.result]
    operands = [
        array.size for name in line.operands if name in computation.instructions
        for array in computation.instructions[name].result
    ]  # fmt: skip
    if line.opcode.endswith('-start') and kind != 'all-reduce':
        # The result holds operands and results, and for some kinds small flags.
        return max(results, default=0)
    if kind == 'reduce-scatter':
        return sum(operands) or sum(results)
    return sum(results)


def _between_slices(computation: Computation, count: int) -> list[Collective]:
    """Returns the collectives that hosts carry out between slices: pairs of a `send` and a `recv` of one name."""
    found: dict[str, Collective] = {}
    for line in computation.instructions.values():
        kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', line.attributes)
        name = re.search(r'_xla_host_transfer_rendezvous="([^"]*)"', line.attributes)
        if line.opcode in ('send', 'recv') and kind and name:
            size = max(array.size for array in line.result)
            if name[1] not in found or found[name[1]].size < size:
                found[name[1]] = Collective(kind[1].lower().replace('_', '-'), size, (), count, between_slices=True)
    return list(found.values())


def _group(line: Instruction) -> tuple[int, ...]:
    """Returns the first group of devices; four spellings are in use."""
    pairs = re.search(r'source_target_pairs=\{\{(\d+),(\d+)\}', line.attributes)
    if pairs:
        return int(pairs[1]), int(pairs[2])
    listed = re.search(r'replica_groups=\{\{([\d,]*)\}', line.attributes)
    if listed:
        return tuple(map(int, filter(None, listed[1].split(','))))
    iota = re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', line.attributes)
    if iota:
        shape, dims = _numbers(iota[1]), _numbers(iota[2])
        order = _numbers(iota[3]) if iota[3] else range(len(dims))
        devices = np.arange(math.prod(dims)).reshape(dims).transpose(list(order)).reshape(shape)
        return tuple(devices[0].tolist())
    named = re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line.attributes)  # fmt: skip
    if named:
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        together = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", named[2])
        return _group_of_axes(axes, together)
    return ()


def _group_of_axes(axes: dict[str, int], together: list[tuple[str, str, str]]) -> tuple[int, ...]:
    """Returns the devices in a group with device 0, given axes, or parts of axes: (axis, parts before, size)."""
    strides, stride = {}, 1
    for name, size in reversed(axes.items()):
        strides[name], stride = stride, stride * size
    devices = np.zeros(1, int)
    for name, before, part in together:
        size, step = axes[name], strides[name]
        if part:
            step *= size // (int(before) * int(part))
            size = int(part)
        devices = (devices[:, None] + step * np.arange(size)).reshape(-1)
    return tuple(devices.tolist())


def _start(condition: Computation, computation: Computation, loop: Instruction) -> int:
    """Returns what a loop's counter begins with, 0 where that is not seen."""
    counters = [line for line in condition.instructions.values() if line.opcode == 'get-tuple-element']
    index = re.search(r'index=(\d+)', counters[0].attributes) if len(counters) == 1 else None
    first = computation.instructions.get(loop.operands[0])
    if index is None or first is None or first.opcode != 'tuple':
        return 0
    value = computation.instructions.get(first.operands[int(index[1])])
    while value is not None and value.opcode in ('copy', 'bitcast', 'convert', 'copy-done', 'copy-start'):
        value = computation.instructions.get(value.operands[0])
    constant = value is not None and value.opcode == 'constant' and re.fullmatch(r'-?\d+', value.literal)
    return int(value.literal) if value is not None and constant else 0


def _branches(conditional: Instruction) -> list[str]:
    listed = re.search(r'branch_computations=\{([^}]*)\}', conditional.attributes)
    if listed:
        return [name.strip().lstrip('%') for name in listed[1].split(',')]
    return [name for name in map(conditional.attribute, ('true_computation', 'false_computation')) if name]


def _parse_instruction(line: str) -> Instruction | None:
    head = re.match(r'\s+(?:ROOT )?%?([\w.\-]+) = ', line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
    call = re.match(r' ([\w\-]+)\(', rest[end:])
    if call is None:
        return None
    begin = end + call.end()
    close = _closing(rest, begin - 1)
    inside = rest[begin:close]
    # Operands may come with their types; the name is the last word of each.
    operands = tuple(re.findall(r'%([\w.\-]+)', inside)) or tuple(
        part.split()[-1] for part in inside.split(',') if re.fullmatch(r'(?:\S+ )?[\w.\-]+', part.strip())
    )
    return Instruction(head[1], call[1], _arrays(rest[:end]), operands, inside, rest[close + 1 :])


def _arrays(text: str) -> tuple[Array, ...]:
    arrays = []
    for kind, dims, layout in re.findall(r'\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?', text):
        bits = 8 if kind == 'pred' else int((re.search(r'\d+', kind) or ['0'])[0])
        size = math.prod(int(dim.lstrip('<=')) for dim in dims.split(',') if dim)
        arrays.append(Array(bits * size // 8, re.search(r'S\([1-9]', layout) is None))
    return tuple(arrays)


def _closing(text: str, begin: int) -> int:
    """Returns the index of the parenthesis that closes the one at `begin`."""
    depth = 0
    for index in range(begin, len(text)):
        depth += {'(': 1, ')': -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f'unbalanced parentheses in {text[:80]!r}')


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(',')]
