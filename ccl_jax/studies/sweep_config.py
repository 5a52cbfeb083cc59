"""The file of a sweep: its arms and seeds, and the runs that they make.

It is a Python file with `get_config(variant)` that returns `sweep_config(...)`:

    return sweep_config(
        'configs/demo.py:small',                          # the experiment of all runs: FILE[:VARIANT]
        arms={'A': {'tasks.evidence': False}, 'B': {}},   # name -> key of the experiment -> value
        seeds=(0, 1, 2),
        reference='A',
    )

or, instead of `arms`, `grid={'lora.rank': (4, 16), 'lora.dropout': (0.0, 0.1)}`: every combination is an arm.

    results='DIR'     keeps the small results of each finished run there (`sweep_result`); `--reuse` takes them
                      in place of the run
    contrasts={'transfer': (('+', 'D', 'S1.micro_f1'), ('-', 'B', 'S1.micro_f1'))}
                      sums of the arms' metrics, each with its sign, which are shown below the table

The experiment is named, not held, so that every run is a line of plain arguments,
`ccl-jax train --config EXPERIMENT --workdir DIR --config.seed=K --config.key=value ...`, on any machine.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ccl_jax.config import Config, check_key, default_config
from ccl_jax.errors import UserError
from ccl_jax.evaluation.report import SEEN
from ccl_jax.evaluation.strata import STRATA

METRICS = ('micro_f1', 'macro_f1_gold', 'S0.micro_f1', 'S1.micro_f1', 'evidence_span_exact_f1')
SIGNS = {'+': 1, '-': -1}
# Parts of the codes that a metric's name may begin with.
_PARTS = ('', *STRATA, *SEEN)
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._=+,-]*')

# Reads the arguments of a `ccl-jax train` line and checks the config that they make.
Load = Callable[[Sequence[str]], Config]


@dataclasses.dataclass(frozen=True)
class Arm:
    """What is compared.

    Attributes:
        name: a folder's name too.
        settings: (key of the experiment, value), in which it differs from the other arms.
        x: its place on the axis of the plot; None where the arms are no numbers.
        line: arms of one line are joined in the plot.
    """

    name: str
    settings: tuple[tuple[str, Any], ...]
    x: float | None = None
    line: str = ''


@dataclasses.dataclass(frozen=True)
class Term:
    """A metric of an arm in a contrast; `sign` is 1 or -1."""

    sign: int
    arm: str
    metric: str


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A checked sweep config.

    Attributes:
        experiment: FILE[:VARIANT] of all runs.
        settings: (key of the experiment, value) of all runs.
        reference: name of the arm that the others are compared with.
        metrics: names of `metrics.json`, such as micro_f1; of a part of the codes: S1.micro_f1, unseen.micro_f1.
        axis: the key whose values are the x of the plot; '' where the arms are no numbers.
        results: the folder of the small results; '' to keep none.
        contrasts: name -> what is summed.
    """

    experiment: str
    settings: tuple[tuple[str, Any], ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    reference: str
    metrics: tuple[str, ...]
    axis: str
    results: str
    contrasts: Mapping[str, tuple[Term, ...]]


@dataclasses.dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Attributes:
        arguments: what follows `ccl-jax train`.
        config: what they make.
    """

    arm: str
    seed: int
    workdir: Path
    arguments: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        return f'{self.arm} seed {self.seed}'

    @property
    def evaluation(self) -> Path:
        return self.workdir / 'eval' / self.config.eval.split


def sweep_config(
    experiment: str,
    *,
    arms: Mapping[str, Mapping[str, Any]] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    overrides: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    reference: str = '',
    metrics: Sequence[str] = METRICS,
    axis: str = '',
    results: str = '',
    contrasts: Mapping[str, Sequence[tuple[str, str, str]]] | None = None,
) -> ConfigDict:
    """Returns what `get_config` of a sweep's file has to return.

    Args:
        experiment: FILE[:VARIANT] of an experiment, from the folder where the command is given.
        arms: name -> key of the experiment, dotted -> value. A value that is a dict sets keys below it.
        grid: key -> values; instead of `arms`. An arm's name is made of the last parts of the keys: rank=4.
        overrides: key -> value, for all arms.
        reference: the arm that the others are compared with; '' for the first.
        metrics: see `Sweep`.
        axis: a key that every arm sets to a number, which is the x of the plot; of a grid, '' for the
            first key whose values are numbers.
        results: a folder, from the one where the command is given, that keeps the small results of every
            finished run; '' for none.
        contrasts: name -> terms ('+' or '-', arm, metric), of which the sum is shown with its intervals.
    """
    # Dotted keys are no keys of a ConfigDict, so these stay dicts.
    tree = ConfigDict(convert_dict=False)
    tree.experiment = experiment
    tree.overrides, tree.arms, tree.grid = dict(overrides or {}), dict(arms or {}), dict(grid or {})
    tree.seeds, tree.metrics = tuple(seeds), tuple(metrics)
    tree.reference, tree.axis, tree.results = reference, axis, results
    tree.contrasts = dict(contrasts or {})
    return tree


def check_sweep(tree: ConfigDict) -> Sweep:
    """Checks a sweep's tree and expands its grid.

    Raises:
        UserError: a part is missing, unknown or does not fit the others.
    """
    if set(tree) != set(sweep_config('')):
        raise UserError(
            '--config names no file of a sweep; its get_config has to return sweep_config(...), as those in '
            'configs/ablations do'
        )
    if bool(tree.arms) == bool(tree.grid):
        raise UserError('a sweep needs arms or a grid, one of the two')
    if tree.grid:
        arms, axis = _grid_arms(tree.grid, tree.axis)
    else:
        arms, axis = _listed_arms(tree.arms, tree.axis), tree.axis
    seeds = tuple(tree.seeds)
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f'seeds is {seeds}; give different whole numbers of at least 0')
    names = [arm.name for arm in arms]
    reference = tree.reference or names[0]
    if reference not in names:
        raise UserError(f'reference is "{reference}"; it must be one of the arms {", ".join(names)}')
    if not tree.metrics:
        raise UserError('metrics is empty; name at least one, such as micro_f1')
    for metric in tree.metrics:
        _check_part(metric, 'metrics')
    contrasts = {name: _terms(name, terms, names) for name, terms in tree.contrasts.items()}
    settings = tuple(_flat(tree.overrides))
    _check_settings(settings, 'overrides')
    return Sweep(
        *(tree.experiment, settings, arms, seeds, reference, tuple(tree.metrics), axis),
        results=tree.results,
        contrasts=contrasts,
    )


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns (arguments of the sweep, overrides of its experiment) of a command line.

    Raises:
        UserError: `--config.key` is neither a key of a sweep nor one of an experiment.
    """
    own, overrides = [], []
    sections, keys = set(default_config()), set(sweep_config(''))
    for argument in arguments:
        name, _, _ = argument.lstrip('-').partition('=')
        if not argument.startswith('-') or not name.startswith('config.'):
            own.append(argument)
            continue
        key = name.removeprefix('config.')
        if '=' not in argument:
            raise UserError(f'--config.{key} has no value; write --config.{key}=VALUE')
        if key.partition('.')[0] in sections:
            _check_settings([(key, None)], 'the command line')
            overrides.append(f'--{argument.lstrip("-")}')
        elif key in keys - {'arms', 'grid', 'overrides', 'contrasts'}:
            own.append(argument)
        else:
            check_key(key)
    return own, overrides


def runs_of(sweep: Sweep, workdir: Path, load: Load, overrides: Sequence[str] = ()) -> list[Run]:
    """Returns all runs, seed by seed, so that what is finished early can be compared.

    Args:
        overrides: `--config.key=value` of the experiment, for all runs.

    Raises:
        UserError: the experiment cannot be loaded, an arm's config is refused, an override sets what an arm
            sets too, or two arms are the same.
    """
    _check_overrides(sweep, overrides)
    runs = []
    for seed, arm in itertools.product(sweep.seeds, sweep.arms):
        folder = workdir / arm.name / f'seed{seed}'
        settings = [('seed', seed), *sweep.settings, *arm.settings]
        arguments = (
            *('--config', sweep.experiment, '--workdir', str(folder)),
            # A later flag wins: what an arm sets holds.
            *(_flag(key, value) for key, value in settings[: 1 + len(sweep.settings)]),
            *overrides,
            *(_flag(key, value) for key, value in arm.settings),
        )
        try:
            config = load(arguments)
        except UserError as error:
            raise UserError(f'arm {arm.name}: {error}') from None
        runs.append(Run(arm.name, seed, folder, arguments, config))
    for one, other in itertools.combinations(runs[: len(sweep.arms)], 2):
        if one.config == other.config:
            raise UserError(f'the arms {one.arm} and {other.arm} are the same run; change or leave out one of them')
    return runs


def _listed_arms(given: Mapping[str, Mapping[str, Any]], axis: str) -> tuple[Arm, ...]:
    arms = []
    for name, tree in given.items():
        if not _NAME.fullmatch(name):
            raise UserError(f'the arm "{name}" names a folder; use letters, digits and . _ = + , - alone')
        settings = tuple(_flat(tree))
        _check_settings(settings, f'arm {name}')
        x = dict(settings).get(axis)
        if axis and not _is_number(x):
            raise UserError(f'arm {name} sets the axis {axis} to no number; give it one, or leave axis out')
        arms.append(Arm(name, settings, None if x is None else float(x)))
    return tuple(arms)


def _grid_arms(grid: Mapping[str, Sequence[Any]], axis: str) -> tuple[tuple[Arm, ...], str]:
    for key, values in grid.items():
        _check_settings([(key, None)], 'grid')
        if isinstance(values, str) or not values:
            raise UserError(f'grid: {key} is {values!r}; give the values to try as a tuple')
    numeric = [key for key, values in grid.items() if len(values) > 1 and all(map(_is_number, values))]
    axis = axis or (numeric[0] if numeric else '')
    if axis and axis not in numeric:
        raise UserError(f'axis is "{axis}"; it must be a key of the grid with several numbers')
    last = [key.rpartition('.')[2] for key in grid]
    labels = last if len(set(last)) == len(last) else list(grid)
    arms = []
    for values in itertools.product(*grid.values()):
        settings = tuple(zip(grid, values, strict=True))
        parts = [f'{label}={_label(value)}' for label, value in zip(labels, values, strict=True)]
        others = [part for part, key in zip(parts, grid, strict=True) if key != axis]
        arms.append(Arm(','.join(parts), settings, float(dict(settings)[axis]) if axis else None, ', '.join(others)))
    if len({arm.name for arm in arms}) < len(arms):
        raise UserError('grid: two arms have one name; give values that differ in their letters and digits')
    return tuple(arms), axis


def _terms(name: str, given: Sequence[Any], arms: Sequence[str]) -> tuple[Term, ...]:
    if not given:
        raise UserError(f'the contrast {name} is empty; give it terms such as ("+", "{arms[0]}", "micro_f1")')
    terms = []
    for term in given:
        if not isinstance(term, tuple | list) or len(term) != 3 or term[0] not in SIGNS:
            raise UserError(
                f'the contrast {name} has {term!r}; write its terms as ("+" or "-", arm, metric), '
                f'such as ("+", "{arms[0]}", "micro_f1")'
            )
        sign, arm, metric = term
        if arm not in arms:
            raise UserError(f'the contrast {name} names the arm "{arm}"; it must be one of the arms {", ".join(arms)}')
        _check_part(metric, f'the contrast {name}')
        terms.append(Term(SIGNS[sign], arm, metric))
    return tuple(terms)


def _check_part(metric: str, where: str) -> None:
    part = metric.rpartition('.')[0]
    if part not in _PARTS:
        raise UserError(f'{where}: "{metric}" begins with no part of the codes; these are {", ".join(_PARTS[1:])}')


def _label(value: Any) -> str:
    """A value in the name of a folder."""
    text = '+'.join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return re.sub(r'[^A-Za-z0-9._+-]+', '-', text) or 'none'


def _flat(tree: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def _check_settings(settings: Sequence[tuple[str, Any]], where: str) -> None:
    for key, _ in settings:
        try:
            check_key(key)
        except UserError as error:
            raise UserError(f'{where}: {error}') from None
        if key == 'seed':
            raise UserError(f'{where}: seed is set by the seeds of the sweep; set those')


def _check_overrides(sweep: Sweep, overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.removeprefix('--config.').partition('=')[0]
        setting = [arm.name for arm in sweep.arms if key in dict(arm.settings)]
        if setting:
            raise UserError(f'--config.{key} is what the arm {setting[0]} sets; change it in the file of the sweep')


def _flag(key: str, value: Any) -> str:
    # Lists and tuples in Python's spelling, which ml_collections reads.
    return f'--config.{key}={tuple(value) if isinstance(value, list) else value}'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
