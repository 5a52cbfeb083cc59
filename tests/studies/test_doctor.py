"""What the doctor finds: versions by hand, clusters against jax's own detection, devices that hang or are wrong."""

import json
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
from jax._src.clusters import cluster

from ccl_jax.cli import main
from ccl_jax.studies import doctor
from ccl_jax.studies.doctor import (
    OK,
    PROBLEM,
    WARNING,
    Check,
    cluster_check,
    device_checks,
    disk_checks,
    installed_versions,
    run_device_check,
    version_checks,
)

ROOT = Path(__file__).parents[2]
VERSIONS = dict.fromkeys(doctor.NEEDED, '1.0') | {'jax': '0.10.2', 'jaxlib': '0.10.2', 'flax': '0.12.8'}
# As jax 0.10.2 has them.
REQUIREMENTS = [
    'jaxlib<=0.10.2,>=0.10.1',
    'ml_dtypes>=0.5.0',
    'jaxlib==0.10.1; extra == "minimum-jaxlib"',
    'libtpu==0.0.42.*; extra == "tpu"',
    'jax-cuda12-plugin[with-cuda]<=0.10.2,>=0.10.2; extra == "cuda12"',
    'jax-cuda13-plugin[with-cuda]<=0.10.2,>=0.10.2; extra == "cuda13"',
]
VARIABLES = sorted({name for names in doctor._VARIABLES.values() for name in names} | {'SLURM_STEP_NUM_NODES'})


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def found(changes, requirements=REQUIREMENTS):
    versions = {name: version for name, version in (VERSIONS | changes).items() if version}
    return {check.name: check for check in version_checks(versions, requirements) if check.status != OK}


@pytest.mark.parametrize(
    ('jax', 'flax', 'bad'),
    [
        ('0.10.2', '0.12.8', False),
        ('0.10.2', '0.12.9', True),
        ('0.11.1', '0.12.8', True),
        ('0.11.1', '0.12.9', False),
        ('0.12.0', '0.12.6', True),
        ('0.12.0', '0.13.0', False),
    ],
)
def test_pairs_of_flax_and_jax(jax, flax, bad):
    problems = found({'jax': jax, 'flax': flax}, requirements=[])
    assert problems.keys() == ({'flax and jax'} if bad else set())
    assert all(check.status == PROBLEM and check.mend for check in problems.values())


def test_the_jax_that_no_flax_accepts():
    assert found({'jax': '0.11.0'}, requirements=[])['jax'].status == PROBLEM


def test_a_package_that_is_missing():
    assert found({'grain': ''})['grain'] == Check('grain', PROBLEM, 'is not installed', 'pip install ccl-jax')
    assert found({'jax': ''}).keys() == {'jax'}


@pytest.mark.parametrize(
    ('changes', 'problems'),
    [
        ({'libtpu': '0.0.42.1'}, set()),
        ({'libtpu': '0.0.41'}, {'libtpu and jax'}),
        ({'jaxlib': '0.10.0'}, {'jaxlib and jax'}),
        ({'jaxlib': '0.10.1'}, set()),
        ({'jax-cuda13-plugin': '0.10.2'}, set()),
        ({'jax-cuda13-plugin': '0.10.1'}, {'jax-cuda13-plugin and jax'}),
    ],
)
def test_the_pins_of_jax_itself(changes, problems):
    checks = found(changes)
    assert {name for name, check in checks.items() if check.status == PROBLEM} == problems
    for check in checks.values():
        assert check.mend.startswith('pip install')


def test_cudnn_below_the_jax_that_is_right_is_a_warning():
    assert found({'jax-cuda12-plugin': '0.10.2'})['cuDNN attention'].status == WARNING
    newer = {'jax': '0.11.1', 'flax': '0.12.9', 'jax-cuda12-plugin': '0.11.1'}
    assert found(newer, requirements=[]) == {}


def test_what_is_installed_here_fits():
    checks = list(version_checks(installed_versions(), doctor.jax_requirements()))
    assert {check.status for check in checks} <= {OK, WARNING}


SLURM = {
    'SLURM_JOB_ID': '7',
    'SLURM_STEP_NODELIST': 'n1',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': '0',
    'SLURM_LOCALID': '0',
}
OPEN_MPI = {'OMPI_MCA_orte_hnp_uri': '1.0;tcp://10.0.0.1:34', 'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_RANK': '0'}


@pytest.mark.parametrize(
    'environment', [{}, SLURM, OPEN_MPI, {**SLURM, **OPEN_MPI}, {'SLURM_JOB_ID': '7'}, {'SLURM_NTASKS': '2'}]
)
def test_the_cluster_is_the_one_that_jax_would_take(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check = cluster_check()
    with warnings.catch_warnings(action='ignore'):
        present = [kind.name for kind in cluster.ClusterEnv._cluster_types if kind.is_env_present()]
    names = {'ompi': 'Open MPI:', 'slurm': 'Slurm:'}
    taken = next((names[name] for name in present if name in names), None)
    assert check.text.startswith(taken) if taken else 'one process' in check.text
    # In a job without a step, nothing that jax looks for is there.
    assert check.status == (WARNING if environment.keys() == {'SLURM_JOB_ID'} else OK)


def test_the_variables_of_jax_come_first_and_are_checked(monkeypatch):
    for name, value in {**SLURM, 'JAX_COORDINATOR_ADDRESS': 'host:1234', 'JAX_NUM_PROCESSES': '2'}.items():
        monkeypatch.setenv(name, value)
    assert cluster_check().text.startswith('the variables of JAX: JAX_COORDINATOR_ADDRESS=host:1234')
    monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'host')
    check = cluster_check()
    assert check.status == PROBLEM
    assert 'HOST:PORT' in check.text + check.mend


def test_a_tpu_of_gke(monkeypatch):
    monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'a,b')
    assert cluster_check(has_libtpu=True).text.startswith('Cloud TPU')
    assert cluster_check(has_libtpu=False).text.startswith('none')


def test_a_check_that_hangs_is_left(monkeypatch):
    script = 'import time; print(\'{"devices": []}\', flush=True); time.sleep(60)'
    lines, failure = run_device_check(0.1, 2, (sys.executable, '-c', script))
    assert lines == [{'devices': []}]
    checks = list(device_checks([{'processes': {'count': 1, 'index': 0}}, *lines], failure))
    assert [(check.status, check.text) for check in checks] == [
        (PROBLEM, 'the check did not end within 2 s, in the matrix product')
    ]


def test_a_check_that_dies_says_its_last_words():
    script = 'import sys; sys.exit("no driver here")'
    lines, failure = run_device_check(0.1, 20, (sys.executable, '-c', script))
    assert (lines, failure) == ([], 'ended with 1: no driver here')


def test_results_of_devices():
    def product(number, speed, right=True):
        return {'id': number, 'kind': 'NVIDIA H100 80GB HBM3', 'right': right, 'flops_per_second': speed}

    reduced = {'devices': 3, 'right': True, 'bytes': 2**20, 'seconds': 0.001}
    lines = [
        {'processes': {'count': 2, 'index': 1}},
        {'devices': [{'id': 0, 'kind': 'H100', 'platform': 'gpu', 'memory_bytes': 2**36, 'used_bytes': 0}]},
        {'matmul': [product(0, 494.7e12), product(1, 200e12), product(2, 494e12, right=False)]},
    ]
    checks = {check.name: check for check in device_checks([*lines, {'all_reduce': reduced}], '')}
    assert checks['processes'].text == '2 joined, this is 1'
    assert checks['device 0'].text == 'H100, 64.0 GiB'
    # The data sheet's 989.4 TFLOP/s.
    assert checks['matmul 0'].text == '494.70 TFLOP/s in bfloat16, 50% of the peak'
    assert [checks[f'matmul {k}'].status for k in range(3)] == [OK, WARNING, PROBLEM]
    assert checks['all-reduce'].text.endswith('1.05 GB/s a device')
    wrong = list(device_checks([{'all_reduce': reduced | {'right': False}}], ''))
    assert wrong[0].status == PROBLEM


@pytest.mark.parametrize(('free', 'status'), [(0.5, PROBLEM), (5, WARNING), (50, OK)])
def test_room_on_disks(tmp_path, monkeypatch, free, status):
    looked_at = []

    def usage(path):
        looked_at.append(path)
        return types.SimpleNamespace(free=int(free * 2**30))

    monkeypatch.setattr(doctor.shutil, 'disk_usage', usage)
    (check,) = disk_checks({'workdir': tmp_path / 'not' / 'yet'})
    assert check.status == status
    assert looked_at == [tmp_path]


def test_a_folder_that_is_a_file_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    (check,) = disk_checks({'workdir': tmp_path / 'file' / 'run'})
    assert check.status == PROBLEM


def test_it_says_so_where_flax_cannot_even_be_imported(tmp_path):
    """As under versions that do not fit; the rest of the diagnosis is still there."""
    (tmp_path / 'flax').mkdir()
    (tmp_path / 'flax' / '__init__.py').write_text('raise ImportError("cannot import name x from jax")\n')
    code = (
        'import json; from pathlib import Path; from ccl_jax.studies import doctor; '
        'doctor.run_device_check = lambda *_: ([], ""); '
        'print(doctor.as_json(doctor.diagnose(model=Path("nowhere"))))'
    )
    environment = {**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    checks = {check['name']: check for check in json.loads(done.stdout)['checks']}
    assert checks['model'] == {
        'name': 'model',
        'status': PROBLEM,
        'text': 'cannot be looked at: ImportError',
        'mend': 'mend the problems above first',
    }
    assert {'jax', 'flax', 'cluster', 'temporary folder'} <= checks.keys()


def test_from_the_command_line_with_real_devices(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'SECONDS', 0.2)
    monkeypatch.setenv('XLA_FLAGS', f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=2')
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    monkeypatch.setattr(sys, 'argv', ['ccl-jax'])
    config = f'--config={ROOT / "configs" / "demo.py"}'
    assert main(['doctor', '--json', config, f'--workdir={tmp_path / "run"}', f'--model={tmp_path}']) == 1
    report = json.loads(capsys.readouterr().out)
    checks = {check['name']: check for check in report['checks']}
    assert {name for name, check in checks.items() if check['status'] == PROBLEM} == {'model'}
    assert report['ok'] is False
    assert checks['all-reduce']['text'].startswith('2 devices')
    assert checks['model of the config']['text'] == 'a small one is made'
    assert not (tmp_path / 'run').exists()


def test_from_the_command_line_without_a_config(monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'run_device_check', lambda *_: ([], ''))
    monkeypatch.setattr(sys, 'argv', ['ccl-jax'])
    assert main(['doctor']) == 0
    assert 'problems: 0' in capsys.readouterr().out
