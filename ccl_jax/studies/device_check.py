"""Whether the devices work, for a process of its own: a device that hangs can only be left by killing the process.

Prints one JSON object a line, each as soon as it is known, so that what came before a hang is not lost:
{"processes"}, {"devices"}, {"matmul"}, {"all_reduce"}. The program is `python -m ccl_jax.studies.device_check SECONDS`.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccl_jax.training.cluster import start_cluster

# Square matrices, and the bytes that each device gives to a sum: enough to keep an accelerator busy.
_SIDE = {'cpu': 1024}
_LARGE_SIDE = 8192
_BYTES = {'cpu': 1 << 22}
_MANY_BYTES = 1 << 26


def check_devices(seconds: float, say: Callable[[dict[str, Any]], None]) -> None:
    """Joins the processes of the run, multiplies on each device of this process and sums over all devices.

    Args:
        seconds: of measuring, half for each of the two.
    """
    table = start_cluster()
    say({'processes': {'count': jax.process_count(), 'index': jax.process_index(), 'table': table}})
    devices = jax.local_devices()
    say({'devices': [_describe(device) for device in devices]})
    say({'matmul': [_matmul(device, seconds / 2 / len(devices)) for device in devices]})
    say({'all_reduce': _all_reduce(seconds / 2)})


def _describe(device: Any) -> dict[str, Any]:
    stats = device.memory_stats() or {}
    return {
        'id': device.id,
        'kind': device.device_kind,
        'platform': device.platform,
        'memory_bytes': stats.get('bytes_limit'),
        'used_bytes': stats.get('bytes_in_use'),
    }


def _matmul(device: Any, seconds: float) -> dict[str, Any]:
    """Multiplies ones, whose product is known: every element is the side, exact in bfloat16."""
    side = _SIDE.get(device.platform, _LARGE_SIDE)
    ones = jax.device_put(jnp.ones((side, side), jnp.bfloat16), device)
    product = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32))
    right = bool((product(ones) == side).all())
    spent = _seconds_of(lambda: product(ones), seconds)
    return {'id': device.id, 'kind': device.device_kind, 'right': right, 'flops_per_second': 2 * side**3 / spent}


def _all_reduce(seconds: float) -> dict[str, Any]:
    """Sums rows of which each device holds one: row d is d + 1 everywhere."""
    devices = jax.devices()
    width = _BYTES.get(devices[0].platform, _MANY_BYTES) // 4
    mesh = Mesh(np.array(devices), ('all',))
    whole = np.broadcast_to(np.arange(1, len(devices) + 1, dtype=np.float32)[:, None], (len(devices), width))
    rows = jax.make_array_from_callback(
        whole.shape, NamedSharding(mesh, PartitionSpec('all')), lambda index: whole[index]
    )
    total = jax.jit(lambda x: x.sum(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    expected = len(devices) * (len(devices) + 1) / 2
    right = bool((np.asarray(total(rows).addressable_data(0)) == expected).all())
    # Every process has to take part in every sum, so their number is fixed and not a time.
    began = time.perf_counter()
    total(rows).block_until_ready()
    once = max(time.perf_counter() - began, 1e-6)
    repeats = 1 if jax.process_count() > 1 else int(min(100, max(1, seconds / once)))
    began = time.perf_counter()
    for _ in range(repeats):
        total(rows).block_until_ready()
    spent = (time.perf_counter() - began) / repeats
    return {'devices': len(devices), 'right': right, 'bytes': width * 4, 'seconds': spent}


def _seconds_of(run: Callable[[], jax.Array], limit: float) -> float:
    """The mean time of a call, over as many as fit the limit."""
    run().block_until_ready()
    began, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - began < limit:
        run().block_until_ready()
        calls += 1
    return (time.perf_counter() - began) / calls


if __name__ == '__main__':
    check_devices(float(sys.argv[1]), lambda line: print(json.dumps(line), flush=True))
