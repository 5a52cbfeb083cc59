"""Where the time went, by hand-worked histories and a clock of our own."""

import json

import pytest
from tiny import fit_tiny

from ccl_jax.training import goodput
from ccl_jax.training.goodput import KINDS, Goodput, sentence


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(goodput, 'time', clock)
    return clock


def spend(ledger, clock, **kinds):
    for kind, seconds in kinds.items():
        clock.now += seconds
        assert ledger.spent(kind) == seconds


def test_a_run_that_ends_at_the_first_start(tmp_path, clock):
    ledger = Goodput(tmp_path / 'goodput.json')
    spend(ledger, clock, start=2, compile=10, data_wait=1, steps=60, evaluation=5, checkpoint_wait=2)
    clock.now += 20  # what is not named is steps
    report = ledger.report(8)
    ledger.write(report)
    assert json.loads((tmp_path / 'goodput.json').read_text()) == report
    assert report['total_seconds'] == 100
    assert report['goodput'] == 0.8
    assert (report['starts'], report['step']) == (1, 8)
    assert report['seconds'] == {
        'steps': 80,
        'start': 2,
        'compile': 10,
        'data_wait': 1,
        'checkpoint_wait': 2,
        'evaluation': 5,
        'scoring': 0,
        'lost': 0,
    }
    assert sentence(report) == (
        'goodput 80.0% of 100 s: steps 80.0%, start 2.0%, compile 10.0%, data wait 1.0%, '
        'checkpoint wait 2.0%, evaluation 5.0%'
    )


def test_steps_that_are_done_again_are_lost(tmp_path, clock):
    first = Goodput(tmp_path / 'goodput.json')
    # Ten steps of 4 s, 1 s of it for data; the ledger reaches step 8, and the process is killed after step 10.
    for _ in range(8):
        spend(first, clock, data_wait=1, steps=3)
    first.write(first.report(8))
    clock.now += 1000
    second = Goodput(tmp_path / 'goodput.json')
    # The checkpoint at step 8 is torn, that at step 6 is good: four steps are lost, of which the ledger knows two.
    dropped = [{'step': step, 'seconds': 4, 'data_wait': 1, 'checkpoint_wait': 0} for step in (6, 7, 8, 9)]
    second.lose(dropped)
    for _ in range(4):
        spend(second, clock, data_wait=1, steps=3)
    report = second.report(10)
    # Ten steps that count and four that do not; no second of the pause between the processes.
    assert report['seconds'] == {**dict.fromkeys(KINDS, 0), 'data_wait': 10, 'steps': 30, 'lost': 16}
    assert report['total_seconds'] == 56
    assert report['starts'] == 2
    assert 'over 2 starts' in sentence(report)


@pytest.mark.parametrize('text', ['', '{"seconds": ', '[]'])
def test_a_torn_ledger_only_costs_its_numbers(tmp_path, text):
    (tmp_path / 'goodput.json').write_text(text)
    assert Goodput(tmp_path / 'goodput.json').report(0)['starts'] == 1


def test_the_ledger_of_a_run_that_failed_and_was_resumed(tmp_path, capsys):
    def fail(step, batch):
        if step == 7:
            raise RuntimeError('no more data')
        return batch

    with pytest.raises(RuntimeError):
        fit_tiny(tmp_path, change=fail)
    before = json.loads((tmp_path / 'goodput.json').read_text())
    assert (before['step'], before['starts'], before['seconds']['lost']) == (4, 1, 0)
    # The lines after the checkpoint at step 4; the last steps had none yet.
    done = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()][4:]
    fit_tiny(tmp_path)
    after = json.loads((tmp_path / 'goodput.json').read_text())
    assert (after['step'], after['starts']) == (10, 2)
    assert after['seconds']['lost'] == pytest.approx(sum(line['seconds'] for line in done), abs=1e-3)
    assert sum(after['shares'].values()) == pytest.approx(1, abs=1e-4)
    assert all(after['seconds'][kind] >= before['seconds'][kind] for kind in KINDS)
    assert 'goodput ' in capsys.readouterr().err
