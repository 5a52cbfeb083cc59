"""Greedy generation in batches, with a key/value cache.

Prompts are packed by length; each batch is padded on the left to a bucket and to a
fixed number of rows, so XLA compiles once per bucket. Decoding runs as one loop on the
device until every row has ended.
"""

import dataclasses
import functools
import logging
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder

_UNUSED = -1

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Generation:
    """What the model wrote after a prompt.

    Attributes:
        tokens: without the token that ended it.
        logprobs: natural log-probability of each token given all before it.
        ended: whether an end token came; if not, the length limit cut it.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: Collection[int],
    max_new_tokens: int,
    buckets: Sequence[int],
    batch_rows: int = 32,
) -> list[Generation]:
    """Continues each prompt with the likeliest token, again and again; results in the order of `prompts`.

    Args:
        prompts: token ids.
        end_ids: a row ends with any of these tokens.
        max_new_tokens: a row also ends after this many, or where the architecture's
            `max_position_embeddings` tokens are reached.
        buckets: prompt lengths to pad to; one compilation for each that is used.
        batch_rows: prompts decoded at a time.

    Raises:
        UserError: a prompt is empty, is longer than the longest bucket, leaves no position for a new
            token, or has a token that the model does not know.
    """
    buckets = sorted(buckets)
    _check_prompts(prompts, buckets[-1], decoder.architecture)
    graphdef, params = nnx.split(decoder)
    results: dict[int, Generation] = {}
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for begin in range(0, len(prompts), batch_rows):
        batch = by_length[begin : begin + batch_rows]
        longest = len(prompts[batch[-1]])
        tokens, lengths = _pad_left(
            [prompts[i] for i in batch], next(bucket for bucket in buckets if bucket >= longest), batch_rows
        )
        new_tokens, logprobs = _generate_batch(
            params,
            tokens,
            lengths,
            np.asarray(sorted(end_ids), np.int32),
            graphdef=graphdef,
            max_new_tokens=max_new_tokens,
            out=_replicated(params),
        )
        new_tokens, logprobs = np.asarray(new_tokens), np.asarray(logprobs)
        for row, i in enumerate(batch):
            results[i] = _read_row(new_tokens[row], logprobs[row], end_ids)
        _log.info('generated %d of %d', len(results), len(prompts))
    return [results[i] for i in range(len(prompts))]


def _check_prompts(prompts: Sequence[Sequence[int]], longest_bucket: int, architecture: Architecture) -> None:
    positions, vocab_size = architecture.max_position_embeddings, architecture.vocab_size
    for i, prompt in enumerate(prompts):
        length = len(prompt)
        if length == 0:
            raise UserError(f'prompt {i} is empty; give at least one token')
        if length > longest_bucket:
            raise UserError(
                f'prompt {i} has {length} tokens, more than the longest bucket ({longest_bucket}); '
                'add a longer bucket or shorten the prompt'
            )
        if length >= positions:
            raise UserError(
                f'prompt {i} has {length} tokens, which leaves no room for a new one in the '
                f"model's {positions} positions; shorten the prompt"
            )
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            raise UserError(
                f"prompt {i} has a token outside the model's vocabulary of {vocab_size}; "
                'use the tokenizer that belongs to the model'
            )


def _pad_left(prompts: Sequence[Sequence[int]], length: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens [rows, length] and lengths [rows]; rows without a prompt have length 0."""
    tokens = np.zeros((rows, length), np.int32)
    lengths = np.zeros(rows, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = prompt
        lengths[row] = len(prompt)
    return tokens, lengths


@functools.partial(jax.jit, static_argnames=('graphdef', 'max_new_tokens', 'out'))
def _generate_batch(params, tokens, lengths, end_ids, *, graphdef, max_new_tokens: int, out):
    """Returns tokens and logprobs [B, max_new_tokens]; a row holds `_UNUSED` after its end token.

    Args:
        tokens: [B, T] prompts, padded left.
        lengths: [B] of the prompts.
        end_ids: [E].
        out: sharding of the results.
    """
    decoder: Decoder = nnx.merge(graphdef, params)
    max_positions = decoder.architecture.max_position_embeddings
    rows, prompt_slots = tokens.shape
    positions = jnp.arange(prompt_slots)[None] - (prompt_slots - lengths[:, None])
    real = (positions >= 0).astype(jnp.int32)
    hidden, cache = decoder.prefill(tokens, jnp.maximum(positions, 0), real, prompt_slots + max_new_tokens)

    def choose(hidden, written, active):
        """Returns each row's next token and its logprob, and which rows go on after it."""
        logprobs = jax.nn.log_softmax(decoder.logits(hidden))
        token = jnp.argmax(logprobs, axis=-1).astype(jnp.int32)
        logprob = jnp.take_along_axis(logprobs, token[:, None], axis=-1)[:, 0]
        ended = jnp.isin(token, end_ids) | (lengths + written + 1 >= max_positions)
        return token, logprob, active & ~ended

    def unfinished(state):
        written, _, active, *_ = state
        return (written < max_new_tokens) & active.any()

    def step(state):
        written, token, active, new_tokens, logprobs, cache = state
        hidden, cache = decoder.decode(
            token, lengths + written - 1, jnp.ones_like(token), cache, prompt_slots + written - 1
        )
        token, logprob, still_active = choose(hidden, written, active)
        new_tokens = new_tokens.at[:, written].set(jnp.where(active, token, _UNUSED))
        logprobs = logprobs.at[:, written].set(logprob)
        return written + 1, token, still_active, new_tokens, logprobs, cache

    token, logprob, active = choose(hidden[:, -1], 0, lengths > 0)
    new_tokens = jnp.full((rows, max_new_tokens), _UNUSED, jnp.int32).at[:, 0].set(token)
    logprobs = jnp.zeros((rows, max_new_tokens), jnp.float32).at[:, 0].set(logprob)
    state = jax.lax.while_loop(unfinished, step, (1, token, active, new_tokens, logprobs, cache))
    new_tokens, logprobs = state[3], state[4]
    return (new_tokens, logprobs) if out is None else jax.lax.with_sharding_constraint((new_tokens, logprobs), out)


def _replicated(params: nnx.State) -> NamedSharding | None:
    """Returns a sharding that gives every process the whole result; None if the parameters lie on no mesh."""
    sharding = jax.tree.leaves(params)[0].sharding
    return NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else None


def _read_row(tokens: np.ndarray, logprobs: np.ndarray, end_ids: Collection[int]) -> Generation:
    length = next((i for i, token in enumerate(tokens.tolist()) if token == _UNUSED or token in end_ids), len(tokens))
    ended = length < len(tokens) and int(tokens[length]) in end_ids
    return Generation(tuple(tokens[:length].tolist()), tuple(logprobs[:length].tolist()), ended)
