"""When a save is due, against a clock that the test winds."""

import math

import jax
import pytest

from ccl_jax.errors import UserError
from ccl_jax.training import intervals
from ccl_jax.training.intervals import Interval


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(intervals, 'time', clock)
    return clock


def due_steps(interval, clock, seconds_of_step, steps, start=0):
    """The steps after which it was due; each restarts it, as a save does."""
    found = []
    for step in range(start + 1, start + steps + 1):
        clock.now += seconds_of_step(step)
        if interval.due(step):
            found.append(step)
            interval.restart(step)
    return found


def test_every_so_many_steps(clock):
    assert due_steps(Interval(4, None), clock, lambda step: 1, 10) == [4, 8]
    # The same steps after a resume.
    assert due_steps(Interval(4, None), clock, lambda step: 1, 10, start=6) == [8, 12, 16]


def test_never(clock):
    assert due_steps(Interval(None, None), clock, lambda step: 1e6, 10) == []


def test_every_so_many_seconds_from_the_first_step_on(clock):
    # The first step ends at 1,000 s (compilation), when the clock starts: 30 s later is step 11, 30 s after that 21.
    assert due_steps(Interval(None, 30), clock, lambda step: 1000 if step == 1 else 3, 25) == [11, 21]


def test_whichever_comes_first(clock):
    # Steps of 1 s, then of 10 s.
    found = due_steps(Interval(6, 25), clock, lambda step: 1 if step <= 12 else 10, 20)
    assert found == [6, 12, 15, 18]


@pytest.mark.parametrize('values', [(0, None), (-1, None), (None, 0), (None, -2.0), (None, math.nan)])
def test_intervals_out_of_range_are_refused(values):
    with pytest.raises(UserError, match='must be above 0'):
        Interval(*values)


@pytest.mark.parametrize('seconds_of_step', [0.5, 7.0, 100.0])
def test_several_processes_ask_seldom_and_are_hardly_late(clock, monkeypatch, seconds_of_step):
    """Process 0's clock is asked a few times per interval, whatever the pace; the others hear the same answers."""
    answers = []

    def tell(number):
        answers.append(number)
        return number

    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(intervals, 'from_process_zero', tell)
    steps = 2000
    found = due_steps(Interval(None, 600), clock, lambda step: seconds_of_step, steps)
    gaps = [(after - before) * seconds_of_step for before, after in zip([1, *found], found, strict=False)]
    assert len(found) == pytest.approx(steps * seconds_of_step / 600, abs=2, rel=0.15)
    assert all(600 <= gap < 600 + seconds_of_step + 1e-6 for gap in gaps)
    assert len(answers) <= 12 * (len(found) + 1)

    # Another process, whose clock stands still, replays what it is told.
    replayed = iter(answers)
    monkeypatch.setattr(intervals, 'from_process_zero', lambda _: next(replayed))
    assert due_steps(Interval(None, 600), clock, lambda step: 0, steps) == found
