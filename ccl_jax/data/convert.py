"""From documents, spans and texts to tokenised examples.

The records are taken in blocks. A block's examples depend on the block, its number
and the settings alone, so blocks can be converted by any number of processes.
"""

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ccl_jax.data.examples import encode_example
from ccl_jax.data.shards import EvidencePart, TokenizedExample
from ccl_jax.data.truncation import longest_beginning
from ccl_jax.data.windows import cut_into_windows
from ccl_jax.errors import UserError
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.records import Document, Span
from ccl_jax.tasks.prompts import document_example, lm_example, span_example, window
from ccl_jax.tasks.settings import TaskSettings

# Is raised when the same records give other examples than before.
CONVERSION = 1

# Spans are grouped to lists within their block only; so many mix well, and fit in memory.
_RECORDS_PER_BLOCK = {'document': 512, 'span': 32_768, 'lm': 512}
# The contexts of the spans come from so many documents: all of a corpus may not fit in memory.
_CONTEXT_DOCUMENTS = 4_096


@dataclasses.dataclass(frozen=True)
class Block:
    """Records that are converted together.

    Attributes:
        task: of the examples.
        number: of the block among those of its task, from 0.
        records: documents, spans, or (text id, text) pairs, as the task asks.
    """

    task: str
    number: int
    records: Sequence[Any]


def make_blocks(
    settings: TaskSettings,
    documents: Iterable[Document] = (),
    spans: Iterable[Span] = (),
    texts: Iterable[tuple[str, str]] = (),
) -> Iterator[Block]:
    """Yields the records of the tasks that `settings` name in blocks, reading no further than asked."""
    for task, records in (('document', documents), ('span', spans), ('lm', texts)):
        if task not in settings.names:
            continue
        remaining = iter(records)
        for number in itertools.count():
            block = list(itertools.islice(remaining, _RECORDS_PER_BLOCK[task]))
            if not block:
                break
            yield Block(task, number, block)


@dataclasses.dataclass(frozen=True, eq=False)
class Converter:
    """Makes examples of blocks; can be sent to another process.

    Attributes:
        longest: tokens of an example at most.
        contexts: documents from which the contexts of spans are cut.
    """

    settings: TaskSettings
    tokenizer: PreTrainedTokenizerBase
    longest: int
    seed: int
    contexts: Sequence[Document] = ()

    @classmethod
    def make(
        cls,
        settings: TaskSettings,
        tokenizer: PreTrainedTokenizerBase,
        longest: int,
        seed: int,
        documents: Iterable[Document] = (),
    ) -> 'Converter':
        """Returns a converter whose contexts are a random sample of `documents`, which are iterated only if needed.

        Raises:
            UserError: the settings ask for contexts, and there are no documents.
        """
        contexts: list[Document] = []
        if 'span' in settings.names and settings.span_shapes.get('in_context'):
            contexts = _sample(documents, _CONTEXT_DOCUMENTS, random.Random(f'{seed}:contexts'))
            if not contexts:
                raise UserError('span_shapes.in_context needs documents for its contexts; add some or set it to 0')
        return cls(settings, tokenizer, longest, seed, contexts)

    def examples(self, block: Block, counts: Counter[str]) -> Iterator[TokenizedExample]:
        """Yields the examples of a block, none longer than `longest`.

        Args:
            counts: is added how many examples of each kind were made, cut or left out.

        Raises:
            UserError: a document is longer than `longest` and may not be cut, or
                nothing of it is left.
        """
        if block.task == 'document':
            for document in block.records:
                counts['documents'] += 1
                yield from self._document_examples(document, counts)
        elif block.task == 'span':
            yield from self._span_examples(block, counts)
        else:
            for text_id, text in block.records:
                counts['texts'] += 1
                example = encode_example(self.tokenizer, lm_example(text_id, text))
                yield from _split_text(dataclasses.replace(example, doc_id=text_id), self.longest, counts)

    def _document_examples(self, document: Document, counts: Counter[str]) -> Iterator[TokenizedExample]:
        """Yields the example of the document; of one that is too long, what `settings.overlong` says."""
        whole = self._encode(document)
        if len(whole.tokens) <= self.longest:
            yield self._located(whole, document, 0)
            return
        cut: list[tuple[int, Document]] | None
        if self.settings.overlong == 'windows':
            cut = cut_into_windows(document, self._fits, self.settings.window_overlap)
        elif self.settings.overlong == 'truncate':
            end = longest_beginning(document.text, lambda end: self._fits(window(document, 0, end)))
            cut = None if end is None else [(0, window(document, 0, end))]
        else:
            raise UserError(
                f'document {document.doc_id} has {len(whole.tokens)} tokens with its codes, over the longest bucket of '
                f'{self.longest}; add a longer bucket to data.buckets or set tasks.overlong to windows or truncate'
            )
        if cut is None:
            raise UserError(
                f'document {document.doc_id} does not fit {self.longest} tokens even when its text is cut, its codes '
                'alone are too long; add a longer bucket to data.buckets'
            )
        _count_cuts(document, cut, counts)
        for begin, part in cut:
            example = self._located(self._encode(part), part, begin)
            if len(cut) > 1:
                example = dataclasses.replace(example, example_id=f'{example.example_id}@{begin}')
            yield example

    def _encode(self, document: Document) -> TokenizedExample:
        settings = self.settings
        task = document_example(document, settings.output_format, settings.unevidenced, settings.evidence)
        return encode_example(self.tokenizer, task)

    def _fits(self, document: Document) -> bool:
        return len(self._encode(document).tokens) <= self.longest

    def _located(self, example: TokenizedExample, part: Document, begin: int) -> TokenizedExample:
        """Adds where in the document the example's text and evidence stand."""
        evidence = tuple(
            EvidencePart(annotation.code, number, begin + a, begin + b)
            for annotation in part.annotations
            if annotation.system == ICD10CM
            for number, quote in enumerate(annotation.evidence)
            for a, b in quote.parts
        )
        extent = begin, begin + len(part.text)
        return dataclasses.replace(example, doc_id=part.doc_id, extent=extent, evidence=evidence)

    def _span_examples(self, block: Block, counts: Counter[str]) -> Iterator[TokenizedExample]:
        settings = self.settings
        rng = random.Random(f'{self.seed}:spans:{block.number}')
        shapes, shares = zip(*settings.span_shapes.items(), strict=True)
        for repeat in range(settings.span_repeats):
            order = list(block.records)
            rng.shuffle(order)
            begin = 0
            while begin < len(order):
                shape = rng.choices(shapes, weights=shares)[0]
                size = 1 if shape == 'single' else rng.randint(*settings.spans_per_list)
                group = order[begin : begin + size]
                begin += size
                context = self._unrelated_text(group, rng) if shape == 'in_context' else ''
                for example in self._shrink(group, shape, context, counts):
                    counts[f'span_examples_{shape}'] += 1
                    yield dataclasses.replace(example, example_id=f'{example.example_id}#{repeat}')

    def _shrink(
        self, group: Sequence[Span], shape: str, context: str, counts: Counter[str]
    ) -> Iterator[TokenizedExample]:
        """Yields the group's example; where it does not fit: without context, then halved, then not at all."""
        settings = self.settings
        task = span_example(group, shape, settings.output_format, context, settings.evidence)
        example = encode_example(self.tokenizer, task)
        if len(example.tokens) <= self.longest:
            yield example
        elif context:
            counts['contexts_left_out'] += 1
            yield from self._shrink(group, 'list', '', counts)
        elif len(group) > 1:
            for half in (group[: len(group) // 2], group[len(group) // 2 :]):
                yield from self._shrink(half, shape, '', counts)
        else:
            counts['spans_left_out_too_long'] += 1

    def _unrelated_text(self, group: Sequence[Span], rng: random.Random) -> str:
        """Returns a piece of a document that carries none of the group's codes; '' if ten draws find none."""
        codes = {span.code for span in group}
        size = self.settings.context_characters
        for _ in range(10):
            document = rng.choice(self.contexts)
            if codes.isdisjoint(document.codes):
                begin = rng.randrange(max(1, len(document.text) - size + 1))
                # Whole words only.
                words = document.text[begin : begin + size].split(' ')
                return ' '.join(words[1:-1] if len(words) > 2 else words)
        return ''


def make_examples(
    settings: TaskSettings,
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    seed: int,
    *,
    documents: Iterable[Document] = (),
    spans: Iterable[Span] = (),
    texts: Iterable[tuple[str, str]] = (),
    counts: Counter[str] | None = None,
) -> Iterator[TokenizedExample]:
    """Yields the examples of the tasks that `settings` name, none longer than `longest` tokens.

    Args:
        documents: can be iterated twice where `settings` ask for spans in context.
        counts: is added how many examples of each kind were made, cut or left out.

    Raises:
        UserError: as `Converter.make` and `Converter.examples`.
    """
    counts = Counter() if counts is None else counts
    converter = Converter.make(settings, tokenizer, longest, seed, documents)
    for block in make_blocks(settings, documents, spans, texts):
        yield from converter.examples(block, counts)


def _count_cuts(document: Document, cut: Sequence[tuple[int, Document]], counts: Counter[str]) -> None:
    had, kept = (
        {
            (annotation.code, tuple((begin + a, begin + b) for a, b in evidence.parts))
            for begin, part in parts
            for annotation in part.annotations
            for evidence in annotation.evidence
        }
        for parts in ([(0, document)], cut)
    )
    codes = frozenset[str]().union(*(part.codes for _, part in cut))
    if len(cut) > 1:
        counts['documents_in_windows'] += 1
        counts['windows'] += len(cut)
    else:
        counts['documents_truncated'] += 1
    counts['codes_lost_by_cutting'] += len(document.codes - codes)
    counts['evidence_lost_by_cutting'] += len(had - kept)


def _sample(documents: Iterable[Document], size: int, rng: random.Random) -> list[Document]:
    """Returns up to `size` documents, each set of them equally likely, in one pass (Vitter's algorithm R)."""
    sample: list[Document] = []
    for seen, document in enumerate(documents):
        if seen < size:
            sample.append(document)
        elif (place := rng.randrange(seen + 1)) < size:
            sample[place] = document
    return sample


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
