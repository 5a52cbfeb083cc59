"""The bench of the step runs and compares what it says; how fast a machine is, no test can say."""

import dataclasses
import importlib.util
import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.data.loader import assemble_rows
from ccl_jax.data.plan import make_plan
from ccl_jax.data.plan_settings import PlanSettings
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import init_decoder, load_decoder, save_decoder
from ccl_jax.studies import bench_step as study
from ccl_jax.studies import step_ours, step_torch
from ccl_jax.studies.step_process import Measured, ProcessFailed, run_process
from ccl_jax.studies.training_mix import write_mix
from ccl_jax.training.dev_loss import make_loss_step
from ccl_jax.training.mesh import make_mesh

needs_torch = pytest.mark.skipif(importlib.util.find_spec('torch') is None, reason='compares with torch')

ARCHITECTURE = Architecture(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=256,
    initializer_range=0.3,
)
OPTIMIZER = {'learning_rate': 1e-2, 'b1': 0.9, 'b2': 0.95, 'eps': 1e-8, 'clip_norm': 1.0}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bench') / 'model'
    save_decoder(init_decoder(ARCHITECTURE, seed=0), folder)
    write_mix(folder, documents=8, vocabulary=ARCHITECTURE.vocab_size, shrink=64, longest=128)
    return folder


def their_job(folder, **changes):
    values = {'folder': str(folder), 'optimizer': OPTIMIZER, 'seconds': 0.0, 'examples': 4, 'micro_batches': 3}
    return step_torch.TheirJob(**{**values, **changes})


@needs_torch
def test_both_sides_have_the_same_loss_on_the_same_examples(folder):
    """Packed in one row here, padded in micro-batches there: the sums over target tokens agree."""
    import torch

    mix = step_torch.Mix.load(folder)
    chosen = np.random.default_rng(1).permutation(len(mix.lengths))[:12]
    loop = step_torch.Loop(their_job(folder))
    parts = [loop.loss(mix.batch(part), torch.tensor(1)).item() for part in np.split(chosen, 3)]
    expected = sum(parts)

    begins = np.cumsum(mix.lengths) - mix.lengths
    tokens = [mix.tokens[begins[i] : begins[i] + mix.lengths[i]] for i in chosen]
    length = int(mix.lengths[chosen].sum()) + 3
    batch = assemble_rows([tokens], length, [mix.target_starts[chosen]], [np.zeros(12, int)], 'token')
    graphdef, params = nnx.split(load_decoder(folder))
    params = nnx.to_pure_dict(params)
    loss_step = make_loss_step(graphdef, params, {}, make_mesh(), tile_tokens=64)
    sums, weights = loss_step(params, {}, {name: jnp.asarray(array) for name, array in batch.items()})
    np.testing.assert_allclose(float(sums.sum()), expected, rtol=1e-5)
    assert float(weights.sum()) == sum(mix.lengths[chosen] - mix.target_starts[chosen])


@needs_torch
def test_micro_batches_add_up_to_the_step_of_one_batch(folder):
    mix = step_torch.Mix.load(folder)
    whole, parts = (step_torch.Loop(their_job(folder)) for _ in range(2))
    indices = np.arange(2, 14)
    for _ in range(2):
        one = whole.step([mix.batch(indices)])
        several = parts.step([mix.batch(part) for part in np.split(indices, 3)])
        np.testing.assert_allclose(several, one, rtol=1e-5)


def test_their_order_has_every_example_once_an_epoch(folder):
    mix = step_torch.Mix.load(folder)
    count = len(mix.lengths)
    for by_length in (False, True):
        order = mix.order(their_job(folder, by_length=by_length))
        epochs = [np.stack([next(order) for _ in range(count // 4)]) for _ in range(2)]
        assert all(sorted(epoch.ravel()) == list(range(count)) for epoch in epochs)
        assert (epochs[0] != epochs[1]).any()
        padded = (mix.lengths[epochs[0]].max(axis=1) * 4).sum()
        assert (padded < 1.3 * mix.lengths.sum()) == by_length


def test_a_batch_is_padded_on_the_right_and_has_labels_on_targets_only(folder):
    mix = step_torch.Mix(np.arange(1, 10), np.array([2, 4, 3]), np.array([1, 2, 1]))
    batch = mix.batch(np.array([2, 1]))
    assert batch['input_ids'].tolist() == [[7, 8, 9, 0], [3, 4, 5, 6]]
    assert batch['attention_mask'].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch['labels'].tolist() == [[-100, 8, 9, -100], [-100, -100, 5, 6]]


def test_our_way_counts_what_it_trains(folder):
    fields = {'buckets': (128,), 'tokens_per_step': 512, 'steps': 6, 'max_segments': 16}
    job = step_ours.OurJob(
        folder=str(folder), plan=fields, seconds=0.0, cache='off', least_steps=3, optimizer=OPTIMIZER
    )
    measured = Measured(**step_ours.measure(job))
    assert (measured.steps, measured.positions) == (3, 3 * 512)
    assert 0.5 < measured.fill <= 1
    assert 0 <= measured.data_wait < measured.seconds
    assert 0 < measured.loss < 2 * np.log(ARCHITECTURE.vocab_size)


def test_ways_of_ours_have_as_many_tokens_a_step_and_one_of_them_one_example_a_row(folder, tmp_path):
    store = write_mix(tmp_path, documents=60, vocabulary=40, shrink=4, longest=2048)
    jobs = study._jobs(study._SIZE, folder, store)
    columns = store.lengths, store.task_ids, store.target_starts
    single, packed = (make_plan(*columns, PlanSettings(**jobs[way](1).plan)) for way in ('single', 'packed'))
    assert max(len(row) for step in range(8) for row in single.rows(step)) == 1
    assert max(len(row) for step in range(8) for row in packed.rows(step)) > 4
    assert single.step_tokens.mean() == pytest.approx(packed.step_tokens.mean(), rel=0.2)
    theirs = jobs['random'](1)
    tokens = theirs.micro_batches * theirs.examples * store.lengths.mean()
    assert tokens == pytest.approx(packed.step_tokens.mean(), rel=0.2)


def test_report_divides_the_ratio_into_fill_and_computation():
    def measured(tokens, positions, seconds):
        return Measured(1, (tokens,), positions, seconds, 0.01, 1.0, 2.5)

    runs = {
        'random': [measured(100, 500, 1.0), measured(120, 600, 1.2), measured(80, 400, 0.8)],
        'by_length': [measured(100, 125, 0.5)],
        'single': [measured(100, 125, 0.25)],
        'packed': [measured(100, 100, 0.125)],
    }
    text = study.report(study._SIZE, np.array([2, 4]), runs)
    row = re.search(r'^ccl_jax, packed +(.*)$', text, re.MULTILINE)[1].split()
    assert row[:5] == ['800', '800', '8.00', '100.0%', '800']
    assert 'packed is 8.00 x transformers, random batches: 5.00 x by fill and 1.60 x by positions' in text
    assert 'packed is 2.00 x ccl_jax, one example a row: on a log scale 33% of the whole' in text
    assert 'takes 8.00% of our packed steps' in text


def test_a_process_that_fails_says_why(tmp_path):
    job = step_ours.OurJob(folder=str(tmp_path), plan={}, seconds=0.0, cache='off')
    with pytest.raises(ProcessFailed, match=r'ended with 1: .*there is no example store in'):
        run_process(job, {})


@needs_torch
@pytest.mark.slow
def test_every_way_is_measured():
    size = dataclasses.replace(
        study._SIZE, architecture=ARCHITECTURE, documents=20, shrink=32, tokens_per_step=1024, seconds=0.0
    )
    text = study.bench_step(size, repeats=1)
    rows = re.findall(
        r'^((?:transformers|ccl_jax), \D*?) {2,}([\d,]+) +([\d,]+) +([\d.]+) +([\d.]+)%', text, re.MULTILINE
    )
    assert [name for name, *_ in rows] == list(study._WAYS.values())
    assert all(float(speed.replace(',', '')) > 0 for _, speed, *_ in rows)
    fills = [float(fill) for *_, fill in rows]
    assert fills[0] == min(fills)
    assert fills[3] > fills[2]
