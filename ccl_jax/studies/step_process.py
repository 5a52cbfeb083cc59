"""A training loop that is measured in a process of its own, and what it reports."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

# What `training_mix.write_mix` writes: a store of examples, and the same as arrays.
STORE, ARRAYS = 'store', 'examples.npz'

# Of the errors of a process, that its report shows.
_LAST_LINES = 3


@dataclasses.dataclass(frozen=True)
class Measured:
    """Steps that were measured, warm-up left out.

    Attributes:
        steps: of the optimizer.
        lengths: tokens of each example in them.
        positions: tokens with padding.
        seconds: of all of them.
        data_wait: seconds in which the loop asked for a batch and waited.
        start: seconds from the weights to the first measured step: compilation and warm-up.
        loss: of the last step, per target token.
        peak_bytes: the most memory of the accelerator in use; None on a CPU.
    """

    steps: int
    lengths: tuple[int, ...]
    positions: int
    seconds: float
    data_wait: float
    start: float
    loss: float
    peak_bytes: int | None = None

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def speed(self) -> float:
        """Tokens a second, padding not counted."""
        return self.tokens / self.seconds

    @property
    def fill(self) -> float:
        """Tokens over positions."""
        return self.tokens / self.positions


class ProcessFailed(Exception):
    """A process ended with an error or took too long; says how, in a line."""


def run_process(job: Any, environment: Mapping[str, str], limit: float | None = None) -> Any:
    """Runs `measure(job)` of the job's module in a new process and returns what it gives, as JSON.

    Args:
        job: a dataclass of values that JSON knows.
        environment: in addition to this process's.
        limit: seconds.

    Raises:
        ProcessFailed: it did.
    """
    module, kind, values = type(job).__module__, type(job).__name__, json.dumps(dataclasses.asdict(job))
    code = f'import json; from {module} import {kind}, measure; report = measure({kind}(**json.loads({values!r}))); '
    code += 'print(json.dumps(report))'
    try:
        done = subprocess.run(
            [sys.executable, '-c', code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        raise ProcessFailed(f'took more than {limit:.0f} s') from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()][-_LAST_LINES:]
        raise ProcessFailed(f'ended with {done.returncode}: {" | ".join(lines)[-600:]}')
    return json.loads(done.stdout.splitlines()[-1])


def run_measured(job: Any, environment: Mapping[str, str], limit: float | None = None) -> Measured:
    """The same for a job whose report is a `Measured`."""
    report = run_process(job, environment, limit)
    return Measured(**{**report, 'lengths': tuple(report['lengths'])})
