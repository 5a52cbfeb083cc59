"""Optimizers by name, from optax; the schedule of the learning rate; float32 masters of parameters in bfloat16.

Parameters are told apart by their path: embeddings, hidden matrices (in the layers,
stacked on a leading axis; the factors of adapters are matrices too), and vectors (norms, biases).
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccl_jax.errors import UserError
from ccl_jax.model.sharding import axes_of
from ccl_jax.training.mesh import path_name
from ccl_jax.training.settings import OptimizerSettings

_ADAMW_UPDATE_RMS = 0.2
_MUON_MOMENTUM = 0.95


class WithMasters(NamedTuple):
    """The state of an optimizer whose parameters are not float32: float32 copies that it moves, and its own state."""

    masters: Any
    inner: Any


def make_optimizer(settings: OptimizerSettings, mesh: Mesh | None = None) -> optax.GradientTransformation:
    """Returns the optimizer at its peak learning rate; its updates are to be scaled by the schedule.

    It neither clips nor follows the schedule: the train step does both, so that
    the schedule keeps to the run's step even where an update was skipped.

    Args:
        mesh: where the parameters lie; Muon then has whole matrices on each device.
    """
    decay = optax.add_decayed_weights(
        settings.weight_decay, mask=lambda params: _map_names(lambda name, _: _decays(name, settings), params)
    )

    def ending(learning_rate: float, *beginning: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(*beginning, decay, optax.scale_by_learning_rate(learning_rate))

    def adamw(learning_rate: float) -> optax.GradientTransformation:
        return ending(learning_rate, optax.scale_by_adam(settings.b1, settings.b2, settings.eps))

    def adafactor() -> optax.GradientTransformation:
        return ending(settings.learning_rate, optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))

    def lion() -> optax.GradientTransformation:
        return ending(settings.learning_rate, optax.scale_by_lion(settings.b1, settings.b2))

    def muon() -> optax.GradientTransformation:
        matrices = ending(
            settings.learning_rate,
            optax.trace(_MUON_MOMENTUM, nesterov=True),
            optax.stateless(lambda updates, _: _map_names(lambda name, u: _orthogonal(name, u, mesh), updates)),
        )
        return optax.partition(
            {'muon': matrices, 'adamw': adamw(settings.adamw_learning_rate or settings.learning_rate)},
            lambda params: _map_names(lambda _, leaf: 'muon' if _is_hidden_matrix(leaf) else 'adamw', params),
        )

    makers = {'adamw': lambda: adamw(settings.learning_rate), 'adafactor': adafactor, 'lion': lion, 'muon': muon}
    optimizer = makers[settings.name]()
    if not settings.rate_factors:
        return optimizer
    factors = optax.stateless(lambda updates, _: _map_names(lambda name, u: u * _rate_factor(name, settings), updates))
    return optax.chain(optimizer, factors)


def init_optimizer(optimizer: optax.GradientTransformation, params: Any) -> Any:
    """Returns the optimizer's state, with masters where a parameter is not float32."""
    if all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params)):
        return optimizer.init(params)
    masters = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    return WithMasters(masters, optimizer.init(masters))


def apply_gradients(
    optimizer: optax.GradientTransformation, gradients: Any, opt_state: Any, params: Any, rate: jax.Array
) -> tuple[Any, Any]:
    """Returns the parameters and the optimizer's state after an update.

    Args:
        gradients: float32.
        rate: what the update is scaled by, from `schedule_factor`.
    """
    if not isinstance(opt_state, WithMasters):
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return jax.tree.map(lambda p, u: p + rate * u, params, updates), opt_state
    updates, inner = optimizer.update(gradients, opt_state.inner, opt_state.masters)
    masters = jax.tree.map(lambda p, u: p + rate * u, opt_state.masters, updates)
    params = jax.tree.map(lambda master, old: master.astype(old.dtype), masters, params)
    return params, WithMasters(masters, inner)


def check_patterns(settings: OptimizerSettings, params: Any) -> None:
    """Checks that every expression of the settings finds a parameter.

    Raises:
        UserError: one doesn't.
    """
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    patterns = [('rate_factors', pattern) for pattern, _ in settings.rate_factors]
    if settings.weight_decay:
        patterns.append(('decay_pattern', settings.decay_pattern))
    for field, pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise UserError(
                f'{field}: "{pattern}" is found in no parameter that is trained; they are {", ".join(sorted(names))}'
            )


def schedule_factor(settings: OptimizerSettings, total_steps: int) -> Callable[[jax.Array], jax.Array]:
    """Returns the function of the step (from 0) that gives the fraction of the peak learning rate.

    Raises:
        UserError: the warm-up, with the decay at the end where there is one, is longer than the run.
    """
    warmup, end = settings.warmup_steps, settings.end_fraction
    # Where the fall begins and how many steps it takes.
    begin = warmup
    if settings.schedule == 'warmup_stable_decay':
        begin = total_steps - round(settings.decay_fraction * total_steps)
    if warmup > min(begin, total_steps):
        room = 'steps' if begin == warmup else f'steps, of which the last {total_steps - begin} decay'
        raise UserError(f'warmup_steps is {warmup} but the run has {total_steps} {room}; make it shorter')

    def factor(step: jax.Array) -> jax.Array:
        done = (step + 1).astype(jnp.float32)
        rise = jnp.minimum(done / max(warmup, 1), 1.0)
        progress = jnp.clip((done - begin) / max(total_steps - begin, 1), 0.0, 1.0)
        if settings.schedule == 'constant':
            return rise
        if settings.schedule == 'cosine':
            return rise * (end + (1.0 - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress)))
        return rise * (1.0 - (1.0 - end) * progress)

    return factor


def _is_hidden_matrix(leaf: Any) -> bool:
    """Matrices are stacked [L, in, out], an adapter's factors [L, in, r] and [L, r, out]; embeddings are not."""
    return leaf.ndim == 3


def _decays(name: str, settings: OptimizerSettings) -> bool:
    return re.search(settings.decay_pattern, name) is not None


def _rate_factor(name: str, settings: OptimizerSettings) -> float:
    return next((factor for pattern, factor in settings.rate_factors if re.search(pattern, name)), 1.0)


def _orthogonal(name: str, update: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Returns each layer's [m, n] made nearly orthogonal, times what gives it AdamW's root mean square.

    An orthogonal one has the root mean square 1 / sqrt(max(m, n)); arXiv 2502.16982, section 2.2.
    """
    muon = optax.contrib.scale_by_muon(
        beta=0.0,
        nesterov=False,
        weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2),
    )
    layers, *shape = update.shape
    whole, back = (update, lambda x: x) if mesh is None else _whole_matrices(name, update, mesh)
    # Without momentum, its state of before does not matter.
    orthogonal, _ = muon.update(whole, muon.init(whole))
    return back(orthogonal)[:layers] * (_ADAMW_UPDATE_RMS * math.sqrt(max(shape)))


def _whole_matrices(name: str, update: jax.Array, mesh: Mesh) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Divides [L, m, n] by layers instead of by m and n, and returns it with the way back.

    So a matrix is sent once there and once back, where else every product of the iterations would be. Layers
    of zeros fill it up. One axis moves at a time: XLA takes more at once as a reason to gather all layers.
    """
    axes = axes_of(name, update.shape, mesh)
    moved = [axis for axis in axes if axis is not None and mesh.shape[axis] > 1]
    stages = [
        (tuple(moved[:count]), *(None if axis in moved[:count] else axis for axis in axes[1:]))
        for count in range(len(moved) + 1)
    ]
    shardings = [NamedSharding(mesh, PartitionSpec(*stage)) for stage in stages]
    missing = -len(update) % math.prod(mesh.shape[axis] for axis in moved)
    update = jnp.pad(update, ((0, missing), (0, 0), (0, 0)))
    move = functools.partial(functools.reduce, jax.lax.with_sharding_constraint)
    return move(shardings, update), lambda x: move(shardings[::-1], x)


def _map_names(function: Callable[[str, Any], Any], tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(path_name(path), leaf), tree)
