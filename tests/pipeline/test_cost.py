"""The ledger of a run against its batches, counted one token at a time, and `ccl-jax cost` on it."""

import json
import shutil

import jax
import numpy as np
import pytest

from ccl_jax.data.examples import ExampleStore
from ccl_jax.data.loader import make_loader
from ccl_jax.data.plan import make_plan
from ccl_jax.model.hf import read_architecture
from ccl_jax.model.settings import LoraSettings
from ccl_jax.pipeline.cost import expansion_entry, scores_entry, total_of, training_entry
from ccl_jax.pipeline.workdir import workdir_config
from ccl_jax.tasks import TASKS
from ccl_jax.training.step_costs import Cost, StepCosts
from tests.pipeline.conftest import STEPS, ccl_jax


def ledger_of(workdir):
    return json.loads((workdir / 'cost.json').read_text())


def counted_by_hand(store, plan, model, end_step=None):
    """Counts the batches of the loader: tokens, padding and FLOPs, the last from the shapes in config.json."""
    heads = model['num_attention_heads'] * model['head_dim']
    keys = model['num_key_value_heads'] * model['head_dim']
    hidden, inner = model['hidden_size'], model['intermediate_size']
    layer = hidden * heads + 2 * hidden * keys + heads * hidden + 3 * hidden * inner
    weights = model['num_hidden_layers'] * layer + hidden * model['vocab_size']
    tokens, padding, forward = {}, 0, 0
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for _, batch in make_loader(store, plan, device, end_step=end_step, threads=0):
        batch = {name: np.asarray(array) for name, array in batch.items()}
        for row in range(len(batch['tokens'])):
            for segment in range(1, batch['segment_ids'][row].max() + 1):
                inside = batch['segment_ids'][row] == segment
                targets = int((batch['loss_weights'][row][inside] > 0).sum())
                if not targets:
                    padding += int(inside.sum())
                    continue
                length = int(inside.sum())
                (task,) = set(batch['task_ids'][row][inside].tolist())
                of_task = tokens.setdefault(TASKS[task], {'prompt': 0, 'target': 0})
                of_task['prompt'] += length - targets
                of_task['target'] += targets
                # A multiply-add with every weight for every token; a query meets the keys up to its own, twice.
                forward += 2 * weights * length
                forward += sum(model['num_hidden_layers'] * 2 * 2 * heads * (query + 1) for query in range(length))
    return tokens, padding, forward


@pytest.mark.parametrize('stage', ['base', 'training'])
def test_a_ledger_is_what_the_batches_hold(miniature, stage):
    config = workdir_config(miniature)
    folder, part = (miniature, config.training) if stage == 'training' else (miniature / 'base', config.base_training)
    store = ExampleStore.open(folder / 'data' / 'examples')
    plan = make_plan(store.lengths, store.task_ids, store.target_starts, part.plan)
    model = json.loads((miniature / 'base' / 'hf' / 'config.json').read_text())
    tokens, padding, forward = counted_by_hand(store, plan, model)
    entry = ledger_of(miniature)['stages'][stage]
    assert entry['steps'] == plan.steps == {'training': STEPS, 'base': 4}[stage]
    assert entry['tokens'] == tokens
    assert entry['padding_tokens'] == padding
    assert entry['flops'] == {'forward': pytest.approx(forward), 'backward': pytest.approx(2 * forward)}


def test_sums_up_to_a_step_whatever_was_asked_before(miniature):
    config = workdir_config(miniature)
    store = ExampleStore.open(miniature / 'data' / 'examples')
    plan = make_plan(store.lengths, store.task_ids, store.target_starts, config.training.plan)
    model = json.loads((miniature / 'base' / 'hf' / 'config.json').read_text())
    costs = StepCosts(store, plan, read_architecture(miniature / 'base' / 'hf'), LoraSettings())
    for steps in (3, 8, 2):
        tokens, padding, forward = counted_by_hand(store, plan, model, steps)
        found = costs.up_to(steps)
        assert found.to_json()['tokens'] == tokens
        assert (found.padding_tokens, found.forward) == (padding, pytest.approx(forward))
        assert found.tokens == sum(sum(task.values()) for task in tokens.values())


def test_the_rest_of_the_ledger(miniature):
    ledger = ledger_of(miniature)
    goodput = json.loads((miniature / 'goodput.json').read_text())
    metrics = json.loads((miniature / 'eval' / 'test' / 'metrics.json').read_text())
    assert ledger['format'] == 1
    assert ledger['device'] == {'kind': 'cpu', 'count': 1, 'processes': 1}
    training, base = ledger['stages']['training'], ledger['stages']['base']
    steps = sum(goodput['seconds'][kind] for kind in ('steps', 'data_wait', 'checkpoint_wait'))
    assert training['device_seconds'] == pytest.approx(steps, abs=2e-3)
    assert training['wall_seconds'] == goodput['total_seconds']
    assert training['energy_joules'] is None
    assert '"cpu" does not tell its energy' in training['energy_reason']
    evaluation = ledger['stages']['evaluation']['test']
    for name in ('documents', 'prompt_tokens', 'new_tokens', 'flops'):
        assert evaluation[name] == metrics['decoding'][name]
    assert ledger['stages']['expansion']['tokens'] == 0
    assert ledger['total']['flops'] == pytest.approx(sum(base['flops'].values()) + sum(training['flops'].values()))


def test_entries_by_hand():
    cost = Cost(2, 9, {'span': 10}, {'span': 5}, 1, 100.0, 200.0)
    seconds = {'steps': 6.0, 'evaluation': 2.0, 'scoring': 3.0, 'lost': 1.0}
    goodput = {
        'seconds': seconds,
        'total_seconds': 12.0,
        'device_seconds': 24.0,
        'energy': {'joules': 7.5, 'reason': ''},
    }
    entry = training_entry(cost, goodput)
    assert entry == {
        'steps': 2,
        'examples': 9,
        'tokens': {'span': {'prompt': 10, 'target': 5}},
        'padding_tokens': 1,
        'flops': {'forward': 100.0, 'backward': 200.0},
        'device_seconds': 24.0,
        'wall_seconds': 7.0,
        'lost_seconds': 1.0,
        'energy_joules': 7.5,
    }
    assert total_of({'base': entry, 'training': entry, 'evaluation': {'dev': {'flops': 5}}}) == {
        'tokens': 30,
        'flops': 600.0,
        'device_seconds': 48.0,
    }
    decoding = {
        'documents': 2,
        'prompt_tokens': 30,
        'new_tokens': 4,
        'flops': 1.5,
        'device_seconds': 0.5,
        'truncated': 1,
    }
    assert scores_entry([{'decoding': decoding}, {'decoding': decoding}]) == {
        'documents': 4,
        'prompt_tokens': 60,
        'new_tokens': 8,
        'flops': 3.0,
        'device_seconds': 1.0,
    }
    usage = {'requests': 3, 'input_tokens': 100, 'output_tokens': 20, 'assumed_tokens': 5, 'tokens_of_earlier_runs': 7}
    report = {'endpoint': {'usage': usage}, 'model': {'input_tokens': 1000, 'output_tokens': 200}}
    assert expansion_entry(report)['tokens'] == 1332
    assert expansion_entry({}) == {'endpoint': None, 'model': None, 'tokens': 0}


def test_runs_are_compared_from_the_command_line(miniature, tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    ledger = ledger_of(miniature)
    tasks = ledger['stages']['training']['tokens']
    tasks['span']['prompt'] += sum(sum(task.values()) for task in tasks.values())
    (other / 'cost.json').write_text(json.dumps(ledger))
    line = {'step': 5, 'split': 'dev', 'decoding': {'documents': 8}, 'metrics': {'micro_f1': 0.25}}
    line['cost'] = {'tokens': 5, 'flops': 100.0, 'device_seconds': 1.0}
    (other / 'scores.jsonl').write_text(json.dumps(line) + '\n')
    plot = tmp_path / 'cost.png'
    done = ccl_jax('cost', str(miniature), str(other), f'--plot={plot}', '--json')
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)['runs']
    assert runs['other']['ratio'] == {'tokens': 2.0, 'flops': 1.0, 'device_seconds': 1.0}
    assert runs['other']['curve'] == [[100.0, 0.25]]
    assert runs[miniature.name]['curve'] == []
    assert plot.read_bytes()[:4] == b'\x89PNG'
    done = ccl_jax('cost', str(miniature), str(other), f'--reference={other}')
    assert done.returncode == 0
    assert 'ratios are to other' in done.stdout


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        ([], 'name the workdirs of the runs'),
        (['{run}', '{run}'], 'a run is named twice'),
        (['{run}', '{empty}'], 'cost.json is missing'),
        (['{run}', '--reference=nobody'], 'the reference "nobody" is none of the runs'),
        (['{run}', '--cost=dollars'], 'the cost "dollars" is unknown; choose one of tokens, flops, device_seconds'),
        (['{run}', '--plot=x.png'], 'there is no curve to plot'),
    ],
)
def test_a_comparison_that_cannot_be_made(miniature, tmp_path, arguments, sentence):
    done = ccl_jax('cost', *(argument.format(run=miniature, empty=tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert sentence in done.stderr


@pytest.mark.parametrize('text', ['{', '[]', '{"format": 2, "stages": {}}'])
def test_a_ledger_that_cannot_be_read(tmp_path, text):
    (tmp_path / 'cost.json').write_text(text)
    done = ccl_jax('cost', str(tmp_path))
    assert done.returncode == 2
    assert 'cannot be read' in done.stderr or 'has format 2' in done.stderr


def test_a_finished_run_keeps_its_ledger(miniature, tmp_path):
    """Another evaluation adds its split, and the training's entry stays."""
    workdir = tmp_path / 'copy'
    shutil.copytree(miniature, workdir)
    done = ccl_jax('eval', f'--workdir={workdir}', '--split=dev')
    assert done.returncode == 0, done.stderr
    before, after = ledger_of(miniature), ledger_of(workdir)
    assert after['stages']['evaluation'].keys() == {'test', 'dev'}
    assert after['stages']['training'] == before['stages']['training']
    assert after['total'] == before['total']
