"""A tiny decoder, batches of random segments, and a run that can be killed in a subprocess."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.lora import add_lora, split_trained
from ccl_jax.model.settings import LoraSettings
from ccl_jax.tasks import TASKS
from ccl_jax.training import checkpoints
from ccl_jax.training.loop import Run, fit
from ccl_jax.training.mesh import batch_sharding, make_mesh, tree_shardings
from ccl_jax.training.settings import OptimizerSettings, TrainingSettings

VOCABULARY = 24
ARCHITECTURE = Architecture(
    vocab_size=VOCABULARY,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=64,
    initializer_range=0.3,
    tie_word_embeddings=True,
)
SHAPES = ((16, 12), (8, 24))


def tiny_params(mesh):
    """A decoder small enough to compile in a second; returns (graphdef, params on the mesh)."""
    graphdef, params = nnx.split(Decoder(ARCHITECTURE, rngs=nnx.Rngs(0)), nnx.Param)
    params = nnx.to_pure_dict(params)
    return graphdef, jax.device_put(params, tree_shardings(mesh, params))


def tiny_lora(mesh, settings, dtype=jnp.float32):
    """The same with adapters; returns (graphdef, adapters, frozen weights of type `dtype`)."""
    decoder = Decoder(ARCHITECTURE, rngs=nnx.Rngs(0), param_dtype=dtype)
    add_lora(decoder, settings, seed=0)
    graphdef, *states = split_trained(decoder)
    adapters, frozen = map(nnx.to_pure_dict, states)
    return graphdef, *(jax.device_put(tree, tree_shardings(mesh, tree)) for tree in (adapters, frozen))


def random_batch(seed: int, rows: int, length: int, tasks=TASKS) -> dict[str, np.ndarray]:
    """Rows of segments of random tasks and lengths with a padding tail, as in the batch contract."""
    rng = np.random.default_rng(seed)
    integers = {name: np.zeros((rows, length), np.int32) for name in ('tokens', 'positions', 'segment_ids', 'task_ids')}
    batch = {**integers, 'loss_weights': np.zeros((rows, length), np.float32)}
    for row in range(rows):
        begin = 0
        for segment in range(1, length):
            size = min(int(rng.integers(3, 8)), length - begin)
            here = np.s_[row, begin : begin + size]
            batch['positions'][here] = np.arange(size)
            batch['segment_ids'][here] = segment
            if size < 3 or begin + size > length - 2:
                break
            batch['tokens'][here] = rng.integers(1, VOCABULARY, size)
            batch['task_ids'][here] = TASKS.index(rng.choice(tasks))
            target_start = int(rng.integers(1, size))
            batch['loss_weights'][row, begin + target_start - 1 : begin + size - 1] = rng.choice([1.0, 0.25])
            begin += size
    return batch


def fit_tiny(
    workdir,
    *,
    steps=10,
    shapes=SHAPES,
    mesh=None,
    fingerprint=None,
    change=None,
    pause=0.0,
    lora=None,
    dev=None,
    scoring=None,
    held_save=None,
    **options,
):
    """Trains the tiny decoder.

    Args:
        dev: a DevSet.
        scoring: a Scoring.
        lora: fields of LoraSettings, to train adapters alone.
        shapes: of the batches, in turn.
        change: (step, batch) -> batch, what a test does to the data.
        pause: seconds before each batch.
        held_save: a step whose save never ends, so that the process has to be killed.
        options: of the optimizer, of the loop and of the Run.
    """
    mesh = mesh or make_mesh()
    if held_save is not None:
        _hold_the_save(held_save)
    if lora is None:
        (graphdef, params), frozen, dropout_seed = tiny_params(mesh), None, None
    else:
        lora = LoraSettings(**lora)
        graphdef, params, frozen = tiny_lora(mesh, lora)
        dropout_seed = 3 if lora.dropout else None
    of_run = {key: options.pop(key) for key in list(options) if key in Run.__dataclass_fields__}
    loop = {key: options.pop(key) for key in list(options) if key in TrainingSettings.__dataclass_fields__}

    def batches(start):
        for step in range(start, steps):
            time.sleep(pause)
            batch = random_batch(step, *shapes[step % len(shapes)])
            yield step, jax.device_put(change(step, batch) if change else batch, batch_sharding(mesh))

    return fit(
        graphdef,
        params,
        mesh=mesh,
        run=Run(steps, tuple(shapes), np.full(steps, 100), dict.fromkeys(TASKS, 20.0), **of_run),
        batches=batches,
        optimizer=OptimizerSettings(**{'learning_rate': 0.02, 'warmup_steps': 2, **options}),
        settings=TrainingSettings(**{'checkpoint_every': 4, 'tile_tokens': 50, **loop}),
        fingerprint=fingerprint or {'plan': 'p1'},
        workdir=workdir,
        frozen=frozen,
        dropout_seed=dropout_seed,
        dev=dev,
        scoring=scoring,
    )


def _hold_the_save(step):
    """Everything but the manifest is written, and the run waits when it wants to save again."""
    write = checkpoints.write_manifest

    def write_or_hold(folder):
        if folder.name == str(step):
            time.sleep(3600)
        write(folder)

    checkpoints.write_manifest = write_or_hold


def lines(workdir, name='metrics.jsonl') -> list[dict]:
    return [json.loads(line) for line in (Path(workdir) / name).read_text().splitlines()]


def losses(workdir) -> list[float]:
    assert [line['step'] for line in lines(workdir)] == list(range(len(lines(workdir))))
    return [line['loss'] for line in lines(workdir)]


def spawn(runs, devices=1):
    """Starts runs in another process; see the end of this file."""
    flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={devices}'
    repository = Path(__file__).parents[2]
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags, 'PYTHONPATH': str(repository)}
    arguments = [sys.executable, __file__, json.dumps(runs)]
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)


if __name__ == '__main__':
    # Arguments: a JSON list of [workdir, mesh sizes, options of fit_tiny].
    for workdir, sizes, options in json.loads(sys.argv[1]):
        fit_tiny(workdir, mesh=make_mesh(**sizes), **options)
