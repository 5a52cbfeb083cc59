"""What constrained decoding guarantees and what it costs: a model that was never trained codes many documents.

A decoder with random weights draws its answers (temperature 1), with the codes of the embedded release, verbatim
evidence and the format as constraints, and once without any. Answers go on until their limit forces them to close, so
that both ways write about as many tokens. Cost is the time of a new token with constraints against one without, prompts
left out: for each way, a run that writes a single token after every prompt is subtracted. It is measured on a part of
the documents, each way in turn, after a first run that compiles.
"""

import dataclasses
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from ccl_jax.config import check_config, default_config
from ccl_jax.data.tokenization import encode_prompt, end_of_turn_id, train_tokenizer
from ccl_jax.decoding.constraints import AnswerConstraint, AnswerConstraints
from ccl_jax.decoding.generate import Generation, generate
from ccl_jax.icd.release import Release
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.hf import init_decoder
from ccl_jax.records import Document, Prediction, slice_evidence
from ccl_jax.sources.corpus import open_corpus
from ccl_jax.studies.known_models import SMALL_LLAMA
from ccl_jax.tasks.parser import parse_answer, prediction_from_answer
from ccl_jax.tasks.prompts import FORMATS, PART_SEPARATOR, Item, document_example, document_prompt

_DOCUMENTS = 500
_TIMED = 64
_VOCABULARY = 4096
_NEW_TOKENS = 128
_BUCKETS = (256, 512, 1024, 2048)
_ROWS = 32
FREE, CONSTRAINED = 'free', 'constrained'


# What the host does for a token stays the same however large the model is.
_ARCHITECTURE = dataclasses.replace(SMALL_LLAMA, num_hidden_layers=8, max_position_embeddings=4096)


@dataclasses.dataclass(frozen=True)
class Checked:
    """What is true of the answers to the documents of one format.

    Attributes:
        codes, quotes: written.
        unknown_codes: not in the release.
        not_verbatim: quotes that are not in the document at their offsets.
        unplaced_quotes: quotes of `blocks` that belong to no code, and so have no offsets; they are looked for.
        malformed: lines that the parser could not read.
        unfinished: answers cut by the limit of their length.
    """

    answers: int
    codes: int
    quotes: int
    unknown_codes: int
    not_verbatim: int
    unplaced_quotes: int
    malformed: int
    unfinished: int


class _GoesOn:
    """A constraint that ends only where nothing else is allowed."""

    def __init__(self, constraint: AnswerConstraint, end_id: int):
        self._constraint, self._end_id = constraint, end_id

    def allowed(self) -> np.ndarray:
        ids = self._constraint.allowed()
        return ids if len(ids) == 1 else ids[ids != self._end_id]

    def advance(self, token: int) -> None:
        self._constraint.advance(token)


def bench_constraints(
    codiesp: Path | None = None,
    *,
    documents: int = _DOCUMENTS,
    repeats: int = 5,
    rows: int = _ROWS,
    new_tokens: int = _NEW_TOKENS,
    architecture: Architecture = _ARCHITECTURE,
) -> str:
    """Decodes with and without constraints, in turn, and returns what was found as text.

    Args:
        codiesp: folder of CodiEsp v4, whose English training documents are decoded; without it synthetic notes.
        documents: how many.
        rows: decoded at a time.
        new_tokens: of an answer at most.
        architecture: of the decoder, with any vocabulary.

    Raises:
        UserError: there is no CodiEsp in the folder.
    """
    release = Release.embedded()
    notes = _documents(codiesp, release, documents)
    with tempfile.TemporaryDirectory() as folder:
        texts = [example.prompt + example.target for example in (document_example(note, 'pairs') for note in notes)]
        tokenizer = train_tokenizer(texts, _VOCABULARY, folder)
    decoder = init_decoder(dataclasses.replace(architecture, vocab_size=len(tokenizer)), seed=0)
    prompts = [encode_prompt(tokenizer, document_prompt(note.text)) for note in notes]
    kept = [i for i, prompt in enumerate(prompts) if len(prompt) <= max(_BUCKETS)]
    notes, prompts = [notes[i] for i in kept], [prompts[i] for i in kept]
    lines = [
        f'{decoder.architecture.parameter_count() / 1e6:.1f} million random parameters, float32; {len(notes)} documents'
        f' of {statistics.median(map(len, prompts)):.0f} tokens (median), at most {new_tokens} new ones each, {rows} '
        f'at a time; {len(release)} codes, {len(tokenizer)} token ids; {os.cpu_count()} cores'
    ]
    for output_format in FORMATS:
        measured = _measure(decoder, tokenizer, release, notes, prompts, output_format, repeats, rows, new_tokens)
        lines += ['', f'{output_format}:', *measured]
    return '\n'.join(lines)


def _measure(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    release: Release,
    notes: Sequence[Document],
    prompts: Sequence[Sequence[int]],
    output_format: str,
    repeats: int,
    rows: int,
    new_tokens: int,
) -> list[str]:
    end = end_of_turn_id(tokenizer)
    began = time.process_time()
    constraints = AnswerConstraints(
        tokenizer,
        end_id=end,
        output_format=output_format,
        codes=release.codes(),
        evidence=True,
        format=True,
        max_new_tokens=new_tokens,
    )
    built = time.process_time() - began

    def decode(constrained: bool, most: int, first: int, temperature: float = 0.0) -> list[Generation]:
        return generate(
            decoder,
            prompts[:first],
            # Without constraints nothing says when an answer ends.
            end_ids=(end,) if constrained else (),
            max_new_tokens=most,
            buckets=_BUCKETS,
            batch_rows=rows,
            constraints=[_GoesOn(constraints.of_document(n.text), end) for n in notes[:first]] if constrained else None,
            temperature=temperature,
        )

    found = check_answers(tokenizer, release, notes, decode(True, new_tokens, len(notes), temperature=1.0))
    timed = min(_TIMED, len(notes))
    ways: dict[tuple[str, str], Callable[[], list[Generation]]] = {
        (FREE, 'answers'): lambda: decode(False, new_tokens, timed),
        (FREE, 'prompts'): lambda: decode(False, 1, timed),
        (CONSTRAINED, 'answers'): lambda: decode(True, new_tokens, timed),
        (CONSTRAINED, 'prompts'): lambda: decode(True, 1, timed),
    }
    answers = {way: run() for way, run in ways.items()}
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for repeat in range(repeats):
        print(f'{output_format}: {repeat + 1} of {repeats} ...', file=sys.stderr, flush=True)
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - start)
    written = {
        way: sum(len(g.tokens) + g.ended for g in answers[way, 'answers']) - timed for way in (FREE, CONSTRAINED)
    }
    each = {
        way: [
            (whole - prompt) / written[way]
            for whole, prompt in zip(seconds[way, 'answers'], seconds[way, 'prompts'], strict=True)
        ]
        for way in (FREE, CONSTRAINED)
    }
    costs = [c / f - 1 for c, f in zip(each[CONSTRAINED], each[FREE], strict=True)]
    return [
        f'  {found.answers} answers, {found.codes:,} codes, {found.quotes:,} quotes',
        f'  codes not in the release: {found.unknown_codes}',
        f'  quotes that are not verbatim at their offsets: {found.not_verbatim} (of these without a code, so without '
        f'offsets, and only looked for: {found.unplaced_quotes:,})',
        f'  malformed lines: {found.malformed}; unfinished answers: {found.unfinished}',
        *(
            f'  {way}: {statistics.median(each[way]) * 1e6:,.0f} us a new token ({min(each[way]) * 1e6:,.0f} to '
            f'{max(each[way]) * 1e6:,.0f}), {written[way]:,} tokens after {timed} prompts'
            for way in (FREE, CONSTRAINED)
        ),
        f'  constraints cost {statistics.median(costs):.1%} of decoding time ({min(costs):.1%} to {max(costs):.1%}, '
        f'{repeats} runs in turn), and {built:.2f} s once',
    ]


def check_answers(
    tokenizer: PreTrainedTokenizerBase,
    release: Release,
    notes: Sequence[Document],
    generations: Sequence[Generation],
) -> Checked:
    """Reads answers back through the parser and counts what is not as constraints promise."""
    counts = dict.fromkeys((field.name for field in dataclasses.fields(Checked)), 0)
    for note, generation in zip(notes, generations, strict=True):
        text = tokenizer.decode(list(generation.tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        answer = parse_answer(str(text))
        prediction = prediction_from_answer(note.doc_id, note.text, answer)
        linked = any(item.quote for item in answer.items)
        unplaced = [] if linked else list(answer.quotes)
        counts['answers'] += 1
        counts['codes'] += len(prediction.codes)
        counts['quotes'] += sum(len(code.evidence) for code in prediction.codes) + len(unplaced)
        counts['unknown_codes'] += sum(code.code not in release for code in prediction.codes)
        counts['not_verbatim'] += _wrong_quotes(note, answer.items, prediction)
        counts['not_verbatim'] += sum(not _occurs(quote, note.text) for quote in unplaced)
        counts['unplaced_quotes'] += len(unplaced)
        counts['malformed'] += answer.malformed
        counts['unfinished'] += not generation.ended
    return Checked(**counts)


def _wrong_quotes(note: Document, items: Sequence[Item], prediction: Prediction) -> int:
    """How many quotes are not, white space apart, what the note says at the offsets of their code's evidence."""
    said = {
        code.code: {_plain(slice_evidence(note.text, evidence.parts)) for evidence in code.evidence}
        for code in prediction.codes
    }
    placed = all(evidence.parts for code in prediction.codes for evidence in code.evidence)
    wrong = sum(bool(item.quote) and _plain(item.quote) not in said[item.code] for item in items)
    return wrong + (not placed)


def _plain(words: str) -> str:
    """White space folded, and the separator of parts as the space that joins them in `Evidence.text`."""
    return ' '.join(words.replace(PART_SEPARATOR, ' ').split())


def _occurs(quote: str, text: str) -> bool:
    """Whether the parts of a quote stand in the text one after the other, white space apart."""
    folded, position = ' '.join(text.split()), 0
    for part in quote.split(PART_SEPARATOR):
        position = folded.find(part, position)
        if position < 0:
            return False
        position += len(part)
    return True


def _documents(codiesp: Path | None, release: Release, count: int) -> list[Document]:
    tree = default_config()
    tree.sources.synthetic_notes.train = count
    if codiesp is not None:
        tree.sources.name, tree.sources.codiesp.path, tree.sources.codiesp.language = 'codiesp', str(codiesp), 'en'
    corpus = open_corpus(check_config(tree, needs_model=False).sources, release)
    training = (document for document in corpus.documents() if document.split == 'train')
    return list(itertools.islice(training, count))
