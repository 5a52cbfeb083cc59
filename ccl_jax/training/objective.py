"""The objective: per task, the weighted cross-entropy of the global batch over a constant of the plan.

    L(step) = sum over tasks t of  lambda_t * S_t / N_t,    S_t = sum_i w_i * CE_i

S_t runs over the target tokens of task t on all devices, hosts and micro-batches.
N_t is the plan's mean weight of the task per step, so gradients averaged over an
epoch are those of the full-data objective, and a task that is absent adds 0.
What is reported per task is the step's own mean S_t / W_t, W_t = sum_i w_i.

Cross-entropy is tiled over tokens: logits of a whole batch (B x T x V numbers)
never exist at once, neither forward nor backward.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS
from ccl_jax.training.mesh import BATCH_AXES


def task_coefficients(task_weights: Mapping[str, float], task_constants: Mapping[str, float]) -> np.ndarray:
    """Returns lambda_t / N_t per task, float32 [K] in the order of `TASKS`.

    Args:
        task_weights: lambda_t by task name; a task left out has weight 1.
        task_constants: N_t by task name, the plan's mean total loss weight per
            step; 0 or left out for a task that the plan does not hold, whose
            coefficient is 0.

    Raises:
        UserError: a name is not a task, a number is negative or not finite, or
            every coefficient is 0.
    """
    for what, numbers in (('weight', task_weights), ('constant', task_constants)):
        for task, number in numbers.items():
            if task not in TASKS:
                raise UserError(f'there is no task "{task}" to give a {what}; the tasks are {", ".join(TASKS)}')
            if not (math.isfinite(number) and number >= 0):
                raise UserError(f'the {what} of task "{task}" is {number}; it must be a finite number of at least 0')
    coefficients = []
    for task in TASKS:
        constant = task_constants.get(task, 0.0)
        coefficients.append(task_weights.get(task, 1.0) / constant if constant else 0.0)
    if not any(coefficients):
        raise UserError('no task of the plan has a weight above 0, so there is nothing to learn; raise a task weight')
    return np.asarray(coefficients, np.float32)


def task_sums(
    hidden: jax.Array,
    output_embedding: jax.Array,
    tokens: jax.Array,
    loss_weights: jax.Array,
    task_ids: jax.Array,
    *,
    mesh: Mesh,
    tile_tokens: int,
) -> tuple[jax.Array, jax.Array]:
    """Sums weighted cross-entropies and weights per task over the global batch.

    Each device handles the rows that it holds; the output embedding is gathered
    once, and its gradient is summed over devices once, whatever the number of tiles.

    Args:
        hidden: [B, T, D], the decoder's normed output.
        output_embedding: [D, V]; cast to the type of `hidden` inside a tile, so
            that its gradient adds up in its own type.
        tokens: [B, T] int32; position t predicts tokens[:, t + 1].
        loss_weights: [B, T] float32, the weight of that prediction; 0 at T - 1.
        task_ids: [B, T] int32, indices into `TASKS`.
        mesh: the mesh of `make_mesh`; rows lie over its batch axes.
        tile_tokens: the most tokens per device whose logits exist at once. Where
            a device's tokens fit in one tile, its logits are kept for the
            backward pass; otherwise each tile's are computed again there.

    Returns:
        (S_t, W_t), both float32 [K], replicated.
    """
    rows = PartitionSpec(BATCH_AXES)

    def local_sums(hidden, output_embedding, targets, weights, task_ids):
        # Taken for a device's own before the loop over tiles; inside, each tile would sum its gradient over devices.
        output_embedding = jax.lax.pcast(output_embedding, BATCH_AXES, to='varying')
        sums = _tiled_sums(hidden, output_embedding, targets, weights, task_ids, tile_tokens)
        return jax.lax.psum(sums, BATCH_AXES)

    sums = jax.shard_map(
        local_sums,
        mesh=mesh,
        in_specs=(rows, PartitionSpec(), rows, rows, rows),
        out_specs=PartitionSpec(),
        axis_names=set(BATCH_AXES),
    )(hidden, output_embedding, jnp.roll(tokens, -1, axis=1), loss_weights, task_ids)
    return sums[0], sums[1]


def _tiled_sums(hidden, output_embedding, targets, weights, task_ids, tile_tokens):
    """Returns [2, K]: per task the weighted cross-entropies and the weights of this device's tokens."""

    def tile_sums(tile):
        tile_hidden, tile_targets, tile_weights, tile_tasks = tile
        losses = _cross_entropy(tile_hidden, output_embedding, tile_targets)
        of_task = jax.nn.one_hot(tile_tasks, len(TASKS), dtype=jnp.float32)
        # A product of two sums over tokens would do, but float32 products run in lower precision on accelerators.
        weighted = jnp.stack([tile_weights * losses, tile_weights])
        return jnp.sum(weighted[:, :, None] * of_task, axis=1)

    flat = (hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1), weights.reshape(-1), task_ids.reshape(-1))
    count = targets.size
    tiles = -(-count // tile_tokens)
    if tiles == 1:
        return tile_sums(flat)
    length = -(-count // tiles)
    padding = tiles * length - count

    def split(array):
        padded = jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))
        return padded.reshape(tiles, length, *array.shape[1:])

    return jax.lax.map(jax.checkpoint(tile_sums), jax.tree.map(split, flat)).sum(axis=0)


def _cross_entropy(hidden, output_embedding, targets):
    """Returns -log p(target) in float32, [N], of hidden [N, D]."""
    logits = jnp.einsum('nd,dv->nv', hidden, output_embedding.astype(hidden.dtype), preferred_element_type=jnp.float32)
    # A masked sum instead of a gather: it stays where a vocabulary shard is, and its gradient is no scatter.
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    target_logits = jnp.sum(jnp.where(vocabulary == targets[:, None], logits, 0.0), axis=1)
    return jax.nn.logsumexp(logits, axis=1) - target_logits
