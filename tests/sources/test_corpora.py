"""Unlabelled texts: every kind of file and folder by hand, what is none, and the published ones where there are any."""

import gzip
import json
from pathlib import Path

import pytest

from ccl_jax.errors import UserError
from ccl_jax.sources.corpora import check_corpus, read_corpus
from ccl_jax.sources.report import SourceReport

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data'
RECORDS = [
    {'id': 'a', 'text': 'Cough, dry.'},
    {'question': 'What is gout ?', 'answer': 'A disease.'},
    {'text': ' \n'},
    {'text': 'Fièvre.', 'question': 'not read', 'answer': 'not read'},
]
TEXTS = [('1', 'Cough, dry.'), ('2', 'What is gout ?\nA disease.'), ('4', 'Fièvre.')]


def _read(path):
    report = SourceReport('corpus')
    return [(document.doc_id, document.text) for document in read_corpus(path, report=report)], report


def _lines(records) -> bytes:
    return ''.join(json.dumps(record) + '\n' for record in records).encode()


@pytest.mark.parametrize('name', ['texts.jsonl', 'texts.jsonl.gz'])
def test_json_lines(tmp_path, name):
    content = _lines(RECORDS)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith('gz') else content)
    found, report = _read(tmp_path / name)
    assert found == TEXTS
    assert (report.documents, [rejection[:2] for rejection in report.rejections]) == (3, [('line 3', 'text is empty')])


def test_a_folder_of_texts(tmp_path):
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / '1.txt').write_text('Fever.')
    (tmp_path / 'a.txt').write_text('Cough.')
    (tmp_path / 'notes.md').write_text('no text')
    assert _read(tmp_path)[0] == [('a', 'Cough.'), ('b/1', 'Fever.')]


@pytest.mark.parametrize(
    ('folder', 'files', 'columns'),
    [
        ('data/challenge_data', ('train.csv', 'valid.csv'), 'encounter_id,note'),
        ('Main-Dataset', ('MTS-Dialog-TrainingSet.csv', 'MTS-Dialog-ValidationSet.csv'), 'ID,section_text'),
    ],
)
def test_of_published_layouts_the_training_split_alone(tmp_path, folder, files, columns):
    (tmp_path / folder).mkdir(parents=True)
    # A stray text beside the tables does not make it a folder of texts.
    (tmp_path / 'readme.txt').write_text('not read')
    for file, text in zip(files, ('Cough.', 'Fever.'), strict=True):
        (tmp_path / folder / file).write_text(f'{columns}\n7,{text}\n')
    assert [text for _, text in _read(tmp_path)[0]] == ['Cough.']


@pytest.mark.parametrize('name', ['nowhere.jsonl', 'texts.csv', 'empty', 'texts.jsonl.bz2'])
def test_what_is_no_corpus(tmp_path, name):
    (tmp_path / 'texts.csv').write_text('text\nCough.\n')
    (tmp_path / 'texts.jsonl.bz2').write_bytes(b'BZh')
    (tmp_path / 'empty').mkdir()
    for use in (check_corpus, _read):
        with pytest.raises(UserError, match=rf'base\.corpora names .*{name}.*; give a \.jsonl'):
            use(tmp_path / name)


@pytest.mark.parametrize('record', [{'question': 'What?'}, {'text': 3}, {'text': None}, {}])
def test_a_record_without_text(tmp_path, record):
    (tmp_path / 'x.jsonl').write_bytes(_lines([RECORDS[0], record]))
    with pytest.raises(UserError, match=r'x\.jsonl line 2 has neither a "text" nor'):
        _read(tmp_path / 'x.jsonl')


@pytest.mark.parametrize('content', [_lines(RECORDS), gzip.compress(_lines(RECORDS * 99))[:-20]], ids=['plain', 'torn'])
def test_a_damaged_gzip_file(tmp_path, content):
    (tmp_path / 'x.jsonl.gz').write_bytes(content)
    with pytest.raises(UserError, match=r'cannot read .*x\.jsonl\.gz: .*; check that it is a whole gzip file'):
        _read(tmp_path / 'x.jsonl.gz')


@pytest.mark.parametrize(
    ('path', 'size'),
    [
        # The sizes that the files' own descriptions and the corpora's READMEs state.
        ('medquad/medquad.jsonl.gz', 16_407),
        ('pubmedqa/abstracts.jsonl.gz', 1_000),
        ('aci_bench', 67),
        ('mts_dialog', 1_201),
    ],
)
def test_published_corpora(path, size):
    if not (DATA / path).exists():
        pytest.skip(f'no {path} at {DATA}')
    found, report = _read(DATA / path)
    assert (len(found), report.documents, report.rejections) == (size, size, [])
