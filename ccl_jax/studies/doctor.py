"""`doctor`: is everything here that a run needs? Versions, devices, cluster, disks, model; each line with its mend.

The exit code is 0 when nothing is a problem (warnings are none) and 1 when something is. What touches a device runs
in a process of its own with a time limit, so that a device that hangs does not hang the doctor.

Versions that do not fit fail as soon as they are imported, so what imports jax or flax is imported late.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import platformdirs
from ml_collections import ConfigDict
from packaging.requirements import Requirement
from packaging.version import Version

from ccl_jax.config import Config, check_config
from ccl_jax.errors import UserError
from ccl_jax.training.chips import peak_flops

OK, WARNING, PROBLEM = 'ok', 'warning', 'problem'

# Of measuring on the devices; and of the whole process that does, to start and to compile included.
SECONDS, LIMIT = 10.0, 180.0

NEEDED = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'transformers', 'numpy')
_PLUGINS = ('libtpu', 'jax-cuda12-plugin', 'jax-cuda13-plugin', 'jax-rocm7-plugin')

_GIB = 2**30
_LITTLE, _TOO_LITTLE = 10 * _GIB, _GIB

# What tells of a cluster, by the first letters of a variable's name.
_VARIABLES = {
    'JAX': ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'),
    'Open MPI': ('OMPI_MCA_orte_hnp_uri', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),
    'Slurm': ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID'),
    'Cloud TPU': ('TPU_WORKER_ID', 'TPU_WORKER_HOSTNAMES', 'TPU_PROCESS_ADDRESSES', 'MEGASCALE_COORDINATOR_ADDRESS'),
}


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the diagnosis.

    Attributes:
        status: `OK`, `WARNING` or `PROBLEM`.
        mend: what to do; '' where nothing has to be done.
    """

    name: str
    status: str
    text: str
    mend: str = ''


def diagnose(
    tree: ConfigDict | None = None,
    *,
    model: Path | None = None,
    workdir: Path | None = None,
    seconds: float | None = None,
    limit: float | None = None,
) -> list[Check]:
    """Looks at everything, in the order in which a run would need it.

    Args:
        tree: a config, whose model and folders are looked at too.
        model: a Hugging Face folder.
        workdir: the folder of a run; it need not exist.
        seconds, limit: instead of `SECONDS` and `LIMIT`.
    """
    versions = installed_versions()
    checks = [Check('python', OK, platform.python_version()), *version_checks(versions, jax_requirements())]
    checks.append(cluster_check('libtpu' in versions))
    lines, failure = run_device_check(SECONDS if seconds is None else seconds, LIMIT if limit is None else limit)
    checks += device_checks(lines, failure)
    config: Config | None = None
    if tree is not None:
        try:
            config = check_config(tree)
        except UserError as error:
            checks.append(_of_error('config', error))
    checks += disk_checks(_folders(config, workdir))
    if config is not None:
        checks.append(_model_check(config))
    if model is not None:
        checks.append(_folder_check(model))
    return checks


def has_problem(checks: list[Check]) -> bool:
    return any(check.status == PROBLEM for check in checks)


def doctor_report(checks: list[Check]) -> str:
    """The diagnosis as text, one line a check and one below it for the mend."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f'{check.status:<8} {check.name:<{width}}  {check.text}')
        if check.mend:
            lines.append(f'{"":<8} {"":<{width}}  -> {check.mend}')
    counts = [sum(check.status == status for check in checks) for status in (PROBLEM, WARNING)]
    return '\n'.join([*lines, '', f'problems: {counts[0]}, warnings: {counts[1]}'])


def as_json(checks: list[Check]) -> str:
    return json.dumps(
        {'ok': not has_problem(checks), 'checks': [dataclasses.asdict(check) for check in checks]}, indent=2
    )


def installed_versions() -> dict[str, str]:
    """The versions of the packages that matter, those that are installed."""
    versions = {}
    for name in (*NEEDED, *_PLUGINS):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def jax_requirements() -> list[str]:
    """What the installed jax requires, extras included; nothing where it is not installed."""
    try:
        return importlib.metadata.requires('jax') or []
    except importlib.metadata.PackageNotFoundError:
        return []


def version_checks(versions: Mapping[str, str], requirements: list[str]) -> Iterator[Check]:
    """Whether the packages are there and fit each other.

    Args:
        versions: by package, those that are installed.
        requirements: of jax, as its metadata has them.
    """
    for name in NEEDED:
        if name in versions:
            yield Check(name, OK, versions[name])
        else:
            yield Check(name, PROBLEM, 'is not installed', 'pip install ccl-jax')
    if 'jax' not in versions:
        return
    jax = Version(versions['jax'])
    if jax == Version('0.11.0'):
        yield Check('jax', PROBLEM, '0.11.0 is accepted by no release of flax', 'pip install "jax!=0.11.0" flax')
    elif 'flax' in versions:
        # flax 0.12.9 is the first that works with jax 0.11.1, and the first that needs it.
        new_flax, new_jax = Version(versions['flax']) >= Version('0.12.9'), jax >= Version('0.11.1')
        if new_flax != new_jax:
            mend = 'pip install "flax<0.12.9"' if new_flax else 'pip install "flax>=0.12.9"'
            yield Check('flax and jax', PROBLEM, f'flax {versions["flax"]} does not work with jax {jax}', mend)
    yield from _pin_checks(versions, requirements)
    if any(name.startswith('jax-cuda') for name in versions) and jax < Version('0.11.1'):
        yield Check(
            'cuDNN attention',
            WARNING,
            f'jax {jax} is wrong about grouped-query heads in cuDNN, so that kernel is not used for them: slower',
            'pip install "jax>=0.11.1" "flax>=0.12.9"',
        )


def _pin_checks(versions: Mapping[str, str], requirements: list[str]) -> Iterator[Check]:
    """Whether jaxlib and the plugins are of the versions that jax itself asks for."""
    extras = {'jaxlib': '', 'libtpu': 'tpu', 'jax-cuda12-plugin': 'cuda12', 'jax-cuda13-plugin': 'cuda13'}
    for name, extra in extras.items():
        if name not in versions:
            continue
        pins = [r for r in map(Requirement, requirements) if r.name == name and _is_of(r, extra)]
        wrong = [str(r.specifier) for r in pins if not r.specifier.contains(versions[name], prereleases=True)]
        if wrong:
            what = f'{name} {versions[name]} does not fit jax {versions["jax"]}, which asks for {wrong[0]}'
            yield Check(f'{name} and jax', PROBLEM, what, f'pip install "{name}{wrong[0]}"')
        elif name != 'jaxlib':
            yield Check(name, OK, versions[name])


def _is_of(requirement: Requirement, extra: str) -> bool:
    """Whether jax requires it with the extra alone; '' for always."""
    if requirement.marker is None:
        return not extra
    return (
        bool(extra) and requirement.marker.evaluate({'extra': extra}) and not requirement.marker.evaluate({'extra': ''})
    )


def cluster_check(has_libtpu: bool = False) -> Check:
    """Which cluster a run would join, by the variables that `training.cluster` and jax look at, in their order."""
    environment = os.environ
    shown = {name: environment[name] for names in _VARIABLES.values() for name in names if name in environment}
    text = ', '.join(f'{name}={value}' for name, value in shown.items())
    if any(name in environment for name in _VARIABLES['JAX']):
        from ccl_jax.training.cluster import given_processes

        try:
            given_processes()
        except UserError as error:
            return _of_error('cluster', error)
        return Check('cluster', OK, f'the variables of JAX: {text}')
    if _VARIABLES['Open MPI'][0] in environment:
        return Check('cluster', OK, f'Open MPI: {text}')
    if all(name in environment for name in _VARIABLES['Slurm']):
        return Check('cluster', OK, f'Slurm: {text}')
    if has_libtpu and ('TPU_WORKER_HOSTNAMES' in environment or 'TPU_PROCESS_ADDRESSES' in environment):
        return Check('cluster', OK, f'Cloud TPU: {text}')
    if 'SLURM_JOB_ID' in environment:
        missing = [name for name in _VARIABLES['Slurm'] if name not in environment]
        return Check(
            'cluster',
            WARNING,
            f'in a Slurm job but not in a step of it ({", ".join(missing)} not set): a run here has one process',
            'start it by srun, as launch/slurm.sbatch does',
        )
    return Check('cluster', OK, f'none: a run here has one process{f" ({text})" if text else ""}')


def run_device_check(
    seconds: float, limit: float, command: tuple[str, ...] = (sys.executable, '-m', 'ccl_jax.studies.device_check')
) -> tuple[list[dict[str, Any]], str]:
    """Runs `device_check` and returns what it said, and how it failed, '' if it did not."""
    with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as errors:
        process = subprocess.Popen([*command, str(seconds)], stdout=out, stderr=errors, stdin=subprocess.DEVNULL)
        failure = ''
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            failure = f'did not end within {limit:.0f} s'
        else:
            failure = f'ended with {code}' if code else ''
        finally:
            process.kill()
        out.seek(0)
        lines = [json.loads(text) for text in out if text.startswith('{')]
        errors.seek(0)
        last = [text.strip() for text in errors if text.strip()][-1:]
    if failure and last and 'within' not in failure:
        failure += f': {last[0][:300]}'
    return lines, failure


def device_checks(lines: list[dict[str, Any]], failure: str) -> Iterator[Check]:
    """What `run_device_check` says of the devices."""
    said = {name: value for line in lines for name, value in line.items()}
    if 'processes' in said and said['processes']['count'] > 1:
        yield Check('processes', OK, f'{said["processes"]["count"]} joined, this is {said["processes"]["index"]}')
    for device in said.get('devices', []):
        memory = '' if device['memory_bytes'] is None else f', {device["memory_bytes"] / _GIB:.1f} GiB'
        yield Check(f'device {device["id"]}', OK, f'{device["kind"]}{memory}')
    if 'matmul' in said:
        yield from _matmul_checks(said['matmul'])
    if 'all_reduce' in said:
        yield _all_reduce_check(said['all_reduce'])
    if failure:
        steps = {
            'processes': 'joining the processes',
            'devices': 'finding the devices',
            'matmul': 'the matrix product',
            'all_reduce': 'the sum over all devices',
        }
        where = next((text for name, text in steps.items() if name not in said), 'the end')
        yield Check(
            'devices',
            PROBLEM,
            f'the check {failure}, in {where}',
            'look for another process that holds the devices (nvidia-smi, ps), for the driver, and for a host or '
            'network that does not answer',
        )


def _matmul_checks(results: list[dict[str, Any]]) -> Iterator[Check]:
    fastest = max(result['flops_per_second'] for result in results)
    for result in results:
        speed, peak = result['flops_per_second'], peak_flops(result['kind'])
        share = '' if peak is None else f', {speed / peak:.0%} of the peak'
        name, text = f'matmul {result["id"]}', f'{speed / 1e12:,.2f} TFLOP/s in bfloat16{share}'
        if not result['right']:
            yield Check(name, PROBLEM, 'a matrix product is wrong', 'take the device out of service')
        elif speed < fastest / 2:
            mend = 'see whether another process uses it, or whether it is throttled'
            yield Check(name, WARNING, f'{text}; another device here is twice as fast', mend)
        else:
            yield Check(name, OK, text)


def _all_reduce_check(result: Mapping[str, Any]) -> Check:
    if not result['right']:
        return Check('all-reduce', PROBLEM, 'a sum over all devices is wrong', 'check the links between the devices')
    if result['devices'] == 1:
        return Check('all-reduce', OK, 'one device: nothing to add')
    speed = result['bytes'] / result['seconds'] / 1e9
    text = f'{result["devices"]} devices, {result["bytes"] / 2**20:.0f} MiB each in {result["seconds"] * 1e3:.1f} ms'
    return Check('all-reduce', OK, f'{text}: {speed:.2f} GB/s a device')


def disk_checks(folders: Mapping[str, Path]) -> Iterator[Check]:
    """Whether the folders can be written and have room.

    Args:
        folders: by what they are for; those that are not there yet count as their nearest parent.
    """
    for name, folder in folders.items():
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        text = f'{folder}: {free / _GIB:,.1f} GiB free'
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            yield Check(
                name, PROBLEM, f'{folder} cannot be written', 'choose another folder, or change its permissions'
            )
        elif free < _TOO_LITTLE:
            yield Check(name, PROBLEM, text, 'free some room, or choose another folder')
        elif free < _LITTLE:
            yield Check(name, WARNING, text, 'a checkpoint of a large model does not fit; free some room')
        else:
            yield Check(name, OK, text)


def _folders(config: Config | None, workdir: Path | None) -> dict[str, Path]:
    cache = Path(os.environ.get('CCL_JAX_CACHE') or platformdirs.user_cache_dir('ccl_jax'))
    compiled = config.training.train.compilation_cache if config is not None else 'user'
    folders = {'temporary folder': Path(tempfile.gettempdir())}
    if str(cache) != 'off':
        folders['cache'] = cache
    if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
        folders['compilation cache'] = Path(os.environ['JAX_COMPILATION_CACHE_DIR'])
    elif compiled not in ('user', 'off'):
        folders['compilation cache'] = Path(compiled)
    if workdir is not None:
        folders['workdir'] = workdir
    return folders


def _model_check(config: Config) -> Check:
    def check() -> str:
        from ccl_jax.pipeline.models import check_model

        check_model(config)
        return 'a small one is made' if config.base.enabled else f'{config.model.path} and its tokenizer can be read'

    return _try_model('model of the config', check)


def _folder_check(folder: Path) -> Check:
    def check() -> str:
        from ccl_jax.pipeline.models import check_folder

        return f'{folder}: {check_folder(folder).parameter_count():,} parameters, and a tokenizer that fits'

    return _try_model('model', check)


def _try_model(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, OK, check())
    except (UserError, OSError) as error:
        return _of_error(name, error)
    except Exception as error:  # whatever versions that do not fit raise when they are imported
        return Check(name, PROBLEM, f'cannot be looked at: {type(error).__name__}', 'mend the problems above first')


def _of_error(name: str, error: Exception) -> Check:
    """The sentences of a UserError end with the mend, after a semicolon."""
    what, _, mend = str(error).rpartition('; ')
    return Check(name, PROBLEM, what, mend) if what else Check(name, PROBLEM, mend)
