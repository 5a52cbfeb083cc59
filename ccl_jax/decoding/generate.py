"""Generation in batches, with a key/value cache.

Prompts go in longest first; a row whose answer has ended takes the next prompt. What is compiled: for each bucket of
prompt lengths in use, a prefill of a group of rows (and of fewer, a power of two, where prompts run out) and its
insertion; for each bucket of the longest prompt in the rows, the cache of which shrinks when all that is left fits
into a smaller one, the decoding of all rows.

Without constraints the device writes many tokens before the host looks. With constraints it writes one at a
time, and the host works out what is allowed next while the device already computes the logits.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import jax
import numpy as np
from flax import nnx

from ccl_jax.decoding import steps
from ccl_jax.decoding.sampling import Sampling, make_sampling, pack_flags
from ccl_jax.decoding.schedule import Batch, Generation, Shapes
from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder

__all__ = ['Generation', 'TokenConstraint', 'generate']

# Tokens that are written before the host looks at ended rows, smaller caches.
_STEPS = 64


class TokenConstraint(Protocol):
    """What may come next in one answer. It changes with each token, so every prompt needs its own."""

    def allowed(self) -> np.ndarray:
        """Returns the ids that may come next, at least one; int32, in any order."""
        ...

    def advance(self, token: int) -> None:
        """Is told of the token that came; not of the last, be it an end or at the limit of the length."""
        ...


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: Collection[int],
    max_new_tokens: int,
    buckets: Sequence[int],
    batch_rows: int = 32,
    constraints: Sequence[TokenConstraint | None] | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> list[Generation]:
    """Continues each prompt; results in the order of `prompts`, whatever is decoded beside them.

    Every process of a mesh calls this with the same arguments, and gets all results.

    Args:
        prompts: token ids.
        end_ids: a row ends with any of these tokens.
        max_new_tokens: a row also ends after this many, or where the architecture's
            `max_position_embeddings` tokens are reached.
        buckets: prompt lengths to pad to; each that is used is compiled for.
        batch_rows: prompts decoded at a time; rounded up to a multiple of the devices that share them.
        constraints: of each prompt, what may come next; None for anything.
        temperature: 0 takes the likeliest token; others draw from the logits divided by it.
        top_p: draws only from the likeliest tokens that together have this probability.
        seed: of the draws. A draw depends on it, the index of the prompt and the place in the answer alone.
        on_progress: told how many answers have ended, whenever that grows.

    Raises:
        UserError: a prompt is empty, is longer than the longest bucket, leaves no position for a new
            token, or has a token that the model does not know; or a setting is out of range.
    """
    architecture = decoder.architecture
    sampling = make_sampling(temperature, top_p, seed)
    if max_new_tokens < 1 or batch_rows < 1:
        raise UserError(f'max_new_tokens is {max_new_tokens} and batch_rows {batch_rows}; both must be at least 1')
    _check_prompts(prompts, max(buckets), architecture)
    graphdef, params = nnx.split(decoder)
    shapes = Shapes.choose(
        len(prompts),
        batch_rows,
        row_devices=steps.row_devices(steps.mesh_of(params)),
        buckets=buckets,
        max_new_tokens=max_new_tokens,
        max_positions=architecture.max_position_embeddings,
    )
    batch = Batch(prompts, end_ids, shapes)
    of_prompt = [None] * len(prompts) if constraints is None else constraints
    engine = _Engine(graphdef, params, batch, shapes, sampling, end_ids, of_prompt, architecture.vocab_size)
    finished = 0
    while batch.waiting or batch.active:
        engine.refill()
        engine.write()
        if batch.finished != finished:
            finished = batch.finished
            if on_progress is not None:
                on_progress(finished)
    return batch.generations()


class _Engine:
    """The state on the device and what moves it."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: nnx.State,
        batch: Batch,
        shapes: Shapes,
        sampling: Sampling | None,
        end_ids: Collection[int],
        constraints: Sequence[TokenConstraint | None],
        vocab_size: int,
    ):
        self._model = {'graphdef': graphdef, 'mesh': steps.mesh_of(params)}
        self._mesh = {'mesh': self._model['mesh']}
        self._params = params
        self._batch = batch
        self._rows = shapes.rows
        self._sampling = sampling
        self._end_ids = np.asarray(sorted(end_ids), np.int32)
        self._constraints = constraints
        self._vocab_size = vocab_size
        self._slots = 0
        self._state: steps.State

    def refill(self) -> None:
        """Fills free rows, once there are enough for a group, and cuts the cache to what is needed."""
        slots = self._batch.slots
        if not self._slots:
            self._state = steps.empty(self._params, rows=self._rows, slots=slots, **self._model)
        elif slots < self._slots:
            self._state = steps.shrink(self._state, slots=slots, **self._mesh)
        self._slots = slots
        while self._rows - self._batch.active >= self._batch.wanted:
            tokens, lengths, rows = self._batch.next_prompts()
            prompts = steps.prefill(self._params, tokens, lengths, **self._model)
            self._state = steps.insert(self._state, prompts, rows, **self._mesh)

    def write(self) -> None:
        """Writes one token in each row, or many if no row has a constraint."""
        rows = self._batch.rows
        constrained = {
            row: constraint
            for row in np.flatnonzero(rows.active).tolist()
            if (constraint := self._constraints[rows.prompts[row]]) is not None
        }
        if constrained:
            self._write_one(constrained)
            return
        self._state, tokens, logprobs = steps.decode(
            self._params,
            self._state,
            rows,
            self._sampling,
            self._end_ids,
            np.int32(max(0, self._rows - self._batch.wanted)),
            steps=_STEPS,
            **self._model,
        )
        self._batch.take(*jax.device_get((tokens, logprobs)))

    def _write_one(self, constrained: dict[int, TokenConstraint]) -> None:
        rows = self._batch.rows
        # The device still computes the logits, and what is allowed depends on known tokens alone.
        allowed = self._allowed(constrained)
        tokens, logprobs = steps.choose_allowed(self._state.logits, rows, self._sampling, allowed, **self._mesh)
        if (rows.active & (rows.written + 1 < rows.limits)).any():
            # Copied, because the host goes on counting before the device reads it.
            self._state = steps.advance(self._params, self._state, tokens, rows.positions.copy(), **self._model)
        chosen = np.asarray(tokens)
        self._batch.take(chosen[:, None], np.asarray(logprobs)[:, None])
        for row, constraint in constrained.items():
            if rows.active[row]:
                constraint.advance(int(chosen[row]))

    def _allowed(self, constrained: dict[int, TokenConstraint]) -> np.ndarray:
        """Returns the ids that each row may take, as bits [R, ceil(V / 8)]: 16 KB a row for 128k ids."""
        flags = np.zeros((self._rows, self._vocab_size), bool)
        for row in range(self._rows):
            constraint = constrained.get(row)
            if constraint is None:
                flags[row] = True
                continue
            ids = constraint.allowed()
            if not len(ids):
                raise ValueError(f'the constraint of prompt {self._batch.rows.prompts[row]} allows no token')
            flags[row, ids] = True
        return pack_flags(flags)


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
