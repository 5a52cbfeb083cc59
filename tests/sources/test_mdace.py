"""MDACE: a chart made by hand, and the published annotations over fabricated notes where they are at hand."""

import csv
import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import CPT, ICD9CM, ICD9PCS, ICD10CM, ICD10PCS
from ccl_jax.records import Annotation, Evidence, slice_evidence
from ccl_jax.sources.mdace import read_mdace
from ccl_jax.sources.report import Rejection, SourceReport

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'mdace'
HEADER = ['ROW_ID', 'SUBJECT_ID', 'HADM_ID', 'CHARTDATE', 'CHARTTIME', 'STORETIME', 'CATEGORY', 'DESCRIPTION', 'CGID']
HEADER += ['ISERROR', 'TEXT']

# Offsets counted by hand: the quotes are one character here and two in the csv.
TEXT_11 = 'He said "chest\npain" and  cough.\r\nNo fever.'
TEXT_12 = 'Fever, cough; stent placed.'


def _note_row(row_id, hadm_id, text):
    return [str(row_id), '7', str(hadm_id), '2101-01-01', '', '', 'Physician ', 'Note', '', '', text]


def _write_noteevents(path, rows, *, gzipped=False):
    with gzip.open(path, 'wt', newline='') if gzipped else open(path, 'w', newline='') as out:
        writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(HEADER)
        writer.writerows(rows)
    return path


def _quote(begin, end, code, system=ICD10CM, **more):
    return {'begin': begin, 'end': end, 'code': code, 'code_system': system, 'description': '', 'type': 'Human'} | more


def _chart(hadm_id, **notes):
    return {
        'hadm_id': hadm_id,
        'comment': '',
        'notes': [
            {'note_id': int(note_id[1:]), 'category': 'Physician', 'description': 'Note', 'annotations': annotations}
            for note_id, annotations in notes.items()
        ],
    }


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / 'data' / 'Inpatient' / 'ICD-10' / '1.0'
    folder.mkdir(parents=True)
    charts = [
        _chart(
            100,
            n11=[_quote(26, 31, 'R05'), _quote(9, 19, 'r079'), _quote(37, 42, 'R50.9'), _quote(26, 31, 'E860', ICD9CM)],
            n12=[_quote(7, 12, 'R05'), _quote(14, 26, '02703DZ', ICD10PCS), _quote(0, 5, 'R50.9')],
        ),
        _chart(99, n13=[_quote(2, 4, 'I10'), _quote(0, 1, 'I10')]),
        _chart(101, n14=[_quote(0, 4, '99291', CPT)]),
        _chart(102, n15=[_quote(0, 4, 'I10')]),
    ]
    for chart in charts:
        (folder / f'{chart["hadm_id"]}-ICD-10.json').write_text(json.dumps(chart))
    splits = tmp_path / 'splits' / 'Inpatient'
    splits.mkdir(parents=True)
    for name, ids in {'train': '100\n', 'val': '99', 'test': '101\n\n'}.items():
        (splits / f'MDace-ev-{name}.csv').write_text(ids)
    rows = [(12, 100, TEXT_12), (2000, 5, 'Other "words".\n'), (14, 101, 'Text'), (13, 99, 'I 10'), (11, 100, TEXT_11)]
    _write_noteevents(tmp_path / 'NOTEEVENTS.csv', [_note_row(*row) for row in rows])
    return tmp_path


def _read(corpus, **settings):
    report = SourceReport('mdace')
    documents = list(read_mdace(corpus, corpus / 'NOTEEVENTS.csv', **settings, report=report))
    assert report.documents == len(documents)
    return documents, report


def test_notes_as_documents(corpus):
    documents, report = _read(corpus)
    assert [(d.doc_id, d.group_id, d.split, d.source, d.text) for d in documents] == [
        ('13', '99', 'dev', 'mdace', 'I 10'),
        ('11', '100', 'train', 'mdace', TEXT_11),
        ('12', '100', 'train', 'mdace', TEXT_12),
    ]
    assert documents[0].annotations == (
        Annotation('I10', evidence=(Evidence(((0, 1),), 'I'), Evidence(((2, 4),), '10'))),
    )
    assert documents[1].annotations == (
        Annotation('R07.9', evidence=(Evidence(((9, 19),), 'chest\npain'),)),
        Annotation('R05', evidence=(Evidence(((26, 31),), 'cough'),)),
        Annotation('R50.9', evidence=(Evidence(((37, 42),), 'fever'),)),
    )
    assert documents[2].annotations == (
        Annotation('R50.9', evidence=(Evidence(((0, 5),), 'Fever'),)),
        Annotation('R05', evidence=(Evidence(((7, 12),), 'cough'),)),
    )
    assert report.left_out == {
        'annotation in ICD-9-CM': 1,
        'annotation in ICD-10-PCS': 1,
        'annotation in CPT': 1,
        'note without a code of ICD-10-CM': 1,
        'chart in no split file': 1,
    }
    assert not report.rejections


def test_an_admission_joins_its_notes(corpus):
    documents, report = _read(corpus, grouping='admission', systems=(ICD10CM, ICD10PCS))
    chart = documents[1]
    assert (chart.doc_id, chart.group_id, chart.text) == ('100', '100', f'{TEXT_11}\n\n{TEXT_12}')
    assert [(a.code, a.system, [e.text for e in a.evidence]) for a in chart.annotations] == [
        ('R07.9', ICD10CM, ['chest\npain']),
        ('R05', ICD10CM, ['cough', 'cough']),
        ('R50.9', ICD10CM, ['fever', 'Fever']),
        ('02703DZ', ICD10PCS, ['stent placed']),
    ]
    for annotation in chart.annotations:
        for evidence in annotation.evidence:
            assert slice_evidence(chart.text, evidence.parts) == evidence.text
    assert [d.doc_id for d in documents] == ['99', '100']
    assert report.left_out['admission without a code of ICD-10-CM or ICD-10-PCS'] == 1


def test_everything_unusable_is_refused_with_its_place(corpus):
    folder = corpus / 'data' / 'Inpatient' / 'ICD-10' / '1.0'
    bad = _chart(
        100,
        n11=[
            _quote(26, 31, 'R05'),
            _quote(26, 31, 'R05'),
            _quote(26, len(TEXT_11) + 1, 'R06.2'),
            _quote(31, 26, 'R11.0'),
            _quote('26', 31, 'R12'),
            _quote(31, 31, 'R13.0'),
            _quote(26, 31, '401.9'),
            _quote(26, 31, 'R05', 'SNOMED'),
            _quote(26, 31, None),
            'private',
        ],
        n16=[_quote(0, 1, 'R05')],
        n17=[_quote(0, 1, 'R05')],
        n18=[_quote(0, 1, 'R05')],
        n12=[_quote(7, 12, 'R05')],
    )
    bad['notes'] += [{'note_id': 11, 'annotations': []}, {'note_id': 'private', 'annotations': []}]
    (folder / '100-ICD-10.json').write_text(json.dumps(bad))
    (folder / '103-ICD-10.json').write_text('{"hadm_id": 103, "notes": "private"}')
    (folder / '104-ICD-10.json').write_bytes(b'\xff private')
    (folder / '99000-ICD-10.json').write_text(json.dumps(_chart(99, n19=[])))
    (folder / '._99-ICD-10.json').write_bytes(b'\0\5\x16\7')
    splits = corpus / 'splits' / 'Inpatient'
    (splits / 'MDace-ev-train.csv').write_bytes(b'\xef\xbb\xbf100\r\nhadm_id\r\n')
    (splits / 'MDace-ev-test.csv').write_text('100\n')
    rows = [
        (11, 100, TEXT_11),
        (12, 100, 'private'),
        (12, 100, TEXT_12),
        (16, 101, TEXT_12),
        (17, 100, ' \n'),
        (13, 99, 'I 10'),
    ]
    _write_noteevents(corpus / 'NOTEEVENTS.csv', [_note_row(*row) for row in rows])
    documents, report = _read(corpus)
    # A code whose offsets are unusable is kept without them.
    assert [(a.code, len(a.evidence)) for a in documents[1].annotations] == [
        ('R05', 1),
        ('R06.2', 0),
        ('R11.0', 0),
        ('R12', 0),
        ('R13.0', 0),
    ]
    assert (documents[2].text, documents[2].annotations) == ('private', (Annotation('R05'),))
    assert sorted(report.rejections) == sorted(
        [
            Rejection('MDace-ev-train.csv line 2', 'line of a split file is not one hadm_id', ''),
            Rejection('100', 'chart occurs twice in the split files', 'MDace-ev-test.csv line 1'),
            Rejection('103-ICD-10.json', *_NO_CHART),
            Rejection('104-ICD-10.json', *_NO_CHART),
            Rejection('99000-ICD-10.json', 'chart occurs twice', ''),
            Rejection('11', 'malformed offsets', 'annotations[3], R11.0'),
            Rejection('11', 'malformed offsets', 'annotations[4], R12'),
            Rejection('11', 'malformed offsets', 'annotations[5], R13.0'),
            Rejection('11', 'code has not the form of its system', 'annotations[6], ICD-10-CM'),
            Rejection('11', 'annotation without a code or a known code_system', 'annotations[7]'),
            Rejection('11', 'annotation without a code or a known code_system', 'annotations[8]'),
            Rejection('11', 'annotation without a code or a known code_system', 'annotations[9]'),
            Rejection('11', 'note occurs twice', 'chart 100'),
            Rejection('100', 'malformed note', 'notes[6]'),
            Rejection('12', 'ROW_ID occurs twice in NOTEEVENTS', ''),
            Rejection('16', 'note of another admission in NOTEEVENTS', 'chart 100'),
            Rejection('17', 'text is empty', ''),
            Rejection('18', 'note is not in NOTEEVENTS', 'chart 100'),
            Rejection('11', 'evidence occurs twice', 'R05 at 26'),
            Rejection('11', 'offsets outside the text', 'R06.2'),
            Rejection('12', 'offsets outside the text', 'R05'),
        ]
    )
    assert 'private' not in str(report.rejections)


_NO_CHART = ('annotation file is not a chart', 'an object with a hadm_id and notes is expected')


def test_unusable_settings_and_folders(corpus):
    for settings in ({'setting': 'Outpatient'}, {'icd': 'ICD-11'}, {'split_files': 'all'}, {'grouping': 'chart'}):
        with pytest.raises(UserError, match=f'no {next(iter(settings))} '):
            _read(corpus, **settings)
    with pytest.raises(UserError, match="no systems 'SNOMED'"):
        _read(corpus, systems=('SNOMED',))
    with pytest.raises(UserError, match=r'MDace-ev-train\.csv'):
        _read(corpus, setting='Profee')
    with pytest.raises(UserError, match='cannot read the folder'):
        _read(corpus, icd='ICD-9')
    (corpus / 'data' / 'Inpatient' / 'ICD-9' / '1.0').mkdir(parents=True)
    with pytest.raises(UserError, match=r'holds no \.json'):
        _read(corpus, icd='ICD-9')
    with pytest.raises(UserError, match=r'cannot read .*none\.csv'):
        list(read_mdace(corpus, corpus / 'none.csv', report=SourceReport('mdace')))


def fabricate_noteevents(path, folder, other_rows, *, gzipped=False, seed=0):
    """Writes a NOTEEVENTS of `other_rows` notes of nobody and, among them, one for each note of the charts in a folder.

    Every note is as long as its offsets need, of made-up words with line ends and quotes; returns note_id -> text.
    """
    chance = random.Random(seed)
    words = ['patient', 'denies', '"pain"', 'cough,', 'fever.\n', 'no\r\n', 'x', 'señal', '[**2101**]', '""']

    def text(length):
        found = ''
        while len(found) < length:
            found += ' '.join(chance.choices(words, k=200)) + ' '
        return found

    spare = text(2000)
    charts = [json.loads(file.read_text()) for file in sorted(folder.glob('*.json'))]
    wanted = [(chart['hadm_id'], note) for chart in charts for note in chart['notes']]
    texts = {str(note['note_id']): text(max(a['end'] for a in note['annotations'])) for _, note in wanted}
    chance.shuffle(wanted)
    taken = {note['note_id'] for _, note in wanted}

    def rows():
        step = max(1, other_rows // len(wanted))
        left = iter(wanted)
        for i in range(other_rows):
            if i % step == 0 and (next_one := next(left, None)):
                yield _note_row(next_one[1]['note_id'], next_one[0], texts[str(next_one[1]['note_id'])])
            if (row_id := 3_000_000 + i) not in taken:
                yield _note_row(row_id, '', spare[i % 500 :])
        for hadm_id, note in left:
            yield _note_row(note['note_id'], hadm_id, texts[str(note['note_id'])])

    _write_noteevents(path, rows(), gzipped=gzipped)
    return texts


@pytest.mark.skipif(not DATA.is_dir(), reason='the published annotations are not here')
@pytest.mark.parametrize(
    ('setting', 'icd', 'charts', 'notes', 'evidences', 'per_system', 'twice', 'splits'),
    [
        ('Inpatient', 'ICD-10', 302, 604, 3936, {ICD10CM: 3662, ICD10PCS: 272, ICD9CM: 2}, 0, (181, 60, 61)),
        ('Inpatient', 'ICD-9', 302, 604, 3934, {ICD9CM: 3662, ICD9PCS: 272}, 0, (181, 60, 61)),
        ('Profee', 'ICD-10', 52, 588, 5563, {ICD10CM: 5217, CPT: 346}, 0, (31, 10, 11)),
        # One annotation of this folder is there twice.
        ('Profee', 'ICD-9', 52, 588, 5563, {ICD9CM: 5217, CPT: 346}, 1, (31, 10, 11)),
    ],
)
def test_the_published_annotations(tmp_path, setting, icd, charts, notes, evidences, per_system, twice, splits):
    folder = DATA / 'data' / setting / icd / '1.0'
    noteevents = tmp_path / 'NOTEEVENTS.csv'
    texts = fabricate_noteevents(noteevents, folder, 2000, gzipped=icd == 'ICD-9')
    systems = tuple(per_system)
    report = SourceReport('mdace')
    documents = list(read_mdace(DATA, noteevents, setting=setting, icd=icd, systems=systems, report=report))
    assert {d.doc_id: d.text for d in documents} == texts
    assert len(documents) == notes
    assert len({d.group_id for d in documents}) == charts
    assert report.evidences == evidences - twice
    assert report.rejected == ({'evidence occurs twice': 1} if twice else {})
    assert not report.left_out
    counted = Counter()
    for document in documents:
        for annotation in document.annotations:
            counted[annotation.system] += len(annotation.evidence)
            assert all(e.text == slice_evidence(document.text, e.parts) for e in annotation.evidence)
    counted[ICD9CM] += twice
    assert +counted == per_system
    groups = {split: {d.group_id for d in documents if d.split == split} for split in ('train', 'dev', 'test')}
    assert tuple(len(ids) for ids in groups.values()) == splits

    # The codes-and-evidence split lists thousands of charts that have no annotation, and the same for those that have.
    for options in ({'split_files': 'code-ev'}, {'grouping': 'admission'}):
        report = SourceReport('mdace')
        again = list(read_mdace(DATA, noteevents, setting=setting, icd=icd, systems=systems, report=report, **options))
        assert {d.group_id for d in again} == {d.group_id for d in documents}
        assert report.evidences == evidences - twice
    assert len(again) == charts


@pytest.mark.skipif(not DATA.is_dir(), reason='the published annotations are not here')
def test_notes_of_other_systems_alone_are_left_out(tmp_path):
    folder = DATA / 'data' / 'Inpatient' / 'ICD-10' / '1.0'
    texts = fabricate_noteevents(tmp_path / 'NOTEEVENTS.csv', folder, 10)
    with_diagnosis = {
        str(note['note_id'])
        for file in folder.iterdir()
        for note in json.loads(file.read_text())['notes']
        if ICD10CM in [annotation['code_system'] for annotation in note['annotations']]
    }
    report = SourceReport('mdace')
    documents = list(read_mdace(DATA, tmp_path / 'NOTEEVENTS.csv', report=report))
    assert {d.doc_id for d in documents} == with_diagnosis
    assert report.left_out == {
        'annotation in ICD-10-PCS': 272,
        'annotation in ICD-9-CM': 2,
        'note without a code of ICD-10-CM': len(texts) - len(with_diagnosis),
    }
