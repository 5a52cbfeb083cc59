"""The project's nouns: documents with codes and evidence, spans, predictions.

Offsets are positions in the Python string `Document.text`, end exclusive. Each
record has a JSONL form, one object a line; the README documents the schema.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import ICD10CM, SYSTEMS, normalize_code

TIERS = ('gold', 'document', 'silver', 'synthetic')
_INSIGNIFICANT = re.compile(r'[\W_]+')


class RecordError(ValueError):
    """One record is unusable; the message says why and quotes no clinical text."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Words of a document that support a code.

    Attributes:
        parts: (begin, end) offsets in the document's text; several where the
            reference is discontinuous; empty where a predicted quote was not
            found in the document.
        text: the words, parts joined by one space.
    """

    parts: tuple[tuple[int, int], ...]
    text: str


@dataclasses.dataclass(frozen=True)
class Annotation:
    """A code of a document and the evidence for it (possibly none)."""

    code: str
    system: str = ICD10CM
    evidence: tuple[Evidence, ...] = ()


@dataclasses.dataclass(frozen=True)
class Document:
    """A clinical document. `group_id` names the admission or patient that it belongs to."""

    doc_id: str
    text: str
    annotations: tuple[Annotation, ...] = ()
    group_id: str = ''
    language: str = 'en'
    source: str = ''
    split: str = ''

    @property
    def codes(self) -> frozenset[str]:
        return frozenset(annotation.code for annotation in self.annotations)


@dataclasses.dataclass(frozen=True)
class Span:
    """A short piece of text that supports one code.

    Attributes:
        tier: one of `TIERS`.
        provenance: where it comes from, e.g. 'title', 'inclusion_term', 'doc:<doc_id>'.
    """

    span_id: str
    text: str
    code: str
    tier: str
    provenance: str
    system: str = ICD10CM


@dataclasses.dataclass(frozen=True)
class PredictedCode:
    """A code that a system assigned, with evidence; `score` is higher for surer ones."""

    code: str
    system: str = ICD10CM
    score: float | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A system's answer for one document; the order of `codes` is the ranking."""

    doc_id: str
    codes: tuple[PredictedCode, ...]


def slice_evidence(text: str, parts: tuple[tuple[int, int], ...]) -> str:
    """Returns the words that `parts` cover in `text`, parts joined by one space."""
    return ' '.join(text[begin:end] for begin, end in parts)


def same_words(a: str, b: str) -> bool:
    """Whether two strings are equal up to white space and punctuation."""
    return _INSIGNIFICANT.sub('', a) == _INSIGNIFICANT.sub('', b)


def document_from_json(record: dict[str, Any]) -> Document:
    """Checks a document record and returns it; codes come out in normal form.

    Raises:
        RecordError: a field is missing or of the wrong type, the text is empty,
            an offset lies outside the text, or the evidence text differs from
            the slice by more than white space and punctuation.
    """
    doc_id = _string(record, 'doc_id')
    text = _string(record, 'text')
    if not text.strip():
        raise RecordError('"text" is empty')
    annotations = tuple(
        _annotation(item, text, f'codes[{i}]') for i, item in enumerate(_list(record, 'codes', default=[]))
    )
    return Document(
        doc_id=doc_id,
        text=text,
        annotations=annotations,
        group_id=_string(record, 'group_id', default=doc_id),
        language=_string(record, 'language', default='en'),
        source=_string(record, 'source', default='jsonl'),
        split=_string(record, 'split', default=''),
    )


def document_to_json(document: Document) -> dict[str, Any]:
    return {
        'doc_id': document.doc_id,
        'group_id': document.group_id,
        'text': document.text,
        'language': document.language,
        'source': document.source,
        'split': document.split,
        'codes': [
            {'code': a.code, 'system': a.system, 'evidence': [_evidence_to_json(e) for e in a.evidence]}
            for a in document.annotations
        ],
    }


def span_from_json(record: dict[str, Any]) -> Span:
    """Checks a span record and returns it. Raises RecordError."""
    system, code = _code(record, 'span')
    text = _string(record, 'text')
    if not text.strip():
        raise RecordError('"text" is empty')
    tier = _string(record, 'tier')
    if tier not in TIERS:
        raise RecordError(f'"tier" must be one of {", ".join(TIERS)}')
    return Span(
        span_id=_string(record, 'span_id'),
        text=text,
        code=code,
        tier=tier,
        provenance=_string(record, 'provenance'),
        system=system,
    )


def span_to_json(span: Span) -> dict[str, Any]:
    return dataclasses.asdict(span)


def prediction_from_json(record: dict[str, Any]) -> Prediction:
    """Checks a prediction record and returns it; quotes need no offsets. Raises RecordError."""
    codes = []
    for i, item in enumerate(_list(record, 'codes')):
        where = f'codes[{i}]'
        system, code = _code(item, where)
        score = item.get('score')
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            raise RecordError(f'{where}: "score" must be a number')
        evidence = tuple(
            _evidence(e, None, f'{where}.evidence[{j}]') for j, e in enumerate(_list(item, 'evidence', default=[]))
        )
        codes.append(PredictedCode(code, system, score, evidence))
    return Prediction(_string(record, 'doc_id'), tuple(codes))


def prediction_to_json(prediction: Prediction) -> dict[str, Any]:
    codes = []
    for c in prediction.codes:
        item: dict[str, Any] = {'code': c.code, 'system': c.system}
        if c.score is not None:
            item['score'] = c.score
        item['evidence'] = [_evidence_to_json(e) for e in c.evidence]
        codes.append(item)
    return {'doc_id': prediction.doc_id, 'codes': codes}


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of a JSONL file; blank lines are skipped.

    A byte order mark and CRLF line ends are accepted.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or a line is not a JSON object.
    """
    try:
        with open(path, encoding='utf-8-sig', newline='\n') as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    reason = getattr(error, 'msg', 'nested too deeply')
                    raise UserError(f'{path} line {number} is not JSON ({reason}); write one object a line') from None
                if not isinstance(record, dict):
                    raise UserError(f'{path} line {number} is not a JSON object; write one object a line')
                yield number, record
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; check the path') from None
    except UnicodeDecodeError:
        raise UserError(f'{path} is not UTF-8 text; convert it to UTF-8') from None


def write_jsonl(path: str | Path, records: Iterable[dict[str, Any]]) -> int:
    """Writes one object a line, replacing the file only once it is complete; returns the count."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    count = 0
    with open(partial, 'w', encoding='utf-8') as out:
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + '\n')
            count += 1
    partial.replace(path)
    return count


def _evidence_to_json(evidence: Evidence) -> dict[str, Any]:
    return {'parts': [list(part) for part in evidence.parts], 'text': evidence.text}


def _annotation(item: Any, text: str, where: str) -> Annotation:
    system, code = _code(item, where)
    evidence = tuple(
        _evidence(e, text, f'{where}.evidence[{j}]') for j, e in enumerate(_list(item, 'evidence', default=[]))
    )
    return Annotation(code, system, evidence)


def _evidence(item: Any, text: str | None, where: str) -> Evidence:
    """Reads one evidence object; with `text`, offsets are required and checked against it."""
    if not isinstance(item, dict):
        raise RecordError(f'{where} is not an object')
    parts = []
    for part in _list(item, 'parts', default=None if text is not None else []):
        if not (isinstance(part, list) and len(part) == 2 and all(type(x) is int for x in part)):
            raise RecordError(f'{where}: a part must be [begin, end] in whole numbers')
        begin, end = part
        if begin < 0 or end <= begin:
            raise RecordError(f'{where}: part [{begin}, {end}] is empty or negative')
        if text is not None and end > len(text):
            raise RecordError(f'{where}: part [{begin}, {end}] ends outside the text of {len(text)} characters')
        parts.append((begin, end))
    if text is None:
        return Evidence(tuple(parts), _string(item, 'text', default=''))
    if not parts:
        raise RecordError(f'{where}: "parts" is empty')
    sliced = slice_evidence(text, tuple(parts))
    quoted = _string(item, 'text', default=sliced)
    if not same_words(quoted, sliced):
        raise RecordError(f'{where}: "text" differs from the document at {parts}')
    return Evidence(tuple(parts), sliced)


def _code(item: Any, where: str) -> tuple[str, str]:
    if not isinstance(item, dict):
        raise RecordError(f'{where} is not an object')
    system = _string(item, 'system', default=ICD10CM)
    if system not in SYSTEMS:
        raise RecordError(f'{where}: "system" must be one of {", ".join(SYSTEMS)}')
    code = normalize_code(_string(item, 'code'), system)
    if not code:
        raise RecordError(f'{where}: "code" is empty')
    return system, code


def _string(record: dict[str, Any], key: str, default: str | None = None) -> str:
    value = record.get(key, default)
    if value is None:
        raise RecordError(f'"{key}" is missing')
    if not isinstance(value, str):
        raise RecordError(f'"{key}" must be a string')
    return value


def _list(record: dict[str, Any], key: str, default: list[Any] | None = None) -> list[Any]:
    value = record.get(key, default)
    if value is None:
        raise RecordError(f'"{key}" is missing')
    if not isinstance(value, list):
        raise RecordError(f'"{key}" must be a list')
    return value
