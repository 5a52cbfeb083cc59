"""`prepare`: the corpus, its spans and the tokenised examples of the run."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ccl_jax.config import Config, TrainingPart
from ccl_jax.data.convert import TaskSettings, make_examples
from ccl_jax.data.examples import ExampleStore, write_examples
from ccl_jax.data.plan import Plan, make_plan
from ccl_jax.errors import UserError
from ccl_jax.expansion.spans import expand
from ccl_jax.icd.release import Release
from ccl_jax.pipeline.workdir import on_process_zero, say, write_text
from ccl_jax.records import (
    Document,
    Span,
    document_from_json,
    document_to_json,
    read_jsonl,
    span_from_json,
    span_to_json,
    write_jsonl,
)
from ccl_jax.sources.corpus import load_corpus
from ccl_jax.sources.report import SourceReport

_REPORT = 'report.json'


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The corpus in `<workdir>/data`.

    Attributes:
        held_out: codes kept out of training on purpose.
        synthetic: whether the documents are made up.
    """

    directory: Path
    held_out: frozenset[str]
    synthetic: bool

    @property
    def splits(self) -> list[str]:
        return sorted(path.stem.removeprefix('documents-') for path in self.directory.glob('documents-*.jsonl'))

    def documents(self, split: str) -> list[Document]:
        """Returns the documents of a split. Raises UserError if the source has none of that name."""
        if split not in self.splits:
            raise UserError(f'the source has no split "{split}"; set eval.split to one of {", ".join(self.splits)}')
        return [document_from_json(record) for _, record in read_jsonl(self.directory / f'documents-{split}.jsonl')]

    def spans(self) -> list[Span]:
        return [span_from_json(record) for _, record in read_jsonl(self.directory / 'spans.jsonl')]

    def texts(self) -> list[tuple[str, str]]:
        return [(record['text_id'], record['text']) for _, record in read_jsonl(self.directory / 'texts.jsonl')]


def open_release(config: Config) -> Release:
    return Release.from_tabular(config.tabular) if config.tabular else Release.embedded()


def prepare_corpus(config: Config, workdir: Path) -> Prepared:
    """Reads the source and makes the spans, unless `<workdir>/data` holds them already.

    Raises:
        UserError: the source is missing or unusable.
    """
    directory = workdir / 'data'
    on_process_zero(lambda: _write_corpus(config, directory), directory / _REPORT)
    report = json.loads((directory / _REPORT).read_text(encoding='utf-8'))
    return Prepared(directory, frozenset(report['held_out']), report['synthetic'])


def _write_corpus(config: Config, directory: Path) -> None:
    if (directory / _REPORT).exists():
        return
    say(f'reading the source {config.sources.name} ...')
    release = open_release(config)
    wants_texts = config.base.enabled or 'lm' in config.tasks.names
    corpus = load_corpus(config.sources, release, config.base.texts if wants_texts else 0)
    expansion = expand(
        corpus.documents['train'],
        config.expansion,
        release,
        own_spans=corpus.spans,
        code_space=corpus.code_space,
        held_out=corpus.held_out,
    )
    if 'span' in config.tasks.names and not expansion.spans:
        raise UserError('there are no spans for the span task; check expansion.tiers, or drop span from tasks.names')
    if config.eval.split not in corpus.documents or not corpus.documents[config.eval.split]:
        raise UserError(
            f'the source has no documents of the split "{config.eval.split}" to evaluate on; '
            f'set eval.split to one of {", ".join(split for split in corpus.documents if corpus.documents[split])}'
        )
    for split, documents in corpus.documents.items():
        write_jsonl(directory / f'documents-{split}.jsonl', map(document_to_json, documents))
    write_jsonl(directory / 'spans.jsonl', map(span_to_json, expansion.spans))
    write_jsonl(directory / 'texts.jsonl', ({'text_id': text_id, 'text': text} for text_id, text in corpus.texts))
    for report in corpus.reports:
        say(report.table())
    say(f'spans: {json.dumps(expansion.report)}')
    overlap = _overlap_with_training(corpus.documents)
    _write_rejected(corpus.reports, directory / 'rejected.jsonl')
    summary = {
        'synthetic': corpus.synthetic,
        'release': release.name,
        'sources': [report.to_json() for report in corpus.reports],
        'spans': expansion.report,
        'texts': len(corpus.texts),
        'documents_with_the_text_of_a_training_document': overlap,
        'held_out': sorted(expansion.held_out),
    }
    # Last, because its presence says that the rest is whole.
    write_text(directory / _REPORT, json.dumps(summary, indent=2) + '\n')


def _overlap_with_training(documents: Mapping[str, Sequence[Document]]) -> dict[str, int]:
    """Counts, for each other split, the documents that training holds too, and warns of them."""
    trained = {document.text for document in documents['train']}
    counts = {}
    for split, held in documents.items():
        counts[split] = sum(document.text in trained for document in held) if split != 'train' else 0
        if counts[split]:
            say(
                f'warning: {counts[split]} of the {len(held)} documents of {split} have the text of a training '
                'document; scores on them say nothing about new documents'
            )
    return counts


def _write_rejected(reports: Sequence[SourceReport], path: Path) -> None:
    rejected = [
        rejection._asdict() | {'source': report.source} for report in reports for rejection in report.rejections
    ]
    if rejected:
        write_jsonl(path, rejected)
        say(f'{len(rejected)} records were left out; {path} says which and why')


def prepare_examples(
    tasks: TaskSettings,
    part: TrainingPart,
    seed: int,
    prepared: Prepared,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
) -> tuple[ExampleStore, Plan]:
    """Tokenises the examples of `tasks` into `directory`, unless they are there already, and plans the steps.

    Raises:
        UserError: a document does not fit the longest bucket, or there are no examples.
    """
    inputs = {
        'tasks': json.loads(json.dumps(dataclasses.asdict(tasks))),
        'longest': part.plan.buckets[-1],
        'seed': seed,
        'tokenizer': tokenizer_hash(tokenizer),
    }

    def write() -> None:
        if (directory / 'metadata.json').exists() and ExampleStore.open(directory).metadata['inputs'] == inputs:
            return
        say(f'tokenising the examples of {", ".join(tasks.names)} ...')
        counts: Counter[str] = Counter()
        metadata: dict[str, Any] = {'inputs': inputs, 'counts': counts}
        examples = make_examples(
            tasks,
            tokenizer,
            part.plan.buckets[-1],
            seed,
            documents=prepared.documents('train'),
            spans=prepared.spans(),
            texts=prepared.texts(),
            counts=counts,
        )
        # The counts are complete when the last example is written, and the metadata is written after that.
        write_examples(examples, directory, metadata)
        say(f'examples: {json.dumps(counts)}')

    on_process_zero(write, directory / 'metadata.json')
    store = ExampleStore.open(directory)
    plan = make_plan(store.lengths, store.task_ids, store.target_starts, part.plan)
    return store, plan


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what decides the ids: the vocabulary with its rules, the special tokens and the chat template."""
    backend = getattr(tokenizer, 'backend_tokenizer', None)
    rules = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    parts = [rules, json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str), str(tokenizer.chat_template)]
    return hashlib.sha256('\x00'.join(parts).encode()).hexdigest()
