"""How long a save holds up the training loop: asynchronous against synchronous."""

import dataclasses
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from orbax.checkpoint import v1 as ocp

from ccl_jax.training.checkpoints import Checkpoints
from ccl_jax.training.storage import uncompressed

# A third of the state each: parameters, first and second moments.
_BYTES = 1_200_000_000
_ARRAYS = 24
# Steps between two saves; the first has to wait for nothing that a save left.
_STEPS_BEFORE, _STEPS_AFTER = 2, 2


@dataclasses.dataclass(frozen=True)
class _Measured:
    """Seconds of one save in a loop of steps.

    Attributes:
        step: a step while nothing is saved, median.
        call: the loop waits in the call that saves.
        after: the two steps after the call take longer than two others.
        whole: from the call until the checkpoint is complete on disk.
    """

    step: float
    call: float
    after: float
    whole: float


def bench_checkpoint(size: int = _BYTES, repeats: int = 5) -> str:
    """Trains a stand-in with random values, saves it in both ways in turn, and returns a table, as text.

    The step changes every array of the state, which it is given to keep (donated), as a
    training step does. What a save costs the loop is the call and what the next steps take
    longer: while it is written, memory bandwidth and, on a CPU, cores are shared.

    Args:
        size: bytes of float32 values to save, in the system's temporary folder.
        repeats: of each way; seconds are medians.
    """
    state = _random_state(size)
    real_size = sum(x.nbytes for x in jax.tree.leaves(state))
    step = jax.jit(lambda state: jax.tree.map(lambda x: x * 1.0001 + 0.0001 * jnp.sin(x), state), donate_argnums=0)
    ways: dict[str, tuple[str, list[_Measured]]] = {
        'sync': ('synchronous, Orbax alone', []),
        'sync_manifest': ('synchronous, with the manifest', []),
        'async': ('asynchronous, as the loop saves', []),
    }
    with tempfile.TemporaryDirectory() as name:
        for repeat in range(repeats + 1):
            for way, (_, results) in ways.items():
                folder = Path(name) / f'{way}_{repeat}'
                state, measured = _measure(way, step, state, folder)
                shutil.rmtree(folder)
                # The first round warms up what is compiled and allocated once.
                if repeat:
                    results.append(measured)
    medians = {
        way: _Measured(*(statistics.median(getattr(x, field.name) for x in results) for field in _FIELDS))
        for way, (_, results) in ways.items()
    }
    whole = medians['sync'].call
    lines = [
        f'{real_size / 1e9:.2f} GB of random float32 in {_ARRAYS} arrays; {jax.devices()[0].device_kind}, '
        f'{os.cpu_count()} cores; a step takes {medians["async"].step:.3f} s; median of {repeats}',
        f'{"":32}  call s  share of sync  next 2 steps longer s  until complete s',
    ]
    for way, (title, _) in ways.items():
        found = medians[way]
        lines.append(
            f'{title:32}  {found.call:6.3f}  {found.call / whole:13.1%}  {found.after:21.3f}  {found.whole:16.3f}'
        )
    return '\n'.join(lines) + '\n'


_FIELDS = dataclasses.fields(_Measured)


def _random_state(size: int) -> dict[str, Any]:
    count = size // 4 // _ARRAYS
    shape = (count // 1024, 1024) if count >= 1024 else (1, count)
    keys = jax.random.split(jax.random.key(0), _ARRAYS)
    return jax.block_until_ready({f'layer_{n}': jax.random.normal(key, shape) for n, key in enumerate(keys)})


def _measure(way: str, step: Callable[[Any], Any], state: Any, folder: Path) -> tuple[Any, _Measured]:
    """Steps, saves one way, steps, and waits; returns the state and what it took."""

    def steps(state: Any, number: int) -> tuple[Any, float]:
        began = time.perf_counter()
        for _ in range(number):
            state = jax.block_until_ready(step(state))
        return state, time.perf_counter() - began

    with Checkpoints(folder, keep=2, fingerprint={}) as checkpoints:
        state, before = steps(state, _STEPS_BEFORE)
        began = time.perf_counter()
        if way == 'sync':
            with uncompressed():
                ocp.save_checkpointables(epath.Path(folder) / '1', {'state': state})
        else:
            checkpoints.save(1, {'state': state})
            if way == 'sync_manifest':
                checkpoints.wait()
        call = time.perf_counter() - began
        state, after = steps(state, _STEPS_AFTER)
        checkpoints.wait()
        whole = time.perf_counter() - began - (after if way != 'async' else 0)
    one = before / _STEPS_BEFORE
    return state, _Measured(one, call, after - _STEPS_AFTER * one, whole)
