"""MIMIC-III and MIMIC-IV: tables of the same shape made by hand, and a large MIMIC-IV of made-up words."""

import csv
import gzip
import logging
import random
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.feather
import pytest

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import CPT, ICD9CM, ICD9PCS, ICD10CM, ICD10PCS
from ccl_jax.sources.mimic import read_mimic3, read_mimic4
from ccl_jax.sources.report import Rejection, SourceReport
from ccl_jax.sources.split_file import read_split_file

NOTES4 = ['note_id', 'subject_id', 'hadm_id', 'note_type', 'note_seq', 'charttime', 'storetime', 'text']
DIAGNOSES4 = ['subject_id', 'hadm_id', 'seq_num', 'icd_code', 'icd_version']
PROCEDURES4 = ['subject_id', 'hadm_id', 'seq_num', 'chartdate', 'icd_code', 'icd_version']
NOTES3 = ['ROW_ID', 'SUBJECT_ID', 'HADM_ID', 'CHARTDATE', 'CHARTTIME', 'STORETIME', 'CATEGORY', 'DESCRIPTION', 'CGID']
NOTES3 += ['ISERROR', 'TEXT']
CODES3 = ['ROW_ID', 'SUBJECT_ID', 'HADM_ID', 'SEQ_NUM', 'ICD9_CODE']
TEXT = 'Name: ___\n\nHe said ""no"",\r\n  pain.\n'


def _write(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, 'wt', newline='') if path.suffix == '.gz' else open(path, 'w', newline='') as out:
        csv.writer(out).writerows([header, *rows])


def _note4(note_id, subject_id, hadm_id, text, *, time='2180-05-07 00:00:00', seq='21'):
    return [note_id, subject_id, hadm_id, 'DS', seq, time, '', text]


@pytest.fixture
def mimic4(tmp_path):
    """Four patients; patient 1 has two admissions, the second of them two notes that are not in order."""
    _write(
        tmp_path / 'note' / 'discharge.csv.gz',
        NOTES4,
        [
            _note4('1-DS-3', 1, 12, 'Later note.', time='2181-02-02 00:00:00'),
            _note4('1-DS-1', 1, 11, TEXT),
            _note4('2-DS-1', 2, 21, 'Text of 21.'),
            _note4('1-DS-2', 1, 12, ' First note.\n', time='2181-02-01 09:00:00'),
            _note4('3-DS-1', 3, 31, 'Text of 31.'),
            _note4('4-DS-1', 4, 41, 'Text of 41.'),
        ],
    )
    _write(
        tmp_path / 'hosp' / 'diagnoses_icd.csv.gz',
        DIAGNOSES4,
        [
            (1, 11, 2, 'U071', 10),
            (1, 11, 1, ' i10 ', 10),
            (1, 11, 10, 'E119   ', 10),
            (1, 11, 3, 'I10', 10),
            (1, 12, 1, 'T8144XA', 10),
            (2, 21, 1, '0389', 9),
            (2, 21, 2, 'E8798', 9),
            (3, 31, 1, 'C7A00', 10),
            (9, 99, 1, 'I10', 10),
        ],
    )
    _write(
        tmp_path / 'hosp' / 'procedures_icd.csv',
        PROCEDURES4,
        [(1, 11, 1, '2180-05-06', '02703DZ', 10), (2, 21, 1, '2180-05-06', '0066', 9), (4, 41, 1, '', '3E033T1', 10)],
    )
    return tmp_path


def _read(reader, path, **settings):
    report = SourceReport('mimic')
    documents = list(reader(path, **settings, report=report))
    assert report.documents == len(documents)
    return documents, report


def _codes(document):
    return [(a.code, a.system) for a in document.annotations]


def test_admissions_of_mimic4(mimic4):
    documents, report = _read(read_mimic4, mimic4)
    # In order of the file; a joined admission comes when its last note has passed.
    assert [(d.doc_id, d.group_id, d.text, d.source, d.language) for d in documents] == [
        ('11', '1', TEXT, 'mimic_iv', 'en'),
        ('12', '1', ' First note.\n\n\nLater note.', 'mimic_iv', 'en'),
        ('31', '3', 'Text of 31.', 'mimic_iv', 'en'),
    ]
    assert [_codes(d) for d in documents] == [
        [('I10', ICD10CM), ('U07.1', ICD10CM), ('E11.9', ICD10CM)],
        [('T81.44XA', ICD10CM)],
        [('C7A.00', ICD10CM)],
    ]
    # The procedures are not looked at, so that admission 41 has no code that would be of another system.
    assert report.rejections == [Rejection('41', 'admission without codes', '')]
    assert report.left_out == {
        'admission without a code of ICD-10-CM': 1,
        'code in ICD-9-CM': 2,
        'code listed again for its admission': 1,
        'code of an admission without a usable note': 1,
    }
    (mimic4 / 'hosp' / 'procedures_icd.csv').unlink()
    assert _read(read_mimic4, mimic4)[0] == documents


def test_all_systems_of_mimic4_by_note(mimic4):
    systems = (ICD9CM, ICD10PCS, ICD10CM, ICD9PCS)
    documents, report = _read(read_mimic4, mimic4, grouping='note', systems=systems)
    assert [(d.doc_id, d.group_id) for d in documents] == [
        ('1-DS-3', '1'),
        ('1-DS-1', '1'),
        ('2-DS-1', '2'),
        ('1-DS-2', '1'),
        ('3-DS-1', '3'),
        ('4-DS-1', '4'),
    ]
    codes = {d.doc_id: _codes(d) for d in documents}
    assert codes['1-DS-2'] == codes['1-DS-3'] == [('T81.44XA', ICD10CM)]
    assert codes['1-DS-1'][-1] == ('02703DZ', ICD10PCS)
    assert codes['2-DS-1'] == [('038.9', ICD9CM), ('E879.8', ICD9CM), ('00.66', ICD9PCS)]
    assert codes['4-DS-1'] == [('3E033T1', ICD10PCS)]
    assert not report.rejections
    # The tables may lie side by side, and have any case of name and header.
    for file in [*mimic4.glob('hosp/*'), *mimic4.glob('note/*')]:
        content = gzip.decompress(file.read_bytes()) if file.suffix == '.gz' else file.read_bytes()
        header, rest = content.split(b'\r\n', 1)
        mark = b'\xef\xbb\xbf' + header.upper() + b'\r\n'
        (mimic4 / file.name.upper().removesuffix('.GZ')).write_bytes(mark + rest)
        file.unlink()
    for folder in ('hosp', 'note'):
        (mimic4 / folder).rmdir()
    assert _read(read_mimic4, mimic4, grouping='note', systems=systems)[0] == documents


def test_the_own_split_keeps_patients_together(tmp_path):
    fabricate_mimic4(tmp_path, notes=3000, words=3)
    documents, _ = _read(read_mimic4, tmp_path, grouping='note', seed=1)
    again, _ = _read(read_mimic4, tmp_path, grouping='note', seed=1)
    other, _ = _read(read_mimic4, tmp_path, grouping='note', seed=2, ratios=(1, 1, 0))
    assert again == documents
    splits = {d.group_id: d.split for d in documents}
    assert all(splits[d.group_id] == d.split for d in documents)
    assert {d.split for d in other} == {'train', 'dev'}
    shares = [list(splits.values()).count(split) / len(splits) for split in ('train', 'dev', 'test')]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.04)


def _write_split_file(path, ids, splits, id_type):
    table = pyarrow.table({'_id': pyarrow.array(ids, id_type), 'split': pyarrow.array(splits, pyarrow.string())})
    pyarrow.feather.write_feather(table, path)
    return path


@pytest.mark.parametrize(
    ('ids', 'id_type'),
    [
        ([12, 31, 99], pyarrow.int64()),
        ([12.0, 31.0, None, 99.0], pyarrow.float64()),
        (['12', '31', '99'], pyarrow.string()),
        (['1-DS-2', '3-DS-1', '9-DS-1'], pyarrow.string()),
    ],
)
def test_a_split_file(mimic4, ids, id_type):
    splits = {3: ['val', 'test', 'train'], 4: ['val', 'test', None, 'train']}[len(ids)]
    path = _write_split_file(mimic4 / 'split.feather', ids, splits, id_type)
    documents, report = _read(read_mimic4, mimic4, split_file=path)
    assert {d.doc_id: d.split for d in documents} == {'12': 'dev', '31': 'test'}
    assert report.left_out['admission in no split of the split file'] == 1


def test_a_split_file_that_tears_an_admission_or_a_patient(mimic4, caplog):
    ids, splits = ['1-DS-1', '1-DS-2', '1-DS-3'], ['train', 'test', 'train']
    path = _write_split_file(mimic4 / 'split.feather', ids, splits, pyarrow.string())
    documents, report = _read(read_mimic4, mimic4, split_file=path)
    assert [d.doc_id for d in documents] == ['11']
    assert report.rejections[-1] == Rejection('12', 'admission is in several splits of the split file', '')
    assert not caplog.records
    _write_split_file(path, [11, 12], ['train', 'test'], pyarrow.int64())
    with caplog.at_level(logging.WARNING):
        documents, _ = _read(read_mimic4, mimic4, split_file=path)
    assert [d.split for d in documents] == ['train', 'test']
    assert 'puts 1 of 1 patients into more than one split' in caplog.text


def test_unusable_split_files(tmp_path):
    path = tmp_path / 'split.feather'
    with pytest.raises(UserError, match='no such file'):
        read_split_file(path)
    path.write_bytes(b'not feather')
    with pytest.raises(UserError, match='not a usable split file'):
        read_split_file(path)
    pyarrow.feather.write_feather(pyarrow.table({'_id': [1], 'fold': ['train']}), path)
    with pytest.raises(UserError, match='not a usable split file'):
        read_split_file(path)
    for ids, splits, message in (
        ([1, 2], ['train', 'tune'], 'row 2 has an unusable split'),
        ([1.5], ['train'], 'row 1 has an unusable _id'),
        ([None], ['train'], 'row 1 has an unusable _id'),
        ([1, 2, 1], ['train', 'train', 'test'], 'row 3 puts an _id into a second split'),
    ):
        _write_split_file(path, ids, splits, pyarrow.float64())
        with pytest.raises(UserError, match=message):
            read_split_file(path)
    pyarrow.feather.write_feather(pyarrow.table({'_id': [1], 'split': [['train']]}), path)
    with pytest.raises(UserError, match='unusable split'):
        read_split_file(path)


def test_everything_unusable_of_mimic4_is_refused(mimic4):
    notes = [
        _note4('1-DS-1', 1, 11, 'Text of 11.'),
        _note4('1-DS-1', 1, 11, 'private'),
        _note4('1-DS-2', 2, 11, 'private'),
        _note4('1-DS-4', 1, '', 'private'),
        _note4('1-DS-5', 'private', 11, 'private'),
        _note4('1-DS-6', 1, 11, ' \n'),
        _note4('private words', 1, 11, 'private'),
        _note4('1-DS-7', 1, 11, 'Second.', time='2180-05-08', seq=''),
        _note4('2-DS-1', 2, 21, 'Text of 21.'),
        [1, 2],
    ]
    _write(mimic4 / 'note' / 'discharge.csv.gz', NOTES4, notes)
    diagnoses = [
        (1, 11, 1, 'I10', 10),
        (1, '', 2, 'I10', 10),
        (1, 11, '', 'I11', 10),
        (1, 11, 4, '', 10),
        (1, 11, 5, 'E11', 11),
        (1, 11, 6, '4019', 10),
        (1, '11.0', '7.0', 'I50.9', 10),
        (2, 21, 1, 'private', 10),
    ]
    _write(mimic4 / 'hosp' / 'diagnoses_icd.csv.gz', DIAGNOSES4, diagnoses)
    documents, report = _read(read_mimic4, mimic4)
    assert [(d.doc_id, d.text, _codes(d)) for d in documents] == [
        ('11', 'Text of 11.\n\nSecond.', [('I10', ICD10CM), ('I50.9', ICD10CM)])
    ]
    table, codes = 'discharge.csv.gz', 'diagnoses_icd.csv.gz'
    assert sorted(report.rejections) == sorted(
        [
            Rejection('1-DS-1', 'note_id occurs twice', f'{table} row 2'),
            Rejection('1-DS-2', 'admission belongs to another patient', f'{table} row 3'),
            Rejection('1-DS-4', 'hadm_id is missing or malformed', f'{table} row 4'),
            Rejection('1-DS-5', 'subject_id is missing or malformed', f'{table} row 5'),
            Rejection('1-DS-6', 'text is empty', f'{table} row 6'),
            Rejection(f'{table} row 7', 'note_id is missing or malformed', ''),
            Rejection(f'{table} row 10', 'row has not as many fields as the header', 'line 12'),
            Rejection(f'{codes} row 2', 'hadm_id is missing or malformed', ''),
            Rejection(f'{codes} row 3', 'seq_num is missing or malformed', 'admission 11'),
            Rejection(f'{codes} row 4', 'code is empty', 'admission 11'),
            Rejection(f'{codes} row 5', 'icd_version is neither 9 nor 10', 'admission 11'),
            Rejection(f'{codes} row 6', 'code has not the form of its system', 'admission 11, ICD-10-CM'),
            Rejection(f'{codes} row 8', 'code has not the form of its system', 'admission 21, ICD-10-CM'),
        ]
    )
    assert report.left_out == {'admission without a code of ICD-10-CM': 1}


def _note3(row_id, subject_id, hadm_id, text, *, date='2101-10-20', category='Discharge summary', error=''):
    return [row_id, subject_id, hadm_id, date, '', '', category, 'Report', '', error, text]


@pytest.fixture
def mimic3(tmp_path):
    _write(
        tmp_path / 'NOTEEVENTS.csv.gz',
        NOTES3,
        [
            _note3(174, 22, 167853, 'Report.', date='2151-08-04'),
            _note3(175, 22, '', 'No admission.'),
            _note3(176, 23, 167118, 'Marked.', error='1'),
            _note3(177, 23, 167118, 'Of a nurse.', category='Nursing'),
            _note3(178, 23, 167118, 'Text.'),
            _note3(180, 22, 167853, 'Addendum.', date='2151-08-04'),
            _note3(179, 22, 167853, 'Before.', date='2151-08-01'),
        ],
    )
    _write(
        tmp_path / 'DIAGNOSES_ICD.csv',
        CODES3,
        [(1, 22, 167853, 2, '0389'), (2, 22, 167853, 1, 'E9500'), (3, 22, 167853, '', ''), (4, 23, 167118, 1, 'V3001')],
    )
    _write(tmp_path / 'PROCEDURES_ICD.csv', CODES3, [(1, 23, 167118, 1, '3893'), (2, 23, 167118, 2, '66')])
    return tmp_path


def test_admissions_of_mimic3(mimic3):
    documents, report = _read(read_mimic3, mimic3, systems=(ICD9CM, ICD9PCS))
    assert [(d.doc_id, d.group_id, d.text, d.source) for d in documents] == [
        ('167118', '23', 'Text.', 'mimic_iii'),
        ('167853', '22', 'Before.\n\nReport.\n\nAddendum.', 'mimic_iii'),
    ]
    assert [_codes(d) for d in documents] == [
        [('V30.01', ICD9CM), ('38.93', ICD9PCS), ('66', ICD9PCS)],
        [('E950.0', ICD9CM), ('038.9', ICD9CM)],
    ]
    assert report.rejections == [
        Rejection('175', 'hadm_id is missing or malformed', 'NOTEEVENTS.csv.gz row 2'),
        Rejection('DIAGNOSES_ICD.csv row 3', 'code is empty', 'admission 167853'),
    ]
    assert report.left_out == {'note of another category': 1, 'note marked as an error': 1}


def test_notes_of_mimic3(mimic3):
    # A split file names admissions: 178 is also the number of a note.
    path = _write_split_file(mimic3 / 's.feather', [167853, 178], ['val', 'train'], pyarrow.int64())
    documents, report = _read(read_mimic3, mimic3, grouping='note', split_file=path)
    assert [(d.doc_id, d.split) for d in documents] == [('174', 'dev'), ('180', 'dev'), ('179', 'dev')]
    assert all(_codes(d) == [('E950.0', ICD9CM), ('038.9', ICD9CM)] for d in documents)
    assert report.left_out['admission in no split of the split file'] == 1
    categories = ('Discharge summary', 'Nursing')
    documents, _ = _read(read_mimic3, mimic3, grouping='note', categories=categories)
    assert [d.doc_id for d in documents] == ['174', '177', '178', '180', '179']


def test_unusable_settings_and_folders(mimic3, mimic4, tmp_path):
    with pytest.raises(UserError, match="grouping is 'patient'"):
        _read(read_mimic4, mimic4, grouping='patient')
    with pytest.raises(UserError, match='mimic_iv has no codes of CPT; set systems'):
        _read(read_mimic4, mimic4, systems=(ICD10CM, CPT))
    with pytest.raises(UserError, match='mimic_iii has no codes of ICD-10-CM'):
        _read(read_mimic3, mimic3, systems=(ICD10CM,))
    with pytest.raises(UserError, match='no system to read'):
        _read(read_mimic4, mimic4, systems=())
    with pytest.raises(UserError, match='shares of the splits'):
        _read(read_mimic4, mimic4, ratios=(-1, 1, 1))
    empty = tmp_path / 'empty'
    empty.mkdir()
    for reader, name in ((read_mimic4, 'discharge'), (read_mimic3, 'noteevents')):
        with pytest.raises(UserError, match=rf'neither {name}\.csv nor'):
            _read(reader, empty)


def fabricate_mimic4(folder, notes, words, *, gzipped=False, seed=0):
    """Writes a MIMIC-IV of made-up words: `notes` admissions of one note, three to a patient, twelve codes each."""
    chance = random.Random(seed)
    vocabulary = [''.join(chance.choices('abcdefghijklmnopqrstuvwxyz', k=chance.randint(2, 9))) for _ in range(2000)]
    vocabulary += ['___', '"quoted"', 'line.\n', '12.5', 'mg/dL,\n']
    codes = [f'{letter}{i:02d}{j}' for letter in 'CEIJKM' for i in range(60) for j in range(10)]
    weights = [1 / rank for rank in range(1, len(codes) + 1)]
    # Texts are cut from one long text: made word by word, a hundred thousand would take minutes.
    long_text = chance.choices(vocabulary, k=20 * words + 1000)
    suffix = '.csv.gz' if gzipped else '.csv'

    def start(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return gzip.open(path, 'wt', compresslevel=1, newline='') if gzipped else open(path, 'w', newline='')

    with start(Path(folder, 'note', f'discharge{suffix}')) as out:
        writer = csv.writer(out)
        writer.writerow(NOTES4)
        for i in range(notes):
            begin = chance.randrange(len(long_text) - words)
            text = ' '.join(long_text[begin : begin + words])
            writer.writerow(_note4(f'{10_000_000 + i // 3}-DS-{i}', 10_000_000 + i // 3, 20_000_000 + i, text, seq=i))
    with start(Path(folder, 'hosp', f'diagnoses_icd{suffix}')) as out:
        writer = csv.writer(out)
        writer.writerow(DIAGNOSES4)
        for i in range(notes):
            for k, code in enumerate(dict.fromkeys(chance.choices(codes, weights, k=12)), start=1):
                writer.writerow((10_000_000 + i // 3, 20_000_000 + i, k, code, 10))


def test_texts_pass_through_one_by_one(tmp_path):
    fabricate_mimic4(tmp_path, notes=200, words=4000)
    size = (tmp_path / 'note' / 'discharge.csv').stat().st_size
    report = SourceReport('mimic_iv')
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_mimic4(tmp_path, report=report)) == 200
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size / 4
