"""CodiEsp v4: Spanish clinical cases with ICD-10-CM diagnoses and the words that support them.

Miranda-Escalada et al., CLEF 2020; Zenodo record 3837305, CC BY 4.0. Layout:
`<split>/text_files/<id>.txt` (Spanish), `<split>/text_files_en/<id>.txt`
(machine-translated), `<split>/<split>D.tsv` (document, diagnosis code) and
`<split>/<split>X.tsv` (document, label, code, words, offsets into the Spanish
text). The procedures (ICD-10-PCS) are not read. `background` has texts only.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import normalize_code
from ccl_jax.records import Annotation, Document, Evidence, same_words, slice_evidence
from ccl_jax.sources.report import SourceReport

SPLITS = ('train', 'dev', 'background')
_TEXT_FOLDERS = {'es': 'text_files', 'en': 'text_files_en'}
_DIAGNOSIS, _PROCEDURE = 'DIAGNOSTICO', 'PROCEDIMIENTO'
_PART = re.compile(r'\s*([0-9]{1,9})\s+([0-9]{1,9})\s*')
_MEND = 'unpack CodiEsp v4 (zenodo.org/records/3837305, CC BY 4.0) and give the folder that holds train/ and dev/'

# doc_id -> code in normal form -> references, in the order of the files.
_Labels = dict[str, dict[str, list['_Reference']]]


def read_codiesp(path: str | Path, split: str, language: str = 'es', *, report: SourceReport) -> Iterator[Document]:
    """Yields the documents of a split in order of their ids.

    Spanish documents carry the evidence of each diagnosis; the annotations are
    in order of their first evidence. English documents carry the codes alone, in
    the order of the file: the offsets do not fit the translation. Evidence text
    that differs from the document by more than white space and punctuation is
    refused and its code kept. Everything refused is in `report`.

    Args:
        path: the folder that holds `train/`, `dev/`, `background/`.
        split: one of `SPLITS`.
        language: 'es' or 'en'.
        report: counts what is kept and what is refused.

    Raises:
        UserError: an unknown split or language, or a missing folder or file.
    """
    if split not in SPLITS:
        raise UserError(f'CodiEsp has no split {split!r}; take one of {", ".join(SPLITS)}')
    if language not in _TEXT_FOLDERS:
        raise UserError(f'CodiEsp has no language {language!r}; take one of {", ".join(_TEXT_FOLDERS)}')
    folder = Path(path, split)
    texts = folder / _TEXT_FOLDERS[language]
    if not texts.is_dir():
        raise UserError(f'{texts} is not a folder; {_MEND}')
    # macOS archives hold `._<id>.txt` files, which are no texts.
    files = {file.stem: file for file in sorted(texts.glob('*.txt')) if not file.name.startswith('.')}
    if not files:
        raise UserError(f'{texts} holds no .txt file; {_MEND}')
    labels: _Labels = {}
    if split != 'background':
        labels = _read_codes(folder / f'{split}D.tsv', report)
        if language == 'es':
            _read_references(folder / f'{split}X.tsv', labels, report)
        for doc_id in sorted(labels.keys() - files.keys()):
            report.reject(doc_id, 'codes of a document without text', f'no {doc_id}.txt')
    for doc_id in sorted(files):
        text = _read_text(files[doc_id], report)
        if text is not None:
            document = Document(
                doc_id=doc_id,
                text=text,
                annotations=_annotations(doc_id, text, labels.get(doc_id, {}), report),
                group_id=doc_id,
                language=language,
                source='codiesp',
                split=split,
            )
            report.add(document)
            yield document


class _Reference(NamedTuple):
    """The words of an X row; `place` is its file and line."""

    parts: tuple[tuple[int, int], ...]
    words: str
    place: str


def _read_codes(path: Path, report: SourceReport) -> _Labels:
    labels: _Labels = {}
    for _, (doc_id, code) in _read_rows(path, 2, report):
        labels.setdefault(doc_id, {}).setdefault(normalize_code(code), [])
    return labels


def _read_references(path: Path, labels: _Labels, report: SourceReport) -> None:
    """Adds the references of the diagnoses to `labels`."""
    for place, (doc_id, label, raw_code, words, offsets) in _read_rows(path, 5, report):
        code = normalize_code(raw_code)
        if label == _PROCEDURE:
            continue
        if label != _DIAGNOSIS:
            report.reject(place, 'unknown label')
        elif code not in labels.get(doc_id, {}):
            report.reject(doc_id, 'evidence for a code that the document does not have', f'{place}, {code}')
        elif (parts := _parse_offsets(offsets)) is None:
            report.reject(doc_id, 'malformed offsets', f'{place}, {code}')
        else:
            labels[doc_id][code].append(_Reference(parts, words, place))


def _read_rows(path: Path, columns: int, report: SourceReport) -> Iterator[tuple[str, list[str]]]:
    """Yields (file and line, fields) of the well-formed rows, each row once."""
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b'\n')
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; {_MEND}') from None
    seen = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f'{path.name} line {number}'
        try:
            fields = [field.strip() for field in line.decode().split('\t')]
        except UnicodeDecodeError:
            report.reject(place, 'row is not UTF-8')
            continue
        if len(fields) != columns or not all(fields):
            report.reject(place, f'row does not have {columns} columns')
        elif tuple(fields) in seen:
            report.reject(place, 'row occurs twice')
        else:
            seen.add(tuple(fields))
            yield place, fields


def _parse_offsets(offsets: str) -> tuple[tuple[int, int], ...] | None:
    """Returns the parts of 'begin end;begin end', None if malformed; empty parts (1320 1320) are left out."""
    parts = []
    for part in offsets.split(';'):
        match = _PART.fullmatch(part)
        if match is None or int(match[1]) > int(match[2]):
            return None
        if int(match[1]) < int(match[2]):
            parts.append((int(match[1]), int(match[2])))
    return tuple(parts) or None


def _read_text(file: Path, report: SourceReport) -> str | None:
    try:
        text = file.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError:
        report.reject(file.stem, 'text is not UTF-8')
        return None
    except OSError as error:
        raise UserError(f'cannot read {file}: {error.strerror}; {_MEND}') from None
    if not text.strip():
        report.reject(file.stem, 'text is empty')
        return None
    # The published files have LF ends, which the offsets count; a checkout that made them CRLF is undone.
    return text.replace('\r\n', '\n')


def _annotations(
    doc_id: str, text: str, references: dict[str, list[_Reference]], report: SourceReport
) -> tuple[Annotation, ...]:
    """Returns one annotation per code, in order of the first evidence, then of the D file."""
    annotations = []
    for code, code_references in references.items():
        evidence = [e for reference in code_references if (e := _evidence(doc_id, text, code, reference, report))]
        annotations.append(Annotation(code, evidence=tuple(sorted(evidence, key=_begin))))
    return tuple(sorted(annotations, key=lambda a: _begin(a.evidence[0]) if a.evidence else len(text)))


def _evidence(doc_id: str, text: str, code: str, reference: _Reference, report: SourceReport) -> Evidence | None:
    if any(end > len(text) for _, end in reference.parts):
        report.reject(doc_id, 'offsets outside the text', f'{reference.place}, {code}')
        return None
    words = slice_evidence(text, reference.parts)
    if words != reference.words:
        report.mismatches += 1
        if not same_words(words, reference.words):
            report.reject(doc_id, 'evidence text differs from the document', f'{reference.place}, {code}')
            return None
    return Evidence(reference.parts, words)


def _begin(evidence: Evidence) -> int:
    return min(begin for begin, _ in evidence.parts)
