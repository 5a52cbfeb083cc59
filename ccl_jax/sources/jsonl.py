"""Everybody's data as JSONL: documents, spans and predictions, one object a line.

The schema is that of `ccl_jax.records`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ccl_jax.errors import UserError
from ccl_jax.records import (
    Document,
    Prediction,
    RecordError,
    Span,
    document_from_json,
    prediction_from_json,
    read_jsonl,
    slice_evidence,
    span_from_json,
)
from ccl_jax.sources.report import SourceReport

_LONGEST_ID = 100
_Record = TypeVar('_Record', Document, Span, Prediction)


def read_documents(
    path: str | Path, split: str = '', *, report: SourceReport, on_bad_record: str = 'refuse'
) -> Iterator[Document]:
    """Yields the documents of a JSONL file in its order.

    Args:
        path: the file.
        split: fills the split of records that name none.
        report: counts what is kept and what is refused.
        on_bad_record: 'refuse' stops at the first bad record; 'skip' leaves bad
            records out and lists them in the report. A `doc_id` that occurred
            before makes a record bad.

    Raises:
        UserError: the file cannot be read or holds no usable record, or a bad
            record is refused.
    """
    for raw, document in _read(path, 'doc_id', document_from_json, report, on_bad_record):
        if split and not document.split:
            document = dataclasses.replace(document, split=split)
        report.add(document)
        report.mismatches += _mismatches(raw, document.text)
        yield document


def read_spans(
    path: str | Path, *, report: SourceReport | None = None, on_bad_record: str = 'refuse'
) -> Iterator[Span]:
    """Yields the spans of a JSONL file in its order; arguments and errors as `read_documents`, ids are `span_id`."""
    for _, span in _read(path, 'span_id', span_from_json, report, on_bad_record):
        if report is not None:
            report.spans += 1
            report.code_counts[span.system, span.code] += 1
        yield span


def read_references(path: str | Path) -> Iterator[Document]:
    """Yields the documents of a JSONL file to score against: codes of any form, no text needed without evidence.

    Raises:
        UserError: the file cannot be read or is empty, a record is bad, or a `doc_id` occurs twice.
    """
    convert = functools.partial(document_from_json, to_score=True)
    for _, document in _read(path, 'doc_id', convert, None, 'refuse'):
        yield document


def read_predictions(path: str | Path) -> Iterator[Prediction]:
    """Yields the predictions of a JSONL file in its order.

    Raises:
        UserError: the file cannot be read or is empty, a record is bad, or a
            document has two predictions.
    """
    for _, prediction in _read(path, 'doc_id', prediction_from_json, None, 'refuse'):
        yield prediction


def _read(
    path: str | Path,
    id_field: str,
    convert: Callable[[dict[str, Any]], _Record],
    report: SourceReport | None,
    on_bad_record: str,
) -> Iterator[tuple[dict[str, Any], _Record]]:
    """Yields (object, record) of the good lines of a file; without `report` a bad record cannot be skipped."""
    if on_bad_record not in ('refuse', 'skip'):
        raise UserError(f'sources.on_bad_record is {on_bad_record!r}; take refuse or skip')

    def bad(number: int, message: str, record_id: Any = None, reason: str = 'line is not a JSON object') -> None:
        # An id that cannot be printed, or is a text in the wrong field, does not go into messages.
        if not isinstance(record_id, str) or len(record_id) > _LONGEST_ID or not record_id.isprintable():
            record_id = ''
        if report is not None and on_bad_record == 'skip':
            report.reject(record_id or f'line {number}', reason, f'{Path(path).name} line {number}: {message}')
            return
        name = f' ({id_field} {record_id})' if record_id else ''
        mend = 'mend the line or set sources.on_bad_record=skip' if report is not None else 'mend the line'
        raise UserError(f'{path} line {number}{name}: {message}; {mend}')

    first_lines: dict[Any, int] = {}
    for number, raw in read_jsonl(path, on_bad_line=bad):
        record_id = raw.get(id_field)
        if isinstance(record_id, str) and record_id in first_lines:
            bad(number, f'the same {id_field} as line {first_lines[record_id]}', record_id, f'{id_field} occurs twice')
            continue
        try:
            record = convert(raw)
        except RecordError as error:
            bad(number, str(error), record_id, error.reason)
            continue
        first_lines[record_id] = number
        yield raw, record
    if not first_lines:
        raise UserError(f'{path} holds no usable record; give a file with one JSON object a line')


def _mismatches(raw: dict[str, Any], text: str) -> int:
    """Counts the evidence texts of a checked document record that differ from the text at their offsets."""
    quotes = [quote for item in raw.get('codes') or () for quote in item.get('evidence') or ()]
    return sum(
        quote['text'] != slice_evidence(text, tuple((begin, end) for begin, end in quote['parts']))
        for quote in quotes
        if quote.get('text') is not None
    )
