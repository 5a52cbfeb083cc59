"""What a reader kept, what it refused, and why."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import IO, Any, NamedTuple

from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.release import Release
from ccl_jax.records import Document

# Lower ends of the bins of the length histogram, in words; the last bin is open.
LENGTH_BINS = (0, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_STATUS_LABELS = {
    'header': 'codes that are headers in the release',
    'incomplete': 'codes that lack characters',
    'unknown': 'codes that the release does not have',
}


class Rejection(NamedTuple):
    """One refused record: its id (or file and line), the reason it is counted under, and where or what exactly."""

    record_id: str
    reason: str
    detail: str


class RejectionLog:
    """Writes refused records as JSONL while they come, so that a million of them need no memory.

    The file exists only once a record was refused; without a path the records are
    counted and not listed. Use it as a context manager.

    Attributes:
        count: records refused.
    """

    def __init__(self, path: str | Path | None):
        self.path = None if path is None else Path(path)
        self.count = 0
        self._file: IO[str] | None = None
        # What an earlier read refused is not this one's.
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> 'RejectionLog':
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, source: str, rejection: Rejection) -> None:
        self.count += 1
        if self.path is None:
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, 'w', encoding='utf-8')  # noqa: SIM115 (closed by __exit__)
        self._file.write(json.dumps(rejection._asdict() | {'source': source}, ensure_ascii=False) + '\n')


@dataclasses.dataclass
class SourceReport:
    """Counts of one source, filled while it is read. It holds ids and offsets, no clinical text.

    Attributes:
        source, split: what was read.
        log: where refused records are written; without it they are kept in `rejections`.
        documents, spans: records kept.
        splits: documents per split, where one read gives several.
        unannotated: documents kept that carry no code.
        code_counts: annotations kept per (system, code).
        evidences: evidence kept; `discontinuous` of them have several parts.
        mismatches: evidence whose text differs from the document at its
            offsets, whether kept (white space and punctuation) or refused.
        silver_candidates: (document, code) pairs whose evidence was looked for in the
            text; in `silver_pairs` of them some was found.
        lengths: documents per bin of `LENGTH_BINS`, by words (split at white space).
        rejected: refused records per reason.
        left_out: records that a setting excludes, per reason; not listed singly.
        rejections: the refused records themselves.
        status_counts: distinct codes per `Release.status`, see `check_codes`.
        not_in_release: ICD-10-CM codes that the release lacks, with the nearest code above them that it has.
    """

    source: str
    split: str = ''
    log: RejectionLog | None = None
    documents: int = 0
    spans: int = 0
    splits: Counter[str] = dataclasses.field(default_factory=Counter)
    unannotated: int = 0
    code_counts: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    evidences: int = 0
    discontinuous: int = 0
    mismatches: int = 0
    silver_candidates: int = 0
    silver_pairs: int = 0
    words: int = 0
    longest: int = 0
    lengths: Counter[int] = dataclasses.field(default_factory=Counter)
    rejected: Counter[str] = dataclasses.field(default_factory=Counter)
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    rejections: list[Rejection] = dataclasses.field(default_factory=list)
    status_counts: Counter[str] = dataclasses.field(default_factory=Counter)
    not_in_release: dict[str, str | None] = dataclasses.field(default_factory=dict)

    @property
    def annotations(self) -> int:
        return self.code_counts.total()

    @property
    def distinct_codes(self) -> int:
        return len(self.code_counts)

    def add(self, document: Document) -> None:
        """Counts a document that is kept."""
        self.documents += 1
        self.splits[document.split] += 1
        self.unannotated += not document.annotations
        for annotation in document.annotations:
            self.code_counts[annotation.system, annotation.code] += 1
            self.evidences += len(annotation.evidence)
            self.discontinuous += sum(len(evidence.parts) > 1 for evidence in annotation.evidence)
        words = len(document.text.split())
        self.words += words
        self.longest = max(self.longest, words)
        self.lengths[max(low for low in LENGTH_BINS if low <= words)] += 1

    def reject(self, record_id: str, reason: str, detail: str = '') -> None:
        """Counts a refused record under `reason`; `detail` says what is particular to this one."""
        self.rejected[reason] += 1
        rejection = Rejection(record_id, reason, detail)
        if self.log is None:
            self.rejections.append(rejection)
        else:
            self.log.write(self.source, rejection)

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Counts records that a setting excludes; nothing is wrong with them."""
        self.left_out[reason] += count

    def check_codes(self, release: Release) -> None:
        """Holds the ICD-10-CM codes against a release: which are billable, headers, incomplete or unknown (retired)."""
        self.status_counts.clear()
        self.not_in_release.clear()
        for system, code in sorted(self.code_counts):
            if system == ICD10CM:
                self.status_counts[release.status(code)] += 1
                if code not in release:
                    self.not_in_release[code] = release.nearest_living_ancestor(code)

    def to_json(self) -> dict[str, Any]:
        """Returns the counts; the refused records are in the log."""
        return {
            'source': self.source,
            'split': self.split,
            **{name: count for name, count, _ in self._counts()},
            'splits': dict(sorted(self.splits.items())),
            'silver_candidates': self.silver_candidates,
            'silver_pairs': self.silver_pairs,
            'words': self.words,
            'longest_document_words': self.longest,
            'length_histogram': [
                {'from_words': low, 'documents': self.lengths[low]} for low in LENGTH_BINS if self.documents
            ],
            'code_status': dict(sorted(self.status_counts.items())),
            'not_in_release': self.not_in_release,
            'left_out': dict(self.left_out.most_common()),
            'rejected': dict(self.rejected.most_common()),
        }

    def table(self) -> str:
        """Returns the counts as plain text, one line each; counts of zero are left out, except of documents."""
        rows = [(label, f'{count:,}') for _, count, label in self._counts() if count or label == 'documents']
        if set(self.splits) - {self.split}:
            rows[1:1] = [(f'of them in {split or "no split"}', f'{n:,}') for split, n in sorted(self.splits.items())]
        if self.silver_candidates:
            share = self.silver_pairs / self.silver_candidates
            rows.append(('pairs with evidence found by terms', f'{self.silver_pairs:,} ({share:.1%})'))
        rows += [(label, f'{n:,}') for status, label in _STATUS_LABELS.items() if (n := self.status_counts[status])]
        if self.documents:
            rows.append(('words per document, mean', f'{self.words / self.documents:,.0f}'))
            rows.append(('words per document, most', f'{self.longest:,}'))
        rows += [(f'  {_bin_label(low)} words', f'{n:,}') for low in LENGTH_BINS if (n := self.lengths[low])]
        rows += [(f'left out: {reason}', f'{count:,}') for reason, count in self.left_out.most_common()]
        rows += [(f'rejected: {reason}', f'{count:,}') for reason, count in self.rejected.most_common()]
        width = max(len(label) for label, _ in rows)
        lines = [f'  {label:<{width}}  {value:>10}' for label, value in rows]
        return '\n'.join([f'{self.source} {self.split}'.rstrip(), *lines])

    def _counts(self) -> list[tuple[str, int, str]]:
        return [
            ('documents', self.documents, 'documents'),
            ('spans', self.spans, 'spans'),
            ('unannotated', self.unannotated, 'documents without codes'),
            ('annotations', self.annotations, 'codes (one per document)'),
            ('distinct_codes', self.distinct_codes, 'distinct codes'),
            ('evidences', self.evidences, 'pieces of evidence'),
            ('discontinuous', self.discontinuous, 'of them discontinuous'),
            ('mismatches', self.mismatches, 'evidence text differs'),
        ]


def _bin_label(low: int) -> str:
    after = [high for high in LENGTH_BINS if high > low]
    return f'{low:,} to {after[0] - 1:,}' if after else f'{low:,} or more'
