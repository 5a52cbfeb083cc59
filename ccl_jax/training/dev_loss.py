"""The loss on texts that are not trained on, between the steps."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccl_jax.tasks import TASKS
from ccl_jax.training.mesh import batch_sharding
from ccl_jax.training.objective import task_sums
from ccl_jax.training.step import Batch

# The name of the mean of all tasks among the metrics.
LOSS = 'loss'


@dataclasses.dataclass(frozen=True)
class DevSet:
    """What is measured, and when.

    Attributes:
        every: steps between measurements; one more is made at the end.
        shapes: the different (rows, length) of its batches.
        batches: begins a pass over it.
    """

    every: int
    shapes: tuple[tuple[int, int], ...]
    batches: Callable[[], Iterable[Batch]]


def make_loss_step(
    graphdef: nnx.GraphDef, params: Any, frozen: Any, mesh: Mesh, *, tile_tokens: int
) -> Callable[[Any, Any, Batch], tuple[jax.Array, jax.Array]]:
    """Returns the jitted function (params, frozen, batch) -> (S_t, W_t) of `task_sums`, without dropout.

    Args:
        graphdef, params, frozen: as for `make_train_step`; only their shardings count.
    """

    def loss_step(params: Any, frozen: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        decoder = nnx.merge(graphdef, params, frozen)
        return task_sums(
            decoder(batch['tokens'], batch['positions'], batch['segment_ids']),
            decoder.output_embedding(),
            batch['tokens'],
            batch['loss_weights'],
            batch['task_ids'],
            mesh=mesh,
            tile_tokens=tile_tokens,
            softcap=decoder.architecture.final_softcap,
        )

    shardings = jax.tree.map(lambda x: x.sharding, (params, frozen))
    return jax.jit(
        loss_step,
        in_shardings=(*shardings, batch_sharding(mesh)),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )


def dev_losses(
    loss_step: Callable[[Any, Any, Batch], tuple[jax.Array, jax.Array]],
    params: Any,
    frozen: Any,
    batches: Iterable[Batch],
    task_weights: Mapping[str, float],
) -> dict[str, float]:
    """Returns the mean loss per target token (or example) of each task that occurs, and `loss`, their sum with weights.

    Args:
        batches: of the whole set; a target counts by its loss weight, wherever it lies.
        task_weights: lambda_t; a task left out has weight 1.
    """
    sums, weights = np.zeros(len(TASKS)), np.zeros(len(TASKS))
    for batch in batches:
        # Fetched at each batch: the host would otherwise place the whole set on the devices.
        more_sums, more_weights = jax.device_get(loss_step(params, frozen, batch))
        sums += more_sums
        weights += more_weights
    means = {task: float(sums[k] / weights[k]) for k, task in enumerate(TASKS) if weights[k] > 0}
    return {LOSS: sum(task_weights.get(task, 1.0) * mean for task, mean in means.items()), **means}
