"""Spans from the evidence of the training documents."""

from collections.abc import Iterable, Iterator

from ccl_jax.icd.codes import ICD10CM
from ccl_jax.records import Document, Span
from ccl_jax.tasks.prompts import quote_of


def document_spans(documents: Iterable[Document]) -> Iterator[Span]:
    """Yields the evidence of the documents, each (folded text, code) once: tier 'document' where a person
    annotated it, else 'silver'."""
    seen: set[tuple[str, str]] = set()
    for document in documents:
        for annotation in document.annotations:
            if annotation.system != ICD10CM:
                continue
            for evidence in annotation.evidence:
                text = quote_of(document.text, evidence)
                key = (text.casefold(), annotation.code)
                if key in seen:
                    continue
                seen.add(key)
                parts = '+'.join(f'{begin}-{end}' for begin, end in evidence.parts)
                tier = 'silver' if evidence.origin else 'document'
                origin = f', {evidence.origin}' if evidence.origin else ''
                yield Span(
                    span_id=f'{tier}:{document.doc_id}:{parts}:{annotation.code}',
                    text=text,
                    code=annotation.code,
                    tier=tier,
                    provenance=f'doc:{document.doc_id}{origin}',
                )
