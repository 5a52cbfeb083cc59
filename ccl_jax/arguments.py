"""The arguments of the command line: verbs, flags, and what each verb cannot do without."""

import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from ccl_jax.errors import UserError

VERBS = {
    'icd': 'show codes of ICD-10-CM, or find them by words',
    'expand': 'make short spans (evidence -> code) for the code space',
    'prepare': 'read the sources, make spans and examples, print the reports and the plan',
    'plan': 'prepare what is missing, print the batch plan and draw it',
    'pretrain': 'make only the base model, for several runs to start from (resuming by itself)',
    'train': 'prepare what is missing, train (resuming by itself), evaluate',
    'eval': 'decode and score a split with the newest checkpoint, or score a file of predictions',
    'code': 'code one or many notes: files, or standard input',
    'sweep': 'train an experiment under several settings and seeds, and compare them in one table',
    'export': 'write the newest checkpoint as a Hugging Face folder',
    'score': 'log-probabilities of texts under a Hugging Face folder',
    'cost': 'compare what runs have cost, and their scores at equal cost',
    'doctor': 'check versions, devices, cluster, disks and the model; exit code 1 when there is a problem',
    'scaling': 'fit a scaling law to runs of several model and data sizes, and foretell the next size',
    'feasibility': 'compile the training step for chips that are not here: does it fit, how fast at best',
    'bench': 'measure: plan, loader, load, parity, checkpoint, step, decode [vllm], constraints, gpu [PART ...]',
}
_NEEDS_CONFIG = ('prepare', 'plan', 'pretrain', 'train', 'sweep', 'feasibility')
_NEEDS_NO_WORKDIR = ('icd', 'expand', 'code', 'score', 'scaling', 'cost', 'doctor', 'feasibility', 'bench')
_TAKES_POSITIONAL = ('icd', 'code', 'cost', 'bench')


class Flag(NamedTuple):
    """A flag. Its type is that of the default; None stands for a string that is not given.

    Attributes:
        value: what the usage shows in place of a value; '' for a switch.
    """

    name: str
    default: Any
    value: str
    words: str


FLAGS = (
    Flag('workdir', None, 'DIR', 'folder of the run, or of the runs of a sweep'),
    Flag('output', None, 'DIR', 'folder to write (export)'),
    Flag('form', 'merged', 'NAME', "merged (a whole model) or adapter (a LoRA run's alone, for peft) (export)"),
    Flag('model', None, 'DIR', 'Hugging Face folder with a tokenizer (score, code, doctor)'),
    Flag('texts', None, 'FILE', 'one {"text"} or {"prompt", "target"} a line; - is standard input (score)'),
    Flag('dtype', 'float32', 'NAME', 'float32 or bfloat16 (score)'),
    Flag('tensor', 1, 'N', 'devices that share each layer (score)'),
    Flag('html', None, 'FILE', 'also write the audit page (code)'),
    Flag('constrain', None, 'NAMES', 'codes, evidence, format: what answers are held to; none for free text (code)'),
    Flag('recheck', False, '', 'code each quote again by itself (code)'),
    Flag('split', None, 'NAME', 'split to evaluate instead of eval.split (eval)'),
    Flag('predictions', None, 'FILE', 'score this file against --gold (eval; needs no --workdir)'),
    Flag('gold', None, 'FILE', 'documents with their codes (eval --predictions)'),
    Flag('group', 'note', 'NAME', 'note, or group: unite the codes of one group_id (eval --predictions)'),
    Flag('merge_adjacent', False, '', "join neighbouring spans before MDACE's metrics (eval --predictions)"),
    Flag('trim', False, '', "strip spans before MDACE's metrics (eval --predictions)"),
    Flag(
        'label_space',
        None,
        'FILE',
        'one code, or system<TAB>code, a line: the labels of macro_f1_caml and the valid'
        ' codes (eval --predictions), or all that answers may have (code)',
    ),
    Flag('training', None, 'FILE', 'training documents, for strata and frequency buckets (eval --predictions)'),
    Flag('spans', None, 'FILE', 'training spans, for strata (eval --predictions)'),
    Flag('report_only', False, '', 'only read the sources and print the reports (prepare; needs no --workdir)'),
    Flag(
        'release',
        None,
        'PATHS',
        'files or folders of a release instead of the embedded one (icd, expand, code --model, eval --predictions)',
    ),
    Flag('out', None, 'DIR', 'folder to write (expand, sweep --write)'),
    Flag('tiers', None, 'NAMES', 'gold, document, silver, synthetic, instead of expansion.tiers (expand)'),
    Flag('finder', None, 'NAME', 'instead of expansion.finder (expand)'),
    Flag('generator', None, 'NAME', 'instead of expansion.generator (expand)'),
    Flag(
        'allow_remote',
        False,
        '',
        'let text leave this machine for the endpoint (expand to train, sweep)',
    ),
    Flag('parallel', 1, 'N', 'runs at a time (sweep)'),
    Flag('gather', False, '', 'only make the table of the finished runs (sweep)'),
    Flag('reuse', False, '', 'make no run whose small results lie in the folder that the file names (sweep)'),
    Flag('write', None, 'NAME', "write files for slurm, or 'jobset VARIABLE=VALUE ...', into --out instead (sweep)"),
    Flag('runs', None, 'DIRS', 'workdirs, or folders of such (scaling)'),
    Flag('sample', 0, 'N', 'print N random spans of each tier (expand)'),
    Flag('codiesp', None, 'DIR', 'measure on CodiEsp v4 (bench plan, bench constraints)'),
    Flag('scale', 0, 'N', 'also plan N simulated examples from disk (bench plan)'),
    Flag('reference', None, 'RUN', 'the run that others are compared with, by default the first (cost)'),
    Flag('metric', None, 'NAME', 'of the curve, micro_f1 by default (cost); the dev loss of a task (scaling)'),
    Flag('cost', 'flops', 'NAME', 'of the curve: flops, tokens or device_seconds (cost)'),
    Flag('plot', None, 'FILE', 'draw the curve (cost, scaling)'),
    Flag('search', None, 'WORDS', 'find codes by their terms (icd)'),
    Flag('topology', None, 'NAME', 'a TPU slice such as v5e:8x8 instead of the devices here (feasibility)'),
    Flag('num_slices', 1, 'N', 'so many of them, joined by the network (feasibility)'),
    Flag('buckets', 'longest', 'NAME', 'longest or all (feasibility)'),
    Flag('weak_scaling', None, 'NUMBERS', 'of chips to compare, with the rows a chip of --topology (feasibility)'),
    Flag('epoch_tokens', 1e9, 'N', 'tokens of an epoch (feasibility)'),
    Flag('json', False, '', 'print JSON (icd, code, eval, prepare --report_only, cost, scaling, doctor, feasibility)'),
)
SCORING_FLAGS = ('gold', 'group', 'trim', 'merge_adjacent', 'label_space', 'training', 'spans')
"""Flags of `eval` that mean something only with --predictions."""

_DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}
_FIRST_COLUMN = 33


def usage() -> str:
    """Returns what `ccl-jax --help` prints."""
    lines = ['usage: ccl-jax VERB [flags]', '']
    lines += [f'  {verb:<12}{what}' for verb, what in VERBS.items()]
    lines += ['']
    lines += _flag_lines(
        '--config FILE[:VARIANT]', 'experiment file (prepare, plan, pretrain, train, feasibility); that of a sweep'
    )
    lines += _flag_lines('--config.section.key=VALUE', 'changes one value of it')
    for flag in FLAGS:
        default = f' [{flag.default:g}]' if isinstance(flag.default, float) else f' [{flag.default}]'
        shown = default if flag.value and flag.default not in (None, 0) else ''
        lines += _flag_lines(f'--{flag.name} {flag.value}'.rstrip(), flag.words + shown)
    return '\n'.join(lines) + '\n'


def _flag_lines(name: str, words: str) -> list[str]:
    indent = ' ' * _FIRST_COLUMN
    return textwrap.wrap(words, 120, initial_indent=f'  {name:<{_FIRST_COLUMN - 2}}', subsequent_indent=indent)


def parse(verb: str, arguments: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
    """Parses the arguments of a verb into a set of flags of their own, so that no other library's are in the way.

    Returns:
        (flags, positional arguments).

    Raises:
        UserError: a flag or a config key is unknown or has an impossible value, the experiment file cannot be
            loaded, or one that the verb needs is missing.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', None, 'experiment file', flag_values=values, lock_config=True)
    for flag in FLAGS:
        kind = str if flag.default is None else type(flag.default)
        _DEFINE[kind](flag.name, flag.default, flag.words, flag_values=values)
    if verb != 'sweep':
        _check_overrides(arguments)
    # Values of config keys are looked for in sys.argv by ml_collections.
    sys.argv = ['ccl-jax', *arguments]
    try:
        positional = values(sys.argv)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f'unknown flag --{error.flagname}; "ccl-jax --help" lists them') from None
    except (flags.Error, OSError) as error:
        # An error inside an experiment file comes with its whole traceback; the last line says what it is. What
        # the file itself refuses, such as a variant, it says by a ValueError, in a sentence.
        raise UserError(str(error).strip().splitlines()[-1].removeprefix('ValueError: ')) from None
    except Exception as error:  # whatever an experiment file raises
        raise UserError(f'the experiment file cannot be loaded: {type(error).__name__}: {error}') from None
    config = values.config
    if config is not None and not isinstance(config, ConfigDict):
        # ml_collections hands out an object that fails on use where the file could not be loaded.
        name = config_flags.get_config_filename(values['config'])
        raise UserError(f'the experiment file {name} does not exist or returns no ConfigDict; check the path')
    scores_file = verb == 'eval' and any(values[flag].present for flag in ('predictions', *SCORING_FLAGS))
    if values.workdir is None and verb not in _NEEDS_NO_WORKDIR and not values.report_only and not scores_file:
        raise UserError('--workdir is missing; name the folder of the run')
    if verb in _NEEDS_CONFIG and config is None:
        raise UserError('--config is missing; name an experiment file such as configs/demo.py')
    if positional and verb not in _TAKES_POSITIONAL:
        raise UserError(f'unexpected argument "{positional[0]}"; flags begin with --')
    return values, positional


def _check_overrides(arguments: Sequence[str]) -> None:
    """Refuses `--config.key=value` of a key that no config has, naming the nearest one."""
    names = [argument.lstrip('-').partition('=')[0] for argument in arguments if argument.startswith('-')]
    overrides = [name.removeprefix('config.') for name in names if name.startswith('config.')]
    if overrides:
        from ccl_jax.config import check_key

        for name in overrides:
            check_key(name)
