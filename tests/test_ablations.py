"""Every ablation: all its arms are configs that `ccl-jax train` takes, and differ in what they say they do."""

from pathlib import Path

import pytest

from ccl_jax.cli import _experiment
from ccl_jax.studies.sweep_config import check_sweep, runs_of
from tests.test_configs import load

ROOT = Path(__file__).parent.parent
FILES = sorted(path.stem for path in (ROOT / 'configs' / 'ablations').glob('*.py'))
# What a user gives for the corpus and the checkpoint.
GIVEN = ['--config.sources.codiesp.path=corpus', '--config.model.path=checkpoint']


def runs(name, variant, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr('sys.argv', ['ccl-jax'])
    sweep = check_sweep(load(f'ablations/{name}').get_config(variant))
    found = runs_of(sweep, Path('w'), _experiment, [] if variant == 'demo' else GIVEN)
    assert len(found) == len(sweep.arms) * len(sweep.seeds)
    return sweep, {run.arm: run.config for run in found if run.seed == sweep.seeds[0]}


@pytest.mark.parametrize('name', FILES)
def test_every_variant_makes_runs_that_train_takes(name, monkeypatch):
    module = load(f'ablations/{name}')
    assert 'demo' in module.VARIANTS
    for variant in module.VARIANTS:
        sweep, configs = runs(name, variant, monkeypatch)
        # Equal cost: as many steps, of rows of the same lengths and number of tokens.
        plans = [config.training.plan for config in configs.values()]
        assert len({(plan.steps, plan.buckets, plan.tokens_per_step) for plan in plans}) == 1
        assert plans[0].steps
        assert f'{name}.py:{variant}' in module.__doc__
        assert len(sweep.seeds) == 3
    with pytest.raises(ValueError, match='no variant "nonsense"'):
        module.get_config('nonsense')


@pytest.mark.parametrize('variant', ['demo', 'codiesp'])
def test_the_four_arms_are_those_of_the_method(variant, monkeypatch):
    _, configs = runs('four_arms', variant, monkeypatch)
    trained = {
        arm: (config.tasks.evidence, *(config.training.plan.mix[task] > 0 for task in ('document', 'span')))
        for arm, config in configs.items()
    }
    assert trained == {
        'A': (False, True, False),
        'B': (True, True, False),
        'C': (True, False, True),
        'D': (True, True, True),
    }
    assert len({str(config.expansion) + str(config.sources) for config in configs.values()}) == 1


def test_the_mean_share_of_a_curriculum_is_the_same(monkeypatch):
    _, configs = runs('curriculum', 'demo', monkeypatch)
    for config in configs.values():
        plan = config.training.plan
        assert (plan.mix['span'] + plan.mix_end['span']) / 2 == pytest.approx(0.5)


@pytest.mark.parametrize(('name', 'runs_of_it'), [('synthetic_notes', 33), ('codiesp', 12)])
def test_the_experiments_compare_arms_at_equal_steps(name, runs_of_it, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr('sys.argv', ['ccl-jax'])
    sweep = check_sweep(load(f'experiments/{name}').get_config())
    found = runs_of(sweep, Path('w'), _experiment, GIVEN if name == 'codiesp' else [])
    assert len(found) == runs_of_it
    configs = {run.arm: run.config for run in found if run.seed == 0}
    longer = configs.pop('A-3x', None)
    plans = [config.training.plan for config in configs.values()]
    assert longer is None or longer.training.plan.steps == 3 * plans[0].steps
    assert len({(plan.steps, plan.buckets, plan.tokens_per_step) for plan in plans}) == 1
    assert (configs['A'].tasks.evidence, configs['B'].tasks.evidence) == (False, True)
    whole = 500 if name == 'codiesp' else configs['B'].sources.synthetic_notes.train
    assert configs['E'].sources.max_train_documents * 5 == whole
    # Scores on the way reach the grid of equal costs: a fifth, two fifths, ... of the steps. Four scores of
    # CodiEsp take up to a fifth of a run's time, so that it has no more, and nothing at the first fifth.
    assert plans[0].steps // configs['A'].eval.score_every == (4 if name == 'codiesp' else 8)


def test_the_recipe_is_tuned_on_a_part_of_train(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr('sys.argv', ['ccl-jax'])
    sweep = check_sweep(load('experiments/codiesp').get_config('tuning'))
    for run in runs_of(sweep, Path('w'), _experiment, GIVEN[:1]):
        assert run.config.model.path in ('runs/backbone/base/hf', 'runs/backbone_small/base/hf')
        assert run.config.sources.tune_share == 0.2
        assert {run.config.eval.split, run.config.eval.score_split} == {'tune'}
        assert run.config.eval.loss_every == 0
    assert 'results/codiesp_tuning' in sweep.results


def test_the_scaling_grid_is_five_sizes_by_three_numbers_of_documents(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr('sys.argv', ['ccl-jax'])
    sweep = check_sweep(load('scaling/demo').get_config())
    configs = [run.config for run in runs_of(sweep, Path('w'), _experiment, [])]
    sizes = {config.base.hidden_size for config in configs}
    documents = {config.sources.max_train_documents for config in configs}
    assert len(configs) == 15 == len(sizes) * len(documents)
    assert all(config.eval.loss_every and config.training.plan.epochs == 1 for config in configs)
