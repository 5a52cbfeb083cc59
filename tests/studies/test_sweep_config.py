"""The file of a sweep: arms, grids, the lines that its runs are, and its mistakes."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from ccl_jax.cli import _experiment
from ccl_jax.config import check_config
from ccl_jax.errors import UserError
from ccl_jax.studies.sweep_config import check_sweep, runs_of, split_overrides, sweep_config
from tests.studies.sweep_helpers import EXPERIMENT, sweep_of
from tests.test_configs import load

# A value of every type that a key may have.
SETTINGS = {
    'tasks.evidence': False,
    'tasks.names': ('document',),
    'data.buckets': [32, 64],
    'data.mix': {'document': 1, 'span': 0.25},
    'expansion.spans_file': "it's a $file; with spaces.jsonl",
    'optimizer.rate_factors': (('embedding', 0.1),),
    'data.steps': 7,
}


def direct(seed):
    """The same config, set in the tree by hand."""
    tree = load('demo').get_config('ci')
    tree.seed = seed
    tree.tasks.evidence = False
    tree.tasks.names = ('document',)
    tree.data.buckets = (32, 64)
    tree.data.mix.document, tree.data.mix.span = 1.0, 0.25
    tree.expansion.spans_file = "it's a $file; with spaces.jsonl"
    tree.optimizer.rate_factors = (('embedding', 0.1),)
    tree.data.steps = 7
    return check_config(tree)


def test_a_run_is_the_config_of_its_arm(tmp_path, monkeypatch):
    _, runs = sweep_of(tmp_path / 'w s', {'plain': {}, 'all': SETTINGS}, monkeypatch, seeds=(0, 3))
    assert [(run.arm, run.seed) for run in runs] == [('plain', 0), ('all', 0), ('plain', 3), ('all', 3)]
    assert [run.config for run in runs if run.arm == 'all'] == [direct(0), direct(3)]
    assert runs[3].workdir == tmp_path / 'w s' / 'all' / 'seed3'


def test_overrides_of_the_command_line_hold_for_all_runs():
    arguments = [
        '--config',
        'x.py',
        '--config.data.steps=9',
        '--config.seeds=(1,)',
        '--workdir=w',
        '--config.base.texts=3',
    ]
    own, overrides = split_overrides(arguments)
    assert own == ['--config', 'x.py', '--config.seeds=(1,)', '--workdir=w']
    assert overrides == ['--config.data.steps=9', '--config.base.texts=3']


def test_an_override_counts_and_an_arm_is_not_undone_by_it(monkeypatch):
    monkeypatch.setattr('sys.argv', ['ccl-jax'])
    sweep = check_sweep(sweep_config(EXPERIMENT, arms={'a': {}, 'b': {'data.steps': 5}}, overrides={'base.texts': 3}))
    runs = runs_of(sweep, Path('w'), _experiment, ['--config.base.texts=4'])
    assert {run.config.base.texts for run in runs} == {4}
    with pytest.raises(UserError, match=r'--config.data.steps is what the arm b sets'):
        runs_of(sweep, Path('w'), _experiment, ['--config.data.steps=6'])


def test_a_grid_is_every_combination():
    grid = {'tasks.names': (('document',), ('document', 'span')), 'lora.rank': (4, 16)}
    sweep = check_sweep(sweep_config('x.py', grid=grid))
    assert [(arm.name, arm.x, arm.line) for arm in sweep.arms] == [
        ('names=document,rank=4', 4.0, 'names=document'),
        ('names=document,rank=16', 16.0, 'names=document'),
        ('names=document+span,rank=4', 4.0, 'names=document+span'),
        ('names=document+span,rank=16', 16.0, 'names=document+span'),
    ]
    assert (sweep.axis, sweep.reference) == ('lora.rank', 'names=document,rank=4')
    # Keys whose last parts are the same are written out.
    both = check_sweep(sweep_config('x.py', grid={'data.steps': (1, 2), 'base.data.steps': (3,)}))
    assert both.arms[0].name == 'data.steps=1,base.data.steps=3'


def test_arms_with_a_number_lie_on_its_axis():
    arms = {f's{share}': {'data.mix': {'span': share}} for share in (0.5, 1)}
    assert [arm.x for arm in check_sweep(sweep_config('x.py', arms=arms, axis='data.mix.span')).arms] == [0.5, 1.0]


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        ({}, 'arms or a grid'),
        ({'arms': {'a': {}}, 'grid': {'seed': (1,)}}, 'arms or a grid'),
        (
            {'arms': {'a': {'data.step': 3}}},
            'arm a: unknown config key "data.step"; the nearest known one is "data.steps"',
        ),
        ({'arms': {'a': {'mix': {'span': 3}}}}, 'unknown config key "mix.span"'),
        ({'arms': {'a': {'seed': 3}}}, 'seed is set by the seeds'),
        ({'arms': {'a/b': {}}}, 'names a folder'),
        ({'arms': {'..': {}}}, 'names a folder'),
        ({'arms': {'a': {}}, 'reference': 'b'}, 'reference is "b"; it must be one of the arms a'),
        ({'arms': {'a': {}}, 'seeds': (0, 0)}, 'seeds is'),
        ({'arms': {'a': {}}, 'seeds': ()}, 'seeds is'),
        ({'arms': {'a': {}}, 'metrics': ()}, 'metrics is empty'),
        ({'arms': {'a': {}}, 'metrics': ('S9.micro_f1',)}, 'metrics: "S9.micro_f1" begins with no part of the codes'),
        ({'arms': {'a': {}}, 'contrasts': {'c': ()}}, 'the contrast c is empty'),
        ({'arms': {'a': {}}, 'contrasts': {'c': ('+', 'a', 'micro_f1')}}, "the contrast c has '\\+'; write its terms"),
        ({'arms': {'a': {}}, 'contrasts': {'c': (('*', 'a', 'micro_f1'),)}}, 'write its terms as'),
        ({'arms': {'a': {}}, 'contrasts': {'c': (('+', 'b', 'micro_f1'),)}}, 'names the arm "b"; .* one of the arms a'),
        ({'arms': {'a': {}}, 'contrasts': {'c': (('+', 'a', 'T1.micro_f1'),)}}, 'the contrast c: "T1.micro_f1" begins'),
        ({'arms': {'a': {}}, 'axis': 'data.steps'}, 'arm a sets the axis data.steps to no number'),
        ({'arms': {'a': {}}, 'overrides': {'data.step': 3}}, 'overrides: unknown config key'),
        ({'grid': {'tasks.output_format': 'pairs'}}, 'give the values to try'),
        ({'grid': {'data.step': (1, 2)}}, 'grid: unknown config key'),
        ({'grid': {'tasks.output_format': ('pairs', 'blocks')}, 'axis': 'data.steps'}, 'axis is "data.steps"'),
        ({'grid': {'expansion.spans_file': ('a b', 'a/b')}}, 'two arms have one name'),
    ],
)
def test_mistakes_are_one_sentence(keys, message):
    with pytest.raises(UserError, match=message):
        check_sweep(sweep_config('x.py', **keys))


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('--config.optimizer.learning_rat=1', 'optimizer.learning_rate'),
        ('--config.seed=1', 'seed is set by the seeds'),
        ('--config.arms={}', 'unknown config key'),
        ('--config.contrasts={}', 'unknown config key'),
        ('--config.nonsense=1', 'unknown config key "nonsense"'),
        ('--config.data.steps', 'write --config.data.steps=VALUE'),
    ],
)
def test_mistakes_on_the_command_line(argument, message):
    with pytest.raises(UserError, match=message):
        split_overrides([argument, '7'])


def test_a_file_that_is_no_sweep_and_arms_that_are_no_arms(monkeypatch, tmp_path):
    with pytest.raises(UserError, match='names no file of a sweep'):
        check_sweep(ConfigDict({'data': {'steps': 3}}))
    with pytest.raises(UserError, match='the arms a and b are the same run'):
        sweep_of(tmp_path, {'a': {}, 'b': {'data.steps': 24}}, monkeypatch)
    with pytest.raises(UserError, match=r'arm a: .*steps'):
        sweep_of(tmp_path, {'a': {'data.steps': 'many'}}, monkeypatch)
