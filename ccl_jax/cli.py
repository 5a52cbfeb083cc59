"""The command line: `ccl-jax VERB --config configs/x.py[:variant] --workdir DIR --config.section.key=value`.

Every mistake that a user can make ends in one sentence on standard error and exit code 2. A training that
gets SIGTERM saves and ends with 143, and the same command goes on from there.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from ccl_jax.errors import Interrupted, UserError

if TYPE_CHECKING:
    from ccl_jax.config import Config

VERBS = {
    'icd': 'show codes of ICD-10-CM, or find them by words',
    'expand': 'make short spans (evidence -> code) for the code space',
    'prepare': 'read the sources, make spans and examples, print the reports and the plan',
    'plan': 'prepare what is missing, print the batch plan and draw it',
    'train': 'prepare what is missing, train (resuming by itself), evaluate',
    'eval': 'decode and score a split with the newest checkpoint, or score a file of predictions',
    'code': 'code one or many notes: files, or standard input',
    'sweep': 'train an experiment under several settings and seeds, and compare them in one table',
    'export': 'write the newest checkpoint as a Hugging Face folder',
    'score': 'log-probabilities of texts under a Hugging Face folder',
    'cost': 'compare what runs have cost, and their scores at equal cost',
    'doctor': 'check versions, devices, cluster, disks and the model; exit code 1 when there is a problem',
    'feasibility': 'compile the training step for chips that are not here: does it fit, how fast at best',
    'bench': 'measure: plan, loader, load, parity, checkpoint, step, decode [vllm], or gpu [attention] [lora] [full]',
}
_NEEDS_CONFIG = ('prepare', 'plan', 'train', 'sweep', 'feasibility')
_SCORING_FLAGS = ('gold', 'group', 'trim', 'merge_adjacent', 'label_space', 'training', 'spans')
_NEEDS_NO_WORKDIR = ('icd', 'expand', 'code', 'score', 'scaling', 'cost', 'doctor', 'feasibility', 'bench')

USAGE = """\
usage: ccl-jax VERB [flags]

{verbs}

  --config FILE[:VARIANT]        experiment file (prepare, plan, train, feasibility); that of a sweep (sweep)
  --config.section.key=VALUE     changes one value of it
  --workdir DIR                  folder of the run
  --output DIR                   folder to write (export)
  --form NAME                    merged (a whole model, the default) or adapter (a LoRA run's alone, for peft) (export)
  --model DIR                    Hugging Face folder with a tokenizer (score, code, doctor)
  --texts FILE                   one {{"text"}} or {{"prompt", "target"}} a line; - is standard input (score)
  --dtype NAME                   float32 (the default) or bfloat16 (score)
  --tensor N                     devices that share each layer (score)
  --html FILE                    also write the audit page (code)
  --constrain NAME[,NAME...]     codes, evidence, format: what answers are held to; none for free text (code)
  --recheck                      code each quote again by itself (code)
  --split NAME                   split to evaluate instead of eval.split (eval)
  --predictions, --gold FILE     score a file of predictions against one of documents (eval; needs no --workdir)
  --group NAME                   note (the default) or group: unite the codes of one group_id (eval --predictions)
  --merge_adjacent, --trim       clean spans before MDACE's evidence metrics (eval --predictions)
  --label_space FILE             one code, or system<TAB>code, a line: labels of macro_f1_caml, and the valid codes
                                 instead of those of the release (eval --predictions), or all that answers may
                                 have (code)
  --training, --spans FILE       what training saw, for strata and frequency buckets (eval --predictions)
  --report_only                  only read the sources and print the reports (prepare; needs no --workdir)
  --release PATH[,PATH...]       files or folders of a release instead of the embedded one (icd, expand, eval)
  --out DIR                      folder to write (expand, sweep --write)
  --tiers NAME[,NAME...]         gold, document, silver, synthetic, instead of expansion.tiers (expand)
  --finder, --generator NAME     instead of expansion.finder, expansion.generator (expand)
  --allow_remote                 let text leave this machine for the endpoint (expand, prepare, train, sweep)
  --parallel N                   runs at a time (sweep)
  --gather                       only make the table of the finished runs (sweep)
  --write NAME                   write files for slurm, or 'jobset VARIABLE=VALUE ...', into --out instead (sweep)
  --sample N                     print N random spans of each tier (expand)
  --codiesp DIR                  also plan CodiEsp v4 (bench plan)
  --scale N                      also plan N simulated examples from disk (bench plan)
  --reference RUN                the run that others are compared with, by default the first (cost)
  --metric NAME                  of the curve, micro_f1 by default (cost)
  --cost NAME                    of the curve: flops (the default), tokens or device_seconds (cost)
  --plot FILE                    draw the curve (cost)
  --search "WORDS"               find codes by their terms (icd)
  --topology NAME                a TPU slice such as v5e:8x8 instead of the devices here (feasibility)
  --num_slices N                 so many of them, joined by the network (feasibility)
  --buckets NAME                 longest (the default) or all (feasibility)
  --weak_scaling N[,N...]        numbers of chips to compare, with as many rows a chip as on --topology (feasibility)
  --epoch_tokens N               tokens of an epoch, 1e9 by default (feasibility)
  --json                         print JSON (icd, code, eval, prepare --report_only, cost, doctor, feasibility)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # transformers advises to install PyTorch, which only its models need.
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
    if not arguments or arguments[0] in ('-h', '--help', 'help'):
        print(_usage())
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
        print(_usage())
        return 0
    overrides: list[str] = []
    if verb == 'sweep':
        from ccl_jax.studies.sweep_config import split_overrides

        # --config names the file of the sweep; keys that are not its own are those of the runs' experiment.
        arguments, overrides = split_overrides(arguments)
    values, positional = _parse(verb, arguments)
    if positional and verb not in ('code', 'icd', 'cost', 'bench'):
        raise UserError(f'unexpected argument "{positional[0]}"; flags begin with --')
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
    for flag in _SCORING_FLAGS:
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
    coder = coder_of_run(Path(values.workdir)) if values.workdir else coder_of_folder(Path(values.model))
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
    from ccl_jax.studies.sweep import gather_results, sweep
    from ccl_jax.studies.sweep_config import check_sweep, runs_of
    from ccl_jax.studies.sweep_launch import write_launch_files

    definition, workdir = check_sweep(values.config), Path(values.workdir)
    if values.allow_remote:
        overrides = [*overrides, '--allow_remote']
    runs = runs_of(definition, workdir, _experiment, overrides)
    if values.write is not None:
        if not values.out:
            raise UserError('--out is missing; name the folder to write')
        print(write_launch_files(values.write, runs, Path(values.out)))
        return 0
    if values.gather:
        print(gather_results(definition, runs, workdir))
        return 0
    text, failures = sweep(definition, runs, workdir, values.parallel)
    print(text)
    for name, words in failures.items():
        print(f'ccl-jax: {name} failed, {words}', file=sys.stderr)
    return 1 if failures else 0


def _experiment(arguments: Sequence[str]) -> 'Config':
    """The config that `ccl-jax train` would run by these arguments."""
    from ccl_jax.config import check_config

    values, _ = _parse('train', list(arguments))
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
        metric=values.metric,
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


def _bench(values: flags.FlagValues, what: list[str]) -> int:
    if what == ['plan']:
        from ccl_jax.studies.bench_plan import bench_plan

        print(bench_plan(Path(values.codiesp) if values.codiesp else None, scale=values.scale))
    elif what == ['loader']:
        from ccl_jax.studies.bench_loader import bench_loader

        print(bench_loader())
    elif what == ['load']:
        from ccl_jax.studies.bench_load import bench_load

        print(bench_load())
    elif what == ['parity']:
        from ccl_jax.studies.bench_parity import bench_parity

        print(bench_parity())
    elif what == ['checkpoint']:
        from ccl_jax.studies.bench_checkpoint import bench_checkpoint

        print(bench_checkpoint())
    elif what == ['step']:
        from ccl_jax.studies.bench_step import bench_step

        print(bench_step())
    elif what == ['decode']:
        from ccl_jax.studies.bench_decode import bench_decode

        print(bench_decode())
    elif what == ['decode', 'vllm']:
        from ccl_jax.studies.decode_vllm import bench_decode_vllm

        print(bench_decode_vllm())
    elif what[:1] == ['gpu']:
        from ccl_jax.studies.bench_gpu import PARTS, bench_gpu

        print(bench_gpu(what[1:] or PARTS))
    else:
        known = ('plan', 'loader', 'load', 'parity', 'checkpoint', 'step', 'decode', 'gpu')
        names = ', '.join(f'"ccl-jax bench {name}"' for name in known)
        raise UserError(f'name what to measure: {names}')
    return 0


def _usage() -> str:
    return USAGE.format(verbs='\n'.join(f'  {verb:<12}{what}' for verb, what in VERBS.items()))


def _parse(verb: str, arguments: list[str]) -> tuple[flags.FlagValues, list[str]]:
    """Parses the flags into a set of their own, so that no other library's flags are in the way."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', None, 'experiment file', flag_values=values, lock_config=True)
    flags.DEFINE_string('workdir', None, 'folder of the run', flag_values=values)
    flags.DEFINE_string('output', None, 'folder to write', flag_values=values)
    flags.DEFINE_string('form', 'merged', 'form of the export', flag_values=values)
    flags.DEFINE_string('model', None, 'Hugging Face folder', flag_values=values)
    flags.DEFINE_string('texts', None, 'texts to score', flag_values=values)
    flags.DEFINE_string('dtype', 'float32', 'type to score in', flag_values=values)
    flags.DEFINE_integer('tensor', 1, 'devices that share each layer', flag_values=values)
    flags.DEFINE_string('html', None, 'audit page to write', flag_values=values)
    flags.DEFINE_string('constrain', None, 'what answers are held to', flag_values=values)
    flags.DEFINE_bool('recheck', False, 'code each quote again', flag_values=values)
    flags.DEFINE_string('split', None, 'split to evaluate', flag_values=values)
    flags.DEFINE_string('predictions', None, 'predictions to score', flag_values=values)
    flags.DEFINE_string('gold', None, 'documents to score against', flag_values=values)
    flags.DEFINE_string('group', 'note', 'unit of the codes', flag_values=values)
    flags.DEFINE_bool('merge_adjacent', False, 'merge neighbouring spans', flag_values=values)
    flags.DEFINE_bool('trim', False, 'trim spans', flag_values=values)
    flags.DEFINE_string('label_space', None, 'codes of the label space', flag_values=values)
    flags.DEFINE_string('training', None, 'training documents', flag_values=values)
    flags.DEFINE_string('spans', None, 'training spans', flag_values=values)
    flags.DEFINE_bool('json', False, 'print JSON', flag_values=values)
    flags.DEFINE_bool('report_only', False, 'only read the sources and print the reports', flag_values=values)
    flags.DEFINE_string('release', None, 'files or folders of a release', flag_values=values)
    flags.DEFINE_string('out', None, 'folder to write', flag_values=values)
    flags.DEFINE_string('tiers', None, 'tiers of spans', flag_values=values)
    flags.DEFINE_string('finder', None, 'who finds silver evidence', flag_values=values)
    flags.DEFINE_string('generator', None, 'who writes synthetic spans', flag_values=values)
    flags.DEFINE_bool('allow_remote', False, 'let text leave this machine', flag_values=values)
    flags.DEFINE_integer('parallel', 1, 'runs at a time', flag_values=values)
    flags.DEFINE_bool('gather', False, 'only make the table', flag_values=values)
    flags.DEFINE_string('write', None, 'files of which cluster to write', flag_values=values)
    flags.DEFINE_integer('sample', 0, 'spans of each tier to print', flag_values=values)
    flags.DEFINE_string('codiesp', None, 'folder of CodiEsp v4', flag_values=values)
    flags.DEFINE_integer('scale', 0, 'simulated examples to plan', flag_values=values)
    flags.DEFINE_string('reference', None, 'the run that others are compared with', flag_values=values)
    flags.DEFINE_string('metric', 'micro_f1', 'metric of the curve', flag_values=values)
    flags.DEFINE_string('cost', 'flops', 'cost of the curve', flag_values=values)
    flags.DEFINE_string('plot', None, 'file of the curve', flag_values=values)
    flags.DEFINE_string('search', None, 'words to find codes by', flag_values=values)
    flags.DEFINE_string('topology', None, 'a TPU slice', flag_values=values)
    flags.DEFINE_integer('num_slices', 1, 'how many slices', flag_values=values)
    flags.DEFINE_string('buckets', 'longest', 'which buckets to compile', flag_values=values)
    flags.DEFINE_string('weak_scaling', None, 'numbers of chips to compare', flag_values=values)
    flags.DEFINE_float('epoch_tokens', 1e9, 'tokens of an epoch', flag_values=values)
    if verb != 'sweep':
        _check_overrides(arguments)
    # Values of config keys are looked for in sys.argv by ml_collections.
    sys.argv = ['ccl-jax', *arguments]
    try:
        positional = values(sys.argv)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f'unknown flag --{error.flagname}; "ccl-jax --help" lists them') from None
    except (flags.Error, OSError) as error:
        # An error inside an experiment file comes with its whole traceback; the last line says what it is.
        raise UserError(str(error).strip().splitlines()[-1]) from None
    except Exception as error:  # whatever an experiment file raises
        raise UserError(f'the experiment file cannot be loaded: {type(error).__name__}: {error}') from None
    config = values.config
    if config is not None and not isinstance(config, ConfigDict):
        # ml_collections hands out an object that fails on use where the file could not be loaded.
        name = config_flags.get_config_filename(values['config'])
        raise UserError(f'the experiment file {name} does not exist or returns no ConfigDict; check the path')
    scores_file = verb == 'eval' and values.predictions is not None
    if values.workdir is None and verb not in _NEEDS_NO_WORKDIR and not values.report_only and not scores_file:
        raise UserError('--workdir is missing; name the folder of the run')
    if verb in _NEEDS_CONFIG and config is None:
        raise UserError('--config is missing; name an experiment file such as configs/demo.py')
    return values, positional


def _check_overrides(arguments: Sequence[str]) -> None:
    """Refuses `--config.key=value` of a key that no config has, naming the nearest one."""
    names = [argument.lstrip('-').partition('=')[0] for argument in arguments if argument.startswith('-')]
    overrides = [name.removeprefix('config.') for name in names if name.startswith('config.')]
    if overrides:
        from ccl_jax.config import check_key

        for name in overrides:
            check_key(name)
