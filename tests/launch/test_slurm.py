"""`launch/slurm.sbatch` on a real cluster of two nodes."""

import csv
import json
import os
import shlex
import subprocess
import sys

import pytest

from tests.launch.slurm_cluster import missing_programs, slurm_cluster, wait_until
from tests.pipeline.conftest import ROOT, ccl_jax, environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f'Slurm is not installed ({", ".join(missing_programs())}): apt-get install slurm-wlm munge',
    ),
]

SCRIPT = str(ROOT / 'launch' / 'slurm.sbatch')
STEPS = 8
# The demo with one row length each: compilation takes most of the time.
FLAGS = [
    '--config.sources.synthetic_notes.train=40',
    '--config.sources.synthetic_notes.dev=2',
    '--config.sources.synthetic_notes.test=4',
    '--config.base.texts=20',
    '--config.base.data.steps=2',
    '--config.base.data.buckets=(192,)',
    '--config.base.optimizer.name=adamw',
    f'--config.data.steps={STEPS}',
    '--config.data.buckets=(288,)',
    '--config.optimizer.name=adamw',
    '--config.train.checkpoint_every=4',
    '--config.eval.max_new_tokens=16',
    '--config.eval.bootstrap_samples=10',
]

RATES = (0.001, 0.002, 0.003, 0.004)
SWEEP = f"""
from ccl_jax.studies.sweep_config import sweep_config

def get_config(variant=''):
    return sweep_config(
        'configs/demo.py:ci',
        grid={{'optimizer.learning_rate': {RATES}}},
        overrides={{'base.enabled': False, 'data.steps': 2}},
        seeds=(0,),
        metrics=('micro_f1', 'macro_f1_gold'),
    )
"""

# The command line, but the first start of a job waits in its loader, before it reads step 4, for SIGTERM.
HELD = """
import os, sys, time
from ccl_jax.cli import main
from ccl_jax.data import loader
from ccl_jax.training.interrupt import Interrupt

signals = []
note, read = Interrupt._note, loader._StepSource.__getitem__

def noted(self, *arguments):
    signals.append(arguments)
    note(self, *arguments)

def held(source, index):
    while source.start_step + index == 4 and 'HOLD' in os.environ and not signals:
        time.sleep(0.02)
    return read(source, index)

if os.environ.get('SLURM_RESTART_COUNT', '0') == '0':
    Interrupt._note, loader._StepSource.__getitem__ = noted, held
sys.exit(main())
"""

# In place of training: says what it was given, and can wait for SIGTERM, or fail, process 0 first.
FAKE = """
import os, signal, sys, time
print('started', os.environ['SLURM_PROCID'], sys.argv[1:], flush=True)
if os.environ.get('WAIT'):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    time.sleep(120)
if os.environ['SLURM_PROCID'] != '0':
    time.sleep(2)
sys.exit(int(os.environ.get('CODE', '0')))
"""


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
    with slurm_cluster(tmp_path_factory.mktemp('slurm')) as cluster:
        yield cluster


@pytest.fixture(scope='module')
def single(tmp_path_factory):
    """The run of one process with as many devices as the two nodes have."""
    workdir = tmp_path_factory.mktemp('single') / 'w'
    arguments = ['train', '--config=configs/demo.py:ci', f'--workdir={workdir}', *FLAGS]
    done = subprocess.run(
        [sys.executable, '-c', 'import sys; from ccl_jax.cli import main; sys.exit(main())', *arguments],
        cwd=ROOT,
        env=environment(XLA_FLAGS=xla_flags(8)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return workdir


def xla_flags(devices: int) -> str:
    return f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={devices}'


def variables(folder, script, **extra):
    """The environment of a job in which `ccl-jax` is a script: that of an installation, and then this tree."""
    (folder / 'bin').mkdir(exist_ok=True)
    (folder / 'script.py').write_text(script)
    command = folder / 'bin' / 'ccl-jax'
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(folder / "script.py"))} "$@"\n')
    command.chmod(0o755)
    path = f'{folder / "bin"}{os.pathsep}{os.environ["PATH"]}'
    # Both nodes share a machine that may be busy.
    return environment(PATH=path, CCL_JAX_JOIN_TIMEOUT='300', **extra)


def metrics(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_two_nodes_train_as_one_process_does_and_go_on_after_sigterm(slurm, single, tmp_path):
    log, workdir = tmp_path / 'log', tmp_path / 'w'
    job = slurm.submit(
        *('--nodes=2', f'--output={log}', f'--chdir={ROOT}'),
        *(SCRIPT, 'configs/demo.py:ci', str(workdir), *FLAGS, f'--config.train.compilation_cache={tmp_path / "cache"}'),
        **variables(tmp_path, HELD, XLA_FLAGS=xla_flags(4), HOLD='1'),
    )

    def held():
        state = slurm.show(job)[0]['JobState']
        assert state in ('PENDING', 'CONFIGURING', 'RUNNING'), log.read_text()
        return (workdir / 'metrics.jsonl').exists() and len(metrics(workdir)) >= 2

    wait_until(held, 600, lambda: log.read_text() + slurm.logs())
    slurm.call('scancel', '--signal=TERM', job)
    (ended,) = slurm.wait(job, 900)
    text = log.read_text()
    assert (ended['JobState'], ended['Restarts'], ended['NumNodes']) == ('COMPLETED', '1', '2'), text
    assert text.count('ccl-jax: SIGTERM: saved after step') == 2, text
    assert text.count('resuming from the checkpoint at step') == 1, text

    both, alone = metrics(workdir), metrics(single)
    assert [line['step'] for line in both] == list(range(STEPS))
    for key in ('loss', 'grad_norm', 'tokens', 'learning_rate'):
        assert [line[key] for line in both] == pytest.approx([line[key] for line in alone], rel=1e-5)
    for task in ('document', 'span'):
        losses = [[line['task_losses'].get(task) for line in lines] for lines in (both, alone)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)

    # Process 0 alone read the source, made the base model and wrote; each started twice.
    assert text.count('reading the source synthetic_notes') == 1
    assert text.count('making a tiny base model') == 1
    assert json.loads((workdir / 'goodput.json').read_text())['starts'] == 2
    results = [json.loads((path / 'eval' / 'test' / 'metrics.json').read_text()) for path in (workdir, single)]
    assert results[0]['decoding'] == results[1]['decoding']
    assert results[0]['baselines'] == results[1]['baselines']


def test_an_array_trains_the_arms_of_a_sweep_which_fill_one_table(slurm, single, tmp_path):
    """From the base model that another run has made; the names want quoting."""
    (tmp_path / 'sweep.py').write_text(SWEEP)
    workdir = tmp_path / "the arms' runs"
    sweep = [
        'sweep',
        f'--config={tmp_path / "sweep.py"}',
        f'--workdir={workdir}',
        *(flag for flag in FLAGS if not flag.startswith(('--config.base', '--config.data.steps'))),
        f'--config.model.path={single / "base" / "hf"}',
        f'--config.train.compilation_cache={tmp_path / "cache"}',
    ]
    written = ccl_jax(*sweep, '--write=slurm', f'--out={tmp_path / "to submit"}')
    assert written.returncode == 0, written.stderr
    runs = tmp_path / 'to submit' / 'runs.txt'
    assert f'CCL_RUNS={shlex.quote(str(runs))} sbatch --array=1-4 launch/slurm.sbatch' in written.stdout

    job = slurm.submit(
        *('--array=1-4', f'--output={tmp_path}/log-%a', f'--chdir={ROOT}', SCRIPT),
        **variables(tmp_path, HELD, XLA_FLAGS=xla_flags(1), CCL_RUNS=str(runs)),
    )
    ended = slurm.wait(job, 900)
    logs = '\n'.join(path.read_text() for path in tmp_path.glob('log-*'))
    assert [task['JobState'] for task in ended] == ['COMPLETED'] * 4, logs
    for rate in RATES:
        run = workdir / f'learning_rate={rate}' / 'seed0'
        assert json.loads((run / 'config.json').read_text())['optimizer']['learning_rate'] == rate
        assert len(metrics(run)) == 2

    gathered = ccl_jax(*sweep, '--gather')
    assert gathered.returncode == 0, gathered.stderr
    assert '4 runs. Means over seeds' in gathered.stdout
    with open(workdir / 'results' / 'runs.csv', newline='') as file:
        table = {line['arm']: float(line['micro_f1']) for line in csv.DictReader(file)}
    results = {
        f'learning_rate={rate}': json.loads(
            (workdir / f'learning_rate={rate}' / 'seed0' / 'eval' / 'test' / 'metrics.json').read_text()
        )
        for rate in RATES
    }
    assert table == pytest.approx({arm: found['metrics']['micro_f1']['value'] for arm, found in results.items()})


def test_arguments_reach_every_process_as_they_were_given(slurm, tmp_path):
    job = slurm.submit(
        *('--nodes=2', f'--output={tmp_path / "log"}'),
        *(SCRIPT, 'configs/demo.py:ci', 'a workdir', "--config.model.path=it's $HOME"),
        **variables(tmp_path, FAKE),
    )
    (ended,) = slurm.wait(job)
    given = ['train', '--config', 'configs/demo.py:ci', '--workdir', 'a workdir', "--config.model.path=it's $HOME"]
    assert ended['JobState'] == 'COMPLETED'
    lines = sorted((tmp_path / 'log').read_text().splitlines())
    assert lines == [f'started {process} {given}' for process in range(2)]


def test_a_job_that_is_cancelled_stays_so(slurm, tmp_path):
    log = tmp_path / 'log'
    job = slurm.submit(*('--nodes=2', f'--output={log}', SCRIPT, 'c', 'w'), **variables(tmp_path, FAKE, WAIT='1'))
    wait_until(lambda: log.exists() and log.read_text().count('started') == 2, 60, slurm.logs)
    slurm.call('scancel', job)
    (ended,) = slurm.wait(job)
    assert (ended['JobState'], ended['Restarts']) == ('CANCELLED', '0')


def test_a_failure_is_not_tried_again(slurm, tmp_path):
    log = tmp_path / 'log'
    job = slurm.submit('--nodes=2', f'--output={log}', SCRIPT, 'c', 'w', **variables(tmp_path, FAKE, CODE='2'))
    (ended,) = slurm.wait(job)
    assert (ended['JobState'], ended['ExitCode'], ended['Restarts']) == ('FAILED', '2:0', '0')


@pytest.mark.parametrize(
    ('arguments', 'extra', 'says'),
    [
        (['c'], {}, 'usage: sbatch'),
        ([], {'CCL_RUNS': '/dev/null'}, 'CCL_RUNS needs an array'),
        (['--array=7'], {'CCL_RUNS': '/dev/null'}, 'has no line 7'),
    ],
    ids=['too few arguments', 'no array', 'a line too many'],
)
def test_a_wrong_call_ends_with_a_sentence(slurm, tmp_path, arguments, extra, says):
    options = [argument for argument in arguments if argument.startswith('--')]
    rest = [argument for argument in arguments if not argument.startswith('--')]
    job = slurm.submit(f'--output={tmp_path / "log"}', *options, SCRIPT, *rest, **variables(tmp_path, FAKE, **extra))
    (ended,) = slurm.wait(job)
    assert ended['JobState'] == 'FAILED'
    text = (tmp_path / 'log').read_text()
    assert says in text
    assert 'started' not in text


DEVICES = """
import os
from jax._src.xla_bridge import CUDA_VISIBLE_DEVICES
from ccl_jax.training.cluster import start_cluster
start_cluster()
print('process', os.environ['SLURM_PROCID'], CUDA_VISIBLE_DEVICES.value)
"""


def test_a_process_alone_on_its_node_takes_all_its_gpus(slurm, tmp_path):
    """Two processes on the first node, which take a GPU each, and one on the second."""
    (tmp_path / 'devices.py').write_text(DEVICES)
    printed = slurm.call(
        *('srun', '--nodes=2', '--ntasks=3', '--overcommit', sys.executable, str(tmp_path / 'devices.py')),
        **environment(CCL_JAX_JOIN_TIMEOUT='300'),
    )
    lines = sorted(line for line in printed.splitlines() if line.startswith('process') and 'host' not in line)
    assert lines == ['process 0 0', 'process 1 1', 'process 2 all']
