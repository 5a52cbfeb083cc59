"""The loss of a dev set against example by example, and what a run makes of it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import SHAPES, fit_tiny, lines, losses, random_batch

from ccl_jax.tasks import TASKS
from ccl_jax.training.compilation import compile_shapes
from ccl_jax.training.dev_loss import DevSet, dev_losses, make_loss_step
from ccl_jax.training.mesh import batch_sharding, make_mesh


def dev_set(every, *seeds):
    def batches():
        for seed in seeds:
            yield jax.device_put(random_batch(seed, *SHAPES[seed % 2]), batch_sharding(make_mesh()))

    return DevSet(every, SHAPES, batches)


def test_it_is_the_mean_over_all_targets_of_a_task_one_example_at_a_time():
    mesh = make_mesh()
    graphdef, params = tiny.tiny_params(mesh)

    @jax.jit
    def log_probabilities(tokens):
        decoder = nnx.merge(graphdef, params, {})
        hidden = decoder(tokens[None], jnp.arange(len(tokens))[None], jnp.ones_like(tokens)[None])[0]
        return jax.nn.log_softmax((hidden @ decoder.output_embedding()).astype(jnp.float32))

    sums, weights = dict.fromkeys(TASKS, 0.0), dict.fromkeys(TASKS, 0.0)
    seeds = (100, 101, 102)
    for seed in seeds:
        batch = random_batch(seed, *SHAPES[seed % 2])
        for row in range(len(batch['tokens'])):
            for segment in np.unique(batch['segment_ids'][row]):
                inside = batch['segment_ids'][row] == segment
                if segment == 0 or not batch['loss_weights'][row][inside].any():
                    continue
                tokens = batch['tokens'][row][inside]
                log_p = np.asarray(log_probabilities(tokens))
                task = TASKS[batch['task_ids'][row][inside][0]]
                for place, weight in enumerate(batch['loss_weights'][row][inside][:-1]):
                    sums[task] -= weight * float(log_p[place, tokens[place + 1]])
                    weights[task] += weight
    expected = {task: sums[task] / weights[task] for task in TASKS}
    step = make_loss_step(graphdef, params, {}, mesh, tile_tokens=50)
    found = dev_losses(step, params, {}, dev_set(1, *seeds).batches(), {'span': 0.5, 'lm': 0.0})
    assert {task: found[task] for task in TASKS} == pytest.approx(expected, rel=1e-5)
    assert found['loss'] == pytest.approx(expected['document'] + 0.5 * expected['span'], rel=1e-5)


def test_it_is_measured_at_its_interval_and_at_the_end_and_changes_nothing(tmp_path):
    fit_tiny(tmp_path / 'with', dev=dev_set(4, 50), checkpoint_every=3)
    fit_tiny(tmp_path / 'without', checkpoint_every=3)
    assert losses(tmp_path / 'with') == losses(tmp_path / 'without')
    assert [line['step'] for line in lines(tmp_path / 'with', 'dev.jsonl')] == [3, 7, 9]
    # The newest two by step, 9 and 10, and the best.
    best = min(lines(tmp_path / 'with', 'dev.jsonl'), key=lambda line: line['loss'])['step'] + 1
    kept = {int(path.name) for path in (tmp_path / 'with' / 'checkpoints').iterdir()}
    assert kept == {9, 10, best}


def test_the_best_checkpoint_outlives_the_newer_ones(tmp_path):
    """Trained on one batch over and over at a high rate, other texts get worse soon."""
    batch = random_batch(0, *SHAPES[0])
    fit_tiny(tmp_path, shapes=SHAPES[:1], steps=16, change=lambda *_: batch, dev=dev_set(2, 50), learning_rate=0.1)
    measured = lines(tmp_path, 'dev.jsonl')
    best = min(measured, key=lambda line: line['loss'])['step'] + 1
    assert best < 12, measured
    assert {int(path.name) for path in (tmp_path / 'checkpoints').iterdir()} == {best, 14, 16}


def test_a_resumed_run_has_each_measurement_once(tmp_path):
    def fail(step, batch):
        if step == 7:
            raise RuntimeError('no more data')
        return batch

    with pytest.raises(RuntimeError):
        fit_tiny(tmp_path / 'twice', dev=dev_set(3, 50), change=fail)
    fit_tiny(tmp_path / 'twice', dev=dev_set(3, 50))
    fit_tiny(tmp_path / 'once', dev=dev_set(3, 50))
    assert lines(tmp_path / 'twice', 'dev.jsonl') == lines(tmp_path / 'once', 'dev.jsonl')
    assert json.loads((tmp_path / 'twice' / 'goodput.json').read_text())['seconds']['evaluation'] > 0


def test_a_batch_of_another_shape_is_an_error():
    mesh = make_mesh()
    graphdef, params = tiny.tiny_params(mesh)
    step = make_loss_step(graphdef, params, {}, mesh, tile_tokens=50)
    call = compile_shapes(step, (params, {}), SHAPES[:1], mesh, 'the dev loss')
    call(params, {}, jax.device_put(random_batch(0, *SHAPES[0]), batch_sharding(mesh)))
    with pytest.raises(ValueError, match='shape 8 x 24; the dev loss was compiled for 16 x 12'):
        call(params, {}, jax.device_put(random_batch(0, *SHAPES[1]), batch_sharding(mesh)))
