"""A run that is killed ten times, also inside saves, ends with the metrics of a run that never was."""

import random
import signal
import time

import pytest
import tiny

from ccl_jax.training.manifest import MANIFEST

STEPS, KILLS = 80, 10
OPTIONS = {'steps': STEPS, 'checkpoint_every': 3, 'shapes': tiny.SHAPES[:1]}
# What does not depend on the clock.
FIELDS = ('step', 'loss', 'task_losses', 'task_weights', 'learning_rate', 'grad_norm', 'skipped', 'tokens', 'rows')


def written(workdir):
    metrics = workdir / 'metrics.jsonl'
    return metrics.read_text() if metrics.exists() else ''


def saves_under_way(workdir):
    """Folders without a manifest."""
    checkpoints = workdir / 'checkpoints'
    folders = [path for path in checkpoints.glob('*') if path.name.split('.')[0].isdecimal()]
    return [path.name for path in folders if not (path / MANIFEST).exists()]


def wait_for(condition, process, pause):
    end = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, 'waited too long'
        time.sleep(pause)


@pytest.mark.slow
def test_ten_kills_change_no_metric(tmp_path, monkeypatch):
    # Twelve processes run the same program.
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'compiled'))
    monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
    reference, workdir = tmp_path / 'reference', tmp_path / 'killed'
    process = tiny.spawn([[str(reference), {}, OPTIONS]])
    _, errors = process.communicate()
    assert process.returncode == 0, errors

    rng = random.Random(7)
    inside_a_save = 0
    for kill in range(KILLS):
        process = tiny.spawn([[str(workdir), {}, {'pause': 0.05, **OPTIONS}]])
        if kill == 0:
            # Anywhere in the start.
            time.sleep(rng.uniform(0, 5))
        else:
            # A resumed run first cuts the metrics to its checkpoint, then adds a line per step, so
            # that some starts complete a save and some do not.
            for _ in range(rng.randint(2, 7)):
                before = written(workdir)
                wait_for(lambda before=before: written(workdir) != before, process, 0.005)
            if kill % 2:
                time.sleep(rng.uniform(0, 0.1))
            else:
                wait_for(lambda: saves_under_way(workdir), process, 0.0005)
                time.sleep(rng.uniform(0, 0.02))
        assert process.poll() is None, 'the run ended before it was killed'
        process.send_signal(signal.SIGKILL)
        process.communicate()
        inside_a_save += bool(saves_under_way(workdir))
    assert written(workdir).count('\n') < STEPS
    assert inside_a_save >= 2

    process = tiny.spawn([[str(workdir), {}, OPTIONS]])
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert 'resuming from the checkpoint' in errors
    expected, found = (
        [{name: line[name] for name in FIELDS} for line in tiny.lines(run)] for run in (reference, workdir)
    )
    assert len(expected) == STEPS
    assert found == expected
