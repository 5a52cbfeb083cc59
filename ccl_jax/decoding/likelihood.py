"""How likely a model finds given texts, token by token.

Texts are put in rows of power-of-two lengths, one a row, in batches of power-of-two numbers of rows, so
that few shapes are compiled whatever the texts are.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from ccl_jax.model.decoder import Decoder

# As short as kernels take; shorter rows would only be more shapes.
_SHORTEST_ROW = 128
# Tokens of a batch on each device, and those whose logits exist at once.
_DEVICE_TOKENS = 4096
_TILE_TOKENS = 512
# Texts among which batches of one length are looked for: results come in their order, so this many wait at most.
_WINDOW = 1024


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """What a model makes of a text.

    Attributes:
        logprobs: natural log-probability of each token but the first, given all before it; float32.
        next_token: the likeliest token after the last.
    """

    logprobs: np.ndarray
    next_token: int


def likelihoods(decoder: Decoder, texts: Sequence[np.ndarray], rows: NamedSharding) -> Iterator[Likelihood]:
    """Yields the likelihood of each text, in their order.

    Products of a float32 decoder are not rounded to less, on any device.

    Args:
        texts: token ids, int32, at least one each.
        rows: how [B, T] arrays lie on the mesh of the parameters.
    """
    graphdef, params = nnx.split(decoder)
    row_devices = math.prod(rows.mesh.shape[axis] for axis in rows.spec[0])
    for begin in range(0, len(texts), _WINDOW):
        window = texts[begin : begin + _WINDOW]
        results: dict[int, Likelihood] = {}
        for indices, shape in _batches([len(text) for text in window], row_devices):
            tokens, lengths = np.zeros(shape, np.int32), np.zeros(shape[0], np.int32)
            for row, i in enumerate(indices):
                tokens[row, : len(window[i])] = window[i]
                lengths[row] = len(window[i])
            logprobs, next_tokens = jax.device_get(_score(params, tokens, lengths, graphdef=graphdef, rows=rows))
            for row, i in enumerate(indices):
                # Copied, so that a result does not keep its whole batch.
                results[i] = Likelihood(logprobs[row, : lengths[row] - 1].copy(), int(next_tokens[row]))
        for i in range(len(window)):
            yield results.pop(i)


def _batches(lengths: Sequence[int], row_devices: int) -> Iterator[tuple[list[int], tuple[int, int]]]:
    """Yields (indices of the texts of a batch, its shape): texts of about one length together."""
    row_lengths = [max(_SHORTEST_ROW, _power_of_two(length)) for length in lengths]
    for row_length in sorted(set(row_lengths)):
        indices = [i for i, own in enumerate(row_lengths) if own == row_length]
        most = row_devices * max(1, _DEVICE_TOKENS // row_length)
        for begin in range(0, len(indices), most):
            batch = indices[begin : begin + most]
            yield batch, (row_devices * _power_of_two(-(-len(batch) // row_devices)), row_length)


def _power_of_two(number: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (number - 1).bit_length()


@functools.partial(jax.jit, static_argnames=('graphdef', 'rows'))
def _score(params: nnx.State, tokens: jax.Array, lengths: jax.Array, *, graphdef, rows: NamedSharding):
    """Returns log-probabilities float32 [B, T] of tokens[:, t + 1] at t, and the next tokens [B], for all processes."""
    decoder: Decoder = nnx.merge(graphdef, params)
    # Accelerators round the factors of a float32 product unless asked not to.
    with jax.default_matmul_precision('highest' if decoder.compute_dtype == jnp.float32 else 'default'):
        results = _scored(decoder, tokens, lengths, rows)
    return jax.lax.with_sharding_constraint(results, NamedSharding(rows.mesh, PartitionSpec()))


def _scored(decoder: Decoder, tokens: jax.Array, lengths: jax.Array, rows: NamedSharding):
    tokens = jax.lax.with_sharding_constraint(tokens, rows)
    batch, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), tokens.shape)
    # The padding is a segment of its own.
    segment_ids = 1 + (positions >= lengths[:, None]).astype(jnp.int32)
    hidden = jax.lax.with_sharding_constraint(decoder(tokens, positions, segment_ids), rows)

    def tile_logprobs(tile: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = decoder.logits(tile[0])
        target_logits = jnp.take_along_axis(logits, tile[1][..., None], axis=-1)[..., 0]
        return target_logits - jax.nn.logsumexp(logits, axis=-1)

    row_devices = math.prod(rows.mesh.shape[axis] for axis in rows.spec[0])
    columns = min(length, max(1, _TILE_TOKENS * row_devices // batch))

    def tiles(x: jax.Array) -> jax.Array:
        return x.reshape(batch, length // columns, columns, *x.shape[2:]).swapaxes(0, 1)

    logprobs = jax.lax.map(tile_logprobs, (tiles(hidden), tiles(jnp.roll(tokens, -1, axis=1))))
    logprobs = logprobs.swapaxes(0, 1).reshape(batch, length)
    return logprobs, jnp.argmax(decoder.logits(hidden[jnp.arange(batch), lengths - 1]), axis=-1)
