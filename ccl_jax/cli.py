"""The command line: `ccl-jax VERB --config configs/x.py[:variant] --workdir DIR --config.section.key=value`.

Every mistake that a user can make ends in one sentence on standard error and exit code 2. A training that
gets SIGTERM saves and ends with 143, and the same command goes on from there.
"""

import functools
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from absl import flags
from ml_collections import ConfigDict

from ccl_jax.arguments import SCORING_FLAGS, VERBS, parse, usage
from ccl_jax.errors import Interrupted, UserError

if TYPE_CHECKING:
    from ccl_jax.config import Config


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # transformers advises to install PyTorch, which only its models need.
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
    if not arguments or arguments[0] in ('-h', '--help', 'help'):
        print(usage())
        return 0 if arguments else 2
    try:
        return _run(arguments[0], arguments[1:])
    except UserError as error:
        print(f'ccl-jax: {error}', file=sys.stderr)
        return 2
    except Interrupted as interrupted:
        print(f'ccl-jax: {interrupted}', file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print('ccl-jax: interrupted; the same command goes on from the last checkpoint', file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(
            f'ccl-jax: {error.filename}: {error.strerror}; check the path, permissions and free space', file=sys.stderr
        )
        return 2


def run() -> NoReturn:
    """The console script."""
    sys.exit(main())


def _run(verb: str, arguments: list[str]) -> int:
    if verb not in VERBS:
        raise UserError(f'unknown verb "{verb}"; verbs are {", ".join(VERBS)}')
    if '--help' in arguments or '-h' in arguments:
        print(usage())
        return 0
    overrides: list[str] = []
    if verb == 'sweep':
        from ccl_jax.studies.sweep_config import split_overrides

        # --config names the file of the sweep; keys that are not its own are those of the runs' experiment.
        arguments, overrides = split_overrides(arguments)
    values, positional = parse(verb, arguments)
    return globals()[f'_{verb}'](values, overrides if verb == 'sweep' else positional)


def _icd(values: flags.FlagValues, codes: list[str]) -> int:
    from ccl_jax.pipeline.icd import run_icd

    if not codes and values.search is None:
        raise UserError('name a code, as in "ccl-jax icd E11.9", or give --search "words"')
    return run_icd(codes, values.search, values.release or '', values.json)


def _expand(values: flags.FlagValues, _: list[str]) -> int:
    from ccl_jax.pipeline.expand import expand_release, expand_source, sample_of, summary

    if not values.out and not values.sample:
        raise UserError('--out is missing; name the folder to write, or print some spans by --sample=20')
    config = _expansion_config(values)
    out = Path(values.out) if values.out else None
    expansion = (expand_release if values.config is None else expand_source)(config, out)
    print(summary(expansion, out))
    if values.sample:
        print('\n' + sample_of(expansion.spans, values.sample, config.expansion.seed))
    return 0


def _expansion_config(values: flags.FlagValues) -> 'Config':
    """The config with the flags of `expand` in it; without --config, that of the release alone."""
    from ccl_jax.config import check_config, default_config

    tree = values.config
    if tree is None:
        tree = default_config()
        tree.expansion.scope = 'release'
        tree.expansion.tiers = ('gold',)
    with tree.unlocked():
        if values.tiers is not None:
            tree.expansion.tiers = tuple(filter(None, values.tiers.split(',')))
        for flag in ('finder', 'generator'):
            if values[flag].value is not None:
                tree.expansion[flag] = values[flag].value
        if values.release is not None:
            tree.icd.release = values.release
    return check_config(_allowing(values, tree), needs_model=False)


def _allowing(values: flags.FlagValues, tree: ConfigDict) -> ConfigDict:
    """The tree with --allow_remote in it."""
    if values.allow_remote:
        tree.expansion.endpoint.allow_remote = True
    return tree


def _prepare(values: flags.FlagValues, _: list[str]) -> int:
    from ccl_jax.config import check_config

    if values.report_only:
        from ccl_jax.pipeline.sources import report_sources

        config = check_config(values.config, needs_model=False)
        reports, summary = report_sources(config, Path(values.workdir) if values.workdir else None)
        if values.json:
            print(json.dumps(summary, indent=2))
        else:
            print('\n\n'.join(report.table() for report in reports))
        return 0
    from ccl_jax.pipeline.train import prepare

    prepare(check_config(_allowing(values, values.config)), Path(values.workdir))
    return 0


def _plan(values: flags.FlagValues, _: list[str]) -> int:
    from ccl_jax.config import check_config
    from ccl_jax.pipeline.plan import plan_run

    print(plan_run(check_config(_allowing(values, values.config)), Path(values.workdir)))
    return 0


def _pretrain(values: flags.FlagValues, _: list[str]) -> int:
    from ccl_jax.config import check_config
    from ccl_jax.pipeline.train import pretrain

    # Without a base model to make, pretrain says what is missing, not that model.path is.
    config = check_config(_allowing(values, values.config), needs_model=False)
    print(pretrain(config, Path(values.workdir)))
    return 0


def _train(values: flags.FlagValues, _: list[str]) -> int:
    from ccl_jax.config import check_config
    from ccl_jax.pipeline.evaluate import evaluate_run
    from ccl_jax.pipeline.train import train

    config, workdir = check_config(_allowing(values, values.config)), Path(values.workdir)
    prepared = train(config, workdir)
    print(evaluate_run(config, workdir, prepared))
    return 0


def _eval(values: flags.FlagValues, _: list[str]) -> int:
    if values.predictions is not None:
        return _eval_predictions(values)
    for flag in SCORING_FLAGS:
        if values[flag].present:
            raise UserError(f'--{flag} belongs to the scoring of a file; give --predictions too')
    import dataclasses

    from ccl_jax.config import check_config
    from ccl_jax.pipeline.evaluate import evaluate_run
    from ccl_jax.pipeline.prepare import prepare_corpus
    from ccl_jax.pipeline.workdir import claim_workdir, join_processes, workdir_config

    join_processes()
    workdir = Path(values.workdir)
    config = workdir_config(workdir)
    if values.config is not None:
        config = check_config(values.config)
        claim_workdir(workdir, config)
    if values.split is not None:
        config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, split=values.split))
    text = evaluate_run(config, workdir, prepare_corpus(config, workdir))
    print((workdir / 'eval' / config.eval.split / 'metrics.json').read_text() if values.json else text)
    return 0


def _eval_predictions(values: flags.FlagValues) -> int:
    from ccl_jax.evaluation.evidence import Cleaning
    from ccl_jax.pipeline.score_predictions import ScoreOptions, score_predictions, score_table

    for flag in ('workdir', 'config', 'split'):
        if values[flag].present:
            raise UserError(f'--{flag} belongs to the evaluation of a run, --predictions to that of a file; give one')
    if values.gold is None:
        raise UserError('--gold is missing; name the JSONL file of the documents with their codes')
    options = ScoreOptions(
        predictions=Path(values.predictions),
        gold=Path(values.gold),
        group=values.group,
        release=values.release or '',
        cleaning=Cleaning(merge_adjacent=values.merge_adjacent, trim=values.trim),
        **{name: Path(path) for name in ('label_space', 'training', 'spans') if (path := values[name].value)},
    )
    result = score_predictions(options)
    print(json.dumps(result, indent=2) if values.json else score_table(result))
    return 0


def _code(values: flags.FlagValues, paths: list[str]) -> int:
    from ccl_jax.pipeline.code import (
        SYNTHETIC_MODEL,
        code_notes,
        codes_to_json,
        format_codes,
        read_notes,
        write_page,
    )
    from ccl_jax.pipeline.coding import coder_of_folder, coder_of_run

    if (values.workdir is None) == (values.model is None):
        raise UserError('give either --workdir, of a run, or --model, a Hugging Face folder')
    notes = read_notes(paths)
    coder = (
        coder_of_run(Path(values.workdir))
        if values.workdir
        else coder_of_folder(Path(values.model), values.release or '')
    )
    coder = coder.changed(constrain=values.constrain, recheck=values.recheck, label_space=values.label_space)
    if coder.synthetic:
        print(SYNTHETIC_MODEL, file=sys.stderr)
    predictions = code_notes(coder, notes)
    coded = [
        codes_to_json(note, prediction, coder.release) for note, prediction in zip(notes, predictions, strict=True)
    ]
    if values.html is not None:
        write_page(Path(values.html), notes, predictions, coder)
    if values.json:
        for note in coded:
            print(json.dumps(note, ensure_ascii=False))
    else:
        print(format_codes(coded))
    return 0


def _sweep(values: flags.FlagValues, overrides: list[str]) -> int:
    from ccl_jax.studies.sweep import gather_results, kept_results, sweep
    from ccl_jax.studies.sweep_config import check_sweep, runs_of
    from ccl_jax.studies.sweep_launch import write_launch_files

    definition, workdir = check_sweep(values.config), Path(values.workdir)
    if values.allow_remote:
        overrides = [*overrides, '--allow_remote']
    runs = runs_of(definition, workdir, _experiment, overrides)
    kept = kept_results(definition, runs) if values.reuse else {}
    if values.write is not None:
        if not values.out:
            raise UserError('--out is missing; name the folder to write')
        print(write_launch_files(values.write, [run for run in runs if run.name not in kept], Path(values.out)))
        return 0
    if values.gather:
        print(gather_results(definition, runs, workdir, kept))
        return 0
    text, failures = sweep(definition, runs, workdir, values.parallel, kept)
    print(text)
    for name, words in failures.items():
        print(f'ccl-jax: {name} failed, {words}', file=sys.stderr)
    return 1 if failures else 0


def _experiment(arguments: Sequence[str]) -> 'Config':
    """The config that `ccl-jax train` would run by these arguments."""
    from ccl_jax.config import check_config

    values, _ = parse('train', list(arguments))
    return check_config(_allowing(values, values.config))


def _export(values: flags.FlagValues, _: list[str]) -> int:
    from ccl_jax.pipeline.export import export_run
    from ccl_jax.pipeline.workdir import join_processes

    if not values.output:
        raise UserError('--output is missing; name the folder to write')
    join_processes()
    print(export_run(Path(values.workdir), Path(values.output), values.form))
    return 0


def _score(values: flags.FlagValues, _: list[str]) -> int:
    from ccl_jax.pipeline.score import read_texts, score

    for flag in ('model', 'texts'):
        if not values[flag].value:
            raise UserError(f'--{flag} is missing; score needs --model=DIR and --texts=FILE (or --texts=-)')
    texts = read_texts(values.texts)
    for line in score(Path(values.model), texts, dtype=values.dtype, tensor=values.tensor):
        print(json.dumps(line), flush=True)
    return 0


def _cost(values: flags.FlagValues, workdirs: list[str]) -> int:
    from ccl_jax.studies.cost import compare_runs, cost_report, name_runs, plot_curves, read_run

    if not workdirs:
        raise UserError('name the workdirs of the runs, as in "ccl-jax cost runs/a runs/b"')
    paths = name_runs(workdirs)
    runs = {name: read_run(path) for name, path in paths.items()}
    by_path = {str(path): name for name, path in paths.items()}
    reference = next(iter(runs)) if values.reference is None else by_path.get(values.reference, values.reference)
    if reference not in runs:
        raise UserError(f'the reference "{reference}" is none of the runs; choose one of {", ".join(runs)}')
    comparison = compare_runs(
        {name: ledger for name, (ledger, _) in runs.items()},
        {name: scores for name, (_, scores) in runs.items()},
        reference=reference,
        metric=values.metric or 'micro_f1',
        cost=values.cost,
    )
    print(json.dumps(comparison, indent=2) if values.json else cost_report(comparison))
    if values.plot is not None:
        plot_curves(comparison, Path(values.plot))
    return 0


def _doctor(values: flags.FlagValues, _: list[str]) -> int:
    from ccl_jax.studies.doctor import as_json, diagnose, doctor_report, has_problem

    checks = diagnose(
        values.config,
        model=Path(values.model) if values.model else None,
        workdir=Path(values.workdir) if values.workdir else None,
    )
    print(as_json(checks) if values.json else doctor_report(checks))
    return 1 if has_problem(checks) else 0


def _feasibility(values: flags.FlagValues, _: list[str]) -> int:
    from ccl_jax.config import check_config
    from ccl_jax.studies.feasibility import as_json, feasibility, report
    from ccl_jax.studies.weak_scaling import scaling_report, weak_scaling

    config = check_config(values.config)
    if values.weak_scaling is None:
        estimates = feasibility(config, topology=values.topology, slices=values.num_slices, buckets=values.buckets)
        print((as_json if values.json else report)(estimates, values.epoch_tokens))
        return 0
    if values.topology is None or not all(count.isdecimal() for count in values.weak_scaling.split(',')):
        raise UserError('--weak_scaling needs numbers, such as 16,32,64, and --topology')
    estimates = weak_scaling(config, values.topology, [int(count) for count in values.weak_scaling.split(',')])
    print(as_json(estimates, values.epoch_tokens) if values.json else scaling_report(estimates))
    return 0


def _scaling(values: flags.FlagValues, _: list[str]) -> int:
    from ccl_jax.studies.scaling import draw, report, study_runs, to_json

    if not values.runs:
        raise UserError('--runs is missing; name the folder of a sweep over sizes, or workdirs separated by commas')
    study = study_runs([Path(path) for path in values.runs.split(',')], values.metric or 'loss')
    print(json.dumps(to_json(study), indent=2) if values.json else report(study))
    if values.plot is not None:
        draw(study, Path(values.plot))
    return 0


def _bench(values: flags.FlagValues, what: list[str]) -> int:
    name, rest = (what[0], what[1:]) if what else ('', [])
    if name not in BENCHMARKS or (rest and name not in ('gpu', 'decode')):
        names = ', '.join(f'"ccl-jax bench {known}"' for known in BENCHMARKS)
        raise UserError(f'name what to measure: {names}')
    print(BENCHMARKS[name](values, rest))
    return 0


def _bench_plan(values: flags.FlagValues, _: list[str]) -> str:
    from ccl_jax.studies.bench_plan import bench_plan

    return bench_plan(Path(values.codiesp) if values.codiesp else None, scale=values.scale)


def _bench_constraints(values: flags.FlagValues, _: list[str]) -> str:
    from ccl_jax.studies.bench_constraints import bench_constraints

    return bench_constraints(Path(values.codiesp) if values.codiesp else None)


def _bench_gpu(_: flags.FlagValues, parts: list[str]) -> str:
    from ccl_jax.studies.bench_gpu import PARTS, bench_gpu

    return bench_gpu(parts or PARTS)


def _bench_decode(_: flags.FlagValues, beside: list[str]) -> str:
    if beside == ['vllm']:
        from ccl_jax.studies.decode_vllm import bench_decode_vllm

        return bench_decode_vllm()
    if beside:
        raise UserError(f'decoding is not compared with "{beside[0]}"; choose "ccl-jax bench decode [vllm]"')
    return _plain_bench('decode')


def _plain_bench(name: str, *_: object) -> str:
    """Runs `bench_<name>` of the module of that name."""
    return getattr(importlib.import_module(f'ccl_jax.studies.bench_{name}'), f'bench_{name}')()


BENCHMARKS: dict[str, Callable[[flags.FlagValues, list[str]], str]] = {
    'plan': _bench_plan,
    **{name: functools.partial(_plain_bench, name) for name in ('loader', 'load', 'parity', 'checkpoint', 'step')},
    'decode': _bench_decode,
    'constraints': _bench_constraints,
    'gpu': _bench_gpu,
}
