"""The loop end to end with a tiny decoder: what it writes, and that a run may be killed anywhere."""

import shutil
import signal
import time

import jax
import numpy as np
import pytest
import tiny
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c
from tiny import SHAPES, fit_tiny, lines, losses, spawn

from ccl_jax.data.plan import PlanSettings, make_plan
from ccl_jax.errors import UserError
from ccl_jax.training.loop import Run, fit
from ccl_jax.training.mesh import batch_sharding, make_mesh
from ccl_jax.training.recorder import cut_lines
from ccl_jax.training.settings import OptimizerSettings, TrainingSettings


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('uninterrupted')
    fit_tiny(workdir)
    return workdir


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, 'waited too long'
        time.sleep(0.02)


def scalars(workdir):
    """Reads (tag, step) -> value from the TensorBoard files, later records last."""
    values = {}
    for path in sorted((workdir / 'tensorboard').iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], 'little')
            record = data[12 : 12 + length]
            assert int.from_bytes(data[12 + length : 16 + length], 'little') == masked_crc32c(record)
            event = Event.FromString(record)
            values.update({(value.tag, event.step): value.simple_value for value in event.summary.value})
            data = data[16 + length :]
    return values


def test_every_step_is_recorded(uninterrupted):
    recorded = lines(uninterrupted)
    assert [line['step'] for line in recorded] == list(range(10))
    assert [(line['rows'], line['bucket']) for line in recorded] == [SHAPES[step % 2] for step in range(10)]
    for line in recorded:
        assert line['padded_tokens'] == line['rows'] * line['bucket']
        assert line['tokens'] == 100
        assert line['seconds'] > 0
        # N_t is 20 for every task and every lambda_t is 1.
        sums = [line['task_losses'][task] * line['task_weights'][task] for task in line['task_losses']]
        np.testing.assert_allclose(line['loss'], sum(sums) / 20, rtol=1e-6)
        batch = tiny.random_batch(line['step'], line['rows'], line['bucket'])
        np.testing.assert_allclose(sum(line['task_weights'].values()), batch['loss_weights'].sum(), rtol=1e-6)
    np.testing.assert_allclose([line['learning_rate'] for line in recorded[:2]], [0.01, 0.02], rtol=1e-6)
    values = scalars(uninterrupted)
    for line in recorded:
        np.testing.assert_allclose(values['train/loss', line['step']], line['loss'], rtol=1e-6)
        np.testing.assert_allclose(values['train/loss_span', line['step']], line['task_losses']['span'], rtol=1e-6)


def test_checkpoints_at_the_interval_and_at_the_end(uninterrupted):
    assert sorted(path.name for path in (uninterrupted / 'checkpoints').iterdir()) == ['10', '8']


def test_a_finished_run_is_left_as_it_is(uninterrupted):
    before = (uninterrupted / 'metrics.jsonl').read_bytes()
    state = fit_tiny(uninterrupted)
    assert int(state.step) == 10
    assert (uninterrupted / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize('stop_at', [3, 7])
def test_a_run_that_failed_goes_on_with_the_same_losses_bit_for_bit(uninterrupted, tmp_path, stop_at):
    def fail(step, batch):
        if step == stop_at:
            raise RuntimeError('no more data')
        return batch

    with pytest.raises(RuntimeError):
        fit_tiny(tmp_path, change=fail)
    fit_tiny(tmp_path)
    assert losses(tmp_path) == losses(uninterrupted)


@pytest.mark.slow
def test_a_killed_run_gives_the_same_losses_bit_for_bit(uninterrupted, tmp_path):
    kill_at = 6
    process = spawn([[str(tmp_path), {}, {'pause': 0.2}]])
    metrics = tmp_path / 'metrics.jsonl'
    wait_for(lambda: metrics.exists() and metrics.read_text().count('\n') > kill_at, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = losses(tmp_path)
    assert kill_at < len(before) < 10
    assert before == losses(uninterrupted)[: len(before)]
    # A line that was being written.
    with open(metrics, 'a') as out:
        out.write('{"step": 7, "lo')
    fit_tiny(tmp_path)
    assert losses(tmp_path) == losses(uninterrupted)


def test_killed_while_a_checkpoint_is_written(uninterrupted, tmp_path):
    """What a kill leaves behind: a folder of Orbax, or one that is committed but has no manifest."""
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    checkpoints = tmp_path / 'checkpoints'
    (checkpoints / '10' / 'manifest.json').unlink()
    (checkpoints / '9.orbax-checkpoint-tmp').mkdir()
    state = fit_tiny(tmp_path)
    assert int(state.step) == 10
    assert losses(tmp_path) == losses(uninterrupted)
    assert sorted(path.name for path in checkpoints.iterdir()) == ['10', '8']


def test_other_settings_are_refused(uninterrupted):
    with pytest.raises(UserError, match=r'plan was "p1" and is "p2"'):
        fit_tiny(uninterrupted, fingerprint={'plan': 'p2'})


@pytest.mark.slow
def test_the_mesh_changes_nothing(tmp_path):
    """30 steps on 1 and on 8 devices; one run moves to 8 devices with the checkpoint of 1 device."""
    shapes = [SHAPES[0]]
    options = {'steps': 30, 'shapes': shapes, 'checkpoint_every': 10, 'keep': 3}
    for name in ('adamw', 'muon'):
        fit_tiny(tmp_path / name, name=name, **options)
    moved = tmp_path / 'moved'
    shutil.copytree(tmp_path / 'adamw', moved)
    for step in ('20', '30'):
        shutil.rmtree(moved / 'checkpoints' / step)
    process = spawn(
        [
            [str(tmp_path / 'adamw8'), {'fsdp': 8}, {'accumulation': 2, **options}],
            [str(tmp_path / 'muon8'), {'fsdp': 4, 'tensor': 2}, {'name': 'muon', **options}],
            [str(moved), {'replica': 2, 'fsdp': 2, 'tensor': 2}, options],
        ],
        devices=8,
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert 'resuming from the checkpoint at step 10' in errors
    for one, eight in (('adamw', 'adamw8'), ('muon', 'muon8'), ('adamw', 'moved')):
        np.testing.assert_allclose(losses(tmp_path / eight), losses(tmp_path / one), rtol=1e-5)


def test_steps_that_are_not_finite_are_skipped_and_end_the_run_when_they_go_on(tmp_path):
    def poison(step, batch):
        return {**batch, 'loss_weights': batch['loss_weights'] * np.float32(np.nan if 2 <= step < 4 or step > 4 else 1)}

    def ids(step):
        return [f'note-{step}', f'span-{step}']

    with pytest.raises(UserError, match=r'3 steps in a row, up to step 7; .*skipped.jsonl names'):
        fit_tiny(tmp_path, shapes=SHAPES[:1], change=poison, most_skipped=3, example_ids=ids)
    recorded = lines(tmp_path)
    assert [line['loss'] is None for line in recorded] == [False, False, True, True, False, True, True, True]
    assert [line['skipped'] for line in recorded] == [0, 0, 1, 2, 2, 3, 4, 5]
    assert lines(tmp_path, 'skipped.jsonl') == [{'step': step, 'example_ids': ids(step)} for step in (2, 3, 5, 6, 7)]


@pytest.mark.parametrize('step_of_nan', [0, 3])
def test_a_skipped_step_changes_nothing(tmp_path, step_of_nan):
    """NaN in one batch of a constant rate: the steps after it are those of a run without this batch."""
    options = {'shapes': SHAPES[:1], 'schedule': 'constant', 'warmup_steps': 0}

    def poison(step, batch):
        if step == step_of_nan:
            return {**batch, 'loss_weights': batch['loss_weights'] * np.float32(np.nan)}
        return tiny.random_batch(step if step < step_of_nan else step - 1, *SHAPES[0])

    fit_tiny(tmp_path / 'with', steps=7, change=poison, **options)
    fit_tiny(tmp_path / 'without', steps=6, **options)
    found = losses(tmp_path / 'with')
    assert found[step_of_nan] is None
    assert found[:step_of_nan] + found[step_of_nan + 1 :] == losses(tmp_path / 'without')


def test_rows_that_cannot_be_divided_are_refused(tmp_path):
    with pytest.raises(UserError, match='16 rows of 12 tokens'):
        fit_tiny(tmp_path, accumulation=3)


def test_run_of_a_plan():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 30, 200)
    settings = PlanSettings(buckets=(32, 64), tokens_per_step=256, epochs=2)
    plan = make_plan(lengths, rng.integers(0, 2, 200), np.full(200, 3), settings)
    run = Run.from_plan(plan)
    assert run.total_steps == plan.steps == len(run.real_tokens)
    for step in range(plan.steps):
        assert plan.shape(step) in run.shapes
        assert run.real_tokens[step] == sum(lengths[row].sum() for row in plan.rows(step))
    assert run.real_tokens.sum() == 2 * lengths.sum()


@pytest.mark.parametrize('options', [{'keep': 1}, {'tile_tokens': 0}, {'checkpoint_every': -1}, {'most_skipped': 0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(UserError, match='must be at least'):
        TrainingSettings(**options)


@pytest.mark.parametrize('steps', [[0, 2], [0]])
def test_a_loader_that_leaves_out_steps_is_found_out(tmp_path, steps):
    batch = jax.device_put(tiny.random_batch(0, *SHAPES[0]), batch_sharding(make_mesh()))
    graphdef, params = tiny.tiny_params(make_mesh())
    with pytest.raises(ValueError, match='where step 1 was due'):
        fit(
            graphdef,
            params,
            mesh=make_mesh(),
            run=Run(10, SHAPES[:1], np.full(10, 100), {'span': 20.0}),
            batches=lambda start: iter([(step, batch) for step in steps]),
            optimizer=OptimizerSettings(),
            settings=TrainingSettings(),
            fingerprint={},
            workdir=tmp_path,
        )


def test_cut_lines(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    cut_lines(path, 3)
    assert not path.exists()
    path.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    cut_lines(path, 3)
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'
    cut_lines(path, 0)
    assert path.read_text() == ''
