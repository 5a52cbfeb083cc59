"""What a reader kept, what it refused, and why."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from ccl_jax.records import Document, write_jsonl


class Rejection(NamedTuple):
    """One refused record: its id (or file and line), the reason it is counted under, and where or what exactly."""

    record_id: str
    reason: str
    detail: str


@dataclasses.dataclass
class SourceReport:
    """Counts of one source, filled while it is read. It holds ids and offsets, no clinical text.

    Attributes:
        source, split: what was read.
        documents, spans: records kept.
        unannotated: documents kept that carry no code.
        code_counts: annotations kept per (system, code).
        evidences: evidence kept; `discontinuous` of them have several parts.
        mismatches: evidence whose text differs from the document at its
            offsets, whether kept (white space and punctuation) or refused.
        rejected: refused records per reason.
        rejections: the refused records themselves.
    """

    source: str
    split: str = ''
    documents: int = 0
    spans: int = 0
    unannotated: int = 0
    code_counts: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    evidences: int = 0
    discontinuous: int = 0
    mismatches: int = 0
    rejected: Counter[str] = dataclasses.field(default_factory=Counter)
    rejections: list[Rejection] = dataclasses.field(default_factory=list)

    @property
    def annotations(self) -> int:
        return self.code_counts.total()

    @property
    def distinct_codes(self) -> int:
        return len(self.code_counts)

    def add(self, document: Document) -> None:
        """Counts a document that is kept."""
        self.documents += 1
        self.unannotated += not document.annotations
        for annotation in document.annotations:
            self.code_counts[annotation.system, annotation.code] += 1
            self.evidences += len(annotation.evidence)
            self.discontinuous += sum(len(evidence.parts) > 1 for evidence in annotation.evidence)

    def reject(self, record_id: str, reason: str, detail: str = '') -> None:
        """Counts a refused record under `reason`; `detail` says what is particular to this one."""
        self.rejected[reason] += 1
        self.rejections.append(Rejection(record_id, reason, detail))

    def write_rejected(self, path: str | Path) -> int:
        """Writes the refused records as JSONL, one object a line; returns their number."""
        return write_jsonl(path, (rejection._asdict() for rejection in self.rejections))

    def to_json(self) -> dict[str, Any]:
        """Returns the counts; the refused records are in `write_rejected`'s file."""
        return {
            'source': self.source,
            'split': self.split,
            **{name: count for name, count, _ in self._counts()},
            'rejected': dict(self.rejected.most_common()),
        }

    def table(self) -> str:
        """Returns the counts as plain text, one line each; counts of zero are left out, except of documents."""
        rows = [(label, count) for _, count, label in self._counts() if count or label == 'documents']
        rows += [(f'rejected: {reason}', count) for reason, count in self.rejected.most_common()]
        width = max(len(label) for label, _ in rows)
        lines = [f'  {label:<{width}}  {count:>10,}' for label, count in rows]
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
