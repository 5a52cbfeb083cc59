"""`sweep`: the same experiment under several settings (arms), each with several seeds.

    ccl-jax sweep --config configs/ablations/mixture.py:demo --workdir runs/mixture
    ccl-jax sweep ... --config.sources.codiesp.path=DIR     # a key of the experiment, for all runs
    ccl-jax sweep ... --config.seeds='(0, 1)'               # a key of the sweep's own file
    ccl-jax sweep ... --parallel 2                          # two runs at a time; they share the devices as they may
    ccl-jax sweep ... --gather                              # the table of what is finished; nothing is run
    ccl-jax sweep ... --reuse                               # runs whose small results are kept are not made
    ccl-jax sweep ... --write slurm --out DIR               # files for Slurm or GKE instead (`sweep_launch`)

`sweep_config` says what the file holds. Every (arm, seed) is a run of its own in
`<workdir>/<arm>/seed<k>`: an ordinary workdir of a `ccl-jax train` line, which can be typed by hand too. The
runs are processes (`sweep_run`); finished ones are skipped, broken ones go on, and a failed one does not end the
others. What is finished is gathered in `<workdir>/results`: the table (`sweep_table`), with the contrasts below it
(`sweep_contrasts`), a plot, and the curves of runs that were scored on the way (`sweep_curves`).

Where the file names a folder as `results`, the small results of every finished run are kept there (`sweep_result`).
From them alone `--reuse` makes the same files again, on a machine that has neither the data nor the time.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ccl_jax.errors import UserError
from ccl_jax.pipeline.files import write_text
from ccl_jax.pipeline.workdir import locked
from ccl_jax.studies.sweep_config import Run, Sweep
from ccl_jax.studies.sweep_contrasts import contrasts_to_csv, contrasts_to_markdown, gather_contrasts
from ccl_jax.studies.sweep_curves import curves_to_csv, curves_to_markdown, gather_curves
from ccl_jax.studies.sweep_plot import draw_curves, draw_sweep
from ccl_jax.studies.sweep_result import (
    Result,
    differences,
    load_record,
    read_record,
    record_file,
    result_of,
    settings_of,
    write_record,
)
from ccl_jax.studies.sweep_run import is_finished, run_all, unfinished
from ccl_jax.studies.sweep_table import gather, gather_baselines, runs_to_csv, to_csv, to_markdown

RESULTS = 'results'

Kept = Mapping[str, Result]
"""Results that files gave in place of runs, by the name of the run."""


def sweep(
    definition: Sweep, runs: Sequence[Run], workdir: Path, parallel: int, kept: Kept | None = None
) -> tuple[str, dict[str, str]]:
    """Makes the runs that are neither finished nor in `kept`, and gathers all that there are.

    Returns:
        What to print; and the last words of the runs that failed, by name.

    Raises:
        UserError: the model that a run starts from cannot be used; and as `run_all`.
        Interrupted, KeyboardInterrupt: see `run_all`.
    """
    if parallel < 1:
        raise UserError(f'--parallel is {parallel}; it must be at least 1')
    kept = kept or {}
    left = [run for run in runs if run.name not in kept]
    failures: dict[str, str] = {}
    if left:
        _check_models(left)
        if definition.results:
            # A folder that cannot be made should not show only after the first run.
            Path(definition.results).mkdir(parents=True, exist_ok=True)
        with locked(workdir):
            failures = run_all(left, parallel=parallel, when_finished=lambda run: _keep(definition, run))
    return gather_results(definition, runs, workdir, kept), failures


def _check_models(runs: Sequence[Run]) -> None:
    """Refuses a model that cannot be used here and once, not in the log of each run."""
    # It brings transformers, which takes seconds and which a table of finished runs does not need.
    from ccl_jax.pipeline.models import check_model

    for run in unfinished(runs):
        try:
            check_model(run.config)
        except UserError as error:
            raise UserError(f'{run.name}: {error}') from None


def kept_results(definition: Sweep, runs: Sequence[Run]) -> dict[str, Result]:
    """Returns the results that lie in the sweep's folder, of runs of the same config; says which are of another.

    Raises:
        UserError: the sweep names no folder, or a file in it cannot be read.
    """
    if not definition.results:
        raise UserError("--reuse needs a folder of small results; name it by results='DIR' in the file of the sweep")
    kept = {}
    for run in runs:
        path = record_file(run, Path(definition.results))
        if not path.exists():
            continue
        record = load_record(path)
        changes = list(differences(record['config'], settings_of(run.config)))
        if changes:
            shown = '; '.join(changes[:5]) + ('; ...' if len(changes) > 5 else '')
            _say(f'{path} is of another config ({shown}) and is not used')
        else:
            kept[run.name] = result_of(run, record)
    _say(f'{len(kept)} of {len(runs)} runs are taken from {definition.results}')
    return kept


def gather_results(definition: Sweep, runs: Sequence[Run], workdir: Path, kept: Kept | None = None) -> str:
    """Writes tables and plots of the finished runs into `<workdir>/results`; returns what to print.

    Args:
        kept: stands in place of the runs that it names.

    Raises:
        UserError: a run is of another config, no run has a metric that the sweep names, or a file cannot be written.
    """
    kept = kept or {}
    results = [
        kept[run.name] if run.name in kept else _read(definition, run)
        for run in runs
        if run.name in kept or is_finished(run)
    ]
    if not results:
        return f'none of the {len(runs)} runs in {workdir} is finished'
    return '\n'.join(_write(definition, results, len(runs), workdir / RESULTS))


def _keep(definition: Sweep, run: Run) -> None:
    """Keeps the small results of a run that has just finished; where it cannot, the other runs go on."""
    try:
        if definition.results:
            _read(definition, run)
    except UserError as error:
        _say(f'{run.name}: its small results are not kept yet: {error}')


def _read(definition: Sweep, run: Run) -> Result:
    """Reads a finished run, and keeps its small results where the sweep wants them."""
    record = read_record(run)
    if definition.results:
        write_record(record, record_file(run, Path(definition.results)))
    return result_of(run, record)


def _write(definition: Sweep, results: Sequence[Result], total: int, folder: Path) -> list[str]:
    """Writes all files; returns the tables and the files' names."""
    rows, contrasts = gather(definition, results), gather_contrasts(definition, results)
    shown = [*rows, *gather_baselines(definition, results)]
    markdown = to_markdown(definition, shown, len(results), total)
    if contrasts:
        markdown += f'\n{contrasts_to_markdown(contrasts)}'
    texts = {'table.md': markdown, 'table.csv': to_csv(definition, shown), 'runs.csv': runs_to_csv(definition, results)}
    if contrasts:
        texts['contrasts.csv'] = contrasts_to_csv(contrasts)
    for name, text in texts.items():
        write_text(folder / name, text)
    draw_sweep(definition, rows, results, folder / 'plot.png')
    names = [*texts, 'plot.png']
    curves = gather_curves(definition, results)
    if curves:
        write_text(folder / 'curves.md', curves_to_markdown(definition, curves, results))
        write_text(folder / 'curves.csv', curves_to_csv(definition, curves))
        draw_curves(curves, folder / 'curves.png')
        names += ['curves.md', 'curves.csv', 'curves.png']
    return [markdown, *(str(folder / name) for name in names)]


def _say(message: str) -> None:
    # `console.say` would wake the devices, which belong to the runs.
    print(message, file=sys.stderr, flush=True)
