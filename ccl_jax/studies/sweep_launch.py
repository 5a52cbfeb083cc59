"""A sweep for a cluster: files from which its runs are started there, in place of running them here.

    --write slurm --out DIR      DIR/runs.txt: a line per run, the arguments after `ccl-jax train` quoted for a shell;
                                 task N of an array takes line N (`launch/slurm.sbatch`)
    --write 'jobset gpu IMAGE=... CLAIM=... [VARIABLE=VALUE ...]' --out DIR
                                 DIR/NAME.yaml: a JobSet per run, by `launch/gke/render.py`, which knows the variables

Runs that are finished in the workdir as it is seen from here are left out.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ccl_jax.errors import UserError
from ccl_jax.pipeline.files import write_text
from ccl_jax.studies.sweep_config import Run
from ccl_jax.studies.sweep_run import unfinished

RUNS = 'runs.txt'
RENDER = Path('launch/gke/render.py')
# Kubernetes names a pod after its JobSet, adds up to 19 characters, and allows 63.
_LONGEST_NAME = 44


def write_launch_files(what: str, runs: Sequence[Run], folder: Path) -> str:
    """Writes the files of the runs that are not finished; returns the command that starts them.

    Args:
        what: 'slurm', or 'jobset' and the words for `render.py`, apart by blanks.

    Raises:
        UserError: `what` is unknown, a run's workdir is of another config, or the renderer refuses.
    """
    kind, *words = shlex.split(what) or ['']
    if kind not in _WRITERS:
        raise UserError(f'--write is "{what}"; choose one of {", ".join(_WRITERS)}')
    left = unfinished(runs)
    if not left:
        return f'all {len(runs)} runs are finished; "--gather" makes their table'
    return _WRITERS[kind](left, folder, words)


def _write_slurm(runs: Sequence[Run], folder: Path, words: Sequence[str]) -> str:
    if words:
        raise UserError(f'--write slurm takes no "{words[0]}"; give options to sbatch')
    path = folder / RUNS
    write_text(path, ''.join(f'{shlex.join(run.arguments)}\n' for run in runs))
    return f'CCL_RUNS={shlex.quote(str(path))} sbatch --array=1-{len(runs)} launch/slurm.sbatch'


def _write_jobsets(runs: Sequence[Run], folder: Path, words: Sequence[str]) -> str:
    if not RENDER.exists():
        raise UserError(f'{RENDER} is not here; call the sweep from the folder that holds launch/ and configs/')
    names = [_jobset_name(run) for run in runs]
    if len(set(names)) < len(names):
        raise UserError('two runs have one name as JobSets; name the arms by different letters and digits')
    for name, run in zip(names, runs, strict=True):
        rendered = subprocess.run(
            [sys.executable, RENDER, *words[:1], f'NAME={name}', *words[1:], '--', *run.arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if rendered.returncode:
            raise UserError(f'--write {shlex.join(["jobset", *words])}: {rendered.stderr.strip()}')
        write_text(folder / f'{name}.yaml', rendered.stdout)
    return f'kubectl apply -f {shlex.quote(str(folder))}'


def _jobset_name(run: Run) -> str:
    """Lower-case letters, digits and hyphens: sweep, arm and seed."""
    sweep = run.workdir.parent.parent.name
    name = re.sub('[^a-z0-9]+', '-', f'{sweep}-{run.arm}-seed{run.seed}'.lower()).strip('-')
    if len(name) > _LONGEST_NAME or not name[:1].isalpha():
        raise UserError(
            f'"{name}" is no name for a JobSet; shorten the folder of --workdir or the arm to {_LONGEST_NAME} '
            'characters in all, begun with a letter'
        )
    return name


_WRITERS: dict[str, Callable[[Sequence[Run], Path, Sequence[str]], str]] = {
    'slurm': _write_slurm,
    'jobset': _write_jobsets,
}
