"""One corpus from its settings: documents by split, and what else the source brings."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

from ccl_jax.errors import UserError
from ccl_jax.icd.release import Release
from ccl_jax.records import Document, Span
from ccl_jax.sources.codiesp import read_codiesp
from ccl_jax.sources.jsonl import read_documents, read_spans
from ccl_jax.sources.report import SourceReport
from ccl_jax.sources.synthetic_notes import NoteSettings, SyntheticNotes

NAMES = ('synthetic_notes', 'codiesp', 'jsonl')


@dataclasses.dataclass(frozen=True)
class CodiEspSettings:
    """Where CodiEsp v4 lies and which of its two languages to read ('es' or 'en')."""

    path: str = ''
    language: str = 'es'


@dataclasses.dataclass(frozen=True)
class JsonlSettings:
    """A user's own files in the JSONL schema of the README.

    Attributes:
        train, dev, test: files of documents; '' for none.
        spans: a file of spans, or ''.
        on_bad_record: 'refuse' stops at the first bad record; 'skip' lists bad
            records in `rejected.jsonl` and goes on.
    """

    train: str = ''
    dev: str = ''
    test: str = ''
    spans: str = ''
    on_bad_record: str = 'refuse'

    def __post_init__(self) -> None:
        if self.on_bad_record not in ('refuse', 'skip'):
            raise UserError(f'on_bad_record is "{self.on_bad_record}"; it must be refuse or skip')


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """Which source is read, and how each would be."""

    name: str = 'synthetic_notes'
    synthetic_notes: NoteSettings = dataclasses.field(default_factory=NoteSettings)
    codiesp: CodiEspSettings = dataclasses.field(default_factory=CodiEspSettings)
    jsonl: JsonlSettings = dataclasses.field(default_factory=JsonlSettings)

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UserError(f'name is "{self.name}"; it must be one of {", ".join(NAMES)}')


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What a source brings.

    Attributes:
        documents: split -> documents; 'train' is always there.
        spans: spans of the source's own, beside those that expansion makes.
        texts: (id, text) without labels, for language modelling.
        code_space: the codes that training may learn, where the source defines them.
        held_out: codes that the source keeps out of training on purpose, where it does.
        reports: one per file set read.
        synthetic: whether the documents are made up; shown wherever they are.
    """

    documents: Mapping[str, tuple[Document, ...]]
    spans: tuple[Span, ...]
    texts: tuple[tuple[str, str], ...]
    code_space: tuple[str, ...] | None
    held_out: frozenset[str] | None
    reports: tuple[SourceReport, ...]
    synthetic: bool


def load_corpus(settings: SourceSettings, release: Release, max_texts: int) -> Corpus:
    """Reads the source that `settings` name.

    Args:
        max_texts: how many unlabelled texts to read; 0 for none.

    Raises:
        UserError: a file is missing or unusable, or there is no training document.
    """
    if settings.name == 'synthetic_notes':
        corpus = _synthetic(settings.synthetic_notes, release, max_texts)
    elif settings.name == 'codiesp':
        corpus = _codiesp(settings.codiesp, max_texts)
    else:
        corpus = _jsonl(settings.jsonl, max_texts)
    if not corpus.documents['train']:
        raise UserError(f'the source "{settings.name}" gave no training document; check sources.{settings.name}')
    return corpus


def _synthetic(settings: NoteSettings, release: Release, max_texts: int) -> Corpus:
    notes = SyntheticNotes(settings, release)
    documents, reports = {}, []
    for split in ('train', 'dev', 'test'):
        documents[split] = tuple(notes.documents(split))
        report = SourceReport('synthetic_notes', split)
        for document in documents[split]:
            report.add(document)
        reports.append(report)
    return Corpus(
        documents=documents,
        spans=(),
        texts=tuple(notes.texts(max_texts)),
        code_space=tuple(notes.codes('S0') + notes.codes('S1')),
        held_out=frozenset(notes.codes('S2')),
        reports=tuple(reports),
        synthetic=True,
    )


def _codiesp(settings: CodiEspSettings, max_texts: int) -> Corpus:
    if not settings.path:
        raise UserError('sources.codiesp.path is empty; set it to the folder that holds CodiEsp v4 (train/, dev/)')
    documents, reports = {}, []
    for split in ('train', 'dev'):
        report = SourceReport('codiesp', split)
        documents[split] = tuple(read_codiesp(settings.path, split, settings.language, report=report))
        reports.append(report)

    def texts() -> Iterator[tuple[str, str]]:
        yield from _training_texts(documents['train'])
        report = SourceReport('codiesp', 'background')
        reports.append(report)
        for document in read_codiesp(settings.path, 'background', settings.language, report=report):
            yield document.doc_id, document.text

    return Corpus(
        documents=documents,
        spans=(),
        texts=_first(texts(), max_texts),
        code_space=None,
        held_out=None,
        reports=tuple(reports),
        synthetic=False,
    )


def _jsonl(settings: JsonlSettings, max_texts: int) -> Corpus:
    if not settings.train:
        raise UserError('sources.jsonl.train is empty; set it to a JSONL file of documents (the README has the schema)')
    documents, reports = {}, []
    policy = settings.on_bad_record
    for split in ('train', 'dev', 'test'):
        path = getattr(settings, split)
        if path:
            report = SourceReport(path, split)
            read = read_documents(path, split, report=report, on_bad_record=policy)  # type: ignore[arg-type]
            documents[split] = tuple(dataclasses.replace(document, split=split) for document in read)
            reports.append(report)
    spans: tuple[Span, ...] = ()
    if settings.spans:
        report = SourceReport(settings.spans, 'spans')
        spans = tuple(read_spans(settings.spans, report=report, on_bad_record=policy))  # type: ignore[arg-type]
        reports.append(report)
    return Corpus(
        documents=documents,
        spans=spans,
        texts=_first(_training_texts(documents['train']), max_texts),
        code_space=None,
        held_out=None,
        reports=tuple(reports),
        synthetic=False,
    )


def _training_texts(documents: tuple[Document, ...]) -> Iterator[tuple[str, str]]:
    for document in documents:
        yield document.doc_id, document.text


def _first(texts: Iterator[tuple[str, str]], count: int) -> tuple[tuple[str, str], ...]:
    return tuple(itertools.islice(texts, count))
