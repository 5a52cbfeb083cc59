"""SIGTERM: what a cluster sends before it takes a machine back. All processes of a run stop after the same step."""

import collections
import signal
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

# The sum of a step is read so many steps later, so that no process waits for the devices.
_LAG = 2


class Interrupt:
    """Notes a SIGTERM instead of ending at once; a context manager.

    More of them change nothing: launchers forward the signal that the cluster has sent to
    everybody already, and what must end at once is sent SIGKILL. Where this is no main thread,
    which alone may handle signals, SIGTERM stays what it was.
    """

    def __init__(self) -> None:
        self._noted = self._agreed = False
        self._previous: Any = None
        self._sums: collections.deque[jax.Array] = collections.deque()
        if jax.process_count() > 1:
            devices = jax.devices()
            mesh = jax.make_mesh((len(devices),), ('all',), axis_types=(AxisType.Auto,), devices=devices)
            self._flags = NamedSharding(mesh, PartitionSpec('all'))
            self._sum = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def agreed(self) -> bool:
        """Whether to stop here; called after every step, it answers the same on every process.

        On several processes the answer is the sum of what each had noted some steps before.
        """
        if jax.process_count() == 1:
            self._agreed = self._noted
            return self._agreed
        own = np.full(jax.local_device_count(), self._noted, np.int32)
        flags = jax.make_array_from_process_local_data(self._flags, own, (jax.device_count(),))
        self._sums.append(self._sum(flags))
        self._agreed = len(self._sums) > _LAG and int(self._sums.popleft()) > 0
        return self._agreed

    def __enter__(self) -> 'Interrupt':
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, error_type: Any, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            if self._noted and not self._agreed and error_type is None:
                # It came after the last boundary: everything is saved, and what follows is not for this process.
                signal.raise_signal(signal.SIGTERM)

    def _note(self, *_: object) -> None:
        self._noted = True
