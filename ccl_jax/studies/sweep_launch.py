"""A sweep for a cluster: files from which its runs are started there, in place of running them here.

`slurm`: `runs.txt`, one line per run that is not finished, the arguments after `ccl-jax train` quoted for a
shell, of which task N of an array takes line N (`launch/slurm.sbatch`).
"""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from ccl_jax.errors import UserError
from ccl_jax.pipeline.files import write_text
from ccl_jax.studies.sweep_config import Run
from ccl_jax.studies.sweep_run import unfinished

RUNS = 'runs.txt'


def write_launch_files(kind: str, runs: Sequence[Run], folder: Path) -> str:
    """Writes the files of the runs that are not finished; returns the commands that start them.

    Raises:
        UserError: the kind is unknown, or a run's workdir is of another config.
    """
    if kind not in _WRITERS:
        raise UserError(f'--write is "{kind}"; choose one of {", ".join(_WRITERS)}')
    left = unfinished(runs)
    if not left:
        return f'all {len(runs)} runs are finished; "--gather" makes their table'
    return _WRITERS[kind](left, folder)


def _write_slurm(runs: Sequence[Run], folder: Path) -> str:
    path = folder / RUNS
    write_text(path, ''.join(f'{shlex.join(run.arguments)}\n' for run in runs))
    return f'CCL_RUNS={shlex.quote(str(path))} sbatch --array=1-{len(runs)} launch/slurm.sbatch'


_WRITERS: dict[str, Callable[[Sequence[Run], Path], str]] = {'slurm': _write_slurm}
