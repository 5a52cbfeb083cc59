"""A run that is killed ten times, also inside saves, ends with the metrics of a run that never was."""

import contextlib
import random
import time

import pytest
import tiny

from ccl_jax.training.manifest import MANIFEST

EVERY, STEPS = 3, 66
OPTIONS = {'steps': STEPS, 'checkpoint_every': EVERY, 'shapes': tiny.SHAPES[:1]}
# Where a run is killed: at any time after its start, in its steps, in a save, or in one that lacks the manifest alone.
PLACES = ['start'] * 2 + ['steps'] * 3 + ['save'] * 3 + ['manifest'] * 2
# What does not depend on the clock.
FIELDS = ('step', 'loss', 'task_losses', 'task_weights', 'learning_rate', 'grad_norm', 'skipped', 'tokens', 'rows')


def metrics_lines(workdir):
    metrics = workdir / 'metrics.jsonl'
    return metrics.read_text().count('\n') if metrics.exists() else 0


def file_of_metrics(workdir):
    """Tells files of one name apart: a run replaces what the one before it left."""
    metrics = workdir / 'metrics.jsonl'
    return metrics.stat().st_ino if metrics.exists() else None


def newest(workdir):
    """The step of the newest complete checkpoint, 0 for none."""
    found = (workdir / 'checkpoints').glob(f'*/{MANIFEST}')
    return max((int(path.parent.name) for path in found), default=0)


def save_of(workdir, step):
    """The folders of a save under way: that of Orbax, then that without a manifest."""
    folders = (workdir / 'checkpoints').glob(f'{step}*')
    return [path for path in folders if path.name.split('.')[0] == str(step) and not (path / MANIFEST).exists()]


@contextlib.contextmanager
def started(workdir, **options):
    with tiny.spawn([[str(workdir), {}, {**OPTIONS, **options}]]) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition, process):
    end = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, 'waited too long'
        time.sleep(0.001)


def finish(workdir):
    """Runs to the end and returns what the run said."""
    with started(workdir) as process:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return errors


def kill_once(workdir, place, rng):
    """Starts the run and kills it in `place`."""
    begin, before = newest(workdir), file_of_metrics(workdir)
    # The run cannot pass this save, so it is alive when it is killed, however slow this machine is.
    held = begin + EVERY * rng.randint(2, 3)
    with started(workdir, held_save=held, pause=0.02) as process:
        if place == 'start':
            time.sleep(rng.uniform(0, 5))
        else:
            wait_for(lambda: file_of_metrics(workdir) != before, process)
        if place == 'steps':
            # Metrics come two steps late, but all of them before a save.
            steps = rng.randint(1, held - begin)
            wait_for(lambda: metrics_lines(workdir) >= begin + steps, process)
            time.sleep(rng.uniform(0, 0.05))
        elif place == 'save':
            wait_for(lambda: save_of(workdir, held), process)
            time.sleep(rng.uniform(0, 0.1))
        elif place == 'manifest':
            wait_for((workdir / 'checkpoints' / str(held)).exists, process)
        assert process.poll() is None
        process.kill()
        _, errors = process.communicate()
    assert process.returncode == -9
    assert newest(workdir) < held
    if place in ('save', 'manifest'):
        assert save_of(workdir, held)
    if place != 'start' and begin:
        assert f'resuming from the checkpoint at step {begin} of {STEPS}' in errors


@pytest.mark.slow
def test_ten_kills_change_no_metric(tmp_path, monkeypatch):
    # Twelve processes run the same program.
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'compiled'))
    monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
    reference, workdir = tmp_path / 'reference', tmp_path / 'killed'
    finish(reference)
    rng = random.Random(7)
    for place in rng.sample(PLACES, len(PLACES)):
        kill_once(workdir, place, rng)
    assert 0 < newest(workdir) < STEPS
    assert 'resuming from the checkpoint' in finish(workdir)
    expected, found = (
        [{name: line[name] for name in FIELDS} for line in tiny.lines(run)] for run in (reference, workdir)
    )
    assert len(expected) == STEPS
    assert found == expected
