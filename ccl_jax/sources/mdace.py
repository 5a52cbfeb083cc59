"""MDACE: codes of MIMIC-III charts with the words that support them, as offsets into the notes.

Cheng et al., ACL 2023; github.com/3mcloud/MDACE, MIT. Layout:
`data/<Inpatient|Profee>/<ICD-10|ICD-9>/1.0/<hadm_id>-<ICD-10|ICD-9>.json`, one
file per chart, and `splits/<Inpatient|Profee>/MDace-<ev|code-ev>-<train|val|test>.csv`,
one hadm_id a line without a header. The texts are those of NOTEEVENTS.csv of
MIMIC-III, found by ROW_ID. The words themselves are not published, so that
offsets can only be held against the bounds of the note.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import ICD10CM, SYSTEMS, is_well_formed, normalize_code
from ccl_jax.records import Annotation, Document, Evidence
from ccl_jax.sources.report import SourceReport
from ccl_jax.sources.tables import read_table

SETTINGS = ('Inpatient', 'Profee')
ICD_VERSIONS = ('ICD-10', 'ICD-9')
SPLIT_FILES = ('ev', 'code-ev')
GROUPINGS = ('note', 'admission')
JOINT = '\n\n'
_VERSION = '1.0'
# The name of a split in the files -> here.
_SPLITS = {'train': 'train', 'val': 'dev', 'test': 'test'}
_HADM_ID = re.compile(r'[0-9]{1,15}')
_MEND = 'clone github.com/3mcloud/MDACE and give the folder that holds data/ and splits/'


def read_mdace(
    path: str | Path,
    noteevents: str | Path,
    *,
    setting: str = 'Inpatient',
    icd: str = 'ICD-10',
    systems: Sequence[str] = (ICD10CM,),
    split_files: str = 'ev',
    grouping: str = 'note',
    report: SourceReport,
) -> Iterator[Document]:
    """Yields the annotated notes of all splits (train, dev, test), in order of their charts.

    Each annotation of a file counts under its own `code_system`, whatever the
    folder. Annotations of other systems, charts that are in no split file, and
    notes or charts without a code of `systems` are left out and counted. A code
    whose offsets are unusable is kept without them. Memory holds the annotated
    notes alone, of a NOTEEVENTS of any length.

    Args:
        path: the folder that holds `data/` and `splits/`.
        noteevents: NOTEEVENTS.csv of MIMIC-III 1.4, gzipped or not.
        setting: one of `SETTINGS`: hospital stays or professional fees.
        icd: one of `ICD_VERSIONS`; the ICD-9 codes were mapped from ICD-10.
        systems: the code systems kept.
        split_files: one of `SPLIT_FILES`: the paper's evidence, or code and evidence, split.
        grouping: one of `GROUPINGS`. A 'note' is a document with the ROW_ID as
            doc_id; an 'admission' joins the annotated notes of a chart in the
            order of its file, with a blank line, and has the hadm_id. The
            group is the admission in both.
        report: counts what is kept, left out and refused.

    Raises:
        UserError: a setting has no such value, or a folder or file is missing or unusable.
    """
    for name, value, known in (
        ('setting', setting, SETTINGS),
        ('icd', icd, ICD_VERSIONS),
        ('split_files', split_files, SPLIT_FILES),
        ('grouping', grouping, GROUPINGS),
        *(('systems', system, SYSTEMS) for system in systems),
    ):
        if value not in known:
            raise UserError(f'MDACE has no {name} {value!r}; take one of {", ".join(known)}')
    splits = _read_splits(Path(path, 'splits', setting), split_files, report)
    charts = []
    for chart in _read_charts(Path(path, 'data', setting, icd, _VERSION), systems, report):
        if chart.hadm_id in splits:
            charts.append(chart)
        else:
            report.leave_out('chart in no split file')
    texts = _read_texts(noteevents, charts, report)
    for chart in charts:
        notes = [(note, texts[note.note_id]) for note in chart.notes if note.note_id in texts]
        for group in [notes] if grouping == 'admission' else [[one] for one in notes]:
            if not group:
                # Its notes were refused one by one.
                continue
            annotations = _annotations(group, report)
            if not annotations:
                report.leave_out(f'{grouping} without a code of {" or ".join(systems)}')
                continue
            document = Document(
                doc_id=chart.hadm_id if grouping == 'admission' else group[0][0].note_id,
                text=JOINT.join(text for _, text in group),
                annotations=annotations,
                group_id=chart.hadm_id,
                source='mdace',
                split=splits[chart.hadm_id],
            )
            report.add(document)
            yield document


@dataclasses.dataclass(frozen=True)
class _Quote:
    """An annotation; `begin` is -1 where its offsets are malformed."""

    code: str
    system: str
    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class _Note:
    note_id: str
    quotes: tuple[_Quote, ...]


@dataclasses.dataclass(frozen=True)
class _Chart:
    hadm_id: str
    notes: tuple[_Note, ...]


def _read_splits(folder: Path, split_files: str, report: SourceReport) -> dict[str, str]:
    """Returns hadm_id -> split."""
    splits: dict[str, str] = {}
    for name, split in _SPLITS.items():
        path = folder / f'MDace-{split_files}-{name}.csv'
        try:
            lines = path.read_text(encoding='utf-8-sig', errors='replace').splitlines()
        except OSError as error:
            raise UserError(f'cannot read {path}: {error.strerror}; {_MEND}') from None
        for number, line in enumerate(lines, start=1):
            hadm_id = line.strip()
            if not hadm_id:
                continue
            if not _HADM_ID.fullmatch(hadm_id):
                report.reject(f'{path.name} line {number}', 'line of a split file is not one hadm_id')
            elif hadm_id in splits:
                report.reject(hadm_id, 'chart occurs twice in the split files', f'{path.name} line {number}')
            else:
                splits[hadm_id] = split
    return splits


def _read_charts(folder: Path, systems: Sequence[str], report: SourceReport) -> Iterator[_Chart]:
    """Yields the well-formed charts in order of their numbers; a note belongs to the first chart that names it."""
    try:
        # macOS archives hold `._<name>.json` files, which are no charts.
        files = [file for file in folder.iterdir() if file.suffix == '.json' and not file.name.startswith('.')]
    except OSError as error:
        raise UserError(f'cannot read the folder {folder}: {error.strerror}; {_MEND}') from None
    if not files:
        raise UserError(f'{folder} holds no .json file; {_MEND}')
    hadm_ids: set[str] = set()
    note_ids: set[str] = set()
    for file in sorted(files, key=lambda file: (len(file.name), file.name)):
        try:
            record = json.loads(file.read_bytes())
        except OSError as error:
            raise UserError(f'cannot read {file}: {error.strerror}; {_MEND}') from None
        except (ValueError, RecursionError):
            record = None
        hadm_id, notes = _identifier(record, 'hadm_id'), _list(record, 'notes')
        if not hadm_id or not notes:
            report.reject(file.name, 'annotation file is not a chart', 'an object with a hadm_id and notes is expected')
        elif hadm_id in hadm_ids:
            report.reject(file.name, 'chart occurs twice')
        else:
            hadm_ids.add(hadm_id)
            yield _Chart(hadm_id, tuple(_read_notes(hadm_id, notes, systems, note_ids, report)))


def _read_notes(
    hadm_id: str, notes: list[Any], systems: Sequence[str], seen: set[str], report: SourceReport
) -> Iterator[_Note]:
    """Yields the well-formed notes whose ids are not in `seen`, and adds them."""
    for i, item in enumerate(notes):
        note_id, annotations = _identifier(item, 'note_id'), _list(item, 'annotations')
        if not note_id or annotations is None:
            report.reject(hadm_id, 'malformed note', f'notes[{i}]')
        elif note_id in seen:
            report.reject(note_id, 'note occurs twice', f'chart {hadm_id}')
        else:
            seen.add(note_id)
            quotes = (_quote(note_id, f'annotations[{j}]', a, systems, report) for j, a in enumerate(annotations))
            yield _Note(note_id, tuple(quote for quote in quotes if quote))


def _quote(note_id: str, place: str, item: Any, systems: Sequence[str], report: SourceReport) -> _Quote | None:
    code, system = (item.get('code'), item.get('code_system')) if isinstance(item, dict) else (None, None)
    if not isinstance(code, str) or not isinstance(system, str) or system not in SYSTEMS:
        report.reject(note_id, 'annotation without a code or a known code_system', place)
        return None
    if system not in systems:
        report.leave_out(f'annotation in {system}')
        return None
    code = normalize_code(code, system)
    if not is_well_formed(code, system):
        report.reject(note_id, 'code has not the form of its system', f'{place}, {system}')
        return None
    begin, end = item.get('begin'), item.get('end')
    if type(begin) is not int or type(end) is not int or not 0 <= begin < end:
        report.reject(note_id, 'malformed offsets', f'{place}, {code}')
        begin = end = -1
    return _Quote(code, system, begin, end)


def _read_texts(noteevents: str | Path, charts: list[_Chart], report: SourceReport) -> dict[str, str]:
    """Returns note_id -> text of the charts' notes; the others of NOTEEVENTS pass by."""
    hadm_ids = {note.note_id: chart.hadm_id for chart in charts for note in chart.notes}
    texts: dict[str, str] = {}
    refused = set()
    for _, row in read_table(noteevents, ('row_id', 'hadm_id', 'text'), report=report):
        note_id = row['row_id'].strip()
        if note_id not in hadm_ids:
            continue
        if note_id in texts:
            report.reject(note_id, 'ROW_ID occurs twice in NOTEEVENTS')
        # Offsets into another edition of MIMIC-III, whose rows are numbered anew, would be noticed nowhere else.
        elif row['hadm_id'].strip() not in ('', hadm_ids[note_id]):
            report.reject(note_id, 'note of another admission in NOTEEVENTS', f'chart {hadm_ids[note_id]}')
            refused.add(note_id)
        elif not row['text'].strip():
            report.reject(note_id, 'text is empty')
            refused.add(note_id)
        else:
            texts[note_id] = row['text']
    for note_id, hadm_id in hadm_ids.items():
        if note_id not in texts and note_id not in refused:
            report.reject(note_id, 'note is not in NOTEEVENTS', f'chart {hadm_id}')
    return texts


def _annotations(notes: Sequence[tuple[_Note, str]], report: SourceReport) -> tuple[Annotation, ...]:
    """Returns one annotation per code, in order of the first evidence; offsets count in the joined texts."""
    merged: dict[tuple[str, str], dict[Evidence, None]] = {}
    shift = 0
    for note, text in notes:
        for quote in note.quotes:
            found = merged.setdefault((quote.system, quote.code), {})
            if quote.begin < 0:
                continue
            words = Evidence(((quote.begin + shift, quote.end + shift),), text[quote.begin : quote.end])
            if quote.end > len(text):
                report.reject(note.note_id, 'offsets outside the text', quote.code)
            elif words in found:
                report.reject(note.note_id, 'evidence occurs twice', f'{quote.code} at {quote.begin}')
            else:
                found[words] = None
        shift += len(text) + len(JOINT)
    annotations = [
        Annotation(code, system, tuple(sorted(found, key=lambda words: words.parts)))
        for (system, code), found in merged.items()
    ]
    return tuple(sorted(annotations, key=lambda a: a.evidence[0].parts[0] if a.evidence else (shift, 0)))


def _identifier(item: Any, key: str) -> str:
    """Returns a whole number as a string; '' if it is none."""
    value = item.get(key) if isinstance(item, Mapping) else None
    return str(value) if type(value) is int and 0 <= value < 10**15 else ''


def _list(item: Any, key: str) -> list[Any] | None:
    value = item.get(key) if isinstance(item, Mapping) else None
    return value if isinstance(value, list) else None
