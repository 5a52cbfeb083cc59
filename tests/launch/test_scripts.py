"""The shell scripts: linted, and the TPU VM script against a gcloud that plays a cloud."""

import os
import shlex
import shutil
import subprocess

import pytest

from tests.pipeline.conftest import ROOT

SCRIPTS = sorted(path for pattern in ('*.sh', '*.sbatch') for path in (ROOT / 'launch').rglob(pattern))
SETTINGS = {
    'NAME': 'demo',
    'PROJECT': 'p',
    'ZONE': 'z',
    'ACCELERATOR_TYPE': 'v5litepod-16',
    'RUNTIME_VERSION': 'v2-alpha-tpuv5-lite',
    'POLL_SECONDS': '0',
}
TRAINING = ['configs/demo.py', '/runs/a run', "--config.model.path=it's"]

# Answers `list` with the next line of the file `states` and a training with the next exit code of `codes`.
GCLOUD = """#!/usr/bin/env bash
next() { head -n1 "$1"; sed -i 1d "$1"; }
cd "$(dirname "$0")"
case "$*" in *'queued-resources list'*) next states; exit ;; esac
printf '%s\\n' "${*@Q}" >>calls
case "$*" in *ccl-jax\\ train*) exit "$(next codes)" ;; esac
"""


def test_there_are_scripts():
    assert {path.name for path in SCRIPTS} == {'local.sh', 'slurm.sbatch', 'tpu_vm.sh'}


@pytest.mark.skipif(
    shutil.which('shellcheck') is None, reason='shellcheck is not installed: apt-get install shellcheck'
)
@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    done = subprocess.run(['shellcheck', '--shell=bash', str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_every_script_ends_in_the_same_training_line(script):
    assert 'ccl-jax train' in script.read_text()
    done = subprocess.run(['bash', str(script)], env=os.environ | SETTINGS, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'usage: ' in done.stderr
    assert 'CONFIG WORKDIR [--config.section.key=value ...]' in done.stderr


def tpu_vm(folder, states, codes, *options, **settings):
    """Runs the script; returns it and the words of each call of gcloud that was no look at the queue."""
    for name, lines in (('states', states), ('codes', codes)):
        (folder / name).write_text(''.join(f'{line}\n' for line in lines))
    (folder / 'calls').touch()
    gcloud = folder / 'gcloud'
    gcloud.write_text(GCLOUD)
    gcloud.chmod(0o755)
    done = subprocess.run(
        ['bash', str(ROOT / 'launch' / 'tpu_vm.sh'), *options, *TRAINING],
        env=os.environ | SETTINGS | settings | {'PATH': f'{folder}:{os.environ["PATH"]}'},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, [shlex.split(line)[2:] for line in (folder / 'calls').read_text().splitlines()]


def kinds(calls):
    """One word for each call: what is done to the queue, or run on the workers."""
    words = {'scp': 'copy', 'pip install': 'install', 'ccl-jax train': 'train', 'mkdir': 'setup'}

    def kind(call):
        if call[0] == 'queued-resources':
            return call[1]
        return next(words[word] for word in words if word in ' '.join(call))

    return [kind(call) for call in calls]


INSTALLED = ['setup', 'copy', 'install']


def test_it_creates_waits_installs_trains_and_deletes(tmp_path):
    done, calls = tpu_vm(tmp_path, ['', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE'], [0], SPOT='1')
    assert done.returncode == 0, done.stderr
    assert kinds(calls) == ['create', *INSTALLED, 'train', 'delete']
    assert {'--node-id=demo', '--spot', '--accelerator-type=v5litepod-16', '--project=p', '--zone=z'} <= set(calls[0])
    (command,) = [word.removeprefix('--command=') for word in calls[4] if word.startswith('--command=')]
    words = shlex.split(command)
    assert words[words.index('ccl-jax') :] == [
        *('ccl-jax', 'train', '--config', 'configs/demo.py', '--workdir', '/runs/a run', "--config.model.path=it's"),
    ]
    assert '--worker=all' in calls[4]


def test_it_takes_up_what_is_there_and_goes_on_after_a_preemption(tmp_path):
    states = ['ACTIVE', 'SUSPENDING', 'SUSPENDED', '', 'ACTIVE']
    done, calls = tpu_vm(tmp_path, states, [255, 0])
    assert done.returncode == 0, done.stderr
    assert kinds(calls) == [*INSTALLED, 'train', 'delete', 'create', *INSTALLED, 'train', 'delete']


def test_a_mistake_is_not_tried_again(tmp_path):
    done, calls = tpu_vm(tmp_path, ['ACTIVE'], [2])
    assert done.returncode == 2
    assert kinds(calls) == [*INSTALLED, 'train']


def test_it_gives_up_at_last(tmp_path):
    done, calls = tpu_vm(tmp_path, ['ACTIVE'] * 3, [1, 134, 1], RESTARTS='2')
    assert done.returncode == 1
    assert 'gave up after 2 restarts' in done.stderr
    assert kinds(calls).count('train') == 3


def test_slices_are_asked_for_together_and_train_at_once(tmp_path):
    done, calls = tpu_vm(tmp_path, ['', 'ACTIVE'], [0, 0], SLICES='2')
    assert done.returncode == 0, done.stderr
    assert {'--node-count=2', '--node-prefix=demo'} <= set(calls[0])
    trained = [call for call in calls if any('ccl-jax train' in word for word in call)]
    assert sorted(call[2] for call in trained) == ['demo-0', 'demo-1']


def test_a_dry_run_calls_nothing_and_prints_the_commands(tmp_path):
    done, calls = tpu_vm(tmp_path, [], [], '--dry_run')
    assert (done.returncode, calls) == (0, [])
    # + gcloud compute tpus queued-resources create ...
    printed = [shlex.split(line)[4:] for line in done.stderr.splitlines()]
    assert kinds(printed) == ['create', *INSTALLED, 'train', 'delete']


def test_a_missing_setting_is_named(tmp_path):
    done, calls = tpu_vm(tmp_path, [], [], ZONE='')
    assert (done.returncode, calls) == (2, [])
    assert 'ZONE is not set' in done.stderr
