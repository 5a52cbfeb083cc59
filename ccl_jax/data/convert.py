"""From documents, spans and texts to tokenised examples."""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from ccl_jax.data.examples import TokenizedExample, encode_example
from ccl_jax.data.truncation import longest_beginning
from ccl_jax.errors import UserError
from ccl_jax.records import Document, Span
from ccl_jax.tasks import TaskExample
from ccl_jax.tasks.prompts import document_example, lm_example, span_example, window
from ccl_jax.tasks.settings import TaskSettings


def make_examples(
    settings: TaskSettings,
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    seed: int,
    *,
    documents: Sequence[Document] = (),
    spans: Sequence[Span] = (),
    texts: Sequence[tuple[str, str]] = (),
    counts: Counter[str] | None = None,
) -> Iterator[TokenizedExample]:
    """Yields the examples of the tasks that `settings` name, none longer than `longest` tokens.

    Args:
        counts: is filled with how many examples of each kind were made,
            truncated, split or left out.

    Raises:
        UserError: a document is longer than `longest` and may not be truncated, or
            nothing of it is left.
    """
    counts = Counter() if counts is None else counts
    if 'document' in settings.names:
        for document in documents:
            counts['documents'] += 1
            yield _fit_document(document, settings, tokenizer, longest, counts)
    if 'span' in settings.names:
        for example in _span_examples(spans, documents, settings, seed, _fits(tokenizer, longest), counts):
            yield encode_example(tokenizer, example)
    if 'lm' in settings.names:
        for text_id, text in texts:
            counts['texts'] += 1
            yield from _split_text(encode_example(tokenizer, lm_example(text_id, text)), longest, counts)


def _fit_document(
    document: Document, settings: TaskSettings, tokenizer: PreTrainedTokenizerBase, longest: int, counts: Counter[str]
) -> TokenizedExample:
    """Returns the example of the longest beginning of the document that fits."""

    def encode(end: int) -> TokenizedExample:
        cut = window(document, 0, end)
        return encode_example(tokenizer, document_example(cut, settings.output_format, settings.unevidenced))

    example = encode(len(document.text))
    if len(example.tokens) <= longest:
        return example
    if settings.overlong == 'refuse':
        raise UserError(
            f'document {document.doc_id} has {len(example.tokens)} tokens with its codes, over the longest bucket of '
            f'{longest}; add a longer bucket to data.buckets or set tasks.overlong=truncate'
        )
    end = longest_beginning(document.text, lambda end: len(encode(end).tokens) <= longest)
    if end is None:
        raise UserError(
            f'document {document.doc_id} does not fit {longest} tokens even when its text is cut, its codes alone are '
            'too long; add a longer bucket to data.buckets'
        )
    counts['documents_truncated'] += 1
    counts['codes_lost_by_truncation'] += len(document.codes) - len(window(document, 0, end).codes)
    return encode(end)


def _fits(tokenizer: PreTrainedTokenizerBase, longest: int) -> Callable[[TaskExample], bool]:
    return lambda example: len(encode_example(tokenizer, example).tokens) <= longest


def _span_examples(
    spans: Sequence[Span],
    documents: Sequence[Document],
    settings: TaskSettings,
    seed: int,
    fits: Callable[[TaskExample], bool],
    counts: Counter[str],
) -> Iterator[TaskExample]:
    rng = random.Random(f'{seed}:spans')
    shapes, shares = zip(*settings.span_shapes.items(), strict=True)
    contexts = documents if settings.span_shapes.get('in_context') else ()
    if settings.span_shapes.get('in_context') and not documents:
        raise UserError('span_shapes.in_context needs documents for its contexts; add some or set it to 0')
    for repeat in range(settings.span_repeats):
        order = list(spans)
        rng.shuffle(order)
        while order:
            shape = rng.choices(shapes, weights=shares)[0]
            size = 1 if shape == 'single' else rng.randint(*settings.spans_per_list)
            group, order = order[:size], order[size:]
            context = _unrelated_text(contexts, group, settings, rng) if shape == 'in_context' else ''
            for example in _shrink(group, shape, settings.output_format, context, fits, counts):
                counts[f'span_examples_{shape}'] += 1
                yield dataclasses.replace(example, example_id=f'{example.example_id}#{repeat}')


def _shrink(
    group: Sequence[Span],
    shape: str,
    output_format: str,
    context: str,
    fits: Callable[[TaskExample], bool],
    counts: Counter[str],
) -> Iterator[TaskExample]:
    """Yields the group's example; where it does not fit: without context, then halved, then not at all."""
    example = span_example(group, shape, output_format, context)
    if fits(example):
        yield example
    elif context:
        counts['contexts_left_out'] += 1
        yield from _shrink(group, 'list', output_format, '', fits, counts)
    elif len(group) > 1:
        for half in (group[: len(group) // 2], group[len(group) // 2 :]):
            yield from _shrink(half, shape, output_format, '', fits, counts)
    else:
        counts['spans_left_out_too_long'] += 1


def _unrelated_text(documents: Sequence[Document], group: Sequence[Span], settings: TaskSettings, rng: random.Random):
    """Returns a piece of a document that carries none of the group's codes; '' if ten draws find none."""
    codes = {span.code for span in group}
    for _ in range(10):
        document = rng.choice(documents)
        if codes.isdisjoint(document.codes):
            text = document.text
            begin = rng.randrange(max(1, len(text) - settings.context_characters + 1))
            piece = text[begin : begin + settings.context_characters]
            # Whole words only.
            words = piece.split(' ')
            return ' '.join(words[1:-1] if len(words) > 2 else words)
    return ''


def _split_text(example: TokenizedExample, longest: int, counts: Counter[str]) -> Iterator[TokenizedExample]:
    """Yields pieces of at most `longest` tokens, each begun with the example's first token."""
    if len(example.tokens) <= longest:
        yield example
        return
    counts['texts_split'] += 1
    body = example.tokens[1:]
    for number, begin in enumerate(range(0, len(body), longest - 1)):
        piece = np.concatenate([example.tokens[:1], body[begin : begin + longest - 1]])
        yield dataclasses.replace(example, example_id=f'{example.example_id}#{number}', tokens=piece)
