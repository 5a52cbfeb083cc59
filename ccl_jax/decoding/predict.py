"""From documents to predictions: prompts, generation, parsing, scores."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ccl_jax.data.tokenization import encode_prompt, end_of_turn_id
from ccl_jax.data.truncation import longest_beginning
from ccl_jax.decoding.generate import Generation, generate
from ccl_jax.model.counts import generation_flops
from ccl_jax.model.decoder import Decoder
from ccl_jax.records import Document, Prediction
from ccl_jax.tasks.parser import Answer, parse_answer, prediction_from_answer
from ccl_jax.tasks.prompts import document_prompt


@dataclasses.dataclass(frozen=True)
class DecodingReport:
    """What happened while decoding.

    Attributes:
        documents: decoded.
        truncated: documents whose text was cut to fit the longest prompt.
        unfinished: answers that ran into `max_new_tokens`.
        malformed_lines: lines of answers that are neither headings nor items.
        unlinked_quotes: quotes of `blocks` answers that belong to no code.
        prompt_tokens, new_tokens: fed in and written.
        flops: of the decoding, see `generation_flops`.
    """

    documents: int = 0
    truncated: int = 0
    unfinished: int = 0
    malformed_lines: int = 0
    unlinked_quotes: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    flops: float = 0.0

    def sentence(self) -> str:
        """What a reader of the results should know, without clinical text."""
        return (
            f'decoded {self.documents} documents: {self.truncated} cut at the longest prompt, '
            f'{self.unfinished} answers unfinished, {self.malformed_lines} malformed lines, '
            f'{self.unlinked_quotes} quotes without a code'
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def predict_documents(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    *,
    buckets: Sequence[int],
    max_new_tokens: int,
    batch_rows: int,
) -> tuple[list[Prediction], DecodingReport]:
    """Returns one prediction per document, in order, by greedy decoding.

    Args:
        buckets: prompt lengths that are compiled for; a longer document is cut
            at its end, counted.
        max_new_tokens: of an answer at most.
        batch_rows: documents decoded at once.
    """
    counts: Counter[str] = Counter(documents=len(documents))
    prompts = [_fit_prompt(tokenizer, document.text, max(buckets), counts) for document in documents]
    generations = generate(
        decoder,
        prompts,
        end_ids=(end_of_turn_id(tokenizer),),
        max_new_tokens=max_new_tokens,
        batch_rows=batch_rows,
        buckets=tuple(buckets),
    )
    predictions, flops = [], 0.0
    for document, prompt, generation in zip(documents, prompts, generations, strict=True):
        answer, scores = _read(tokenizer, generation)
        counts['prompt_tokens'] += len(prompt)
        counts['new_tokens'] += len(generation.tokens)
        flops += generation_flops(
            decoder.architecture, len(prompt), max(0, len(generation.tokens) - (not generation.ended))
        )
        counts['unfinished'] += not generation.ended
        counts['malformed_lines'] += answer.malformed
        counts['unlinked_quotes'] += len(answer.quotes) if not any(item.quote for item in answer.items) else 0
        predictions.append(prediction_from_answer(document.doc_id, document.text, answer, scores))
    return predictions, DecodingReport(**counts, flops=flops)


def _fit_prompt(tokenizer: PreTrainedTokenizerBase, text: str, longest: int, counts: Counter[str]) -> list[int]:
    """Returns the prompt of the longest beginning of `text` that fits, in whole words."""
    prompt = encode_prompt(tokenizer, document_prompt(text))
    if len(prompt) <= longest:
        return prompt
    counts['truncated'] += 1

    def encode(end: int) -> list[int]:
        return encode_prompt(tokenizer, document_prompt(text[:end]))

    return encode(longest_beginning(text, lambda end: len(encode(end)) <= longest) or 0)


def _read(tokenizer: PreTrainedTokenizerBase, generation: Generation) -> tuple[Answer, list[float]]:
    """Returns the parsed answer and the score of each item: the log-probability of its line."""
    answer = parse_answer(str(tokenizer.decode(list(generation.tokens), skip_special_tokens=True)))
    line_logprobs = [0.0]
    for token, logprob in zip(generation.tokens, generation.logprobs, strict=True):
        line_logprobs[-1] += logprob
        # A line end is one byte, so a token that holds it decodes to it whatever stands beside it.
        line_logprobs += [0.0] * str(tokenizer.decode([token])).count('\n')
    return answer, [line_logprobs[line] for line in answer.lines]
