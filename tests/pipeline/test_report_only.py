"""`prepare --report_only`: what a source holds, without tokenising, training or claiming the workdir."""

import json
import subprocess
import sys

import pytest

from tests.pipeline.conftest import ROOT, ccl_jax, environment

TEXT = 'Known HTN. Now chest pain.'


def _document(doc_id, *codes, text=TEXT, **more):
    return {'doc_id': doc_id, 'text': text, 'codes': list(codes), **more}


def _code(code, begin, end):
    return {'code': code, 'evidence': [{'parts': [[begin, end]]}]}


@pytest.fixture
def files(tmp_path):
    train = [
        _document('a', _code('i10', 6, 9), _code('R07.9', 15, 25)),
        _document('b', _code('I10', 6, 900)),  # outside the text
        _document('c', {'code': 'W19.XXX'}, {'code': '401.9', 'system': 'ICD-9-CM'}, text='Fell. Has HTN.'),
        _document('d', {'code': '401.9'}),  # the form of another system
        _document('a', {'code': 'I10'}),  # twice
        _document('e', text='  '),
    ]
    test = [_document('t', {'code': 'I10'}, {'code': 'E11.9'}), _document('u', {'code': 'J18.9'}, text='Pneumonia.')]
    for name, records in (('train', train), ('test', test)):
        lines = [json.dumps(record) for record in records]
        (tmp_path / f'{name}.jsonl').write_text('\n'.join([*lines, '{"doc_id": ']) + '\n')
    return [f'--config.sources.jsonl.{name}={tmp_path / name}.jsonl' for name in ('train', 'test')]


def test_everything_that_is_wrong_is_counted_and_listed(files, tmp_path):
    workdir = tmp_path / 'w'
    done = ccl_jax('prepare', '--config=configs/jsonl.py', *files, '--report_only', '--json', f'--workdir={workdir}')
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    train, test = summary['sources']
    assert (train['documents'], train['annotations'], train['evidences']) == (2, 4, 2)
    assert (test['documents'], test['annotations']) == (2, 3)
    assert (sum(train['rejected'].values()), sum(test['rejected'].values())) == (5, 1)
    assert train['code_status'] == {'billable': 2, 'incomplete': 1}
    assert train['not_in_release'] == {'W19.XXX': 'W19'}
    assert summary['unseen_codes'] == {'test': {'codes': 3, 'unseen': 2}}
    assert summary['documents_with_the_text_of_a_training_document'] == {'test': 1}
    assert 'have the text of a training document' in done.stderr
    rejected = [json.loads(line) for line in (workdir / 'data' / 'rejected.jsonl').read_text().splitlines()]
    assert [record['record_id'] for record in rejected] == ['b', 'd', 'a', 'e', 'line 7', 'line 3']
    assert 'ICD-9-CM' in rejected[1]['detail']
    assert TEXT[:9] not in json.dumps(rejected) + done.stderr
    assert json.loads((workdir / 'data' / 'sources.json').read_text()) == summary
    # Nothing else: the workdir belongs to no config yet.
    assert {path.name for path in workdir.rglob('*') if path.is_file()} == {'sources.json', 'rejected.jsonl'}


def test_without_a_workdir_the_table_alone(files):
    done = ccl_jax('prepare', '--config=configs/jsonl.py', *files, '--report_only')
    assert done.returncode == 0, done.stderr
    train, test = done.stdout.strip().split('\n\n')
    assert 'train.jsonl train' in train.splitlines()[0]
    assert 'rejected' in train
    rows = dict(line.strip().rsplit(maxsplit=1) for line in test.splitlines()[1:])
    assert (rows['documents'], rows['distinct codes']) == ('2', '3')


def test_unlabelled_texts_are_reported_and_not_trained(tmp_path):
    for name in ('one', 'two'):
        (tmp_path / f'{name}.txt').write_text('A note.')
    arguments = ['--config=configs/jsonl.py:tiny', '--config.sources.name=text_folder']
    arguments.append(f'--config.sources.text_folder.path={tmp_path}')
    done = ccl_jax('prepare', *arguments, '--report_only')
    assert done.returncode == 0, done.stderr
    assert 'documents without codes' in done.stdout
    done = ccl_jax('prepare', *arguments, f'--workdir={tmp_path / "w"}')
    assert (done.returncode, 'no codes to learn from' in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--config.sources.name=codiesp'], ['sources.codiesp.path', 'CodiEsp v4']),
        (['--config.sources.name=mimic_iv'], ['sources.mimic_iv.path', 'hosp/']),
        (['--config.sources.name=mimic'], ['mimic_iv', 'codiesp']),
        (['--config.sources.name=mimic_iv', "--config.sources.mimic_iv.systems=('ICD-11',)"], ['ICD-11', 'ICD-10-CM']),
        (['--config.sources.jsonl.train=nowhere.jsonl'], ['nowhere.jsonl']),
        (['--config.sources.jsonl.train=LICENSE'], ['LICENSE', 'no usable record']),
        (['--config.sources.jsonl.train=README.md', '--config.icd.release=README.md'], ['README.md', 'release']),
    ],
)
def test_unusable_sources(flags, words):
    done = ccl_jax('prepare', '--config=configs/jsonl.py', *flags, '--report_only')
    assert (done.returncode, done.stdout) == (2, '')
    assert all(word in done.stderr for word in words), done.stderr


def test_reading_a_corpus_does_not_import_jax(files):
    program = 'import sys; from ccl_jax.cli import main; code = main(); assert "jax" not in sys.modules; sys.exit(code)'
    arguments = ['prepare', '--config=configs/jsonl.py', *files, '--report_only']
    done = subprocess.run(
        [sys.executable, '-c', program, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
