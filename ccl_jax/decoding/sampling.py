"""How the next token is chosen from logits: the likeliest, or one drawn at random, among those that are allowed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ccl_jax.errors import UserError


class Sampling(NamedTuple):
    """What a random draw depends on, beside the logits.

    Attributes:
        key: jax.random key of the seed.
        temperature: float32 []; logits are divided by it.
        top_p: float32 []; only the likeliest tokens that together have this probability are drawn
            (nucleus sampling, arXiv 1904.09751); None for all.
    """

    key: jax.Array
    temperature: ArrayLike
    top_p: ArrayLike | None


def make_sampling(temperature: float, top_p: float, seed: int) -> Sampling | None:
    """Returns how to draw; None for a temperature of 0, which takes the likeliest token.

    Raises:
        UserError: a value is out of range.
    """
    if not 0 <= temperature < float('inf'):
        raise UserError(f'temperature is {temperature}; use 0 for the likeliest token, or a positive number')
    if not 0 < top_p <= 1:
        raise UserError(f'top_p is {top_p}; use a number above 0 and up to 1')
    if temperature == 0:
        return None
    return Sampling(jax.random.key(seed), np.float32(temperature), None if top_p == 1 else np.float32(top_p))


def choose(
    logits: jax.Array,
    sampling: Sampling | None,
    prompts: ArrayLike,
    written: ArrayLike,
    allowed: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the next token of each row, int32 [B], and its log-probability, float32 [B].

    The log-probability is that of the model alone: of all tokens, at temperature 1. A draw depends on the seed, the
    prompt and the place in its answer, not on the row or its neighbours.

    Args:
        logits: float32 [B, V].
        sampling: None for the likeliest token.
        prompts: int32 [B], the number of each row's prompt.
        written: int32 [B], how many tokens of the answer come before.
        allowed: uint8 [B, ceil(V / 8)] from `pack_flags`: which tokens may be chosen; None for all.
    """
    logprobs = jax.nn.log_softmax(logits)
    scores = logprobs
    if allowed is not None:
        bits = (allowed[:, :, None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
        scores = jnp.where(bits.reshape(len(bits), -1)[:, : logits.shape[1]], logprobs, -jnp.inf)
    if sampling is not None:
        scores = scores / sampling.temperature
        if sampling.top_p is not None:
            scores = _nucleus(scores, sampling.top_p)
        scores = scores + jax.vmap(_noise, in_axes=(None, 0, 0, None))(sampling.key, prompts, written, logits.shape[1])
    token = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    return token, jnp.take_along_axis(logprobs, token[:, None], axis=-1)[:, 0]


def pack_flags(flags: np.ndarray) -> np.ndarray:
    """Returns flags of token ids, bool [B, V], as bits, uint8 [B, ceil(V / 8)], id 0 in the lowest bit of the first."""
    return np.packbits(flags, axis=1, bitorder='little')


def _noise(key: jax.Array, prompt: ArrayLike, written: ArrayLike, size: int) -> jax.Array:
    """The token with the largest sum of score and Gumbel noise is a draw from the softmax of the scores."""
    return jax.random.gumbel(jax.random.fold_in(jax.random.fold_in(key, prompt), written), (size,))


def _nucleus(scores: jax.Array, top_p: ArrayLike) -> jax.Array:
    """Hides all but the likeliest tokens, of which those before the last have less than `top_p` together."""
    ordered = jnp.sort(scores, axis=-1, descending=True)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    kept = jnp.cumsum(probabilities, axis=-1) - probabilities < top_p
    least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(scores >= least, scores, -jnp.inf)
