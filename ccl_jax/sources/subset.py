"""Parts of the training documents: some of them, to study how many are needed, or some set aside to tune on."""

import dataclasses
import hashlib
import heapq
from collections.abc import Iterable, Iterator

from ccl_jax.records import Document
from ccl_jax.sources.report import SourceReport

LEFT_OUT = 'of these, training documents beyond max_train_documents'
TUNE = 'tune'
SET_ASIDE = f'of these, training documents set aside as the split {TUNE}'


def set_aside(documents: Iterable[Document], share: float, seed: int, report: SourceReport) -> Iterator[Document]:
    """Yields all documents, about `share` of those of the split 'train' with the split 'tune' in its place.

    Each is chosen for itself, by a hash of seed and `doc_id`, so a smaller share lies within a larger one.

    Args:
        share: from 0 to 1.
        report: counts those set aside; their reader has counted them among its documents before.
    """
    for document in documents:
        # Not the hash by which `take_training_documents` chooses: it would be left with those of high rank alone.
        if document.split == 'train' and _rank(f'{TUNE}:{seed}', document.doc_id) < share * 2**64:
            report.leave_out(SET_ASIDE)
            document = dataclasses.replace(document, split=TUNE)
        yield document


def take_training_documents(
    documents: Iterable[Document], most: int, seed: int, report: SourceReport
) -> Iterator[Document]:
    """Yields `most` of the documents of the split 'train', and all of the other splits.

    The choice is by a hash of seed and `doc_id`, so it does not depend on the order of the documents, and
    a smaller part lies within every larger one of the same seed. The documents chosen are held in memory
    and come last, in their order.

    Args:
        report: counts those left out; their reader has counted them among its documents before.
    """
    # A heap whose top is the document to be given up next. Numbers differ, so documents are never compared.
    kept: list[tuple[int, int, Document]] = []
    for number, document in enumerate(documents):
        if document.split != 'train':
            yield document
            continue
        heapq.heappush(kept, (-_rank(str(seed), document.doc_id), number, document))
        if len(kept) > most:
            heapq.heappop(kept)
            report.leave_out(LEFT_OUT)
    for _, _, document in sorted(kept, key=lambda item: item[1]):
        yield document


def _rank(key: str, doc_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f'{key}:{doc_id}'.encode(), digest_size=8).digest(), 'big')
