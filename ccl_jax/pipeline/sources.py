"""Reading a source to its end: its report, and its documents as files.

Light to import: reading a corpus needs no JAX.
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from ccl_jax.config import Config
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.release import Release, open_release
from ccl_jax.pipeline.files import write_text
from ccl_jax.records import Document, document_from_json, document_to_json, read_jsonl
from ccl_jax.sources.corpus import Corpus, open_corpus
from ccl_jax.sources.report import RejectionLog, SourceReport

REPORT = 'sources.json'
REJECTED = 'rejected.jsonl'


def report_sources(config: Config, workdir: Path | None) -> tuple[list[SourceReport], dict[str, Any]]:
    """Reads the source to its end and returns its reports, as they are and as JSON; no document is kept.

    Bad records are refused singly, whatever the source's setting: this is how a user
    finds all of them. With a workdir they are listed in `<workdir>/data/rejected.jsonl`,
    and the JSON is written to `<workdir>/data/sources.json`.

    Raises:
        UserError: the source is missing or unusable.
    """
    jsonl = dataclasses.replace(config.sources.jsonl, on_bad_record='skip')
    sources = dataclasses.replace(config.sources, jsonl=jsonl)
    release = open_release(config.release)
    seen = Seen()
    with RejectionLog(workdir / 'data' / REJECTED if workdir else None) as log:
        corpus = open_corpus(sources, release, log)
        for document in with_progress(corpus.documents()):
            seen.add(document)
        for _ in corpus.spans():
            pass
    summary = summary_of(corpus, release, seen)
    for warning in summary['warnings']:
        print(f'warning: {warning}', file=sys.stderr)
    if workdir is not None:
        write_text(workdir / 'data' / REPORT, json.dumps(summary, indent=2) + '\n')
    return corpus.reports, summary


class Seen:
    """What is remembered of documents that stream by: codes per split, and fingerprints of texts.

    Attributes:
        documents: documents per split.
        codes: ICD-10-CM codes per split.
    """

    def __init__(self) -> None:
        self.documents: Counter[str] = Counter()
        self.codes: dict[str, set[str]] = defaultdict(set)
        self._texts: dict[str, Counter[bytes]] = defaultdict(Counter)

    def add(self, document: Document) -> None:
        self.documents[document.split] += 1
        self.codes[document.split] |= {a.code for a in document.annotations if a.system == ICD10CM}
        self._texts[document.split][hashlib.blake2b(document.text.encode(), digest_size=16).digest()] += 1

    def overlaps(self) -> dict[str, int]:
        """Returns, for each other split, how many documents have the text of a training document."""
        trained = self._texts['train']
        others = [split for split in self.documents if split != 'train']
        return {split: sum(n for text, n in self._texts[split].items() if text in trained) for split in others}

    def unseen(self) -> dict[str, dict[str, int]]:
        """Returns, for each other split, its codes and how many of them no training document carries."""
        others = [split for split in self.documents if split != 'train' and self.codes[split]]
        return {
            split: {'codes': len(self.codes[split]), 'unseen': len(self.codes[split] - self.codes['train'])}
            for split in others
        }


def summary_of(corpus: Corpus, release: Release, seen: Seen) -> dict[str, Any]:
    """Returns the reports of a corpus that was read, and what its splits have to do with each other, for JSON."""
    for report in corpus.reports:
        report.check_codes(release)
    overlaps = seen.overlaps()
    return {
        'synthetic': corpus.synthetic,
        'release': release.name,
        'sources': [report.to_json() for report in corpus.reports],
        'unseen_codes': seen.unseen(),
        'documents_with_the_text_of_a_training_document': overlaps,
        'warnings': [
            f'{count} of the {seen.documents[split]} documents of {split} have the text of a training document; '
            'scores on them say nothing about new documents'
            for split, count in overlaps.items()
            if count
        ],
    }


def documents_file(directory: Path, split: str) -> Path:
    return directory / f'documents-{split}.jsonl'


def write_documents(corpus: Corpus, directory: Path) -> Seen:
    """Writes the documents, one file a split, with the codes that can be trained: those of ICD-10-CM."""
    seen = Seen()
    others = 0
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[str]] = {}
        for document in with_progress(corpus.documents()):
            trainable = tuple(a for a in document.annotations if a.system == ICD10CM)
            others += len(document.annotations) - len(trainable)
            document = dataclasses.replace(document, annotations=trainable)
            seen.add(document)
            if document.split not in files:
                path = documents_file(directory, document.split)
                files[document.split] = stack.enter_context(open(path, 'w', encoding='utf-8'))
            files[document.split].write(json.dumps(document_to_json(document), ensure_ascii=False) + '\n')
    if others:
        print(f'{others} codes of other systems than {ICD10CM} are not trained', file=sys.stderr, flush=True)
    return seen


class StoredDocuments(Collection[Document]):
    """The documents of a file, read anew by each iteration."""

    def __init__(self, path: Path, length: int):
        self._path = path
        self._length = length

    def __iter__(self) -> Iterator[Document]:
        return (document_from_json(record) for _, record in read_jsonl(self._path))

    def __len__(self) -> int:
        return self._length

    def __contains__(self, document: object) -> bool:
        return any(other == document for other in self)


def with_progress(documents: Iterator[Document], what: str = 'documents') -> Iterator[Document]:
    """Shows progress on a terminal, and at the end the rate."""
    begin, count = time.monotonic(), 0
    for document in tqdm(documents, unit=f' {what}', disable=None, leave=False):
        count += 1
        yield document
    seconds = time.monotonic() - begin
    rate = count / max(seconds, 1e-9)
    print(f'read {count:,} {what} in {seconds:.1f} s ({rate:,.0f} a second)', file=sys.stderr, flush=True)
