"""The energy meter against a counter of our own in place of the driver's."""

import sys
import types

import pytest

from ccl_jax.training import energy
from ccl_jax.training.energy import EnergyMeter


class Driver(types.ModuleType):
    """What of NVML is used; `millijoules` is the counter of each board by its handle."""

    class NVMLError(Exception):
        pass

    def __init__(self, **millijoules):
        super().__init__('pynvml')
        self.millijoules = millijoules

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByIndex(self, index):
        return f'board{index}'

    def nvmlDeviceGetHandleByUUID(self, name):
        return {'GPU-b': 'board1'}[name]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if handle not in self.millijoules:
            raise self.NVMLError('Not Supported')
        return self.millijoules[handle]


@pytest.fixture
def gpus(monkeypatch):
    """Makes `count` GPUs of this process, and the driver the one that is given."""

    def make(driver, count=1, visible=None):
        devices = [
            types.SimpleNamespace(platform='gpu', device_kind='a GPU', local_hardware_id=k) for k in range(count)
        ]
        monkeypatch.setattr(energy.jax, 'local_devices', lambda: devices)
        monkeypatch.setitem(sys.modules, 'pynvml', driver)
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        if visible is not None:
            monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)

    return make


def test_joules_of_all_local_devices_but_not_of_pauses(gpus):
    driver = Driver(board0=5_000, board1=7_000)
    gpus(driver, count=2)
    meter = EnergyMeter()
    driver.millijoules.update(board0=6_000, board1=9_500)
    with meter.paused():
        driver.millijoules.update(board0=1_000_000)
    driver.millijoules.update(board1=10_000)
    assert meter.reason == ''
    assert meter.joules() == pytest.approx(1 + 2.5 + 0.5)


@pytest.mark.parametrize('visible', ['1,2', 'GPU-b'])
def test_only_visible_boards_are_read(gpus, visible):
    driver = Driver(board0=0, board1=0, board2=0)
    gpus(driver, visible=visible)
    meter = EnergyMeter()
    driver.millijoules.update(board0=1_000, board1=3_000, board2=9_000)
    assert meter.joules() == 3


@pytest.mark.parametrize(
    ('driver', 'reason'), [(Driver(), 'NVML cannot read the energy counter: Not Supported'), (None, 'is not installed')]
)
def test_a_counter_that_cannot_be_read_gives_the_reason(gpus, driver, reason):
    gpus(driver)
    meter = EnergyMeter()
    with meter.paused():
        pass
    assert meter.joules() is None
    assert reason in meter.reason


def test_a_cpu_does_not_tell():
    meter = EnergyMeter()
    assert meter.joules() is None
    assert meter.reason == 'a device of the kind "cpu" does not tell its energy'
