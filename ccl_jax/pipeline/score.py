"""`score`: log-probabilities of texts under a Hugging Face folder, the check after a conversion."""

import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from transformers import PreTrainedTokenizerBase

from ccl_jax.data.tokenization import load_tokenizer
from ccl_jax.decoding.likelihood import Likelihood, likelihoods
from ccl_jax.errors import UserError
from ccl_jax.model.hf import load_decoder, read_architecture
from ccl_jax.pipeline.workdir import say
from ccl_jax.records import read_jsonl, read_jsonl_lines
from ccl_jax.training.mesh import batch_sharding, make_mesh, sharding_for

STANDARD_INPUT = '-'
DTYPES = ('float32', 'bfloat16')
_SAY_EVERY = 1000


@dataclasses.dataclass(frozen=True)
class Text:
    """A text to score: all of it, or only a target that follows a prompt.

    Attributes:
        place: where it comes from, for messages.
        target: the text, or what follows the prompt.
        prompt: None where the whole text is scored.
    """

    place: str
    target: str
    prompt: str | None = None


@dataclasses.dataclass(frozen=True)
class _Encoded:
    place: str
    tokens: np.ndarray
    # The first token that is scored; the very first of all has no probability.
    begin: int


def read_texts(path: str) -> list[Text]:
    """Reads one object a line, `{"text"}` or `{"prompt", "target"}`; other keys don't matter; '-' is standard input.

    Raises:
        UserError: the file cannot be read, holds no text, or a line is no such object or has an empty text.
    """
    name = 'standard input' if path == STANDARD_INPUT else path
    lines = read_jsonl_lines(sys.stdin.buffer, name) if path == STANDARD_INPUT else read_jsonl(path)
    texts = [_text(f'{name} line {number}', record) for number, record in lines]
    if not texts:
        raise UserError(f'{name} holds no text; write one object with "text" a line')
    return texts


def score(model: Path, texts: Sequence[Text], *, dtype: str = 'float32', tensor: int = 1) -> Iterator[dict[str, Any]]:
    """Yields what a model makes of each text, in their order.

    The tokenizer of the folder adds the special tokens that it always adds, and none else are added. Prompt and
    target are tokenised each by itself and joined, as in training; the target gets no special tokens.

    Args:
        model: a Hugging Face folder with a tokenizer.
        dtype: of weights and products; with 'float32' products are not rounded to less on any device.
        tensor: devices that share each layer; the others divide the rows and the weights.

    Yields:
        `token_logprobs`, one number a scored token, null for the first token of all; `total_logprob`, their
        sum; `next_token`, the id of the likeliest token after the last. Natural logarithms.

    Raises:
        UserError: the folder can't be read, a text has no tokens or more than the model has positions, `dtype`
            or `tensor` is impossible. All texts are checked before the weights are read.
    """
    if dtype not in DTYPES:
        raise UserError(f'there is no dtype "{dtype}" to score with; take {" or ".join(DTYPES)}')
    architecture = read_architecture(model)
    tokenizer = load_tokenizer(model)
    encoded = [_encode(tokenizer, text) for text in texts]
    for text in encoded:
        if len(text.tokens) > architecture.max_position_embeddings:
            raise UserError(
                f'{text.place}: the text has {len(text.tokens)} tokens and the model '
                f'{architecture.max_position_embeddings} positions; shorten the text'
            )
        if text.tokens.max() >= architecture.vocab_size:
            raise UserError(
                f'{text.place}: the tokenizer gives an id outside the vocabulary of {architecture.vocab_size}; '
                'use the tokenizer that belongs to the model'
            )
    mesh = make_mesh(tensor=tensor)
    decoder = load_decoder(
        model,
        sharding_for=lambda path, shape: sharding_for(mesh, path, shape),
        param_dtype=jnp.dtype(dtype),
        compute_dtype=jnp.dtype(dtype),
        mesh=mesh,
    )
    results = likelihoods(decoder, [text.tokens for text in encoded], batch_sharding(mesh))
    for done, (text, result) in enumerate(zip(encoded, results, strict=True), start=1):
        yield _report(text, result)
        if done % _SAY_EVERY == 0:
            say(f'scored {done:,} of {len(encoded):,} texts')


def _text(place: str, record: dict[str, Any]) -> Text:
    names = tuple(name for name in ('text', 'prompt', 'target') if name in record)
    if names not in (('text',), ('prompt', 'target')):
        raise UserError(f'{place} has neither "text" alone nor "prompt" and "target"; write one of the two')
    for name in names:
        if not isinstance(record[name], str):
            raise UserError(f'{place}: "{name}" is not a string; write it in quotes')
    if not record[names[-1]]:
        raise UserError(f'{place}: "{names[-1]}" is empty; give at least one character')
    return Text(place, record[names[-1]], record.get('prompt'))


def _encode(tokenizer: PreTrainedTokenizerBase, text: Text) -> _Encoded:
    prompt = [] if text.prompt is None else _ids(tokenizer, text.prompt)
    target = _ids(tokenizer, text.target, add_special_tokens=text.prompt is None)
    if not target:
        what = 'text' if text.prompt is None else 'target'
        raise UserError(f'{text.place}: the tokenizer gives the {what} no tokens; give a longer {what}')
    return _Encoded(text.place, np.asarray(prompt + target, np.int32), len(prompt))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = True) -> list[int]:
    # Not verbose: it would warn of lengths that the model may well take.
    return list(tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)['input_ids'])


def _report(text: _Encoded, result: Likelihood) -> dict[str, Any]:
    scored = [float(logprob) for logprob in result.logprobs[max(text.begin - 1, 0) :]]
    if not all(map(math.isfinite, scored)):
        raise UserError(f'{text.place}: the model gives no finite probability; its weights may be damaged')
    first = [None] if text.begin == 0 else []
    return {'total_logprob': math.fsum(scored), 'token_logprobs': first + scored, 'next_token': result.next_token}
