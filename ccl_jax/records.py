"""The project's nouns: documents with codes and evidence, spans, predictions.

Offsets are positions in the Python string `Document.text`, end exclusive. Each
record has a JSONL form, one object a line; the README documents the schema.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import ICD10CM, SYSTEMS, is_well_formed, normalize_code, systems_of_form

TIERS = ('gold', 'document', 'silver', 'synthetic')
_INSIGNIFICANT = re.compile(r'[\W_]+')
_OFFSETS = 'offsets outside the text'
_DIFFERS = 'evidence text differs from the document'
_LIKE_A_CODE = re.compile(r'(?=.*[0-9])[0-9A-Z.]{1,9}')


class RecordError(ValueError):
    """One record is unusable; the message says why and quotes no clinical text.

    Attributes:
        reason: the kind of fault, under which a report counts the record.
    """

    def __init__(self, message: str, reason: str = 'field is missing or of the wrong type'):
        super().__init__(message)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Words of a document that support a code.

    Attributes:
        parts: (begin, end) offsets in the document's text; several where the
            reference is discontinuous; empty where a predicted quote was not
            found in the document.
        text: the words, parts joined by one space.
        origin: '' where a person or a model chose the words; else how they were
            found, e.g. 'silver: inclusion_term of E11'.
    """

    parts: tuple[tuple[int, int], ...]
    text: str
    origin: str = ''


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
        provenance: where it comes from, in one line; begins with 'doc:<doc_id>' if
            its words are, or were edited from, those of a document.
        round_trip: the rank from 1 at which a retriever over all terms finds the
            code for the text; None beyond its depth, or where it was not asked.
    """

    span_id: str
    text: str
    code: str
    tier: str
    provenance: str
    system: str = ICD10CM
    round_trip: int | None = None


@dataclasses.dataclass(frozen=True)
class PredictedCode:
    """A code that a system assigned, with evidence.

    Attributes:
        score: higher for surer ones.
        rechecked: the codes that a second look at its quotes alone gave; () where there was none.
    """

    code: str
    system: str = ICD10CM
    score: float | None = None
    evidence: tuple[Evidence, ...] = ()
    rechecked: tuple[str, ...] = ()

    @property
    def agreement(self) -> bool | None:
        """Whether the second look gave this code for one of its quotes; None where there was none."""
        return self.code in self.rechecked if self.rechecked else None


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


def document_from_json(record: dict[str, Any], *, to_score: bool = False) -> Document:
    """Checks a document record and returns it; codes come out in normal form.

    With `to_score` the document is but a reference to score against: a code may have
    any form, and the text may be absent or empty where there is no evidence.

    A code that is listed several times becomes one annotation with all its
    evidence. A missing, null or empty `group_id` becomes the `doc_id`: a
    document without a group is a group of its own.

    Raises:
        RecordError: a field is missing or of the wrong type, the text is empty,
            a code has not the form of its system, an offset lies outside the
            text, or the evidence text differs from the slice by more than white
            space and punctuation.
    """
    doc_id = _name(record, 'doc_id')
    text = _string(record, 'text', default='' if to_score else None)
    if not text.strip() and not to_score:
        raise RecordError('"text" is empty', 'text is empty')
    return Document(
        doc_id=doc_id,
        text=text,
        annotations=_annotations(record, text, _code if to_score else _well_formed_code),
        group_id=_string(record, 'group_id', default='') or doc_id,
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
    system, code = _well_formed_code(record, 'span')
    text = _string(record, 'text')
    if not text.strip():
        raise RecordError('"text" is empty', 'text is empty')
    tier = _string(record, 'tier')
    if tier not in TIERS:
        raise RecordError(f'"tier" must be one of {", ".join(TIERS)}')
    return Span(
        span_id=_name(record, 'span_id'),
        text=text,
        code=code,
        tier=tier,
        provenance=_string(record, 'provenance'),
        system=system,
        round_trip=_rank(record, 'round_trip'),
    )


def span_to_json(span: Span) -> dict[str, Any]:
    record = dataclasses.asdict(span)
    if span.round_trip is None:
        del record['round_trip']
    return record


def prediction_from_json(record: dict[str, Any]) -> Prediction:
    """Checks a prediction record and returns it. Raises RecordError.

    Quotes need no offsets, and a code may have any form: what a system answered
    is scored as it stands.
    """
    codes = []
    for i, item in enumerate(_list(record, 'codes')):
        where = f'codes[{i}]'
        system, code = _code(item, where)
        score = _score(item, where)
        evidence = tuple(
            _evidence(e, None, f'{where}.evidence[{j}]') for j, e in enumerate(_list(item, 'evidence', default=[]))
        )
        rechecked = _list(item, 'rechecked', default=[])
        if not all(isinstance(other, str) for other in rechecked):
            raise RecordError(f'{where}: "rechecked" must hold codes')
        codes.append(PredictedCode(code, system, score, evidence, tuple(rechecked)))
    return Prediction(_name(record, 'doc_id'), tuple(codes))


def prediction_to_json(prediction: Prediction) -> dict[str, Any]:
    codes = []
    for c in prediction.codes:
        item: dict[str, Any] = {'code': c.code, 'system': c.system}
        if c.score is not None:
            item['score'] = c.score
        if c.rechecked:
            item['rechecked'] = list(c.rechecked)
        item['evidence'] = [_evidence_to_json(e) for e in c.evidence]
        codes.append(item)
    return {'doc_id': prediction.doc_id, 'codes': codes}


def read_jsonl(
    path: str | Path, on_bad_line: Callable[[int, str], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of a JSONL file; blank lines are skipped.

    A byte order mark and CRLF line ends are accepted.

    Args:
        path: the file.
        on_bad_line: called with (line number, reason) for a line that is not a
            JSON object in UTF-8, which is then skipped; without it such a line
            is an error.

    Raises:
        UserError: the file cannot be read or, without `on_bad_line`, holds a bad line.
    """
    try:
        with open(path, 'rb') as lines:
            yield from read_jsonl_lines(lines, path, on_bad_line)
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; check the path') from None


def read_jsonl_lines(
    lines: Iterable[bytes], name: str | Path, on_bad_line: Callable[[int, str], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields as `read_jsonl` from an open binary file, which errors call `name`."""
    # Bytes are split before they are decoded, so that one undecodable line leaves the others readable.
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
            if not text.strip():
                continue
            record = _object(text)
        except (RecordError, UnicodeDecodeError) as error:
            reason = 'is not UTF-8 text' if isinstance(error, UnicodeDecodeError) else str(error)
            if on_bad_line is None:
                raise UserError(f'{name} line {number} {reason}; write one JSON object a line') from None
            on_bad_line(number, reason)
        else:
            yield number, record


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


def _object(line: str) -> dict[str, Any]:
    """Parses one line of JSONL. Raises RecordError, which quotes nothing of the line."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise RecordError(f'is not JSON ({error.msg} at column {error.colno})') from None
    except (ValueError, RecursionError):
        raise RecordError('is not usable JSON (nested too deeply, or a number of thousands of digits)') from None
    if not isinstance(record, dict):
        raise RecordError('is not a JSON object')
    return record


def _evidence_to_json(evidence: Evidence) -> dict[str, Any]:
    item = {'parts': [list(part) for part in evidence.parts], 'text': evidence.text}
    return {**item, 'origin': evidence.origin} if evidence.origin else item


def _annotations(
    record: dict[str, Any], text: str, read_code: Callable[[Any, str], tuple[str, str]]
) -> tuple[Annotation, ...]:
    merged: dict[tuple[str, str], dict[Evidence, None]] = {}
    for i, item in enumerate(_list(record, 'codes', default=[])):
        where = f'codes[{i}]'
        evidence = merged.setdefault(read_code(item, where), {})
        for j, quote in enumerate(_list(item, 'evidence', default=[])):
            evidence[_evidence(quote, text, f'{where}.evidence[{j}]')] = None
    return tuple(Annotation(code, system, tuple(evidence)) for (system, code), evidence in merged.items())


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
            raise RecordError(f'{where}: part [{begin}, {end}] is empty or negative', _OFFSETS)
        if text is not None and end > len(text):
            message = f'{where}: part [{begin}, {end}] ends outside the text of {len(text)} characters'
            raise RecordError(message, _OFFSETS)
        parts.append((begin, end))
    origin = _string(item, 'origin', default='')
    if text is None:
        return Evidence(tuple(parts), _string(item, 'text', default=''), origin)
    if not parts:
        raise RecordError(f'{where}: "parts" is empty')
    sliced = slice_evidence(text, tuple(parts))
    quoted = _string(item, 'text', default=sliced)
    if not same_words(quoted, sliced):
        raise RecordError(f'{where}: "text" differs from the document at {parts}', _DIFFERS)
    return Evidence(tuple(parts), sliced, origin)


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


def _well_formed_code(item: Any, where: str) -> tuple[str, str]:
    system, code = _code(item, where)
    if is_well_formed(code, system):
        return system, code
    others = ' or '.join(systems_of_form(code))
    # Words of a note can stand in the wrong field; only what looks like a code is quoted.
    quoted = code if others or _LIKE_A_CODE.fullmatch(code) else 'the code'
    hint = f' (it has that of {others})' if others else ''
    raise RecordError(f'{where}: {quoted} has not the form of {system}{hint}', 'code has not the form of its system')


def _score(item: dict[str, Any], where: str) -> float | None:
    score = item.get('score')
    if score is None:
        return None
    # NaN and Infinity pass Python's JSON parser, and would make the order of a ranking undefined.
    if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= sys.float_info.max:
        raise RecordError(f'{where}: "score" must be a finite number')
    return float(score)


def _rank(record: dict[str, Any], key: str) -> int | None:
    rank = record.get(key)
    if rank is not None and (type(rank) is not int or rank < 1):
        raise RecordError(f'"{key}" must be a whole number from 1')
    return rank


def _string(record: dict[str, Any], key: str, default: str | None = None) -> str:
    """Returns a string field; null counts as absent."""
    value = record.get(key)
    if value is None:
        value = default
    if value is None:
        raise RecordError(f'"{key}" is missing')
    if not isinstance(value, str):
        raise RecordError(f'"{key}" must be a string')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RecordError(f'"{key}" holds half of a surrogate pair at character {error.start}') from None
    return value


def _name(record: dict[str, Any], key: str) -> str:
    value = _string(record, key)
    if not value.strip():
        raise RecordError(f'"{key}" is empty')
    return value


def _list(record: dict[str, Any], key: str, default: list[Any] | None = None) -> list[Any]:
    value = record.get(key)
    if value is None:
        value = default
    if value is None:
        raise RecordError(f'"{key}" is missing')
    if not isinstance(value, list):
        raise RecordError(f'"{key}" must be a list')
    return value
