"""When to save: every so many steps, every so many seconds, or both; the same on every process."""

import math
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from ccl_jax.errors import UserError


class Interval:
    """Tells at which steps something is due; every process asks at every step.

    Seconds are those of process 0. Where several processes run, they are compared only
    at some steps, chosen by the pace so far: half the steps that seem to be left, so that
    an interval costs a few small broadcasts, each of which waits for the device.

    Args:
        every_steps: due at the multiples of it; None for never.
        every_seconds: due so long after the last restart; None for never.

    Raises:
        UserError: one of them is not above 0.
    """

    def __init__(self, every_steps: int | None, every_seconds: float | None):
        for name, value in (('every_steps', every_steps), ('every_seconds', every_seconds)):
            if value is not None and not 0 < value < math.inf:
                raise UserError(f'{name} is {value}; it must be above 0, or None for never')
        self._every_steps = every_steps
        self._every_seconds = every_seconds
        self._began: tuple[int, float] | None = None
        self._ask_at = 0

    def due(self, step: int) -> bool:
        """Whether it is due after `step` steps."""
        if self._every_steps is not None and step % self._every_steps == 0:
            return True
        if self._every_seconds is None:
            return False
        if self._began is None:
            # The clock starts at the first step that was done: before it, there is nothing to lose.
            self.restart(step)
        if step < self._ask_at:
            return False
        wait = from_process_zero(self._steps_to_wait(step))
        self._ask_at = step + wait
        return wait == 0

    def restart(self, step: int) -> None:
        """Starts the interval anew, after `step` steps."""
        self._began = (step, time.monotonic())
        self._ask_at = step + 1

    def _steps_to_wait(self, step: int) -> int:
        """Returns after how many steps to look at the clock again, 0 for due."""
        assert self._began is not None
        assert self._every_seconds is not None
        first_step, began = self._began
        passed = time.monotonic() - began
        if passed >= self._every_seconds:
            return 0
        if jax.process_count() == 1:
            return 1
        steps_left = (self._every_seconds - passed) * (step - first_step) / max(passed, 1e-6)
        return max(1, int(min(steps_left / 2, 1e6)))


def from_process_zero(number: int) -> int:
    """Returns on every process the number that process 0 gives (below 2 ** 31)."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))
