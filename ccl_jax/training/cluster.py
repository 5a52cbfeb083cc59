"""Joins the processes of a run into one, and makes sure at the start that they can work together.

Where the cluster names its processes (Slurm, GKE, Cloud TPU, Open MPI), jax finds them by itself. Elsewhere each is
started with JAX_COORDINATOR_ADDRESS=HOST:PORT of process 0, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Where hosts start
minutes apart, CCL_JAX_JOIN_TIMEOUT says how many seconds to wait for them.
"""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccl_jax.errors import UserError

JOIN_TIMEOUT = 'CCL_JAX_JOIN_TIMEOUT'

_EXIT_CODE = 2
_HOST_BYTES = 64


def start_cluster(timeout: float | None = None) -> str | None:
    """Joins this process with the others of its run, if there are any; to be called before jax is used.

    Returns the table of processes, hosts and devices, or None where the run has one process. Once jax has been
    used, as in a notebook, it is too late to look for others, and the process is alone.

    Nothing can interrupt jax while it waits for a process that does not come, or in a collective that hangs. So where
    that takes longer than `timeout` seconds (by default what the environment says, or 60), the process ends with code 2
    after one sentence on standard error.

    Raises:
        UserError: an address or a number in the environment is wrong.
    """
    given = given_processes()
    timeout = float(_whole_number(JOIN_TIMEOUT) or 60) if timeout is None else timeout
    missing = (
        f'the processes of the run did not all come within {timeout:.0f} s; check that each was started, that they '
        'agree on their number, and that process 0 can be reached at its address; where they start at different times, '
        f'set {JOIN_TIMEOUT} to more seconds'
    )
    with _deadline(timeout, missing):
        try:
            # Its own time-out aborts the process with a stack trace, so ours must come first.
            jax.distributed.initialize(**given, initialization_timeout=int(timeout) + 60)
        except ValueError as error:
            if not given and 'coordinator_address' in str(error):
                # No cluster that jax knows of.
                return None
            raise UserError(
                f'the processes of the run cannot be joined: {_first_line(error)} Set JAX_COORDINATOR_ADDRESS, '
                'JAX_NUM_PROCESSES and JAX_PROCESS_ID for each'
            ) from None
        except RuntimeError as error:
            if not given and 'must be called before' in str(error):
                return None
            _end(f'the processes of the run cannot be joined: {_first_line(error)}')
    _take_devices()
    if jax.process_count() == 1:
        return None
    hangs = f'the first sum over all devices did not end within {timeout:.0f} s; a process or the network hangs'
    with _deadline(timeout, hangs):
        try:
            return _try_collective()
        except RuntimeError as error:
            # The other processes may wait in the same collective, and a clean exit would wait for them.
            _end(f'the first sum over all devices failed: {_first_line(error)}')
    return None


def given_processes() -> dict[str, Any]:
    """Returns what the environment says of the processes where no cluster does.

    Raises:
        UserError: a number is none.
    """
    names = {'num_processes': 'JAX_NUM_PROCESSES', 'process_id': 'JAX_PROCESS_ID'}
    given: dict[str, Any] = {}
    if 'JAX_COORDINATOR_ADDRESS' in os.environ:
        address = os.environ['JAX_COORDINATOR_ADDRESS']
        if not address.rpartition(':')[2].isdecimal():
            raise UserError(f'JAX_COORDINATOR_ADDRESS is "{address}"; it must be HOST:PORT of process 0')
        given['coordinator_address'] = address
    for argument, name in names.items():
        if name in os.environ:
            given[argument] = _whole_number(name)
    if 'coordinator_address' not in given and given:
        raise UserError(f'{names[next(iter(given))]} is set but JAX_COORDINATOR_ADDRESS is not; set it to HOST:PORT')
    return given


def _whole_number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is not None and not text.isdecimal():
        raise UserError(f'{name} is "{text}"; it must be a whole number')
    return None if text is None else int(text)


def _take_devices() -> None:
    """Gives a process that is the only one on its Slurm node all GPUs that it sees; jax would take the first alone.

    Where a node has several, jax gives the n-th the n-th GPU.
    """
    # The ranks of the processes on this node, separated by commas.
    if os.environ.get('SLURM_GTIDS', ',').count(',') == 0:
        for name in ('jax_cuda_visible_devices', 'jax_rocm_visible_devices'):
            jax.config.update(name, 'all')


def _try_collective() -> str:
    """Sums a number over all devices and returns the table of processes.

    Raises:
        RuntimeError: the sum is wrong, or jax says so.
    """
    mesh = Mesh(np.array(jax.devices()), ('all',))
    ones = jax.make_array_from_callback(
        (len(jax.devices()),), NamedSharding(mesh, PartitionSpec('all')), lambda index: np.ones(1, np.float32)
    )
    total = float(jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(ones))
    if total != len(jax.devices()):
        raise RuntimeError(f'1 over {len(jax.devices())} devices adds up to {total}')
    host = socket.gethostname().encode()[:_HOST_BYTES].ljust(_HOST_BYTES)
    hosts = multihost_utils.process_allgather(np.frombuffer(host, np.uint8))
    lines = ['process  host                  devices']
    for process, name in enumerate(hosts):
        own = [device for device in jax.devices() if device.process_index == process]
        text = bytes(name).decode(errors='replace').strip()
        lines.append(f'{process:>7}  {text:<20}  {len(own)} x {own[0].device_kind if own else "nothing"}')
    return '\n'.join(lines)


@contextlib.contextmanager
def _deadline(seconds: float, sentence: str) -> Iterator[None]:
    """Ends the process with a sentence if what runs in this context takes longer."""
    timer = threading.Timer(seconds, _end, [sentence])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(sentence: str) -> None:
    print(f'ccl-jax on {socket.gethostname()}: {sentence}', file=sys.stderr, flush=True)
    os._exit(_EXIT_CODE)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
