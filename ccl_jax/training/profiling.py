"""A window of steps recorded by the profiler of jax, to be seen in TensorBoard or Perfetto."""

from pathlib import Path
from typing import Any

import jax

from ccl_jax.training.console import say


class ProfileWindow:
    """Records the steps from `first` up to, not including, `first + steps`; a context manager.

    Every process writes its own devices, in `<folder>/plugins/profile`. Steps that a
    resumed run does not do are not recorded.

    Args:
        steps: 0 for no recording.
    """

    def __init__(self, folder: Path, first: int, steps: int):
        self._folder = folder
        self._first, self._end = first, first + steps
        self._recording = False

    def before(self, step: int, state: Any) -> None:
        """To be called before each step; `state` is what the step before gives."""
        if self._recording and step >= self._end:
            self._stop(state)
        elif not self._recording and self._first <= step < self._end:
            # What was started before the window shall not be in it.
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._folder, profiler_options=_options())
            self._recording = True

    def finish(self, state: Any) -> None:
        """To be called after the last step."""
        if self._recording:
            self._stop(state)

    def _stop(self, state: Any) -> None:
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        self._recording = False
        say(f'profile of the steps {self._first} to {self._end - 1}: {self._folder}')

    def __enter__(self) -> 'ProfileWindow':
        return self

    def __exit__(self, *_: object) -> None:
        if self._recording:
            self._recording = False
            jax.profiler.stop_trace()


def _options() -> jax.profiler.ProfileOptions:
    """Devices and the host's own events, without Python calls: their tracer hooks itself into every new thread, and a
    thread of an asynchronous save that starts while a recording ends has died of it."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    return options
