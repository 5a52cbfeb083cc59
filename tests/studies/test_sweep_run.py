"""Running a sweep, with a quick script in place of the training: skipping, going on, failing, side by side."""

import json
import os
import signal
import threading
import time

import pytest

from ccl_jax.errors import Interrupted, UserError
from ccl_jax.studies.sweep_run import is_finished, run_all
from tests.studies.sweep_helpers import fake_command, sweep_of


def starts(run):
    path = run.workdir / 'starts'
    return len(path.read_text()) if path.exists() else 0


def when(condition, action):
    """Calls `action` once `condition` holds, beside the test."""

    def wait():
        while not condition():
            time.sleep(0.01)
        action()

    threading.Thread(target=wait, daemon=True).start()


def test_finished_runs_are_skipped_and_a_failure_ends_no_other(tmp_path, monkeypatch, capfd):
    _, runs = sweep_of(tmp_path / 'w', ['quick', 'broken', 'crash', 'silent', 'last'], monkeypatch, seeds=(0,))
    command = fake_command(tmp_path, runs)
    told = []
    failures = run_all(runs, command=command, when_finished=told.append)
    assert told == [runs[0], runs[4]]
    assert failures == {
        'broken seed 0': 'exit code 2: ccl-jax: the source is gone; bring it back',
        'crash seed 0': 'killed by signal 9: working',
        'silent seed 0': 'exit code 0: working',
    }
    assert [is_finished(run) for run in runs] == [True, False, False, False, True]
    assert 'broken seed 0: failed, exit code 2: ccl-jax: the source is gone; bring it back' in capfd.readouterr().err

    (runs[1].workdir / 'mended').touch()
    assert run_all(runs[:2] + runs[4:], command=command) == {}
    assert [starts(run) for run in runs] == [1, 2, 1, 1, 1]
    assert (runs[1].workdir / 'train.log').read_text().count('+ ccl-jax train --config') == 2
    assert '3 runs, 2 of them finished' in capfd.readouterr().err


@pytest.fixture
def default_signals():
    """A shell in the background or nohup hands signals down as ignored, which `run_all` respects."""
    defaults = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures('default_signals')
@pytest.mark.parametrize(
    ('number', 'error'),
    [(signal.SIGTERM, Interrupted), (signal.SIGHUP, Interrupted), (signal.SIGINT, KeyboardInterrupt)],
)
def test_a_signal_is_passed_on_and_the_same_call_goes_on(tmp_path, monkeypatch, number, error):
    _, runs = sweep_of(tmp_path / 'w', ['quick', 'slow1', 'slow2', 'later'], monkeypatch, seeds=(0,))
    command = fake_command(tmp_path, runs)
    slow = runs[1:3]
    handler = signal.getsignal(number)
    when(lambda: all((run.workdir / 'began').exists() for run in slow), lambda: os.kill(os.getpid(), number))
    with pytest.raises(error):
        run_all(runs, parallel=2, command=command)
    assert signal.getsignal(number) is handler
    assert [is_finished(run) for run in runs] == [True, False, False, False]
    for run in slow:
        assert (run.workdir / 'train.log').read_text().endswith('saved after step 3 of 9\n')
        (run.workdir / 'release').touch()
    assert not runs[3].workdir.exists()
    assert run_all(runs, parallel=2, command=command) == {}
    assert [starts(run) for run in runs] == [1, 2, 2, 1]


def test_a_second_signal_kills(tmp_path, monkeypatch):
    _, runs = sweep_of(tmp_path / 'w', ['slow'], monkeypatch, seeds=(0,))
    script = 'import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: None); '
    script += f'pathlib.Path({str(tmp_path / "began")!r}).touch(); time.sleep(600)'
    command = [fake_command(tmp_path, runs)[0], '-c', script]

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    when((tmp_path / 'began').exists, twice)
    with pytest.raises(Interrupted, match='0 of 1 runs are finished'):
        run_all(runs, command=command)


def test_runs_side_by_side_and_one_after_another(tmp_path, monkeypatch):
    # Each of these ends only when the other has begun too.
    _, runs = sweep_of(tmp_path / 'a', ['meets0', 'meets1'], monkeypatch, seeds=(0,))
    assert run_all(runs, parallel=2, command=fake_command(tmp_path, runs)) == {}
    # Each of these fails beside another.
    _, runs = sweep_of(tmp_path / 'b', ['alone0', 'alone1', 'alone2'], monkeypatch, seeds=(0,))
    assert run_all(runs, command=fake_command(tmp_path, runs)) == {}


def test_a_run_of_another_config_is_refused_before_anything_starts(tmp_path, monkeypatch):
    _, runs = sweep_of(tmp_path / 'w', {'other': {}, 'changed': {'data.steps': 25}}, monkeypatch, seeds=(0,))
    run_all(runs[1:], command=fake_command(tmp_path, runs))
    _, runs = sweep_of(tmp_path / 'w', {'other': {}, 'changed': {'data.steps': 26}}, monkeypatch, seeds=(0,))
    with pytest.raises(UserError, match=r'changed/seed0 holds a run of another config \(data.steps was 25, is 26\)'):
        run_all(runs, command=fake_command(tmp_path, runs))
    assert not runs[0].workdir.exists()


def test_other_settings_of_the_evaluation_are_evaluated_anew(tmp_path, monkeypatch):
    _, runs = sweep_of(tmp_path / 'w', ['quick'], monkeypatch, seeds=(0,))
    run_all(runs, command=fake_command(tmp_path, runs))
    _, runs = sweep_of(tmp_path / 'w', ['quick'], monkeypatch, seeds=(0,), overrides={'eval.max_new_tokens': 17})
    assert not is_finished(runs[0])
    run_all(runs, command=fake_command(tmp_path, runs))
    assert starts(runs[0]) == 2
    assert is_finished(runs[0])
    assert json.loads((runs[0].workdir / 'config.json').read_text())['eval']['max_new_tokens'] == 17
