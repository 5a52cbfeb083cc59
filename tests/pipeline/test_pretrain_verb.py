"""The verb `pretrain`: it makes the base model alone, and another run starts from it."""

import json

import pytest

from tests.pipeline.conftest import MINIATURE, ccl_jax, ccl_jax_process

SOURCE = [*MINIATURE[1:4], '--config.sources.synthetic_notes.dev=4']
KEYS = [*SOURCE, '--config.base.texts=30', '--config.base.data.steps=4']


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--config.base.enabled=False'], ['base.enabled is False', 'True']),
        (["--config.base.corpora=('nowhere.jsonl',)"], ['base.corpora names nowhere.jsonl', 'does not exist']),
        (['--config.base.corpora=(3,)'], ['base: corpora is (3,)']),
        (['--config.base.texts=-1'], ['base: texts is -1', 'at least 0']),
    ],
    ids=['no base', 'no such corpus', 'no path', 'texts'],
)
def test_mistakes(tmp_path, arguments, words):
    done = ccl_jax('pretrain', *KEYS, f'--workdir={tmp_path}/w', *arguments)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last


def test_it_needs_a_config_and_a_workdir():
    assert '--config is missing' in ccl_jax('pretrain', '--workdir=w').stderr
    assert '--workdir is missing' in ccl_jax('pretrain', '--config=configs/demo.py').stderr


@pytest.mark.slow
def test_a_run_starts_from_what_it_made(tmp_path):
    workdir, corpus = tmp_path / 'backbone', tmp_path / 'open.jsonl'
    corpus.write_text(json.dumps({'question': 'What is a cough ?', 'answer': 'A reflex of the airways.'}) + '\n')
    command = ['pretrain', *KEYS, f"--config.base.corpora=('{corpus}',)", f'--workdir={workdir}']
    made = ccl_jax_process(*command)
    assert made.returncode == 0, made.stderr
    folder = workdir / 'base' / 'hf'
    assert made.stdout.splitlines() == [
        f'base model: {folder}',
        f'start from it by --config.base.enabled=False --config.model.path={folder}',
    ]
    assert not (workdir / 'checkpoints').exists()
    report = json.loads((workdir / 'data' / 'report.json').read_text())
    assert report['texts']['origins'][str(corpus)]['kept'] == 1
    assert json.loads((workdir / 'base' / 'held_out.json').read_text())['codes'] == report['held_out']
    weights = (folder / 'model.safetensors').read_bytes()
    again = ccl_jax_process(*command)
    assert (again.returncode, again.stdout) == (0, made.stdout)
    assert (folder / 'model.safetensors').read_bytes() == weights

    start = made.stdout.split(' by ')[1].split()
    arm = [*start, '--config.data.steps=2', '--config.eval.max_new_tokens=16', '--config.eval.baselines=()']
    run = tmp_path / 'arm'
    trained = ccl_jax_process('train', *SOURCE, *arm, '--config.seed=1', f'--workdir={run}')
    assert trained.returncode == 0, trained.stderr
    assert not (run / 'base').exists()
    assert json.loads((run / 'data' / 'report.json').read_text())['held_out'] == report['held_out']
    assert 'were not held out of the base model' not in trained.stderr

    (workdir / 'base' / 'held_out.json').write_text(json.dumps({'codes': report['held_out'][1:]}))
    other = ccl_jax_process('train', *SOURCE, *arm, f'--workdir={tmp_path}/other')
    assert 'warning: 1 codes that this run holds out were not held out of the base model' in other.stderr
