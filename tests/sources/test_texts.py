"""Notes without codes: folders and tables made by hand, and the published ones where they are at hand."""

import csv
import os
import sys
from pathlib import Path

import pytest

from ccl_jax.errors import UserError
from ccl_jax.records import Document, document_from_json, document_to_json
from ccl_jax.sources.report import Rejection, SourceReport
from ccl_jax.sources.texts import (
    ACI_BENCH_SPLITS,
    MTS_DIALOG_SPLITS,
    read_aci_bench,
    read_mts_dialog,
    read_text_folder,
)

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data'


def _read(reader, *arguments):
    report = SourceReport('texts')
    return list(reader(*arguments, report=report)), report


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def test_text_folder(tmp_path):
    _write(tmp_path / 'b.txt', b'\xef\xbb\xbfTos seca \xc2\xba.\r\nFin\r\n')
    _write(tmp_path / 'ward' / 'a.1.txt', b'  Cough.\n\n')
    _write(tmp_path / 'ward' / 'notes.md', b'No text file.')
    _write(tmp_path / '.cache' / 'c.txt', b'Hidden.')
    _write(tmp_path / '._b.txt', b'\x00\x05')
    (tmp_path / 'folder.txt').mkdir()
    documents, report = _read(read_text_folder, tmp_path)
    # Characters are kept as they are: offsets of codes found in them fit the file.
    assert documents == [
        Document('b', 'Tos seca º.\r\nFin\r\n', group_id='b', source='texts'),
        Document('ward/a.1', '  Cough.\n\n', group_id='ward/a.1', source='texts'),
    ]
    assert (report.documents, report.unannotated, report.rejections) == (2, 2, [])


def test_bad_texts_are_counted(tmp_path):
    _write(tmp_path / 'a.txt', b'fever \xe9')
    _write(tmp_path / 'b.txt', b' \n')
    _write(tmp_path / 'c.txt', b'Fever.')
    documents, report = _read(read_text_folder, tmp_path)
    assert [d.doc_id for d in documents] == ['c']
    assert report.rejections == [
        Rejection('a', 'text is not UTF-8', 'byte 6'),
        Rejection('b', 'text is empty', ''),
    ]


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems refuse such names')
def test_a_file_name_that_is_not_utf_8(tmp_path):
    _write(tmp_path / os.fsdecode(b'caf\xe9.txt'), b'Fever.')
    documents, report = _read(read_text_folder, tmp_path)
    assert documents == []
    assert report.rejections == [Rejection('caf\\udce9', 'file name is not UTF-8', '')]


def test_a_folder_without_texts(tmp_path):
    with pytest.raises(UserError, match=r'holds no \.txt file; give a folder'):
        _read(read_text_folder, tmp_path)
    _write(tmp_path / 'a.txt', b'Fever.')
    for path in (tmp_path / 'a.txt', tmp_path / 'none'):
        with pytest.raises(UserError, match=r'is not a folder; give a folder'):
            _read(read_text_folder, path)


def test_a_text_that_cannot_be_read(tmp_path):
    (tmp_path / 'a.txt').symlink_to(tmp_path / 'none')
    with pytest.raises(UserError, match=r'cannot read .*a\.txt: .*; check the file'):
        _read(read_text_folder, tmp_path)


ACI_BENCH = b"""dataset,encounter_id,dialogue,note\r
virtassist,D1,"[doctor] hi , ann .",CHIEF COMPLAINT\r
aci,D2,hm,"He said ""no pain"".

Second line, with a comma."\r
aci,D3,hm,  \r
aci, ,hm,Fever.\r
aci,D1,hm,Fever.\r
aci,D4,hm\r
"""


def test_aci_bench(tmp_path):
    _write(tmp_path / 'data' / 'challenge_data' / 'valid.csv', ACI_BENCH)
    documents, report = _read(read_aci_bench, tmp_path, 'dev')
    notes = {'D1': 'CHIEF COMPLAINT', 'D2': 'He said "no pain".\n\nSecond line, with a comma.'}
    assert documents == [
        Document(doc_id, text, group_id=doc_id, source='aci_bench', split='dev') for doc_id, text in notes.items()
    ]
    assert sorted((r.record_id, r.reason) for r in report.rejections) == [
        ('D1', 'doc_id occurs twice'),
        ('D3', 'text is empty'),
        ('valid.csv row 4', 'id is empty'),
        ('valid.csv row 6', 'row has not as many fields as the header'),
    ]
    assert (report.documents, report.unannotated) == (2, 2)


def test_mts_dialog(tmp_path):
    table = b'ID,section_header,section_text,dialogue\n0,GENHX,"Cough, dry.",Doctor: hi\n1,ROS,No fever.,Doctor: and?\n'
    _write(tmp_path / 'Main-Dataset' / 'MTS-Dialog-TrainingSet.csv', table)
    documents, report = _read(read_mts_dialog, tmp_path, 'train')
    assert [(d.doc_id, d.group_id, d.text, d.source, d.split) for d in documents] == [
        ('train-0', 'train-0', 'Cough, dry.', 'mts_dialog', 'train'),
        ('train-1', 'train-1', 'No fever.', 'mts_dialog', 'train'),
    ]
    assert not report.rejections


@pytest.mark.parametrize(('reader', 'file'), [(read_aci_bench, 'train.csv'), (read_mts_dialog, 'TrainingSet.csv')])
def test_missing_files_and_splits(tmp_path, reader, file):
    with pytest.raises(UserError, match=rf'cannot read .*{file}: '):
        _read(reader, tmp_path, 'train')
    with pytest.raises(UserError, match="no split 'test'; take one of train, dev, test1"):
        _read(reader, tmp_path, 'test')


@pytest.mark.parametrize(
    ('name', 'reader', 'splits', 'folder', 'columns', 'sizes'),
    [
        # Sizes of the splits as the corpora's own READMEs state them.
        (
            'aci_bench',
            read_aci_bench,
            ACI_BENCH_SPLITS,
            'data/challenge_data',
            ('encounter_id', 'note'),
            (67, 20, 40, 40, 40),
        ),
        (
            'mts_dialog',
            read_mts_dialog,
            MTS_DIALOG_SPLITS,
            'Main-Dataset',
            ('ID', 'section_text'),
            (1201, 100, 200, 200),
        ),
    ],
    ids=['aci_bench', 'mts_dialog'],
)
def test_published_notes(name, reader, splits, folder, columns, sizes):
    root = DATA / name
    if not root.is_dir():
        pytest.skip(f'no {name} at {root}')
    for (split, file), size in zip(splits.items(), sizes, strict=True):
        with open(root / folder / file, encoding='utf-8-sig', newline='') as table:
            rows = {row[columns[0]]: row[columns[1]] for row in csv.DictReader(table)}
        documents, report = _read(reader, root, split)
        assert len(documents) == size
        assert {d.doc_id.removeprefix(f'{split}-'): d.text for d in documents} == rows
        assert (report.documents, report.unannotated, report.rejections) == (size, size, [])
        assert all(document_from_json(document_to_json(d)) == d for d in documents)
