"""Compiles one training step for devices that need not be here, in a process of its own.

libtpu holds a lock and changes the process that loads it, so `compile_step` starts a new one and hands it a `Job`. Of
the model and its state only shapes exist.
"""

import dataclasses
import importlib.util
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.settings import LoraSettings
from ccl_jax.studies.hlo import Collective, collectives, parse, unknown_loops
from ccl_jax.studies.hlo_traffic import hbm_traffic
from ccl_jax.studies.roofline import Place
from ccl_jax.training.settings import OptimizerSettings

# The log has what XLA's statistics lack: the part that the runtime keeps for itself, and no holes counted twice.
_FOR_A_TPU = {
    'JAX_PLATFORMS': 'cpu',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_LOG_DIR': 'disabled',
    'TPU_MIN_LOG_LEVEL': '0',
    'TPU_STDERR_LOG_LEVEL': '0',
}
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30}


@dataclasses.dataclass(frozen=True)
class Job:
    """What to compile.

    Attributes:
        mesh: sizes of replica, fsdp and tensor; one may be -1.
        topology: a slice such as 'v5e:8x8'; None for the devices of this machine.
        slices: how many of them.
    """

    architecture: Architecture
    param_dtype: str
    compute_dtype: str
    remat: str
    lora: LoraSettings
    optimizer: OptimizerSettings
    mesh: tuple[int, int, int]
    tile_tokens: int
    accumulation: int
    rows: int
    length: int
    topology: str | None = None
    slices: int = 1


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled step; sizes are bytes of one device.

    Attributes:
        mesh: sizes by axis.
        device_kind: as jax names it.
        places: where the devices of the mesh lie, in its order; () where that is not known.
        seconds: that compiling took.
        arguments: parameters, frozen weights, optimizer state and batch.
        memory: what the step needs by kind; it adds up to all.
        fits: whether the compiler found room for it.
        collectives, traffic: what the step sends, and moves to and from large memory; see `hlo` and `hlo_traffic`.
        unknown_loops: loops whose trip count the text does not tell; they count once.
    """

    mesh: dict[str, int]
    device_kind: str
    places: tuple[Place, ...]
    seconds: float
    arguments: dict[str, int]
    memory: dict[str, int]
    fits: bool
    collectives: tuple[Collective, ...] = ()
    traffic: int = 0
    unknown_loops: int = 0


def compile_step(job: Job) -> Step:
    """Compiles in a new process and waits for it.

    Raises:
        UserError: the mesh or the rows do not fit the devices, libtpu is missing, or the compiler failed.
    """
    if job.topology is not None and not has_libtpu():
        raise UserError(
            f'compiling for {job.topology} needs libtpu; install ccl-jax with the extra "tpu", or leave --topology out'
        )
    environment = os.environ | {'JAX_TRACEBACK_FILTERING': 'off'} | (_FOR_A_TPU if job.topology is not None else {})
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / 'result', Path(folder) / 'log'
        with open(log, 'wb') as stderr:
            # Imported, not run as a module, so that the classes of what comes back have the same names here.
            command = [sys.executable, '-c', f'from {__name__} import work; work()', str(result)]
            subprocess.run(command, input=pickle.dumps(job), stdout=stderr, stderr=stderr, env=environment, check=False)
        text = log.read_text(errors='replace')
        if not result.exists():
            last = next((line for line in reversed(text.splitlines()) if line.strip()), 'it said nothing')
            raise UserError(f'the compiler for {job.topology or "this machine"} failed: {last.strip()[:300]}')
        step = pickle.loads(result.read_bytes())
    if isinstance(step, UserError):
        raise step
    return dataclasses.replace(step, memory=memory_of_log(text) or step.memory)


def has_libtpu() -> bool:
    """Whether the compiler for TPUs is installed, or the environment says where it is."""
    return 'TPU_LIBRARY_PATH' in os.environ or importlib.util.find_spec('libtpu') is not None


def work() -> None:
    """What the new process does: reads a `Job` from standard input, writes a `Step` or a `UserError` to a file."""
    job = pickle.load(sys.stdin.buffer)
    try:
        result: Step | UserError = _compile(job)
    except UserError as error:
        result = error
    Path(sys.argv[1]).write_bytes(pickle.dumps(result))


def memory_of_log(text: str) -> dict[str, int] | None:
    """Returns the memory of a TPU program by kind, as libtpu's log has it to three digits."""
    total = re.search(
        r'Total hbm usage >= .*\n\s*reserved\s+(\S+)\s*\n\s*program\s+(\S+)\s*\n\s*arguments\s+(\S+)', text
    )
    parts = re.search(r'Program hbm requirement .*\n((?:    .*\n)*)', text)
    if total is None or parts is None:
        return None
    temporaries = re.search(r'HLO temp\s+(\S+)', parts[1])
    reserved, program, arguments = map(_bytes, total.groups())
    in_use = _bytes(temporaries[1]) if temporaries else 0
    return {
        'arguments': arguments,
        'temporaries': in_use,
        'code and constants': max(0, program - in_use),
        'kept by the runtime': reserved,
    }


def _bytes(text: str) -> int:
    match = re.match(r'([\d.]+)([KMG]?)', text)
    return int(float(match[1]) * _UNITS[match[2]]) if match else 0


def _compile(job: Job) -> Step:
    """Runs in the new process."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx
    from jax.experimental import topologies

    from ccl_jax.model.decoder import Decoder
    from ccl_jax.model.lora import add_lora, split_trained
    from ccl_jax.tasks import TASKS
    from ccl_jax.training.mesh import make_mesh, tree_shardings
    from ccl_jax.training.step import abstract_batch, abstract_state, make_train_step

    if job.topology is None:
        devices = jax.devices()
    else:
        slices = {'num_slices': job.slices} if job.slices > 1 else {}
        devices = topologies.get_topology_desc(job.topology, 'tpu', **slices).devices
    mesh = make_mesh(*job.mesh, devices=devices)
    needed = mesh.shape['replica'] * mesh.shape['fsdp'] * job.accumulation
    if job.rows % needed:
        raise UserError(
            f'{job.rows} rows of {job.length} tokens cannot be divided by replica x fsdp x accumulation = {needed}; '
            f'make row_multiple of the plan a multiple of {needed}'
        )

    def build() -> Decoder:
        decoder = Decoder(
            job.architecture,
            rngs=nnx.Rngs(0),
            param_dtype=jnp.dtype(job.param_dtype),
            compute_dtype=jnp.dtype(job.compute_dtype),
            remat=job.remat,
            mesh=mesh,
        )
        if job.lora.enabled:
            add_lora(decoder, job.lora, 0)
        return decoder

    def on_mesh(state: nnx.State) -> Any:
        pure = nnx.to_pure_dict(state)
        return jax.tree.map(_with_sharding, pure, tree_shardings(mesh, pure))

    def _with_sharding(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    graphdef, trained, frozen = split_trained(nnx.eval_shape(build))
    trained, frozen = on_mesh(trained), on_mesh(frozen)
    state = abstract_state(trained, job.optimizer, mesh)
    batch = abstract_batch(job.rows, job.length, mesh)
    train_step: Any = make_train_step(
        graphdef,
        state,
        frozen,
        job.optimizer,
        mesh,
        coefficients=np.ones(len(TASKS), np.float32),
        total_steps=job.optimizer.warmup_steps + 1000,
        tile_tokens=job.tile_tokens,
        accumulation=job.accumulation,
        dropout_seed=0 if job.lora.enabled and job.lora.dropout else None,
    )
    kinds = {'parameters': state.params, 'frozen weights': frozen, 'optimizer state': state.opt_state, 'batch': batch}
    shown = {
        'mesh': dict(mesh.shape),
        'device_kind': devices[0].device_kind,
        'places': _places(mesh) if job.topology is not None else (),
        'arguments': {kind: _device_bytes(tree) for kind, tree in kinds.items()},
    }
    began = time.perf_counter()
    try:
        compiled = train_step.lower(state, frozen, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        too_large = re.search(r'RESOURCE_EXHAUSTED.*\(([\d.]+G)\) exceeds available HBM', str(error))
        if too_large is None:
            raise
        memory = {'arguments and temporaries': _bytes(too_large[1])}
        return Step(**shown, seconds=time.perf_counter() - began, memory=memory, fits=False)
    seconds = time.perf_counter() - began
    used = compiled.memory_analysis()
    program = parse(compiled.as_text())
    return Step(
        **shown,
        seconds=seconds,
        memory={
            'arguments': used.argument_size_in_bytes,
            'temporaries': used.temp_size_in_bytes,
            'results': used.output_size_in_bytes - used.alias_size_in_bytes,
            'code and constants': used.generated_code_size_in_bytes,
        },
        fits=True,
        collectives=tuple(collectives(program)),
        traffic=hbm_traffic(program),
        unknown_loops=unknown_loops(program),
    )


def _device_bytes(tree: Any) -> int:
    import jax

    shards = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf in jax.tree.leaves(tree)]
    total = 0
    for shape, itemsize in shards:
        for size in shape:
            itemsize *= size
        total += itemsize
    return total


def _places(mesh: Any) -> tuple[Place, ...]:
    return tuple(Place(getattr(device, 'slice_index', 0) or 0, tuple(device.coords)) for device in mesh.devices.flat)
