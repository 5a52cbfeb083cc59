"""`prepare`: the corpus, its spans and the tokenised examples of the run."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ccl_jax.config import Config, TrainingPart
from ccl_jax.data.build import build_store, is_built
from ccl_jax.data.convert import CONVERSION, Converter, make_blocks
from ccl_jax.data.examples import ExampleStore, sha256_of
from ccl_jax.data.plan import Plan, make_plan
from ccl_jax.data.tokenization import CHAT_DATE
from ccl_jax.errors import UserError
from ccl_jax.expansion.coverage import format_coverage
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.release import open_release
from ccl_jax.pipeline.base_texts import write_base_texts
from ccl_jax.pipeline.expand import expand_for_training
from ccl_jax.pipeline.files import write_text
from ccl_jax.pipeline.sources import REJECTED, Seen, StoredDocuments, documents_file, summary_of, write_documents
from ccl_jax.pipeline.workdir import on_process_zero, say
from ccl_jax.records import (
    Document,
    Span,
    document_from_json,
    read_jsonl,
    span_from_json,
    span_to_json,
    write_jsonl,
)
from ccl_jax.sources.corpora import check_corpus
from ccl_jax.sources.corpus import open_corpus
from ccl_jax.sources.report import RejectionLog
from ccl_jax.tasks.settings import TaskSettings

_REPORT = 'report.json'
_SPANS = 'spans.jsonl'
_TEXTS = 'texts.jsonl'


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The corpus in `<workdir>/data`.

    Attributes:
        held_out: codes kept out of training on purpose.
        synthetic: whether the documents are made up.
        expansion: the report of the expansion.
    """

    directory: Path
    held_out: frozenset[str]
    synthetic: bool
    expansion: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def splits(self) -> list[str]:
        return sorted(path.stem.removeprefix('documents-') for path in self.directory.glob('documents-*.jsonl'))

    def documents(self, split: str) -> list[Document]:
        """Returns the documents of a split. Raises UserError if the source has none of that name."""
        if split not in self.splits:
            raise UserError(f'the source has no split "{split}"; set eval.split to one of {", ".join(self.splits)}')
        return list(self.stream_documents(split))

    def spans(self) -> list[Span]:
        return list(self.stream_spans())

    def texts(self) -> list[tuple[str, str]]:
        return list(self.stream_texts())

    def stream_documents(self, split: str) -> Iterator[Document]:
        return (document_from_json(record) for _, record in read_jsonl(documents_file(self.directory, split)))

    def stream_spans(self) -> Iterator[Span]:
        return (span_from_json(record) for _, record in read_jsonl(self.directory / _SPANS))

    def stream_texts(self) -> Iterator[tuple[str, str]]:
        return ((record['text_id'], record['text']) for _, record in read_jsonl(self.directory / _TEXTS))

    def files_of(self, tasks: TaskSettings, split: str = 'train') -> list[Path]:
        """Returns the files that hold what examples of `tasks` are made of."""
        documents = documents_file(self.directory, split)
        files = {
            'document': [documents],
            'span': [self.directory / _SPANS, *([documents] if tasks.span_shapes.get('in_context') else [])],
            'lm': [self.directory / _TEXTS],
        }
        return sorted({file for name in tasks.names for file in files[name]})


def prepare_corpus(config: Config, workdir: Path) -> Prepared:
    """Reads the source and makes the spans, unless `<workdir>/data` holds them already.

    Raises:
        UserError: the source is missing or unusable.
    """
    directory = workdir / 'data'
    on_process_zero(lambda: _write_corpus(config, directory), directory / _REPORT)
    report = json.loads((directory / _REPORT).read_text(encoding='utf-8'))
    return Prepared(directory, frozenset(report['held_out']), report['synthetic'], report['spans'])


def _write_corpus(config: Config, directory: Path) -> None:
    if (directory / _REPORT).exists():
        return
    wants_texts = config.base.enabled or 'lm' in config.tasks.names
    for path in config.base.corpora if wants_texts else ():
        # A mistyped path must not show up only after the expansion.
        check_corpus(path)
    say(f'reading the source {config.sources.name} ...')
    release = open_release(config.release)
    with RejectionLog(directory / REJECTED) as log:
        corpus = open_corpus(config.sources, release, log)
        if not corpus.labelled:
            raise UserError(
                f'the source "{config.sources.name}" has no codes to learn from; '
                'take another sources.name, or see what is in it with --report_only'
            )
        seen = write_documents(corpus, directory)
        _check_splits(config, seen)
        splits = {n: StoredDocuments(documents_file(directory, n), count) for n, count in seen.documents.items()}
        expansion = expand_for_training(config, release, corpus, splits, directory)
        if 'span' in config.tasks.names and not expansion.spans:
            raise UserError(
                'there are no spans for the span task; check expansion.tiers, or drop span from tasks.names'
            )
        write_jsonl(directory / _SPANS, map(span_to_json, expansion.spans))
        texts: dict[str, Any] = {}
        if wants_texts:
            texts = write_base_texts(directory / _TEXTS, config, release, corpus, splits, expansion.held_out, log)
        else:
            write_jsonl(directory / _TEXTS, ())
    summary = summary_of(corpus, release, seen)
    for report in corpus.reports:
        say(report.table())
    say(format_coverage(expansion.report))
    for warning in summary['warnings']:
        say(f'warning: {warning}')
    if log.count:
        say(f'{log.count} records were left out; {log.path} says which and why')
    summary |= {'spans': expansion.report, 'texts': texts, 'held_out': sorted(expansion.held_out)}
    # Last, because its presence says that the rest is whole.
    write_text(directory / _REPORT, json.dumps(summary, indent=2) + '\n')


def _check_splits(config: Config, seen: Seen) -> None:
    name, split = config.sources.name, config.eval.split
    if not seen.documents['train']:
        raise UserError(f'the source "{name}" gave no training document; check sources.{name}')
    if not seen.codes['train']:
        raise UserError(f'no training document of the source "{name}" has a code of {ICD10CM}; check sources.{name}')
    if not seen.documents[split]:
        raise UserError(
            f'the source has no documents of the split "{split}" to evaluate on; '
            f'set eval.split to one of {", ".join(sorted(+seen.documents))}'
        )


def prepare_examples(
    tasks: TaskSettings,
    part: TrainingPart,
    seed: int,
    prepared: Prepared,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    split: str = 'train',
    most_documents: int = 0,
) -> tuple[ExampleStore, Plan]:
    """Tokenises the examples of `tasks` into `directory`, unless they are there already, and plans the steps.

    Args:
        split: of the documents.
        most_documents: the first so many of them; 0 for all.

    Raises:
        UserError: a document does not fit the longest bucket, the source has no such split, or there are no examples.
    """
    longest = part.plan.longest_row
    if split not in prepared.splits:
        raise UserError(f'the source has no split "{split}" to make examples of; it has {", ".join(prepared.splits)}')

    def documents() -> Iterator[Document]:
        return itertools.islice(prepared.stream_documents(split), most_documents or None)

    def write() -> None:
        inputs = {
            **_inputs_of_examples(tasks, longest, seed, prepared.files_of(tasks, split), tokenizer),
            'most_documents': most_documents,
        }
        if is_built(directory, inputs):
            return
        say(f'tokenising the examples of {", ".join(tasks.names)} ...')
        converter = Converter.make(tasks, tokenizer, longest, seed, documents())
        blocks = make_blocks(tasks, documents(), prepared.stream_spans(), prepared.stream_texts())
        store = build_store(blocks, converter, directory, inputs, tasks.processes)
        say(f'examples: {json.dumps(store.metadata["counts"])}')

    on_process_zero(write, directory / 'metadata.json')
    store = ExampleStore.open(directory)
    plan = make_plan(store.lengths, store.task_ids, store.target_starts, part.plan)
    return store, plan


def _inputs_of_examples(
    tasks: TaskSettings, longest: int, seed: int, records: list[Path], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Returns all that the examples depend on: other inputs, other examples."""
    settings = dataclasses.asdict(tasks)
    del settings['processes']
    return {
        'conversion': CONVERSION,
        'tasks': json.loads(json.dumps(settings)),
        'longest': longest,
        'seed': seed,
        'records': {path.name: sha256_of(path) for path in records},
        'tokenizer': tokenizer_hash(tokenizer),
        'chat_date': CHAT_DATE,
    }


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what decides the ids: the vocabulary with its rules, the special tokens and the chat template."""
    backend = getattr(tokenizer, 'backend_tokenizer', None)
    rules = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    parts = [rules, json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str), str(tokenizer.chat_template)]
    return hashlib.sha256('\x00'.join(parts).encode()).hexdigest()
