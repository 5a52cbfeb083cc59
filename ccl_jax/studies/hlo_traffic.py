"""How many bytes a compiled program moves to and from a device's large memory, estimated from its text.

Each instruction that runs reads its operands once and writes its result once, if they lie in large memory; a
slice of an array, or its update in place, moves the slice alone. What a kernel reads more than once is not seen.
"""

from ccl_jax.studies.hlo import Array, Computation, Instruction, Program, collectives, is_collective, running

_MOVE_NOTHING = {
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call', 'after-all',
    'partition-id', 'replica-id', 'iota', 'optimization-barrier', 'async-start', 'async-update', 'async-done',
    'send', 'recv',
}  # fmt: skip
_SLICES = ('dynamic-slice', 'slice', 'gather')
# How often a collective reads or writes the whole array.
_PASSES = {'all-gather': 1, 'reduce-scatter': 1}


def hbm_traffic(program: Program) -> int:
    """Returns the bytes that a device reads and writes in one run of the program."""
    total = 0
    for place in running(program):
        computation = program.computations[place.name]
        total += place.count * sum(_moved(program, computation, line) for line in computation.instructions.values())
    for collective in collectives(program):
        total += collective.count * collective.size * _PASSES.get(collective.kind, 2)
    return total


def _moved(program: Program, computation: Computation, line: Instruction) -> int:
    if line.opcode in _MOVE_NOTHING or line.opcode.endswith('-done') or is_collective(line):
        return 0
    if line.opcode in ('copy-start', 'slice-start'):
        # The result is (copy, original, flag) or ((original), copy, flag).
        copy, original = line.result[:2] if line.opcode == 'copy-start' else line.result[1::-1]
        return copy.size * (copy.in_hbm + original.in_hbm)
    fused = program.computations.get(line.attribute('calls')) if line.opcode == 'fusion' else None
    if fused is not None:
        return _read_in(program, fused) + _written(fused, fused.root)
    if line.opcode == 'dynamic-update-slice':
        update = _arrays(computation, line.operands[1])
        return 2 * sum(array.size for array in update) * line.result[0].in_hbm
    written = _in_hbm(line.result)
    if line.opcode in _SLICES:
        return 2 * written
    return written + sum(_in_hbm(_arrays(computation, name)) for name in line.operands)


def _read_in(program: Program, fused: Computation) -> int:
    """Returns the bytes that a fusion reads of its parameters."""
    total = 0
    for line in fused.instructions.values():
        if line.opcode == 'parameter' and line.result and line.result[0].in_hbm:
            total += min(line.result[0].size, _read_of(program, fused, line.name))
    return total


def _read_of(program: Program, fused: Computation, name: str) -> int:
    """Returns how many bytes of an array the instructions of a fusion need."""
    total, size = 0, sum(array.size for array in fused.instructions[name].result)
    for user in fused.instructions.values():
        if name not in user.operands or user.opcode == 'tuple' or is_collective(user) or _is_flow(user):
            continue
        if user.opcode in _SLICES and user.operands[0] == name:
            total += sum(array.size for array in user.result)
        elif user.opcode == 'bitcast':
            total += _read_of(program, fused, user.name)
        elif user.opcode == 'fusion' and user.attribute('calls') in program.computations:
            inner = program.computations[user.attribute('calls')]
            numbers = {str(number) for number, operand in enumerate(user.operands) if operand == name}
            total += sum(
                _read_of(program, inner, line.name)
                for line in inner.instructions.values()
                if line.opcode == 'parameter' and line.literal in numbers
            )
        elif not (user.opcode == 'dynamic-update-slice' and user.operands[0] == name):
            total += size
    return total


def _written(fused: Computation, line: Instruction) -> int:
    """Returns the bytes that a fusion writes of the result that `line` gives."""
    if line.opcode == 'tuple':
        return sum(_written(fused, fused.instructions[name]) for name in line.operands if name in fused.instructions)
    if line.opcode == 'bitcast' and line.operands[0] in fused.instructions:
        return _written(fused, fused.instructions[line.operands[0]])
    if line.opcode in ('parameter', 'get-tuple-element') or is_collective(line) or _is_flow(line):
        return 0
    if line.opcode == 'dynamic-update-slice':
        return sum(array.size for array in _arrays(fused, line.operands[1])) * line.result[0].in_hbm
    return _in_hbm(line.result)


def _is_flow(line: Instruction) -> bool:
    """Whether the line only hands on a collective that runs beside the fusion."""
    return line.opcode == 'custom-call' and 'AsyncCollective' in line.attributes


def _arrays(computation: Computation, name: str) -> tuple[Array, ...]:
    line = computation.instructions.get(name)
    return () if line is None else line.result


def _in_hbm(arrays: tuple[Array, ...]) -> int:
    return sum(array.size for array in arrays if array.in_hbm)
