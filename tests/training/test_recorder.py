"""Lines, progress and MFU, by hand-worked steps and a clock of our own."""

import json
import types

import numpy as np
import pytest

from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS
from ccl_jax.training import recorder
from ccl_jax.training.chips import peak_flops
from ccl_jax.training.recorder import Recorder, cut_lines
from ccl_jax.training.run import Run
from ccl_jax.training.settings import TrainingSettings


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(recorder, 'time', clock)
    return clock


def make_run(steps=10, **options):
    return Run(steps, ((4, 32),), 100 + np.arange(steps), dict.fromkeys(TASKS, 1.0), **options)


def metrics(losses, weights, finite=True):
    losses, weights = np.array(losses, np.float32), np.array(weights, np.float32)
    return {
        'loss': np.float32(losses @ weights) if finite else np.float32(np.nan),
        'task_sums': losses * weights,
        'task_weights': weights,
        'grad_norm': np.float32(2.5) if finite else np.float32(np.nan),
        'learning_rate': np.float32(0.25),
        'finite': np.bool_(finite),
        'skipped': np.int32(0 if finite else 1),
    }


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_mfu_is_needed_over_possible_flops(tmp_path, clock, monkeypatch):
    devices = [types.SimpleNamespace(device_kind='NVIDIA H100 80GB HBM3')] * 4
    monkeypatch.setattr(recorder.jax, 'devices', lambda: devices)
    monkeypatch.setattr(recorder.jax, 'device_count', lambda: 4)
    # Steps of 2 s on 4 devices of 989.4e12 FLOP/s could do 7915.2e12 FLOPs.
    with Recorder(tmp_path, 0, make_run(flops=lambda step: (step + 1) * 791.52e12), TrainingSettings()) as recording:
        for step in range(3):
            clock.now += 2
            recording.add(step, (4, 32), metrics([1, 2, 3], [1, 1, 1]))
            recording.drain()
    found = lines(tmp_path / 'metrics.jsonl')
    assert [line['mfu'] for line in found] == pytest.approx([0.1, 0.2, 0.3])
    assert [line['seconds'] for line in found] == [2, 2, 2]
    assert [line['tokens_per_second'] for line in found] == [50, 50.5, 51]


def test_no_mfu_where_the_peak_or_the_flops_are_not_known(tmp_path):
    for name, run in (('cpu', make_run(flops=lambda step: 1e12)), ('uncounted', make_run())):
        with Recorder(tmp_path / name, 0, run, TrainingSettings()) as recording:
            recording.add(0, (4, 32), metrics([1, 2, 3], [1, 1, 1]))
        assert lines(tmp_path / name / 'metrics.jsonl')[0]['mfu'] is None


@pytest.mark.parametrize(
    ('kind', 'tera'),
    [
        ('TPU v4', 275),
        ('TPU v5 lite', 197),
        ('TPU v5e', 197),
        ('TPU v5', 459),
        ('TPU v5p', 459),
        ('TPU v6 lite', 918),
        ('TPU v6e', 918),
        ('NVIDIA A100-SXM4-80GB', 312),
        ('NVIDIA H100 80GB HBM3', 989.4),
        ('NVIDIA H100 PCIe', 756),
        ('NVIDIA H200', 989.4),
        ('NVIDIA L4', 121),
        ('NVIDIA L40S', 362),
        ('cpu', None),
        ('TPU v4 lite', None),
        ('NVIDIA GeForce RTX 4090', None),
    ],
)
def test_peaks(kind, tera):
    assert peak_flops(kind) == (None if tera is None else tera * 1e12)


def test_a_line_is_written_two_steps_late_with_the_waits_of_its_step(tmp_path):
    with Recorder(tmp_path, 0, make_run(), TrainingSettings()) as recording:
        for step in range(4):
            recording.add(step, (4, 32), metrics([1, 2, 3], [1, 1, 1]), data_wait=step / 8, checkpoint_wait=step / 4)
            assert len(lines(tmp_path / 'metrics.jsonl')) == max(0, step - 1)
    found = lines(tmp_path / 'metrics.jsonl')
    assert [line['data_wait'] for line in found] == [0, 0.125, 0.25, 0.375]
    assert [line['checkpoint_wait'] for line in found] == [0, 0.25, 0.5, 0.75]


def test_a_progress_line_tells_the_means_since_the_one_before(tmp_path, clock, capsys):
    with Recorder(tmp_path, 0, make_run(), TrainingSettings(log_every=2)) as recording:
        steps = [([9, 9, 9], [1, 1, 1])] * 2 + [([1, 5, 0], [3, 1, 0]), ([5, 0, 0], [1, 0, 0])]
        for step, (losses, weights) in enumerate(steps):
            clock.now += 4
            recording.add(step, (4, 32), metrics(losses, weights), data_wait=1.0)
            recording.drain()
    first, second = capsys.readouterr().err.strip().splitlines()
    assert first.startswith('step 2 of 10: ')
    # Tokens 102 + 103 of 2 x 128 places in 8 s; task 0: (3 x 1 + 1 x 5) / 4.
    assert second.startswith(f'step 4 of 10: {TASKS[0]} 2.000, {TASKS[1]} 5.000, 26 tokens/s, padding 20%, ')
    assert second.endswith('learning rate 0.25, gradient 2.5, data wait 25.0%')


def test_an_evaluation_belongs_to_no_step(tmp_path, clock):
    with Recorder(tmp_path, 0, make_run(), TrainingSettings()) as recording:
        for step in range(2):
            clock.now += 3
            recording.add(step, (4, 32), metrics([1, 2, 3], [1, 1, 1]))
            recording.drain()
            clock.now += 50
            recording.evaluated(step + 1, {'loss': 1.5, 'span': float('nan')}, 50)
    assert [line['seconds'] for line in lines(tmp_path / 'metrics.jsonl')] == [3, 3]
    assert lines(tmp_path / 'dev.jsonl') == [{'step': step, 'loss': 1.5, 'span': None} for step in range(2)]


def test_the_count_of_skipped_steps_starts_anew_after_a_good_one(tmp_path):
    run = make_run(20, example_ids=lambda step: [f'id:{step}'])
    pattern = [False, False, True, False, False, False]
    with Recorder(tmp_path, 0, run, TrainingSettings(most_skipped=3)) as recording:
        for step, finite in enumerate(pattern[:5]):
            recording.add(step, (4, 32), metrics([1, 2, 3], [1, 1, 1], finite))
            recording.drain()
        recording.add(5, (4, 32), metrics([1, 2, 3], [1, 1, 1], pattern[5]))
        with pytest.raises(UserError, match='in 3 steps in a row, up to step 5'):
            recording.drain()
    assert lines(tmp_path / 'skipped.jsonl') == [
        {'step': step, 'example_ids': [f'id:{step}']} for step, finite in enumerate(pattern) if not finite
    ]


def test_a_resumed_run_drops_what_lies_after_its_start(tmp_path):
    for name in ('metrics.jsonl', 'skipped.jsonl', 'dev.jsonl'):
        (tmp_path / name).write_text(''.join(f'{{"step": {step}, "seconds": 2}}\n' for step in range(6)) + '{"st')
    with Recorder(tmp_path, 4, make_run(), TrainingSettings()) as recording:
        assert [line['step'] for line in recording.dropped] == [4, 5]
    for name in ('metrics.jsonl', 'skipped.jsonl', 'dev.jsonl'):
        assert [line['step'] for line in lines(tmp_path / name)] == [0, 1, 2, 3]


def test_cut_lines(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    assert cut_lines(path, 3) == []
    assert not path.exists()
    path.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    assert cut_lines(path, 3) == [{'step': 3}]
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'
    assert [line['step'] for line in cut_lines(path, 0)] == [0, 1, 2]
    assert path.read_text() == ''
