"""CodiEsp v4: Spanish clinical cases with ICD-10 codes and the words that support them.

Miranda-Escalada et al., CLEF 2020; Zenodo record 3837305, CC BY 4.0. Layout:
`<split>/text_files/<id>.txt` (Spanish), `<split>/text_files_en/<id>.txt`
(machine-translated), `<split>/<split>D.tsv` (document, ICD-10-CM code of a
diagnosis), `<split>/<split>P.tsv` (document, ICD-10-PCS code of a procedure) and
`<split>/<split>X.tsv` (document, label, code, words, offsets into the Spanish
text). `background` has texts only.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ccl_jax.errors import UserError
from ccl_jax.icd.assertion import why_not_asserted
from ccl_jax.icd.codes import ICD10CM, ICD10PCS, is_well_formed, normalize_code
from ccl_jax.icd.folding import FoldedText
from ccl_jax.icd.matching import TermMatcher
from ccl_jax.records import Annotation, Document, Evidence, same_words, slice_evidence
from ccl_jax.sources.report import SourceReport
from ccl_jax.sources.texts import read_text_file

SPLITS = ('train', 'dev', 'background')
_TEXT_FOLDERS = {'es': 'text_files', 'en': 'text_files_en'}
_SYSTEMS_OF_LABELS = {'DIAGNOSTICO': ICD10CM, 'PROCEDIMIENTO': ICD10PCS}
_CODE_FILES = {ICD10CM: 'D', ICD10PCS: 'P'}
_PART = re.compile(r'\s*([0-9]{1,9})\s+([0-9]{1,9})\s*')
_MEND = 'unpack CodiEsp v4 (zenodo.org/records/3837305, CC BY 4.0) and give the folder that holds train/ and dev/'

# doc_id -> (system, code in normal form) -> references, in the order of the files.
_Labels = dict[str, dict[tuple[str, str], list['_Reference']]]


def read_codiesp(
    path: str | Path,
    split: str,
    language: str = 'es',
    *,
    procedures: bool = False,
    matcher: TermMatcher | None = None,
    report: SourceReport,
) -> Iterator[Document]:
    """Yields the documents of a split in order of their ids.

    Spanish documents carry the evidence of each code; the annotations are in
    order of their first evidence, those without any last. Evidence text that
    differs from the document by more than white space and punctuation is refused
    and its code kept. The offsets do not fit the English translation: there
    `matcher` looks for the terms of each diagnosis and of the codes above it, and
    what it finds is evidence with the origin 'silver: <origin of the term> of
    <its code>', unless its sentence denies it. Everything refused is in `report`.

    Args:
        path: the folder that holds `train/`, `dev/`, `background/`.
        split: one of `SPLITS`.
        language: 'es' or 'en'.
        procedures: whether the ICD-10-PCS codes are read, too.
        matcher: finds evidence in English documents; None leaves them without.
        report: counts what is kept, left out and refused.

    Raises:
        UserError: an unknown split or language, or a missing folder or file.
    """
    if split not in SPLITS:
        raise UserError(f'CodiEsp has no split {split!r}; take one of {", ".join(SPLITS)}')
    if language not in _TEXT_FOLDERS:
        raise UserError(f'CodiEsp has no language {language!r}; take one of {", ".join(_TEXT_FOLDERS)}')
    folder = Path(path, split)
    files = _text_files(folder / _TEXT_FOLDERS[language])
    systems = (ICD10CM, ICD10PCS) if procedures else (ICD10CM,)
    labels = _read_labels(folder, split, language, systems, report) if split != 'background' else {}
    for doc_id in sorted(labels.keys() - files.keys()):
        report.reject(doc_id, 'codes of a document without text', f'no {doc_id}.txt')
    for doc_id in sorted(files):
        text = read_text_file(files[doc_id], doc_id, report)
        if text is None:
            continue
        # The published files have LF ends, which the offsets count; a checkout that made them CRLF is undone.
        text = text.replace('\r\n', '\n')
        references = labels.get(doc_id, {})
        if language == 'en' and matcher is not None:
            annotations = _annotations_by_terms(text, references, matcher, report)
        else:
            annotations = _annotations(doc_id, text, references, report)
        document = Document(doc_id, text, annotations, doc_id, language, 'codiesp', split)
        report.add(document)
        yield document


class _Reference(NamedTuple):
    """The words of an X row; `place` is its file and line."""

    parts: tuple[tuple[int, int], ...]
    words: str
    place: str


def _text_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f'{folder} is not a folder; {_MEND}')
    # macOS archives hold `._<id>.txt` files, which are no texts.
    files = {file.stem: file for file in folder.glob('*.txt') if not file.name.startswith('.')}
    if not files:
        raise UserError(f'{folder} holds no .txt file; {_MEND}')
    return files


def _read_labels(folder: Path, split: str, language: str, systems: tuple[str, ...], report: SourceReport) -> _Labels:
    labels: _Labels = {}
    for system in systems:
        for place, (doc_id, raw_code) in _read_rows(folder / f'{split}{_CODE_FILES[system]}.tsv', 2, report):
            code = normalize_code(raw_code, system)
            codes = labels.setdefault(doc_id, {})
            if not is_well_formed(code, system):
                report.reject(doc_id, 'code has not the form of its system', f'{place}, {system}')
            elif (system, code) in codes:
                report.reject(doc_id, 'code occurs twice', f'{place}, {code}')
            else:
                codes[system, code] = []
    if language == 'es':
        _read_references(folder / f'{split}X.tsv', labels, systems, report)
    return labels


def _read_references(path: Path, labels: _Labels, systems: tuple[str, ...], report: SourceReport) -> None:
    """Adds the references of the codes of `systems` to `labels`."""
    for place, (doc_id, label, raw_code, words, offsets) in _read_rows(path, 5, report):
        system = _SYSTEMS_OF_LABELS.get(label)
        if system is None:
            report.reject(place, 'unknown label')
            continue
        if system not in systems:
            report.leave_out(f'evidence of {system} codes')
            continue
        code = normalize_code(raw_code, system)
        if (system, code) not in labels.get(doc_id, {}):
            report.reject(doc_id, 'evidence for a code that the document does not have', place)
        elif (parts := _parse_offsets(offsets)) is None:
            report.reject(doc_id, 'malformed offsets', f'{place}, {code}')
        else:
            labels[doc_id][system, code].append(_Reference(parts, words, place))


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
    """Returns the parts of 'begin end;begin end', None if malformed or all of them are empty."""
    parts = []
    for part in offsets.split(';'):
        match = _PART.fullmatch(part)
        if match is None or int(match[1]) > int(match[2]):
            return None
        parts.append((int(match[1]), int(match[2])))
    return tuple(parts) if any(begin < end for begin, end in parts) else None


def _annotations(
    doc_id: str, text: str, references: dict[tuple[str, str], list[_Reference]], report: SourceReport
) -> tuple[Annotation, ...]:
    """Returns one annotation per code with the published evidence."""
    annotations = []
    for (system, code), code_references in references.items():
        evidence = [e for reference in code_references if (e := _evidence(doc_id, text, code, reference, report))]
        annotations.append(Annotation(code, system, tuple(sorted(evidence, key=_begin))))
    return _in_order(annotations, text)


def _annotations_by_terms(
    text: str, codes: Iterable[tuple[str, str]], matcher: TermMatcher, report: SourceReport
) -> tuple[Annotation, ...]:
    """Returns one annotation per (system, code) with the terms that stand in the text as evidence."""
    folded = FoldedText(text)
    annotations = []
    for system, code in codes:
        evidence = []
        if system == ICD10CM:
            for match in sorted(matcher.find(folded, code)):
                why = why_not_asserted(text, match.begin, match.end)
                if why:
                    report.leave_out(f'term not asserted: {why}')
                    continue
                origin = f'silver: {match.term.origin} of {match.term_code}'
                evidence.append(Evidence(((match.begin, match.end),), text[match.begin : match.end], origin))
            report.silver_candidates += 1
            report.silver_pairs += bool(evidence)
        annotations.append(Annotation(code, system, tuple(evidence)))
    return _in_order(annotations, text)


def _in_order(annotations: list[Annotation], text: str) -> tuple[Annotation, ...]:
    """Sorts annotations by their first evidence; those without any come last, in the order they were in."""
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
    # A few references have an empty part (1320 1320): their published words show it as a second space.
    parts = tuple((begin, end) for begin, end in reference.parts if begin < end)
    return Evidence(parts, slice_evidence(text, parts))


def _begin(evidence: Evidence) -> int:
    return min(begin for begin, _ in evidence.parts)
