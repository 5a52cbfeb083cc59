"""Runs of the command line that end early, by SIGTERM or the death of a worker; dev loss and FLOPs of a run."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ccl_jax.data.examples import ExampleStore
from ccl_jax.data.loader import make_loader
from ccl_jax.data.plan import make_plan
from ccl_jax.model.counts import flops_per_token
from ccl_jax.model.hf import read_architecture
from ccl_jax.model.settings import LoraSettings
from ccl_jax.pipeline.workdir import workdir_config
from ccl_jax.training.step_costs import StepCosts
from tests.pipeline.conftest import MINIATURE, ROOT, STEPS, ccl_jax, ccl_jax_process, command, environment
from tests.pipeline.test_train_and_eval import _losses

# The command line, but whoever reads step 10 first waits for a file: until then, the run needs its
# loader and cannot end. Workers import this script too.
HELD = """
import os, pathlib, sys, time
from ccl_jax.cli import main
from ccl_jax.data import loader

read = loader._StepSource.__getitem__

def held(source, index):
    while source.start_step + index == 10 and not pathlib.Path(os.environ['RELEASE']).exists():
        time.sleep(0.01)
    return read(source, index)

loader._StepSource.__getitem__ = held
if __name__ == '__main__':
    sys.exit(main())
"""


@contextlib.contextmanager
def held_run(folder, *arguments):
    """The miniature in a process of its own, after 5 steps or more, that waits for `folder / 'release'` in step 10."""
    script, metrics = folder / 'held.py', folder / 'w' / 'metrics.jsonl'
    script.write_text(HELD)
    process = subprocess.Popen(
        [sys.executable, str(script), *MINIATURE, *arguments, f'--workdir={folder / "w"}'],
        cwd=ROOT,
        env=environment(RELEASE=str(folder / 'release')),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not metrics.exists() or metrics.read_text().count('\n') < 5:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_sigterm_ends_with_143_and_the_same_command_goes_on(miniature, tmp_path):
    workdir = tmp_path / 'w'
    with held_run(tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        (tmp_path / 'release').touch()
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert re.match(r'ccl-jax: SIGTERM: saved after step \d+ of 12;', errors.strip().splitlines()[-1])
    assert not (workdir / 'eval').exists()
    assert 5 <= _training_cost(workdir)['steps'] < STEPS
    done = ccl_jax_process(*MINIATURE, f'--workdir={workdir}')
    assert done.returncode == 0, done.stderr
    assert 'resuming from the checkpoint' in done.stderr
    assert _losses(workdir) == _losses(miniature)
    goodput = json.loads((workdir / 'goodput.json').read_text())
    assert goodput['starts'] == 2
    # What counts once is that of the run that was not interrupted; the time is of both starts.
    cost, uninterrupted = _training_cost(workdir), _training_cost(miniature)
    for name in ('steps', 'examples', 'tokens', 'padding_tokens', 'flops'):
        assert cost[name] == uninterrupted[name]
    assert cost['wall_seconds'] == pytest.approx(goodput['total_seconds'])


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_and_the_same_command_goes_on(miniature, tmp_path):
    workdir = tmp_path / 'w'
    flags = ['--config.data.workers=1', '--config.data.prefetch=1']
    with held_run(tmp_path, *flags) as process:
        (worker,) = _workers(process.pid)
        os.kill(worker, signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    # After it, multiprocessing may tell of the worker's shared memory, which it has freed.
    assert '\nccl-jax: a worker process of the loader was killed' in errors
    assert 'Traceback' not in errors
    done = ccl_jax_process(*MINIATURE, *flags, f'--workdir={workdir}')
    assert done.returncode == 0, done.stderr
    assert 'resuming from the checkpoint' in done.stderr
    assert len(_losses(workdir)) == STEPS
    assert _losses(workdir) == _losses(miniature)


def _training_cost(workdir):
    return json.loads((workdir / 'cost.json').read_text())['stages']['training']


def _workers(pid):
    """The processes that read batches, among the children that any thread of `pid` has started."""
    children = [child for path in Path(f'/proc/{pid}/task').glob('*/children') for child in path.read_text().split()]
    return [int(child) for child in children if 'spawn_main' in Path(f'/proc/{child}/cmdline').read_text()]


@pytest.mark.slow
def test_two_processes_give_the_same_losses(miniature, tmp_path):
    """Joined by the variables of the environment, as on a cluster that jax does not know."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        cluster = {'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{free.getsockname()[1]}', 'JAX_NUM_PROCESSES': '2'}
    workdir = tmp_path / 'w'
    flags = ['--config.eval.loss_every=5', '--config.eval.score_every=6', '--config.eval.score_documents=4']
    arguments = command(*MINIATURE, *flags, f'--workdir={workdir}')
    processes = [
        subprocess.Popen(
            arguments, cwd=ROOT, env=environment(**cluster, JAX_PROCESS_ID=rank), stdout=-1, stderr=-1, text=True
        )
        for rank in '01'
    ]
    try:
        deadline = time.monotonic() + 500
        results = [process.communicate(timeout=max(1, deadline - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, results, strict=True):
        assert process.returncode == 0, errors
    assert 'process  host' in results[0][1]
    assert _losses(workdir) == pytest.approx(_losses(miniature), rel=1e-5)
    assert (workdir / 'eval' / 'test' / 'metrics.json').exists()
    scores = [json.loads(line) for line in (workdir / 'scores.jsonl').read_text().splitlines()]
    assert [(line['step'], line['decoding']['documents']) for line in scores] == [(5, 4), (STEPS - 1, 4)]
    ledger = json.loads((workdir / 'cost.json').read_text())
    assert ledger['device'] == {'kind': 'cpu', 'count': 2, 'processes': 2}
    assert _training_cost(workdir)['tokens'] == _training_cost(miniature)['tokens']


@pytest.mark.slow
def test_the_dev_loss_is_measured_and_the_best_checkpoint_evaluated(miniature, tmp_path):
    workdir = tmp_path / 'w'
    flags = ['--config.eval.loss_every=5', '--config.eval.loss_documents=5', '--config.eval.checkpoint=best']
    flags += ['--config.eval.score_every=6', '--config.eval.score_split=test']
    done = ccl_jax_process(*MINIATURE, *flags, f'--workdir={workdir}')
    assert done.returncode == 0, done.stderr
    assert _losses(workdir) == _losses(miniature)
    measured = [json.loads(line) for line in (workdir / 'dev.jsonl').read_text().splitlines()]
    assert [line['step'] for line in measured] == [4, 9, STEPS - 1]
    assert all(line['loss'] == line['document'] for line in measured)
    best = min(measured, key=lambda line: line['loss'])['step'] + 1
    metrics = json.loads((workdir / 'eval' / 'test' / 'metrics.json').read_text())
    assert metrics['decoding']['step'] == best
    assert len(ExampleStore.open(workdir / 'data' / 'dev-examples')) == 5
    # The newest weights were the best, so those that the run scored last are those that its evaluation loaded.
    assert best == STEPS
    scores = [json.loads(line) for line in (workdir / 'scores.jsonl').read_text().splitlines()]
    assert [line['step'] for line in scores] == [5, STEPS - 1]
    decoding = {name: value for name, value in scores[-1]['decoding'].items() if name != 'device_seconds'}
    assert {'step': STEPS, **decoding} == metrics['decoding']
    found = {name: value['value'] for name, value in metrics['metrics'].items() if name in scores[-1]['metrics']}
    assert {name: scores[-1]['metrics'][name] for name in found} == pytest.approx(found)
    assert {'micro_f1', 'mean_gold'} <= found.keys()
    of_strata = {name: part['metrics']['micro_f1']['value'] for name, part in metrics['strata'].items()}
    assert {name: scores[-1]['metrics'][f'{name}.micro_f1'] for name in of_strata} == pytest.approx(of_strata)
    cost = _training_cost(workdir)
    assert scores[-1]['cost']['tokens'] == sum(sum(task.values()) for task in cost['tokens'].values())
    assert scores[-1]['cost']['flops'] == pytest.approx(sum(cost['flops'].values()))
    goodput = json.loads((workdir / 'goodput.json').read_text())
    aside = goodput['seconds']['evaluation'] + goodput['seconds']['scoring']
    assert cost['wall_seconds'] == pytest.approx(goodput['total_seconds'] - aside, abs=2e-3)
    evaluation = json.loads((workdir / 'cost.json').read_text())['stages']['evaluation']
    assert evaluation.keys() == {'test', 'scores:test', 'loss:dev'}
    assert evaluation['scores:test']['documents'] == 2 * evaluation['test']['documents'] == 16
    assert evaluation['loss:dev']['documents'] == 3 * 5


def test_a_dev_split_that_the_source_lacks(miniature):
    # Free to change between calls, so the finished run is asked again.
    done = ccl_jax(*MINIATURE, '--config.eval.loss_every=5', '--config.eval.loss_split=tes', f'--workdir={miniature}')
    assert done.returncode == 2
    assert 'no split "tes"' in done.stderr


def test_a_split_to_score_that_the_source_lacks(miniature):
    done = ccl_jax(*MINIATURE, '--config.eval.score_every=5', '--config.eval.score_split=tes', f'--workdir={miniature}')
    assert done.returncode == 2
    assert 'no split "tes" to score on the way; set eval.score_split to one of dev, test, train' in done.stderr


def test_flops_of_a_step_are_those_of_its_texts(miniature):
    """Against the batches themselves: each segment of a batch by itself, padding left out."""
    config = workdir_config(miniature)
    store = ExampleStore.open(miniature / 'data' / 'examples')
    plan = make_plan(store.lengths, store.task_ids, store.target_starts, config.training.plan)
    architecture = read_architecture(miniature / 'base' / 'hf')
    costs = StepCosts(store, plan, architecture, LoraSettings())
    batches = make_loader(store, plan, jax.sharding.SingleDeviceSharding(jax.devices()[0]), end_step=3, threads=0)
    for step, batch in batches:
        segments, weights = np.asarray(batch['segment_ids']), np.asarray(batch['loss_weights'])
        expected = 0.0
        for row in range(len(segments)):
            for segment in np.unique(segments[row]):
                inside = segments[row] == segment
                if weights[row][inside].any():
                    length = int(inside.sum())
                    expected += length * flops_per_token(architecture, length, backward='full')
        assert costs.flops_of(step) == pytest.approx(expected)
