"""Small results of runs: what they hold, and that a sweep made of them is the one that was made of the runs."""

import gzip
import json

import pytest

from ccl_jax.cli import main
from ccl_jax.config import check_config, default_config, leaves
from ccl_jax.errors import UserError
from ccl_jax.studies import sweep as sweep_module
from ccl_jax.studies.sweep import gather_results, kept_results, sweep
from ccl_jax.studies.sweep_result import differences, settings_of
from tests.studies.sweep_helpers import EXPERIMENT, WORD, finish, score_lines, sweep_of

ARMS = {'a': {'data.steps': 24}, 'b': {'data.steps': 25}}
PREDICTED = {
    'a': ({'d0': ('I10',), 'd1': ()}, {'d0': ('I10', 'R07.9'), 'd1': ('R07.9',)}),
    'b': ({'d0': ('I10', 'E11.9'), 'd1': ('N17.9',)}, {'d0': ('E11.9',), 'd1': ('R07.9', 'N17.9')}),
}
KEYS = {
    'arms': ARMS,
    'seeds': (0, 1),
    'metrics': ('micro_f1', 'S0.micro_f1', 'S2.micro_f1', 'macro_f1_gold', 'evidence_span_exact_f1'),
    'contrasts': {'difference': (('+', 'b', 'S2.micro_f1'), ('-', 'a', 'S0.micro_f1'))},
}
FILES = {'table.md', 'table.csv', 'runs.csv', 'contrasts.csv', 'plot.png', 'curves.md', 'curves.csv', 'curves.png'}


def made(tmp_path, monkeypatch, **keys):
    """A sweep with a folder of small results, and its runs, which are all finished."""
    definition, runs = sweep_of(
        tmp_path / 'w', monkeypatch=monkeypatch, **{**KEYS, 'results': str(tmp_path / 'kept'), **keys}
    )
    for run in runs:
        cost = {'tokens': 100 + run.seed, 'flops': 2e9 / 3, 'device_seconds': 0.1}
        scores = score_lines([(10, 0.1), (20, 0.2 + run.seed / 7), (30, 1 / 3)])
        finish(run, None, PREDICTED[run.arm][run.seed], cost=cost, scores=scores)
    return definition, runs


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kept_files(tmp_path):
    return files(tmp_path / 'kept')


def test_reuse_makes_the_same_files_from_the_small_results_alone(tmp_path, monkeypatch, capsys):
    definition, runs = made(tmp_path, monkeypatch)
    gathered = gather_results(definition, runs, tmp_path / 'w')
    assert set(kept_files(tmp_path)) == {f'{arm}-seed{seed}.json.gz' for arm in 'ab' for seed in (0, 1)}
    keys = {**KEYS, 'results': str(tmp_path / 'kept')}
    text = 'from ccl_jax.studies.sweep_config import sweep_config\n\ndef get_config(variant=""):\n'
    (tmp_path / 'sweep.py').write_text(f'{text}    return sweep_config({EXPERIMENT!r}, **{keys!r})\n')
    (tmp_path / 'w').rename(tmp_path / 'gathered')
    for arguments in ((), ('--gather',)):
        elsewhere = tmp_path / f'elsewhere{len(arguments)}'
        assert main(['sweep', f'--config={tmp_path}/sweep.py', f'--workdir={elsewhere}', '--reuse', *arguments]) == 0
        out = capsys.readouterr()
        assert out.out == gathered.replace(f'{tmp_path}/w/', f'{elsewhere}/') + '\n'
        assert '4 of 4 runs are taken from' in out.err
        assert [path.name for path in elsewhere.iterdir()] == ['results']
        found = files(elsewhere / 'results')
        assert set(found) == FILES
        assert found == files(tmp_path / 'gathered' / 'results')


def test_small_results_hold_no_text_and_no_places_and_are_the_same_bytes_each_time(tmp_path, monkeypatch):
    definition, runs = made(tmp_path, monkeypatch, overrides={'icd.release': str(tmp_path / 'release')})
    gather_results(definition, runs, tmp_path / 'w')
    first = kept_files(tmp_path)
    assert WORD in (runs[0].workdir / 'data' / 'documents-test.jsonl').read_text()
    assert WORD in (runs[0].evaluation / 'predictions.jsonl').read_text()
    for data in first.values():
        text = gzip.decompress(data).decode()
        assert WORD not in text
        assert str(tmp_path) not in text
        # Bytes 4 to 7 of a gzip file are a time.
        assert data[4:8] == bytes(4)
    gather_results(definition, runs, tmp_path / 'w')
    assert kept_files(tmp_path) == first
    documents = json.loads(gzip.decompress(first['b-seed0.json.gz']))['documents']
    assert documents['ids'] == ['d0', 'd1']
    assert documents['codes'] == [
        ['ICD-10-CM', 'E11.9', 'S0'],
        ['ICD-10-CM', 'I10', 'S0'],
        ['ICD-10-CM', 'N17.9', 'S2'],
        ['ICD-10-CM', 'R07.9', 'S3'],
    ]
    assert (documents['gold'], documents['predicted']) == ([[0, 1], [2, 3]], [[1, 0], [2]])
    # R07.9 of d1: one gold item of every metric, nothing predicted.
    assert documents['evidence'][-1] == [1, 3, 1, *[0, 1, 0] * 5, 0, 0, 0]


def test_a_result_of_another_config_is_named_and_its_run_is_made(tmp_path, monkeypatch, capsys):
    definition, runs = made(tmp_path, monkeypatch)
    gather_results(definition, runs, tmp_path / 'w')
    arms = {**ARMS, 'b': {'data.steps': 26, 'eval.batch_rows': 3}}
    definition, runs = sweep_of(
        tmp_path / 'x', monkeypatch=monkeypatch, **{**KEYS, 'arms': arms, 'results': definition.results}
    )
    kept = kept_results(definition, runs)
    assert set(kept) == {'a seed 0', 'a seed 1'}
    said = capsys.readouterr().err
    assert 'b-seed1.json.gz is of another config (data.steps was 25, is 26; eval.batch_rows was ' in said
    assert '2 of 4 runs are taken from' in said
    asked = []

    def run_all(left, *, when_finished, **_):
        asked.extend(left)
        for run in left:
            finish(run, None, PREDICTED[run.arm][run.seed])
            when_finished(run)
        return {}

    monkeypatch.setattr(sweep_module, 'run_all', run_all)
    text, failures = sweep(definition, runs, tmp_path / 'x', 1, kept)
    assert asked == [run for run in runs if run.arm == 'b']
    assert ('configs/demo.py:ci, 4 runs.' in text, failures) == (True, {})
    # What was made has taken the place of the other config's results.
    assert len(kept_results(definition, runs)) == 4


def test_a_result_older_than_a_key_is_of_its_default():
    current = settings_of(check_config(default_config(), needs_model=False))
    older = {key: value for key, value in current.items() if key not in ('sources.tune_share', 'model.path')}
    assert list(differences(older, current)) == []
    assert list(differences(older, current | {'sources.tune_share': 0.2})) == ['sources.tune_share was 0.0, is 0.2']
    assert list(differences(older, current | {'model.path': True})) == ['model.path was false, is true']
    # A key that is gone cannot be known to have changed nothing.
    assert list(differences(current | {'data.gone': 1}, current)) == ['data.gone was 1, is null']


def test_a_run_whose_results_cannot_be_kept_ends_no_other(tmp_path, monkeypatch, capsys):
    definition, runs = made(tmp_path, monkeypatch)
    broken = runs[0].workdir / 'scores.jsonl'

    def run_all(left, *, when_finished, **_):
        whole = broken.read_text()
        broken.write_text('{')
        when_finished(left[0])
        assert not (tmp_path / 'kept' / 'a-seed0.json.gz').exists()
        broken.write_text(whole)
        when_finished(left[1])
        assert (tmp_path / 'kept' / 'b-seed0.json.gz').exists()
        return {}

    monkeypatch.setattr(sweep_module, 'run_all', run_all)
    sweep(definition, runs, tmp_path / 'w', 1)
    assert 'a seed 0: its small results are not kept yet: scores.jsonl in' in capsys.readouterr().err
    assert len(kept_files(tmp_path)) == 4


def test_the_settings_of_a_run_name_no_place():
    tree = default_config()
    # A name that is asked of an endpoint is no place.
    empty = [key for key, value in leaves(tree.to_dict()) if value == '' and key != 'expansion.endpoint.model']
    named = default_config()
    for key in empty:
        *sections, last = key.split('.')
        section = named
        for name in sections:
            section = section[name]
        section[last] = '/a/place'
    plain = settings_of(check_config(tree, needs_model=False))
    other = settings_of(check_config(named, needs_model=False))
    assert '/a/place' not in json.dumps(other)
    assert (plain['model.path'], other['model.path']) == (False, True)
    assert {'data.steps', 'eval.max_new_tokens', 'train.accumulation', 'seed'} <= plain.keys()
    assert not {'mesh.fsdp', 'data.threads', 'train.compilation_cache', 'train.checkpoint_directory'} & plain.keys()


def test_mistakes(tmp_path, monkeypatch):
    definition, runs = made(tmp_path, monkeypatch)
    gather_results(definition, runs, tmp_path / 'w')
    path = tmp_path / 'kept' / 'a-seed0.json.gz'
    whole = path.read_bytes()
    for broken in (b'', b'nonsense', whole[:-20], whole[:40] + b'!!!!' + whole[44:], gzip.compress(b'[]')):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r'a-seed0.json.gz cannot be read; restore it'):
            kept_results(definition, runs)
    path.write_bytes(gzip.compress(b'{"format": 99}'))
    with pytest.raises(UserError, match='has format 99'):
        kept_results(definition, runs)
    definition, runs = sweep_of(tmp_path / 'w', monkeypatch=monkeypatch, **KEYS)
    with pytest.raises(UserError, match='--reuse needs a folder'):
        kept_results(definition, runs)
