"""The energy that the devices tell: NVIDIA's total energy counter, read by NVML where nvidia-ml-py is installed.

The counter is the whole board's, in millijoules since the driver was loaded (NVML API reference,
nvmlDeviceGetTotalEnergyConsumption; Volta and later): what another process does on the same GPU counts too.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class EnergyMeter:
    """Adds up the joules of this process's devices from here on.

    Attributes:
        reason: why nothing can be read; '' where it can.
    """

    def __init__(self) -> None:
        self._read, self.reason = _counter()
        self._joules = 0.0
        self._mark = self._read()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is used in this context does not count."""
        self._book()
        yield
        self._mark = self._read()

    def joules(self) -> float | None:
        """The sum over all processes, which all have to call this; None where one of them cannot read."""
        self._book()
        joules = None if self.reason else self._joules
        if jax.process_count() > 1 and jax.devices()[0].platform == 'gpu':
            local = np.float64(np.nan if joules is None else joules)
            total = float(np.sum(multihost_utils.process_allgather(local)))
            if np.isnan(total):
                self.reason = self.reason or 'another process cannot read the energy counter of its GPUs'
            joules = None if np.isnan(total) else total
        return joules

    def _book(self) -> None:
        now = self._read()
        self._joules += now - self._mark
        self._mark = now


def _counter() -> tuple[Callable[[], float], str]:
    """Returns the reader of the joules so far of the local devices, and why it cannot read, if so."""

    def nothing() -> float:
        return 0.0

    devices = jax.local_devices()
    if devices[0].platform != 'gpu':
        return nothing, f'a device of the kind "{devices[0].device_kind}" does not tell its energy'
    try:
        import pynvml
    except ImportError:
        return nothing, 'nvidia-ml-py is not installed'
    try:
        pynvml.nvmlInit()
        handles = [_handle(pynvml, device.local_hardware_id) for device in devices]

        def joules() -> float:
            return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1000

        joules()
    except pynvml.NVMLError as error:
        return nothing, f'NVML cannot read the energy counter: {error}'
    return joules, ''


def _handle(pynvml: Any, number: int) -> Any:
    """The NVML handle of a CUDA device: CUDA numbers the visible ones, NVML all of them."""
    visible = [name.strip() for name in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',') if name.strip()]
    name = visible[number] if number < len(visible) else str(number)
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID(name)
