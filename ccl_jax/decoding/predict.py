"""From documents to predictions: prompts, generation, parsing, a second look, scores."""

import dataclasses
import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ccl_jax.data.tokenization import encode_prompt, end_of_turn_id
from ccl_jax.data.truncation import longest_beginning
from ccl_jax.data.windows import text_windows
from ccl_jax.decoding.constraints import AnswerConstraints
from ccl_jax.decoding.generate import Generation, generate
from ccl_jax.decoding.merging import merge_windows
from ccl_jax.decoding.recheck import linked, quotes_of, unlinked, with_second_look
from ccl_jax.decoding.settings import DecodingSettings
from ccl_jax.errors import UserError
from ccl_jax.model.counts import generation_flops
from ccl_jax.model.decoder import Decoder
from ccl_jax.records import Document, Prediction
from ccl_jax.tasks.parser import Answer, parse_answer, prediction_from_answer
from ccl_jax.tasks.prompts import document_prompt, span_prompt
from ccl_jax.training.console import say

# Tokens of an answer of the span task: a heading, and a code of 8 characters in the worst case a token each.
_SPAN_TOKENS = 32
_SAY_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class DecodingReport:
    """What happened while decoding.

    Attributes:
        documents: decoded.
        truncated: documents whose text was cut to fit the longest prompt.
        windowed: documents that were cut into windows.
        windows: pieces of these.
        unfinished: answers that ran into `max_new_tokens`.
        malformed_lines: lines of answers that are neither headings nor items.
        unlinked_quotes: quotes of `blocks` answers that belong to no code.
        rechecked: different quotes that were coded again.
        prompt_tokens, new_tokens: fed in and written.
        flops: of the decoding, see `generation_flops`.
    """

    documents: int = 0
    truncated: int = 0
    windowed: int = 0
    windows: int = 0
    unfinished: int = 0
    malformed_lines: int = 0
    unlinked_quotes: int = 0
    rechecked: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    flops: float = 0.0

    def sentence(self) -> str:
        """What a reader of the results should know, without clinical text."""
        return (
            f'decoded {self.documents} documents: {self.truncated} cut at the longest prompt, '
            f'{self.windowed} in {self.windows} windows, {self.unfinished} answers unfinished, '
            f'{self.malformed_lines} malformed lines, {self.unlinked_quotes} quotes without a code'
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def predict_documents(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    settings: DecodingSettings,
    *,
    codes: Collection[str] = (),
) -> tuple[list[Prediction], DecodingReport]:
    """Returns one prediction per document, in order, by greedy decoding.

    Args:
        codes: those that an answer may have, where `settings.constrain` holds it to `codes`.

    Raises:
        UserError: not a word of a document fits into the longest bucket, or the tokenizer cannot be constrained.
    """
    return _Prediction(decoder, tokenizer, settings, codes).of(documents)


class _Prediction:
    """One call of `predict_documents`."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: PreTrainedTokenizerBase,
        settings: DecodingSettings,
        codes: Collection[str],
    ):
        self._decoder, self._tokenizer, self._settings = decoder, tokenizer, settings
        self._end = end_of_turn_id(tokenizer)
        positions = decoder.architecture.max_position_embeddings
        self._longest = min(max(settings.buckets), positions - settings.max_new_tokens)
        if self._longest < 1:
            raise UserError(
                f'answers of {settings.max_new_tokens} tokens leave no room for a document in the {positions} '
                'positions of the model; lower max_new_tokens'
            )
        self._counts: Counter[str] = Counter()
        self._flops = 0.0
        self._constraints = None
        if settings.constrain:
            self._constraints = AnswerConstraints(
                tokenizer,
                end_id=self._end,
                output_format=settings.output_format,
                codes=tuple(codes) if 'codes' in settings.constrain else None,
                evidence='evidence' in settings.constrain,
                format='format' in settings.constrain,
                max_new_tokens=settings.max_new_tokens,
            )

    def of(self, documents: Sequence[Document]) -> tuple[list[Prediction], DecodingReport]:
        windows = [(number, window) for number, document in enumerate(documents) for window in self._windows(document)]
        texts = [documents[number].text[begin:end] for number, (begin, end) in windows]
        generations = self._generate(
            [document_prompt(text) for text in texts],
            [self._constraints.of_document(text) for text in texts] if self._constraints else None,
            self._settings.max_new_tokens,
        )
        answers, scores = [], []
        for generation in generations:
            self._counts['unfinished'] += not generation.ended
            answer, answer_scores = _read(self._tokenizer, generation)
            self._counts['malformed_lines'] += answer.malformed
            answers.append(answer)
            scores.append(dict(zip(answer.lines, answer_scores, strict=True)))
        coded = self._code_quotes(answers) if self._settings.recheck else {}
        answers_of: list[list[tuple[int, Prediction]]] = [[] for _ in documents]
        for (number, (begin, _)), text, answer, by_line in zip(windows, texts, answers, scores, strict=True):
            answer = linked(answer, coded)
            self._counts['unlinked_quotes'] += unlinked(answer)
            prediction = prediction_from_answer(
                documents[number].doc_id, text, answer, [by_line[line] for line in answer.lines]
            )
            answers_of[number].append((begin, with_second_look(prediction, answer, coded)))
        predictions = [
            merge_windows(document.doc_id, of_document)
            for document, of_document in zip(documents, answers_of, strict=True)
        ]
        return predictions, DecodingReport(documents=len(documents), flops=self._flops, **self._counts)

    def _windows(self, document: Document) -> list[tuple[int, int]]:
        """Returns (begin, end) of the pieces of the document that are decoded."""
        text, longest = document.text, self._longest

        def fits(piece: str) -> bool:
            return len(encode_prompt(self._tokenizer, document_prompt(piece))) <= longest

        # A token holds at most some dozens of characters: what is far too long need not be tried.
        if len(text) <= 64 * longest and fits(text):
            return [(0, len(text))]
        if self._settings.overlong == 'truncate':
            self._counts['truncated'] += 1
            return [(0, longest_beginning(text, lambda end: fits(text[:end])) or 0)]
        windows = text_windows(text, fits, self._settings.window_overlap)
        if windows is None:
            raise UserError(
                f'document {document.doc_id}: not a word of it fits into the longest prompt of {longest} tokens; '
                'decode with longer buckets'
            )
        self._counts['windowed'] += 1
        self._counts['windows'] += len(windows)
        return windows

    def _generate(self, prompts: list[str], constraints: list[Any] | None, max_new_tokens: int) -> list[Generation]:
        encoded = [encode_prompt(self._tokenizer, prompt) for prompt in prompts]
        generations = generate(
            self._decoder,
            encoded,
            end_ids=(self._end,),
            max_new_tokens=max_new_tokens,
            batch_rows=min(self._settings.batch_rows, max(1, len(encoded))),
            buckets=self._settings.buckets,
            constraints=constraints,
            on_progress=_Progress(len(encoded)),
        )
        for prompt, generation in zip(encoded, generations, strict=True):
            self._counts['prompt_tokens'] += len(prompt)
            self._counts['new_tokens'] += len(generation.tokens)
            self._flops += generation_flops(
                self._decoder.architecture, len(prompt), max(0, len(generation.tokens) - (not generation.ended))
            )
        return generations

    def _code_quotes(self, answers: Sequence[Answer]) -> dict[str, str | None]:
        """Returns quote -> the code that the span task gives it, None for none."""
        quotes = [
            quote
            for quote in dict.fromkeys(quote for answer in answers for quote in quotes_of(answer))
            if len(encode_prompt(self._tokenizer, span_prompt([quote]))) <= self._longest
        ]
        constraints = [self._constraints.of_span() for _ in quotes] if self._constraints else None
        generations = self._generate([span_prompt([quote]) for quote in quotes], constraints, _SPAN_TOKENS)
        self._counts['rechecked'] += len(quotes)
        again = [_read(self._tokenizer, generation)[0] for generation in generations]
        return {
            quote: answer.items[0].code if answer.items else None for quote, answer in zip(quotes, again, strict=True)
        }


class _Progress:
    """Says how far a long decoding is, now and then."""

    def __init__(self, prompts: int):
        self._prompts = prompts
        self._said = time.monotonic()

    def __call__(self, done: int) -> None:
        if done < self._prompts and time.monotonic() - self._said > _SAY_SECONDS:
            self._said = time.monotonic()
            say(f'decoded {done:,} of {self._prompts:,} prompts')


def _read(tokenizer: PreTrainedTokenizerBase, generation: Generation) -> tuple[Answer, list[float]]:
    """Returns the parsed answer and the score of each item: the log-probability of its line."""
    answer = parse_answer(
        str(tokenizer.decode(list(generation.tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))
    )
    line_logprobs = [0.0]
    for token, logprob in zip(generation.tokens, generation.logprobs, strict=True):
        line_logprobs[-1] += logprob
        # A line end is one byte, so a token that holds it decodes to it whatever stands beside it.
        line_logprobs += [0.0] * str(tokenizer.decode([token])).count('\n')
    return answer, [line_logprobs[line] for line in answer.lines]
