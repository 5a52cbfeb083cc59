"""Checkpoints that are damaged, unfinished, moved, or of another run."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccl_jax.errors import UserError
from ccl_jax.training.checkpoints import Checkpoints, restore_parameters
from ccl_jax.training.manifest import MANIFEST

FINGERPRINT = {'config': {'learning_rate': 0.1, 'layers': (1, 2)}, 'plan': 'abc'}


def state_at(step):
    """A state with the containers of real ones; its numbers tell the step."""
    params = {
        'embedding': jax.random.normal(jax.random.key(step), (40, 30)),
        'layers': {'down': jnp.full((2, 3), 1.0 * step)},
    }
    return {'params': params, 'optimizer': {'opt_state': optax.adamw(0.1).init(params), 'step': jnp.int32(step)}}


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def save(directory, steps, keep=2, losses=None, **options):
    with Checkpoints(directory, keep=keep, fingerprint=FINGERPRINT, **options) as checkpoints:
        checkpoints.newest()
        for step in steps:
            checkpoints.save(step, state_at(step), {'dev_loss': losses[step]} if losses and step in losses else None)


def restore(directory, fingerprint=FINGERPRINT):
    with Checkpoints(directory, keep=2, fingerprint=fingerprint) as checkpoints:
        step = checkpoints.newest()
        return None if step is None else (step, checkpoints.load(step, abstract(state_at(0))))


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def assert_is_state(restored, step):
    assert restored[0] == step
    assert jax.tree.structure(restored[1]) == jax.tree.structure(state_at(step))
    jax.tree.map(np.testing.assert_array_equal, restored[1], state_at(step))


def data_file(checkpoint):
    """The file that holds the arrays."""
    return max((path for path in checkpoint.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp('saved') / 'checkpoints'
    save(directory, [1, 2, 3])
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / 'checkpoints')


def test_the_latest_comes_back_and_older_ones_go(saved):
    assert names(saved) == ['2', '3']
    assert_is_state(restore(saved), 3)


def test_nothing_there_yet(tmp_path):
    assert restore(tmp_path / 'run' / 'checkpoints') is None


def test_a_save_is_not_changed_by_donating_its_arrays(tmp_path):
    scramble = jax.jit(lambda tree: jax.tree.map(lambda x: x * 3 + 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path, keep=2, fingerprint={}) as checkpoints:
        state = {'params': jax.random.normal(jax.random.key(0), (1000, 1000))}
        expected = np.array(state['params'])
        checkpoints.save(1, state)
        for _ in range(20):
            state = scramble(state)
    _, params = restore_parameters(tmp_path, abstract(state['params']))
    np.testing.assert_array_equal(params, expected)


def test_due_follows_the_steps_and_the_time_blocked_is_counted(tmp_path):
    with Checkpoints(tmp_path, keep=2, fingerprint={}, every_steps=3) as checkpoints:
        assert [step for step in range(1, 8) if checkpoints.due(step)] == [3, 6]
        assert checkpoints.blocked_seconds == 0
        checkpoints.save(1, state_at(1))
        saving = checkpoints.blocked_seconds
        assert saving > 0
        checkpoints.wait()
        assert checkpoints.blocked_seconds > saving


def test_every_file_is_in_the_manifest(saved):
    listed = json.loads((saved / '3' / MANIFEST).read_text())['sha256']
    files = {str(path.relative_to(saved / '3')) for path in (saved / '3').rglob('*') if path.is_file()}
    assert listed.keys() == files - {MANIFEST}


def damage_by_flip(checkpoint):
    flip_a_bit(data_file(checkpoint))


def damage_by_truncation(checkpoint):
    path = data_file(checkpoint)
    path.write_bytes(path.read_bytes()[:-1])


def damage_by_deletion(checkpoint):
    data_file(checkpoint).unlink()


def damage_of_the_manifest(checkpoint):
    (checkpoint / MANIFEST).write_text('{')


@pytest.mark.parametrize('damage', [damage_by_flip, damage_by_truncation, damage_by_deletion, damage_of_the_manifest])
def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(directory, caplog, damage):
    damage(directory / '3')
    _, params = restore_parameters(directory, abstract(state_at(0)['params']))
    np.testing.assert_array_equal(params['embedding'], state_at(2)['params']['embedding'])
    assert names(directory) == ['2', '3']
    caplog.clear()
    assert_is_state(restore(directory), 2)
    (record,) = caplog.records
    assert 'checkpoint 3 is damaged' in record.getMessage()
    assert names(directory) == ['2', '3.damaged']
    # The run goes on and makes the step again.
    save(directory, [3])
    assert_is_state(restore(directory), 3)
    assert names(directory) == ['2', '3', '3.damaged']


def test_no_good_checkpoint_is_an_error_again_and_again(directory):
    for step in ('2', '3'):
        flip_a_bit(data_file(directory / step))
    with pytest.raises(UserError, match='no good checkpoint'):
        restore_parameters(directory, abstract(state_at(0)['params']))
    for _ in range(2):
        with pytest.raises(UserError, match=r'every checkpoint in .* is damaged'):
            restore(directory)


def test_what_an_interrupted_save_left_is_cleared_away(directory, caplog):
    (directory / '3' / MANIFEST).unlink()
    (directory / '4').mkdir()
    (directory / '4.orbax-checkpoint-tmp').mkdir()
    (directory / 'notes').mkdir()
    assert_is_state(restore(directory), 2)
    assert names(directory) == ['2', 'notes']
    assert len(caplog.records) == 3
    save(directory, [3, 4])
    assert_is_state(restore(directory), 4)


def test_an_interrupted_first_save_is_no_checkpoint(directory):
    shutil.rmtree(directory / '2')
    (directory / '3' / MANIFEST).unlink()
    assert restore(directory) is None


def test_another_fingerprint_is_refused_with_the_differences(saved):
    other = {'config': {'learning_rate': 0.2, 'layers': (1, 2), 'width': 8}, 'plan': 'abc'}
    with pytest.raises(UserError) as error:
        restore(saved, other)
    message = str(error.value)
    assert 'config.learning_rate was 0.1 and is 0.2' in message
    assert 'config.width was null and is 8' in message
    assert 'layers' not in message
    assert 'plan' not in message


def test_another_model_is_refused(saved):
    params = state_at(0)['params']
    wider = {**params, 'embedding': jnp.zeros((41, 30))}
    with pytest.raises(UserError, match=r'params/embedding is \[40, 30\] in it and \[41, 30\] in this model'):
        restore_parameters(saved, abstract(wider))
    with pytest.raises(UserError, match=r'params/lm_head is absent in it and \[3\] in this model'):
        restore_parameters(saved, abstract({**params, 'lm_head': jnp.zeros(3)}))
    other_optimizer = optax.sgd(0.1, momentum=0.9).init(params)
    with Checkpoints(saved, keep=2, fingerprint=FINGERPRINT) as checkpoints, pytest.raises(UserError, match='not fit'):
        checkpoints.load(3, abstract({'optimizer': {'opt_state': other_optimizer, 'step': jnp.int32(0)}}))


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ({'keep': 1}, 'keep is 1'),
        ({'keep_best': -1}, 'keep_best is -1'),
        ({'keep_best': 1}, 'give best_metric'),
        ({'best_mode': 'least'}, 'best_mode is "least"'),
        ({'every_steps': 0}, 'every_steps is 0'),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        Checkpoints(tmp_path, **{'keep': 2, 'fingerprint': {}, **options})


LOSSES = {1: 0.5, 2: 0.2, 3: 0.9, 5: 0.3, 6: math.nan, 7: 0.8}


@pytest.mark.parametrize(
    ('mode', 'kept', 'best'),
    # The latest two are 6 and 7, with a loss that is not finite; step 4 was not measured.
    [('min', ['2', '5', '6', '7'], 2), ('max', ['3', '6', '7'], 3)],
)
def test_the_best_are_kept_beside_the_latest(tmp_path, mode, kept, best):
    options = {'losses': LOSSES, 'keep_best': 2, 'best_metric': 'dev_loss', 'best_mode': mode}
    save(tmp_path, [1, 2, 3, 4], **options)
    # What was measured is known after a restart.
    save(tmp_path, [5, 6, 7], **options)
    assert names(tmp_path) == kept
    params = abstract(state_at(0)['params'])
    step, restored = restore_parameters(tmp_path, params, best_metric='dev_loss', best_mode=mode)
    assert step == best
    np.testing.assert_array_equal(restored['embedding'], state_at(best)['params']['embedding'])
    assert restore_parameters(tmp_path, params)[0] == 7
    assert restore_parameters(tmp_path, params, best_metric='another')[0] == 7
    assert restore(tmp_path)[0] == 7
    flip_a_bit(data_file(tmp_path / str(best)))
    second = {'min': 5, 'max': 7}[mode]
    assert restore_parameters(tmp_path, params, best_metric='dev_loss', best_mode=mode)[0] == second


def test_types_may_be_others_than_were_saved(saved):
    params = state_at(0)['params']
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding), params)
    _, restored = restore_parameters(saved, half)
    for got, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(state_at(3)['params']), strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.array(got), np.array(expected.astype(jnp.bfloat16)))


def test_no_checkpoint_to_read_is_an_error(tmp_path):
    with pytest.raises(UserError, match='no good checkpoint'):
        restore_parameters(tmp_path / 'nowhere', {})
