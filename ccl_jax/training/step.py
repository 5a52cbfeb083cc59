"""One training step: loss and gradients over micro-batches, clipping, update; all in one jitted function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccl_jax.training.mesh import batch_sharding, tree_shardings
from ccl_jax.training.objective import task_sums
from ccl_jax.training.optimizer import make_optimizer, schedule_factor
from ccl_jax.training.settings import OptimizerSettings

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes and a checkpoint holds; arrays, or their shapes and shardings.

    Attributes:
        step: int32, the number of steps done.
        skipped: int32, how many of them left the parameters alone because the
            loss or a gradient was not finite.
        params: nested dict of arrays.
        opt_state: the optimizer's.
    """

    step: Any
    skipped: Any
    params: Any
    opt_state: Any


def init_state(params: Any, optimizer: OptimizerSettings, mesh: Mesh) -> TrainState:
    """Returns the state at step 0; parameters are taken as they lie, moments lie like them."""
    abstract = abstract_state(params, optimizer, mesh)
    opt_shardings = jax.tree.map(lambda x: x.sharding, abstract.opt_state)
    opt_state = jax.jit(make_optimizer(optimizer).init, out_shardings=opt_shardings)(params)
    step, skipped = jax.device_put((np.int32(0), np.int32(0)), abstract.step.sharding)
    return TrainState(step, skipped, params, opt_state)


def abstract_state(params: Any, optimizer: OptimizerSettings, mesh: Mesh) -> TrainState:
    """Returns the shapes, types and shardings of a state, to compile for or to load into, without making it."""
    opt_state = jax.eval_shape(make_optimizer(optimizer).init, params)
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    return TrainState(
        step=count,
        skipped=count,
        params=jax.tree.map(lambda x: _abstract(x, x.sharding), params),
        opt_state=jax.tree.map(_abstract, opt_state, tree_shardings(mesh, opt_state)),
    )


def abstract_batch(rows: int, length: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes, types and shardings of a batch of `rows` rows of `length` tokens."""
    types = {
        'tokens': jnp.int32,
        'positions': jnp.int32,
        'segment_ids': jnp.int32,
        'loss_weights': jnp.float32,
        'task_ids': jnp.int32,
    }
    sharding = batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct((rows, length), dtype, sharding=sharding) for name, dtype in types.items()}


def make_train_step(
    graphdef: nnx.GraphDef,
    state: TrainState,
    optimizer: OptimizerSettings,
    mesh: Mesh,
    *,
    coefficients: np.ndarray,
    total_steps: int,
    tile_tokens: int,
    accumulation: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the jitted function (state, batch) -> (state, metrics).

    The state is donated and stays on its shardings. A step whose loss or gradient
    is not finite counts, but changes nothing else.

    Args:
        graphdef: of the decoder; merged with `state.params` it maps (tokens,
            positions, segment_ids) to hidden states [B, T, D] and has
            `output_embedding()`, [D, V].
        state: a state or an abstract one, for its structure and shardings.
        coefficients: lambda_t / N_t of `task_coefficients`, [K].
        total_steps: of the run, for the learning-rate schedule.
        tile_tokens: see `task_sums`.
        accumulation: micro-batches per step, one after the other; divides the rows.

    Metrics, all replicated: `loss`; `task_sums` and `task_weights` [K]; `grad_norm`
    before clipping; `learning_rate`; `finite` bool; `skipped`, so far.
    """
    transformation = make_optimizer(optimizer)
    factor = schedule_factor(optimizer, total_steps)
    gradients_of = _make_gradients(graphdef, mesh, coefficients, tile_tokens, accumulation)
    state_shardings = jax.tree.map(lambda x: x.sharding, state)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        loss, (sums, weights), gradients = gradients_of(state.params, batch)
        gradients = jax.lax.with_sharding_constraint(gradients, state_shardings.params)
        grad_norm = optax.tree.norm(gradients)
        if optimizer.clip_norm is not None:
            clip = jnp.minimum(1.0, optimizer.clip_norm / grad_norm)
            gradients = jax.tree.map(lambda g: g * clip, gradients)
        updates, opt_state = transformation.update(gradients, state.opt_state, state.params)
        rate = factor(state.step)
        params = jax.tree.map(lambda p, u: (p + rate * u).astype(p.dtype), state.params, updates)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (params, opt_state), (state.params, state.opt_state)
        )
        skipped = state.skipped + jnp.where(finite, 0, 1)
        metrics = {
            'loss': loss,
            'task_sums': sums,
            'task_weights': weights,
            'grad_norm': grad_norm,
            'learning_rate': optimizer.learning_rate * rate,
            'finite': finite,
            'skipped': skipped,
        }
        return TrainState(state.step + 1, skipped, params, opt_state), metrics

    return jax.jit(
        train_step,
        in_shardings=(state_shardings, batch_sharding(mesh)),
        out_shardings=(state_shardings, NamedSharding(mesh, PartitionSpec())),
        donate_argnums=0,
    )


def _make_gradients(
    graphdef: nnx.GraphDef, mesh: Mesh, coefficients: np.ndarray, tile_tokens: int, accumulation: int
) -> Callable[[Any, Batch], tuple[jax.Array, tuple[jax.Array, jax.Array], Any]]:
    """Returns (params, batch) -> (loss, (S_t, W_t), gradients), micro-batches added up."""

    def loss(params, batch):
        decoder = nnx.merge(graphdef, params)
        hidden = decoder(batch['tokens'], batch['positions'], batch['segment_ids'])
        sums, weights = task_sums(
            hidden,
            decoder.output_embedding(),
            batch['tokens'],
            batch['loss_weights'],
            batch['task_ids'],
            mesh=mesh,
            tile_tokens=tile_tokens,
        )
        return jnp.sum(coefficients * sums), (sums, weights)

    def of_batch(params, batch):
        (value, sums), gradients = jax.value_and_grad(loss, has_aux=True)(params, batch)
        return value, sums, gradients

    if accumulation == 1:
        return of_batch

    def of_micro_batches(params, batch):
        # Row r goes to micro-batch r mod accumulation, so every device keeps its own rows.
        micro_batches = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, accumulation, *x.shape[1:]), 0, 1), batch)

        def add(totals, micro_batch):
            return jax.tree.map(jnp.add, totals, of_batch(params, micro_batch)), None

        first = jax.tree.map(lambda x: x[0], micro_batches)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_batch, params, first))
        return jax.lax.scan(add, zeros, micro_batches)[0]

    return of_micro_batches


def _abstract(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
