"""Rotary positions (RoPE, arXiv 2104.09864): their spellings in a `config.json`, and the rotation itself."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.errors import UserError
from ccl_jax.model.checks import check_numbers

# Cosine and sine of every token's angles, float32 [B, T, 1, H / 2].
Rotation = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Llama3RopeScaling:
    """How Llama 3.1 and later stretch the wavelengths of the rotary embedding.

    Wavelengths longer than `original_max_position_embeddings / low_freq_factor` are
    multiplied by `factor`, shorter than `.../ high_freq_factor` kept, those between blended.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.high_freq_factor <= self.low_freq_factor:
            raise UserError('rope_scaling: high_freq_factor must be larger than low_freq_factor')


@dataclasses.dataclass(frozen=True)
class LinearRopeScaling:
    """All wavelengths are multiplied by `factor` (arXiv 2306.15595), as in the larger Gemma 3."""

    factor: float

    def __post_init__(self) -> None:
        check_numbers(self)


RopeScaling = Llama3RopeScaling | LinearRopeScaling
_SCALINGS: dict[str, type[RopeScaling]] = {'llama3': Llama3RopeScaling, 'linear': LinearRopeScaling}


def read_rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Returns base and scaling from `rope_theta` + `rope_scaling` or from transformers 5's `rope_parameters`.

    Raises:
        UserError: the rope is of a type that is not supported, or of one type per kind of layer.
    """
    # The order of precedence is that of transformers' `convert_rope_params_to_dict`.
    rope = config.get('rope_scaling') or config.get('rope_parameters') or {}
    theta = config.get('rope_theta')
    return _read(rope, 10_000.0 if theta is None else theta)


def read_two_ropes(
    config: Mapping[str, Any], theta: float, local_theta: float
) -> tuple[float, RopeScaling | None, float]:
    """Returns base and scaling of the layers without a window and the base of those with one, as Gemma 3 gives them.

    That is `rope_theta`, `rope_scaling` and `rope_local_base_freq`, or `rope_parameters` by kind of layer.

    Args:
        theta, local_theta: the bases where the config gives none.

    Raises:
        UserError: the rope is of a type that is not supported.
    """
    ropes = config.get('rope_parameters') or {}
    if set(ropes) - {'full_attention', 'sliding_attention'}:
        raise UserError(
            'rope_parameters is not given by layer type, which this model_type needs; '
            "put its content under 'full_attention' and 'sliding_attention'"
        )
    theta, local_theta = (
        default if config.get(name) is None else config[name]
        for name, default in (('rope_theta', theta), ('rope_local_base_freq', local_theta))
    )
    full = {**(ropes.get('full_attention') or {}), **(config.get('rope_scaling') or {})}
    local_theta, local_scaling = _read(ropes.get('sliding_attention') or {}, local_theta)
    if local_scaling is not None:
        raise UserError('a scaled rope of layers with a window is not supported; use a checkpoint where it is default')
    return *_read(full, theta), local_theta


def write_rope(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """Returns the fields `rope_theta` and `rope_scaling`, which transformers 4 and 5 both read."""
    if scaling is None:
        return {'rope_theta': theta, 'rope_scaling': None}
    rope_type = next(name for name, kind in _SCALINGS.items() if isinstance(scaling, kind))
    return {'rope_theta': theta, 'rope_scaling': {'rope_type': rope_type, **dataclasses.asdict(scaling)}}


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Returns the angle per position of each pair of a head's dimensions, float32 [H / 2].

    The scaling of Llama 3.1 is given by transformers' `_compute_llama3_parameters`;
    computed in float64 and rounded once.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if isinstance(scaling, LinearRopeScaling):
        frequencies = frequencies / scaling.factor
    elif isinstance(scaling, Llama3RopeScaling):
        turns = frequencies * scaling.original_max_position_embeddings / (2 * math.pi)
        blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        kept = np.clip(blend, 0, 1)
        frequencies = kept * frequencies + (1 - kept) * frequencies / scaling.factor
    return frequencies.astype(np.float32)


def rotation(frequencies: np.ndarray, positions: jax.Array) -> Rotation:
    """Returns the rotation of tokens at `positions` [B, T]."""
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, by: Rotation) -> jax.Array:
    """Rotates x [B, T, heads, H]; dimension i is paired with i + H / 2, as in Hugging Face's weights."""
    cos, sin = by
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def _read(rope: Mapping[str, Any], theta: float) -> tuple[float, RopeScaling | None]:
    if 'full_attention' in rope or 'sliding_attention' in rope:
        raise UserError('a rope for each layer type is not supported for this model_type; use a checkpoint with one')
    if rope.get('rope_theta') is not None:
        theta = rope['rope_theta']
    if rope.get('partial_rotary_factor') not in (None, 1):
        raise UserError('partial_rotary_factor is not supported; use a checkpoint that rotates whole heads')
    rope_type = rope.get('rope_type', rope.get('type', 'default'))
    if rope_type == 'default':
        return theta, None
    if rope_type not in _SCALINGS:
        known = ', '.join(['default', *_SCALINGS])
        raise UserError(f'rope type {rope_type!r} is not supported; use a checkpoint with one of {known}')
    scaling = _SCALINGS[rope_type]
    names = [field.name for field in dataclasses.fields(scaling)]
    missing = [name for name in names if rope.get(name) is None]
    if missing:
        raise UserError(f'the rope of type {rope_type!r} lacks {", ".join(missing)}; use a complete config.json')
    return theta, scaling(**{name: rope[name] for name in names})
