"""The objective: per task, the weighted cross-entropy of the global batch over a constant of the plan.

    L(step) = sum over tasks t of  lambda_t * S_t / N_t,    S_t = sum_i w_i * CE_i

S_t runs over the target tokens of task t on all devices, hosts and micro-batches.
N_t is the plan's mean weight of the task per step, so gradients averaged over an
epoch are those of the full-data objective, and a task that is absent adds 0.
What is reported per task is the step's own mean S_t / W_t, W_t = sum_i w_i.

Cross-entropy is tiled over tokens: logits of a whole batch (B x T x V numbers)
never exist at once, neither forward nor backward.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jax.tree_util import Partial

from ccl_jax.errors import UserError
from ccl_jax.model.decoder import soft_capped
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
    softcap: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Sums weighted cross-entropies and weights per task over the global batch.

    Each device handles the rows that it holds. The output embedding is gathered once in the type of
    `hidden`; its gradient is added up in float32, over tiles and then, once, over devices.

    Args:
        hidden: [B, T, D], the decoder's normed output.
        output_embedding: [D, V].
        tokens: [B, T] int32; position t predicts tokens[:, t + 1].
        loss_weights: [B, T] float32, the weight of that prediction; 0 at T - 1. No gradient goes to it.
        task_ids: [B, T] int32, indices into `TASKS`.
        mesh: the mesh of `make_mesh`; rows lie over its batch axes.
        tile_tokens: the most tokens per device whose logits exist at once. Where
            a device's tokens fit in one tile, its logits are kept for the
            backward pass; otherwise each tile's are computed again there.
        softcap: the architecture's `final_softcap`, applied to the logits.

    Returns:
        (S_t, W_t), both float32 [K], replicated.
    """
    rows = PartitionSpec(BATCH_AXES)
    divided = output_embedding.shape[0] % mesh.shape['fsdp'] == 0
    tiled_sums = _with_gradient(_Tiling(tile_tokens, softcap, divided))

    def local_sums(hidden, output_embedding, targets, weights, task_ids):
        tokens = _Tokens(targets.reshape(-1), weights.reshape(-1), task_ids.reshape(-1))
        return jax.lax.psum(tiled_sums(hidden.reshape(-1, hidden.shape[-1]), output_embedding, tokens), BATCH_AXES)

    mapped = jax.shard_map(
        local_sums,
        mesh=mesh,
        in_specs=(rows, PartitionSpec('fsdp' if divided else None), rows, rows, rows),
        out_specs=PartitionSpec(),
        axis_names=set(BATCH_AXES),
    )
    # Only where it is compiled can a mapped function tell that the embedding is frozen.
    sums = jax.jit(mapped)(hidden, output_embedding, jnp.roll(tokens, -1, axis=1), loss_weights, task_ids)
    return sums[0], sums[1]


class _Tokens(NamedTuple):
    """What is known of each of N tokens: what it predicts, with which weight, for which task; arrays [N]."""

    targets: Any
    weights: Any
    task_ids: Any


class _Tiling(NamedTuple):
    """What of the sums is known when they are compiled.

    Attributes:
        tile_tokens, softcap: see `task_sums`.
        divided: a device holds a part of the output embedding, [D / fsdp, V], instead of all of it.
    """

    tile_tokens: int
    softcap: float | None
    divided: bool

    def tiles(self, count: int) -> int:
        return -(-count // self.tile_tokens)


def _with_gradient(tiling: _Tiling):
    """Returns the function (hidden [N, D], output embedding, tokens) -> [2, K] with its derivative written out.

    The result has per task the weighted cross-entropies and the weights of this device's tokens.
    Derived, the gradient of the embedding would add up in the embedding's type, and a frozen one would have one.
    """

    def forward(hidden, output_embedding, tokens):
        frozen = not output_embedding.perturbed
        hidden, output_embedding = hidden.value, output_embedding.value
        tokens = _Tokens(*(array.value for array in tokens))
        if tiling.tiles(len(hidden)) > 1:
            sums = _tiled_sums(tiling, hidden, output_embedding, tokens)
            backward = functools.partial(_tiled_gradients, tiling, frozen)
            return sums, Partial(backward, hidden, output_embedding, tokens)
        whole = _gathered(tiling, output_embedding, hidden.dtype)
        sums, pull = jax.vjp(lambda h, whole: _tile_sums(tiling, h, whole, tokens), hidden, whole)
        return sums, Partial(functools.partial(_tile_gradients, tiling, frozen, output_embedding.dtype), pull)

    def backward(partial, gradient):
        return *partial(gradient), None

    sums = jax.custom_vjp(functools.partial(_tiled_sums, tiling))
    sums.defvjp(forward, backward, symbolic_zeros=True)
    return sums


def _tiled_sums(tiling, hidden, output_embedding, tokens):
    whole = _gathered(tiling, output_embedding, hidden.dtype)
    if tiling.tiles(len(hidden)) == 1:
        return _tile_sums(tiling, hidden, whole, tokens)
    tiles = _split(tiling, hidden, tokens)
    return jax.lax.map(lambda tile: _tile_sums(tiling, tile[0], whole, tile[1]), tiles).sum(axis=0)


def _tile_gradients(tiling, frozen, dtype, pull, gradient):
    of_hidden, of_whole = pull(gradient)
    return of_hidden, None if frozen else _scattered(tiling, of_whole.astype(jnp.float32), dtype)


def _tiled_gradients(tiling, frozen, hidden, output_embedding, tokens, gradient):
    whole = _gathered(tiling, output_embedding, hidden.dtype)

    def add_tile(total, tile):
        tile_hidden, tile_tokens = tile
        _, pull = jax.vjp(lambda h, whole: _tile_sums(tiling, h, whole, tile_tokens), tile_hidden, whole)
        of_hidden, of_whole = pull(gradient)
        return total if frozen else total + of_whole, of_hidden

    zeros = () if frozen else jax.lax.pcast(jnp.zeros(whole.shape, jnp.float32), BATCH_AXES, to='varying')
    total, of_hidden = jax.lax.scan(add_tile, zeros, _split(tiling, hidden, tokens))
    of_hidden = of_hidden.reshape(-1, hidden.shape[-1])[: len(hidden)]
    return of_hidden, None if frozen else _scattered(tiling, total, output_embedding.dtype)


def _gathered(tiling, output_embedding, dtype):
    """Returns the output embedding [D, V] on every device, as its own: its gradient is not summed by itself."""
    whole = output_embedding.astype(dtype)
    if tiling.divided:
        whole = jax.lax.all_gather(whole, 'fsdp', axis=0, tiled=True)
    return jax.lax.pcast(whole, 'replica' if tiling.divided else BATCH_AXES, to='varying')


def _scattered(tiling, gradient, dtype):
    """Sums the devices' gradients of the embedding and returns a device's part of it, as `_gathered` found it."""
    if not tiling.divided:
        return jax.lax.psum(gradient, BATCH_AXES).astype(dtype)
    part = jax.lax.psum_scatter(gradient, 'fsdp', scatter_dimension=0, tiled=True)
    return jax.lax.psum(part, 'replica').astype(dtype)


def _split(tiling, hidden, tokens):
    """Returns (hidden, tokens) in tiles [tiles, tokens of a tile, ...], filled up with tokens without weight."""
    count = len(hidden)
    tiles = tiling.tiles(count)
    length = -(-count // tiles)

    def split(array):
        padded = jnp.pad(array, [(0, tiles * length - count)] + [(0, 0)] * (array.ndim - 1))
        return padded.reshape(tiles, length, *array.shape[1:])

    return jax.tree.map(split, (hidden, tokens))


def _tile_sums(tiling, hidden, whole, tokens):
    losses = _cross_entropy(hidden, whole, tokens.targets, tiling.softcap)
    of_task = jax.nn.one_hot(tokens.task_ids, len(TASKS), dtype=jnp.float32)
    # A product of two sums over tokens would do, but float32 products run in lower precision on accelerators.
    weighted = jnp.stack([tokens.weights * losses, tokens.weights])
    return jnp.sum(weighted[:, :, None] * of_task, axis=1)


def _cross_entropy(hidden, output_embedding, targets, softcap):
    """Returns -log p(target) in float32, [N], of hidden [N, D]."""
    logits = jnp.einsum('nd,dv->nv', hidden, output_embedding, preferred_element_type=jnp.float32)
    logits = soft_capped(logits, softcap)
    # A masked sum instead of a gather: it stays where a vocabulary shard is, and its gradient is no scatter.
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    target_logits = jnp.sum(jnp.where(vocabulary == targets[:, None], logits, 0.0), axis=1)
    return jax.nn.logsumexp(logits, axis=1) - target_logits
