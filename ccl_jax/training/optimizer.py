"""Optimizers: AdamW, or Muon for the hidden matrices with AdamW for the rest; learning-rate schedule.

Parameters are told apart by their path: embeddings, hidden matrices (in the layers,
stacked on a leading axis), and vectors (norms, biases).
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from ccl_jax.errors import UserError
from ccl_jax.training.mesh import path_name
from ccl_jax.training.settings import OptimizerSettings

_ADAMW_UPDATE_RMS = 0.2
_EMBEDDINGS = r'(^|/)(embedding|lm_head)$'


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Returns the optimizer at its peak learning rate; its updates are to be scaled by the schedule.

    It neither clips nor follows the schedule: the train step does both, so that
    the schedule keeps to the run's step even where an update was skipped.
    """
    decay = optax.add_decayed_weights(
        settings.weight_decay, mask=lambda params: _map_names(lambda name, leaf: _decays(name, leaf, settings), params)
    )

    def adamw(learning_rate: float) -> optax.GradientTransformation:
        adam = optax.scale_by_adam(settings.b1, settings.b2, settings.eps)
        return optax.chain(adam, decay, optax.scale_by_learning_rate(learning_rate))

    if settings.name == 'adamw':
        return adamw(settings.learning_rate)
    muon = optax.chain(
        optax.contrib.scale_by_muon(weight_dimension_numbers=lambda updates: _map_names(_matrix_axes, updates)),
        optax.stateless(lambda updates, _: _map_names(_scale_to_adamw, updates)),
        decay,
        optax.scale_by_learning_rate(settings.learning_rate),
    )
    return optax.partition(
        {'muon': muon, 'adamw': adamw(settings.adamw_learning_rate or settings.learning_rate)},
        lambda params: _map_names(lambda name, leaf: 'muon' if _is_hidden_matrix(name, leaf) else 'adamw', params),
    )


def schedule_factor(settings: OptimizerSettings, total_steps: int) -> Callable[[jax.Array], jax.Array]:
    """Returns the function of the step (from 0) that gives the fraction of the peak learning rate.

    Raises:
        UserError: the warm-up is longer than the run.
    """
    warmup, end = settings.warmup_steps, settings.end_fraction
    if warmup > total_steps:
        raise UserError(f'warmup_steps is {warmup} but the run has {total_steps} steps; make it shorter')

    def factor(step: jax.Array) -> jax.Array:
        done = (step + 1).astype(jnp.float32)
        rise = jnp.minimum(done / max(warmup, 1), 1.0)
        progress = jnp.clip((done - warmup) / max(total_steps - warmup, 1), 0.0, 1.0)
        if settings.schedule == 'constant':
            return rise
        if settings.schedule == 'linear':
            return rise * (1.0 - (1.0 - end) * progress)
        return rise * (end + (1.0 - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress)))

    return factor


def _is_embedding(name: str) -> bool:
    return re.search(_EMBEDDINGS, name) is not None


def _is_hidden_matrix(name: str, leaf: Any) -> bool:
    """Matrices of the layers are stacked [L, in, out]; vectors of the layers are [L, n]."""
    return leaf.ndim == 3 and not _is_embedding(name)


def _decays(name: str, leaf: Any, settings: OptimizerSettings) -> bool:
    return _is_hidden_matrix(name, leaf) or (settings.decay_embeddings and _is_embedding(name))


def _matrix_axes(name: str, leaf: Any) -> optax.contrib.MuonDimensionNumbers:
    """Each layer's matrix is orthogonalised by itself: the leading axis is not named here."""
    return optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)


def _scale_to_adamw(name: str, update: jax.Array) -> jax.Array:
    """An orthogonal [m, n] has root mean square 1 / sqrt(max(m, n)); arXiv 2502.16982, section 2.2."""
    return update * (_ADAMW_UPDATE_RMS * math.sqrt(max(update.shape[1:])))


def _map_names(function: Callable[[str, Any], Any], tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(path_name(path), leaf), tree)
