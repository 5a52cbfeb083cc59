"""`sweep`: the same experiment under several settings (arms), each with several seeds.

    ccl-jax sweep --config configs/ablations/mixture.py:demo --workdir runs/mixture
    ccl-jax sweep ... --config.sources.codiesp.path=DIR     # a key of the experiment, for all runs
    ccl-jax sweep ... --config.seeds='(0, 1)'               # a key of the sweep's own file
    ccl-jax sweep ... --parallel 2                          # two runs at a time; they share the devices as they may
    ccl-jax sweep ... --gather                              # the table of what is finished; nothing is run
    ccl-jax sweep ... --write slurm --out DIR               # files for Slurm or GKE instead (`sweep_launch`)

`sweep_config` says what the file holds. Every (arm, seed) is a run of its own in
`<workdir>/<arm>/seed<k>`: an ordinary workdir of a `ccl-jax train` line, which can be typed by hand too. The
runs are processes (`sweep_run`); finished ones are skipped, broken ones go on, and a failed one does not end the
others. What is finished is gathered in `<workdir>/results` (`sweep_table`, `sweep_plot`).
"""

from collections.abc import Sequence
from pathlib import Path

from ccl_jax.errors import UserError
from ccl_jax.pipeline.workdir import locked
from ccl_jax.studies.sweep_config import Run, Sweep
from ccl_jax.studies.sweep_plot import draw_sweep
from ccl_jax.studies.sweep_run import is_finished, run_all
from ccl_jax.studies.sweep_table import gather, write_tables

RESULTS = 'results'


def sweep(definition: Sweep, runs: Sequence[Run], workdir: Path, parallel: int) -> tuple[str, dict[str, str]]:
    """Makes the runs that are not finished, and gathers all that are.

    Returns:
        What to print; and the last words of the runs that failed, by name.

    Raises:
        UserError, Interrupted, KeyboardInterrupt: see `run_all`.
    """
    if parallel < 1:
        raise UserError(f'--parallel is {parallel}; it must be at least 1')
    with locked(workdir):
        failures = run_all(runs, parallel=parallel)
    return gather_results(definition, runs, workdir), failures


def gather_results(definition: Sweep, runs: Sequence[Run], workdir: Path) -> str:
    """Writes tables and plot of the finished runs into `<workdir>/results`; returns what to print.

    Raises:
        UserError: a run is of another config, or no run has a metric that the sweep names.
    """
    finished = [run for run in runs if is_finished(run)]
    if not finished:
        return f'none of the {len(runs)} runs in {workdir} is finished'
    folder = workdir / RESULTS
    rows = gather(definition, finished)
    markdown = write_tables(definition, rows, finished, len(runs), folder)
    picture = folder / 'plot.png'
    draw_sweep(definition, rows, finished, picture)
    files = (*(folder / name for name in ('table.md', 'table.csv', 'runs.csv')), picture)
    return '\n'.join([markdown, *map(str, files)])
