"""One training step: loss and gradients over micro-batches, clipping, update; all in one jitted function."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccl_jax.training.mesh import BATCH_AXES, batch_sharding, tree_shardings
from ccl_jax.training.objective import task_sums
from ccl_jax.training.optimizer import (
    apply_gradients,
    check_patterns,
    init_optimizer,
    make_optimizer,
    schedule_factor,
)
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
        params: nested dict of the arrays that are trained.
        opt_state: the optimizer's, with float32 masters of parameters that are not float32.
    """

    step: Any
    skipped: Any
    params: Any
    opt_state: Any


def init_state(params: Any, optimizer: OptimizerSettings, mesh: Mesh) -> TrainState:
    """Returns the state at step 0; parameters are taken as they lie, moments lie like them."""
    abstract = abstract_state(params, optimizer, mesh)
    opt_shardings = jax.tree.map(lambda x: x.sharding, abstract.opt_state)
    init = functools.partial(init_optimizer, make_optimizer(optimizer, mesh))
    opt_state = jax.jit(init, out_shardings=opt_shardings)(params)
    step, skipped = jax.device_put((np.int32(0), np.int32(0)), abstract.step.sharding)
    return TrainState(step, skipped, params, opt_state)


def abstract_state(params: Any, optimizer: OptimizerSettings, mesh: Mesh) -> TrainState:
    """Returns the shapes, types and shardings of a state, to compile for or to load into, without making it."""
    opt_state = jax.eval_shape(functools.partial(init_optimizer, make_optimizer(optimizer, mesh)), params)
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
    frozen: Any,
    optimizer: OptimizerSettings,
    mesh: Mesh,
    *,
    coefficients: np.ndarray,
    total_steps: int,
    tile_tokens: int,
    accumulation: int = 1,
    dropout_seed: int | None = None,
) -> Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]:
    """Returns the jitted function (state, frozen, batch) -> (state, metrics).

    The state is donated and stays on its shardings; `frozen` is only read. A step whose
    loss or gradient is not finite counts, but changes nothing else. Gradients are summed
    over devices in the parameters' type, over micro-batches in float32.

    Args:
        graphdef: of the decoder; merged with `state.params` and `frozen` it maps
            (tokens, positions, segment_ids) to hidden states [B, T, D] and has
            `output_embedding()`, [D, V], and `architecture.final_softcap`.
        state: a state or an abstract one, for its structure and shardings.
        frozen: nested dict of the weights that are not trained, {} for none; as `state`.
        coefficients: lambda_t / N_t of `task_coefficients`, [K].
        total_steps: of the run, for the learning-rate schedule.
        tile_tokens: see `task_sums`.
        accumulation: micro-batches per step, one after the other; divides the rows.
        dropout_seed: of the adapters' dropout, which also depends on the step, the
            micro-batch and the layer, and on nothing else; None for no dropout.

    Metrics, all replicated: `loss`; `task_sums` and `task_weights` [K]; `grad_norm`
    before clipping; `learning_rate`; `finite` bool; `skipped`, so far.

    Raises:
        UserError: a regular expression of `optimizer` finds no parameter, or its warm-up does not fit the run.
    """
    check_patterns(optimizer, state.params)
    transformation = make_optimizer(optimizer, mesh)
    factor = schedule_factor(optimizer, total_steps)
    state_shardings, frozen_shardings = jax.tree.map(lambda x: x.sharding, (state, frozen))
    gradients_of = make_gradients(
        graphdef,
        mesh,
        state_shardings.params,
        coefficients=coefficients,
        tile_tokens=tile_tokens,
        accumulation=accumulation,
    )

    def train_step(state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, Metrics]:
        key = None if dropout_seed is None else jax.random.fold_in(jax.random.key(dropout_seed), state.step)
        loss, (sums, weights), gradients = gradients_of(state.params, frozen, batch, key)
        grad_norm = optax.tree.norm(gradients)
        if optimizer.clip_norm is not None:
            clip = jnp.minimum(1.0, optimizer.clip_norm / grad_norm)
            gradients = jax.tree.map(lambda g: g * clip, gradients)
        rate = factor(state.step)
        params, opt_state = apply_gradients(transformation, gradients, state.opt_state, state.params, rate)
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
        in_shardings=(state_shardings, frozen_shardings, batch_sharding(mesh)),
        out_shardings=(state_shardings, NamedSharding(mesh, PartitionSpec())),
        donate_argnums=0,
    )


def make_gradients(
    graphdef: nnx.GraphDef,
    mesh: Mesh,
    shardings: Any,
    *,
    coefficients: np.ndarray,
    tile_tokens: int,
    accumulation: int = 1,
) -> Callable[[Any, Any, Batch, jax.Array | None], tuple[jax.Array, tuple[jax.Array, jax.Array], Any]]:
    """Returns the function (params, frozen, batch, dropout key) -> (loss, (S_t, W_t), gradients), to be jitted.

    Gradients are float32 and lie as `shardings`, the tree of the parameters' shardings, says.
    The other arguments are those of `make_train_step`.
    """

    def loss(params, frozen, batch, key):
        decoder = nnx.merge(graphdef, params, frozen)
        hidden = decoder(batch['tokens'], batch['positions'], batch['segment_ids'], dropout_key=key)
        sums, weights = task_sums(
            hidden,
            decoder.output_embedding(),
            batch['tokens'],
            batch['loss_weights'],
            batch['task_ids'],
            mesh=mesh,
            tile_tokens=tile_tokens,
            softcap=decoder.architecture.final_softcap,
        )
        return jnp.sum(coefficients * sums), (sums, weights)

    def of_batch(params, frozen, batch, key):
        (value, sums), gradients = jax.value_and_grad(loss, has_aux=True)(params, frozen, batch, key)
        # Each device gets its own part of the sum over devices, and nowhere does a whole gradient exist.
        gradients = jax.lax.with_sharding_constraint(gradients, shardings)
        return value, sums, jax.tree.map(lambda g: g.astype(jnp.float32), gradients)

    if accumulation == 1:
        return of_batch

    def of_micro_batches(params, frozen, batch, key):
        # Row r goes to micro-batch r mod accumulation, so every device keeps its own rows.
        micro_batches = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, accumulation, *x.shape[1:]), 0, 1), batch)
        micro_batches = jax.lax.with_sharding_constraint(
            micro_batches, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
        )

        def add(totals, number_and_batch):
            number, micro_batch = number_and_batch
            own_key = None if key is None else jax.random.fold_in(key, number)
            return jax.tree.map(jnp.add, totals, of_batch(params, frozen, micro_batch, own_key)), None

        first = jax.tree.map(lambda x: x[0], micro_batches)
        shapes = jax.eval_shape(of_batch, params, frozen, first, key)
        value, sums, gradients = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        zeros = value, sums, jax.lax.with_sharding_constraint(gradients, shardings)
        return jax.lax.scan(add, zeros, (jnp.arange(accumulation), micro_batches))[0]

    return of_micro_batches


def _abstract(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
