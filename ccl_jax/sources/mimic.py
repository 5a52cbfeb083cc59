"""MIMIC-III and MIMIC-IV: discharge summaries and the codes of their admissions.

Johnson et al., PhysioNet, credentialed. Tables, plain or gzipped:

- MIMIC-IV: `hosp/diagnoses_icd`, `hosp/procedures_icd` and, of MIMIC-IV-Note,
  `note/discharge`.
- MIMIC-III: `NOTEEVENTS`, `DIAGNOSES_ICD`, `PROCEDURES_ICD`. The procedure codes
  of the published file have lost their leading zeros (66 is 00.66), which
  nothing in the file can put back.

The notes are read twice: once for their ids alone, on which splits, duplicates
and joined admissions depend, and once for the texts, which pass through one by
one. Memory holds ids and codes.
"""

import dataclasses
import functools
import logging
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import ICD9CM, ICD9PCS, ICD10CM, ICD10PCS, is_well_formed, normalize_code
from ccl_jax.records import Annotation, Document
from ccl_jax.sources.report import SourceReport
from ccl_jax.sources.split_file import read_split_file
from ccl_jax.sources.splits import stratify
from ccl_jax.sources.tables import find_table, read_table

GROUPINGS = ('admission', 'note')
SPLITS = ('train', 'dev', 'test')
JOINT = '\n\n'
# Tables that went through pandas have ids like 100001.0.
_NUMBER = re.compile(r'\s*([0-9]{1,15})(?:\.0*)?\s*')
_NOTE_ID = re.compile(r'[0-9A-Za-z_-]{1,64}')
# A code of an admission in 64 bits, so that millions fit: its table, its seq_num, and the number of its annotation.
_TABLE_SHIFT, _ORDER_SHIFT = 24, 32
_LARGEST_ORDER, _NUMBER_MASK = (1 << _TABLE_SHIFT) - 1, (1 << _ORDER_SHIFT) - 1
_log = logging.getLogger(__name__)


def read_mimic4(
    path: str | Path,
    *,
    split_file: str | Path = '',
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    grouping: str = 'admission',
    systems: Sequence[str] = (ICD10CM,),
    report: SourceReport,
) -> Iterator[Document]:
    """Yields the discharge summaries of MIMIC-IV with the codes of their admissions, in order of the file.

    Codes come in the order of the tables, diagnoses before procedures, by
    seq_num. Refused and counted: rows without a usable id, repeated ids, empty
    texts, notes without an admission, admissions without codes, codes that have
    not the form of their system. Left out and counted: what `systems` or the
    split file do not name.

    Args:
        path: the folder that holds `hosp/` and `note/`, or the tables themselves.
        split_file: a feather file, see `read_split_file`; '' splits the
            patients here, by `stratify` over their codes.
        ratios: shares of train, dev and test, without a split file.
        seed: of that split.
        grouping: one of `GROUPINGS`. An 'admission' is a document of all its
            notes by charttime, joined with a blank line, its doc_id the
            hadm_id; a 'note' has its note_id and the codes of the whole
            admission. The group is the patient in both.
        systems: the code systems kept, of ICD-10-CM, ICD-10-PCS, ICD-9-CM, ICD-9-PCS.
        report: counts what is kept, left out and refused.

    Raises:
        UserError: a setting has no such value, or a table or the split file is
            missing or unusable.
    """
    options = _Options(split_file, tuple(ratios), seed, grouping, tuple(systems))
    return _read(path, _MIMIC4, options, report)


def read_mimic3(
    path: str | Path,
    *,
    split_file: str | Path = '',
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    grouping: str = 'admission',
    systems: Sequence[str] = (ICD9CM,),
    categories: Sequence[str] = ('Discharge summary',),
    report: SourceReport,
) -> Iterator[Document]:
    """Yields the notes of MIMIC-III with the codes of their admissions; all as `read_mimic4`, except:

    Args:
        path: the folder that holds the tables.
        grouping: the notes of an 'admission' are joined by CHARTDATE, then
            ROW_ID; the doc_id of a 'note' is its ROW_ID.
        systems: of ICD-9-CM, ICD-9-PCS.
        categories: the categories of notes kept. Notes marked as an error
            (ISERROR = 1) are left out and counted.
    """
    options = _Options(split_file, tuple(ratios), seed, grouping, tuple(systems), tuple(categories))
    return _read(path, _MIMIC3, options, report)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where a release has what; column names in lower case, they match in any.

    Attributes:
        order: columns that order the notes of an admission: a time in ISO format, and a number.
        codes: table -> icd_version -> system; without `version` column all rows are of the only one.
    """

    source: str
    note_folder: str
    note_table: str
    note_id: str
    order: tuple[str, str]
    code_folder: str
    code: str
    version: str
    codes: Mapping[str, Mapping[str, str]]


_MIMIC4 = _Layout(
    source='mimic_iv',
    note_folder='note',
    note_table='discharge',
    note_id='note_id',
    order=('charttime', 'note_seq'),
    code_folder='hosp',
    code='icd_code',
    version='icd_version',
    codes={'diagnoses_icd': {'10': ICD10CM, '9': ICD9CM}, 'procedures_icd': {'10': ICD10PCS, '9': ICD9PCS}},
)
_MIMIC3 = _Layout(
    source='mimic_iii',
    note_folder='',
    note_table='noteevents',
    note_id='row_id',
    order=('chartdate', 'row_id'),
    code_folder='',
    code='icd9_code',
    version='',
    codes={'diagnoses_icd': {'9': ICD9CM}, 'procedures_icd': {'9': ICD9PCS}},
)


@dataclasses.dataclass(frozen=True)
class _Options:
    """The arguments of the readers; no `categories` keeps notes of every category."""

    split_file: str | Path
    ratios: tuple[float, ...]
    seed: int
    grouping: str
    systems: tuple[str, ...]
    categories: tuple[str, ...] = ()


class _Note(NamedTuple):
    """A note's place in its admission (time, then number, then row of the table) and its id."""

    time: str
    number: int
    row: int
    note_id: str


@dataclasses.dataclass(slots=True)
class _Admission:
    subject_id: str
    notes: list[_Note]


class _Codes(NamedTuple):
    """hadm_id -> numbers of its annotations, in order, each once."""

    of_admission: dict[str, array]
    annotations: list[Annotation]


def _read(path: str | Path, layout: _Layout, options: _Options, report: SourceReport) -> Iterator[Document]:
    if options.grouping not in GROUPINGS:
        raise UserError(f'grouping is {options.grouping!r}; take one of {", ".join(GROUPINGS)}')
    known = [system for versions in layout.codes.values() for system in versions.values()]
    if not options.systems or (unknown := [system for system in options.systems if system not in known]):
        named = f'no codes of {", ".join(unknown)}' if options.systems else 'no system to read'
        raise UserError(f'{layout.source} has {named}; set systems to some of {", ".join(known)}')
    # Everything that can be missing is looked for before the long reading begins.
    note_table = find_table(_folder(path, layout.note_folder), layout.note_table)
    code_tables = {
        find_table(_folder(path, layout.code_folder), name): versions
        for name, versions in layout.codes.items()
        if set(versions.values()) & set(options.systems)
    }
    split_file = read_split_file(options.split_file) if options.split_file else None

    admissions = _read_ids(note_table, layout, options.categories, report)
    codes = _read_codes(code_tables, layout, options.systems, admissions, report)
    for hadm_id in list(admissions):
        if hadm_id not in codes.of_admission:
            report.reject(hadm_id, 'admission without codes')
        elif not codes.of_admission[hadm_id]:
            report.leave_out(f'admission without a code of {" or ".join(options.systems)}')
        else:
            continue
        del admissions[hadm_id]
    if split_file is not None:
        splits = _given_splits(options.split_file, split_file, admissions, report)
    else:
        splits = _own_splits(options, admissions, codes)
    for doc_id, hadm_id, text in _read_texts(note_table, layout, options.grouping, admissions, splits):
        document = Document(
            doc_id=doc_id,
            text=text,
            annotations=tuple(codes.annotations[number] for number in codes.of_admission[hadm_id]),
            group_id=admissions[hadm_id].subject_id,
            source=layout.source,
            split=splits[hadm_id],
        )
        report.add(document)
        yield document


def _folder(path: str | Path, name: str) -> Path:
    folder = Path(path, name)
    return folder if folder.is_dir() else Path(path)


def _read_ids(table: Path, layout: _Layout, categories: Sequence[str], report: SourceReport) -> dict[str, _Admission]:
    """Returns hadm_id -> patient and usable notes."""
    admissions: dict[str, _Admission] = {}
    seen: set[str] = set()
    columns = [layout.note_id, 'subject_id', 'hadm_id', 'text', *layout.order, *(['category'] if categories else [])]
    for row, fields in read_table(table, columns, optional=('iserror',), report=report):
        place = f'{table.name} row {row}'
        note_id = fields[layout.note_id].strip()
        subject_id, hadm_id = _number(fields['subject_id']), _number(fields['hadm_id'])
        if categories and fields['category'].strip() not in categories:
            report.leave_out('note of another category')
        elif _number(fields.get('iserror', '')) == '1':
            report.leave_out('note marked as an error')
        elif not _NOTE_ID.fullmatch(note_id):
            report.reject(place, f'{layout.note_id} is missing or malformed')
        elif note_id in seen:
            report.reject(note_id, f'{layout.note_id} occurs twice', place)
        elif not subject_id:
            report.reject(note_id, 'subject_id is missing or malformed', place)
        elif not hadm_id:
            report.reject(note_id, 'hadm_id is missing or malformed', place)
        elif not fields['text'].strip():
            report.reject(note_id, 'text is empty', place)
        elif (admission := admissions.setdefault(hadm_id, _Admission(subject_id, []))).subject_id != subject_id:
            report.reject(note_id, 'admission belongs to another patient', place)
        else:
            time, number = (fields[name].strip() for name in layout.order)
            # A note without a usable time or number keeps its place in the table.
            admission.notes.append(_Note(time, int(_number(number) or 0), row, note_id))
        seen.add(note_id)
    for admission in admissions.values():
        admission.notes.sort()
    return admissions


def _read_codes(
    tables: Mapping[Path, Mapping[str, str]],
    layout: _Layout,
    systems: Sequence[str],
    admissions: Mapping[str, _Admission],
    report: SourceReport,
) -> _Codes:
    annotations: dict[Annotation, int] = {}
    packed: dict[str, array] = {}
    left_out: Counter[str] = Counter()
    for k, (table, versions) in enumerate(tables.items()):
        for place, hadm_id, order, system, code in _code_rows(table, layout, versions, report):
            if hadm_id not in admissions:
                left_out['code of an admission without a usable note'] += 1
                continue
            of_admission = packed.setdefault(hadm_id, array('Q'))
            if system not in systems:
                left_out[f'code in {system}'] += 1
            elif not is_well_formed(code, system):
                report.reject(place, 'code has not the form of its system', f'admission {hadm_id}, {system}')
            else:
                number = annotations.setdefault(Annotation(code, system), len(annotations))
                of_admission.append(((k << _TABLE_SHIFT) + order) << _ORDER_SHIFT | number)
    for hadm_id, of_admission in packed.items():
        numbers = array('I', dict.fromkeys(code & _NUMBER_MASK for code in sorted(of_admission)))
        left_out['code listed again for its admission'] += len(of_admission) - len(numbers)
        packed[hadm_id] = numbers
    for reason, count in left_out.items():
        if count:
            report.leave_out(reason, count)
    return _Codes(packed, list(annotations))


def _code_rows(
    table: Path, layout: _Layout, versions: Mapping[str, str], report: SourceReport
) -> Iterator[tuple[str, str, int, str, str]]:
    """Yields (place, hadm_id, seq_num, system, code in normal form) of the usable rows."""
    columns = ['hadm_id', 'seq_num', layout.code, *([layout.version] if layout.version else [])]
    # The same few thousand codes recur millions of times.
    normalize = functools.lru_cache(maxsize=1 << 16)(normalize_code)
    for row, fields in read_table(table, columns, report=report):
        place = f'{table.name} row {row}'
        hadm_id, order = _number(fields['hadm_id']), _number(fields['seq_num'])
        system = versions.get(_number(fields[layout.version]) if layout.version else '9')
        if not hadm_id:
            report.reject(place, 'hadm_id is missing or malformed')
        elif system is None:
            report.reject(place, f'{layout.version} is neither 9 nor 10', f'admission {hadm_id}')
        elif not (code := normalize(fields[layout.code], system)):
            report.reject(place, 'code is empty', f'admission {hadm_id}')
        elif not order:
            report.reject(place, 'seq_num is missing or malformed', f'admission {hadm_id}')
        else:
            yield place, hadm_id, min(int(order), _LARGEST_ORDER), system, code


def _given_splits(
    path: str | Path, split_file: Mapping[str, str], admissions: Mapping[str, _Admission], report: SourceReport
) -> dict[str, str]:
    """Returns hadm_id -> split of the admissions that the split file names, by hadm_id or by note_id."""
    splits: dict[str, str] = {}
    of_subject: dict[str, set[str]] = {}
    for hadm_id, admission in admissions.items():
        # The numbers of MIMIC-III's notes are also numbers of its admissions; its split files name admissions.
        ids = [hadm_id, *(note.note_id for note in admission.notes if not note.note_id.isdigit())]
        found = {split_file[name] for name in ids if name in split_file}
        if not found:
            report.leave_out('admission in no split of the split file')
        elif len(found) > 1:
            report.reject(hadm_id, 'admission is in several splits of the split file')
        else:
            splits[hadm_id] = found.pop()
            of_subject.setdefault(admission.subject_id, set()).add(splits[hadm_id])
    torn = sum(len(found) > 1 for found in of_subject.values())
    if torn:
        _log.warning('%s puts %d of %d patients into more than one split', path, torn, len(of_subject))
    return splits


def _own_splits(options: _Options, admissions: Mapping[str, _Admission], codes: _Codes) -> dict[str, str]:
    """Returns hadm_id -> split; a patient is in one split."""
    labels: dict[str, array] = {}
    for hadm_id, admission in admissions.items():
        labels.setdefault(admission.subject_id, array('I')).extend(codes.of_admission[hadm_id])
    splits = stratify(labels, dict(zip(SPLITS, options.ratios, strict=True)), options.seed)
    return {hadm_id: splits[admission.subject_id] for hadm_id, admission in admissions.items()}


def _read_texts(
    table: Path, layout: _Layout, grouping: str, admissions: Mapping[str, _Admission], splits: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    """Yields (doc_id, hadm_id, text) of the admissions that have a split, once their last note has passed."""
    wanted = {note.row: (hadm_id, note.note_id) for hadm_id in splits for note in admissions[hadm_id].notes}
    waiting: dict[str, dict[int, str]] = {}
    # Bad rows were counted by the first reading.
    for row, fields in read_table(table, ('text',), report=SourceReport(layout.source)):
        if row not in wanted:
            continue
        hadm_id, note_id = wanted[row]
        if grouping == 'note':
            yield note_id, hadm_id, fields['text']
            continue
        texts = waiting.setdefault(hadm_id, {})
        texts[row] = fields['text']
        notes = admissions[hadm_id].notes
        if len(texts) == len(notes):
            yield hadm_id, hadm_id, JOINT.join(texts[note.row] for note in notes)
            del waiting[hadm_id]


def _number(field: str) -> str:
    """Returns a whole number without white space or a fraction of zeros; '' if it is none."""
    match = _NUMBER.fullmatch(field)
    return match[1] if match else ''
