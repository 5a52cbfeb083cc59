"""Files that start a sweep on a cluster, read as the cluster reads them."""

import json
import shlex
import shutil
import subprocess

import pytest

from ccl_jax.cli import _experiment
from ccl_jax.errors import UserError
from ccl_jax.studies.sweep_launch import write_launch_files
from tests.studies.sweep_helpers import ROOT, finish, sweep_of

RENDER = ROOT / 'launch' / 'gke' / 'render.py'
ARMS = {
    'plain': {},
    'spans=0.5': {'data.mix': {'span': 0.5}, 'expansion.spans_file': "it's a $file; with spaces.jsonl"},
}
ECHO = """
import json, sys
if 'IMAGE=none' in sys.argv:
    sys.exit('render.py: missing CLAIM')
print(json.dumps(sys.argv[1:]))
"""


def test_lines_of_the_array_are_the_runs_to_a_shell(tmp_path, monkeypatch):
    _, runs = sweep_of(tmp_path / 'w s', ARMS, monkeypatch, seeds=(0, 3))
    finish(runs[0], 0.5, {})
    command = write_launch_files('slurm', runs, tmp_path / 'o u t')
    path = tmp_path / 'o u t' / 'runs.txt'
    assert shlex.split(command) == [f'CCL_RUNS={path}', 'sbatch', '--array=1-3', 'launch/slurm.sbatch']
    lines = path.read_text().splitlines()
    for line, run in zip(lines, runs[1:], strict=True):
        # As launch/slurm.sbatch does.
        script = 'eval "set -- $1"; printf "%s\\0" "$@"'
        shell = subprocess.run(['bash', '-c', script, '-', line], capture_output=True, text=True, check=True)
        words = shell.stdout.split('\0')[:-1]
        assert words[2:4] == ['--workdir', str(run.workdir)]
        assert _experiment(words) == run.config


def test_when_all_is_finished_nothing_is_written(tmp_path, monkeypatch):
    _, runs = sweep_of(tmp_path / 'w', ['plain'], monkeypatch, seeds=(0,))
    finish(runs[0], 0.5, {})
    assert (
        write_launch_files('slurm', runs, tmp_path / 'out') == 'all 1 runs are finished; "--gather" makes their table'
    )
    assert not (tmp_path / 'out').exists()


def test_a_jobset_per_run_is_asked_of_the_renderer(tmp_path, monkeypatch):
    _, runs = sweep_of(tmp_path / 'Mix', ARMS, monkeypatch, seeds=(0, 3))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'launch' / 'gke').mkdir(parents=True)
    (tmp_path / 'launch' / 'gke' / 'render.py').write_text(ECHO)
    assert write_launch_files('jobset gpu IMAGE=i', runs, tmp_path / 'out') == f'kubectl apply -f {tmp_path}/out'
    files = {path.stem: json.loads(path.read_text()) for path in (tmp_path / 'out').glob('*.yaml')}
    assert files == {
        f'mix-{arm}-seed{seed}': ['gpu', f'NAME=mix-{arm}-seed{seed}', 'IMAGE=i', '--', *run.arguments]
        for run, (seed, arm) in zip(runs, [(0, 'plain'), (0, 'spans-0-5'), (3, 'plain'), (3, 'spans-0-5')], strict=True)
    }
    with pytest.raises(UserError, match=r'--write jobset gpu IMAGE=none: render.py: missing CLAIM'):
        write_launch_files('jobset gpu IMAGE=none', runs, tmp_path / 'out')


@pytest.mark.skipif(not RENDER.exists(), reason='launch/gke/render.py is not here')
def test_the_renderer_takes_what_it_is_asked(tmp_path, monkeypatch):
    _, runs = sweep_of(tmp_path / 'mix', ARMS, monkeypatch, seeds=(0,))
    monkeypatch.chdir(ROOT)
    words = 'jobset gpu IMAGE=i CLAIM=c ACCELERATOR=nvidia-l4 NODES=2 GPUS=8 RESTARTS=10'
    write_launch_files(words, runs, tmp_path / 'out')
    text = (tmp_path / 'out' / 'mix-spans-0-5-seed0.yaml').read_text()
    assert 'mix-spans-0-5-seed0' in text
    assert '--config.data.mix.span=0.5' in text
    with pytest.raises(UserError, match='CLAIM'):
        write_launch_files('jobset gpu IMAGE=i', runs, tmp_path / 'out')


def test_mistakes(tmp_path, monkeypatch):
    _, runs = sweep_of(tmp_path / 'w', {'a=1': {}, 'a.1': {'data.steps': 3}}, monkeypatch, seeds=(0,))
    for what in ('cron', ''):
        with pytest.raises(UserError, match='choose one of slurm, jobset'):
            write_launch_files(what, runs, tmp_path)
    with pytest.raises(UserError, match='slurm takes no "gpu"'):
        write_launch_files('slurm gpu', runs, tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='the folder that holds launch/'):
        write_launch_files('jobset gpu', runs, tmp_path)
    (tmp_path / 'launch' / 'gke').mkdir(parents=True)
    shutil.copy(__file__, tmp_path / 'launch' / 'gke' / 'render.py')
    with pytest.raises(UserError, match='two runs have one name'):
        write_launch_files('jobset gpu', runs, tmp_path)
    _, runs = sweep_of(tmp_path / 'w', {'a' * 50: {}}, monkeypatch, seeds=(0,))
    with pytest.raises(UserError, match='is no name for a JobSet'):
        write_launch_files('jobset gpu', runs, tmp_path)
