"""Our training step under measurement: the plan, the loader and the jitted step of a real run."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from ccl_jax.data.examples import ExampleStore
from ccl_jax.data.loader import make_loader
from ccl_jax.data.plan import make_plan
from ccl_jax.data.plan_settings import PlanSettings
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.hf import init_decoder, load_decoder, read_architecture
from ccl_jax.model.lora import add_lora, split_trained
from ccl_jax.model.settings import LoraSettings
from ccl_jax.studies.step_process import STORE, Measured
from ccl_jax.training.compilation import compile_shapes, use_compilation_cache
from ccl_jax.training.mesh import batch_sharding, make_mesh, sharding_for
from ccl_jax.training.objective import task_coefficients
from ccl_jax.training.settings import OptimizerSettings
from ccl_jax.training.step import abstract_state, init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class OurJob:
    """How to train and for how long.

    Attributes:
        folder: has a `config.json`, the store of `write_mix`, and weights or none: then they are random.
        plan: fields of `PlanSettings`.
        seconds, least_steps: steps begin until then, and so many at least; the plan may end before.
        lora: fields of `LoraSettings`; {} to train all weights.
        attention: name of a backend; None for the one that a run would take.
        cache: folder of compiled programs.
    """

    folder: str
    plan: Mapping[str, Any]
    seconds: float
    cache: str
    least_steps: int = 2
    accumulation: int = 1
    tile_tokens: int = 4096
    remat: str = 'none'
    param_dtype: str = 'float32'
    compute_dtype: str = 'float32'
    lora: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    attention: str | None = None
    optimizer: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def measure(job: OurJob) -> dict[str, Any]:
    """Trains and returns the fields of a `Measured`; to be the work of a process."""
    use_compilation_cache(job.cache)
    mesh = make_mesh()
    store = ExampleStore.open(Path(job.folder) / STORE)
    plan = make_plan(store.lengths, store.task_ids, store.target_starts, PlanSettings(**job.plan))
    graphdef, *trees = split_trained(_decoder(job, mesh))
    params, frozen = map(nnx.to_pure_dict, trees)
    optimizer = OptimizerSettings(**job.optimizer)

    began = time.perf_counter()
    abstract = abstract_state(params, optimizer, mesh)
    train_step = make_train_step(
        graphdef,
        abstract,
        frozen,
        optimizer,
        mesh,
        coefficients=task_coefficients({}, plan.task_constants),
        total_steps=plan.steps,
        tile_tokens=job.tile_tokens,
        accumulation=job.accumulation,
    )
    train_step = compile_shapes(train_step, (abstract, frozen), sorted(plan.shapes), mesh, 'the step')
    state = init_state(params, optimizer, mesh)
    del params
    batches = make_loader(store, plan, batch_sharding(mesh))
    # The first step starts threads and allocates what the others reuse.
    _, batch = next(batches)
    state, metrics = jax.block_until_ready(train_step(state, frozen, batch))

    steps, positions, data_wait, lengths = 0, 0, 0.0, []
    first = asked = time.perf_counter()
    for step, batch in batches:
        data_wait += time.perf_counter() - asked
        before = metrics
        state, metrics = train_step(state, frozen, batch)
        # One step is on its way while the loop prepares the next, as in a run.
        jax.block_until_ready(before['loss'])
        steps, positions = steps + 1, positions + batch['tokens'].size
        lengths += store.lengths[np.concatenate(plan.rows(step))].tolist()
        asked = time.perf_counter()
        if asked - first >= job.seconds and steps >= job.least_steps:
            break
    jax.block_until_ready(state)
    return dataclasses.asdict(
        Measured(
            steps=steps,
            lengths=tuple(lengths),
            positions=positions,
            seconds=time.perf_counter() - first,
            data_wait=data_wait,
            start=first - began,
            loss=float(metrics['task_sums'].sum() / metrics['task_weights'].sum()),
            peak_bytes=(jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use'),
        )
    )


def _decoder(job: OurJob, mesh: Mesh) -> Decoder:
    def sharding(path: str, shape: tuple[int, ...]) -> NamedSharding:
        return sharding_for(mesh, path, shape)

    options: dict[str, Any] = {
        'sharding_for': sharding,
        'param_dtype': jnp.dtype(job.param_dtype),
        'compute_dtype': jnp.dtype(job.compute_dtype),
        'remat': job.remat,
        'mesh': mesh,
        'attention': job.attention,
        'max_segments': PlanSettings(**job.plan).max_segments,
    }
    if any(Path(job.folder).glob('*.safetensors')):
        decoder = load_decoder(job.folder, **options)
    else:
        decoder = init_decoder(read_architecture(job.folder), seed=0, **options)
    if job.lora:
        add_lora(decoder, LoraSettings(**job.lora), 0, sharding_for=sharding)
    return decoder
