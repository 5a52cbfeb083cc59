"""The config tree: its defaults, its check, and its way into the settings of the library.

The tree mirrors the library's settings classes, one section each, so that their
docstrings document it. It stops here: no other module of the library sees a ConfigDict.

Sections:
    sources, expansion, tasks   what is learned from       SourceSettings, ExpansionSettings, TaskSettings
    model                       where the weights come from ModelSettings
    lora                        adapters instead of all weights, not for the base (LoraSettings)
    base                        the stand-in for pretraining, where no weights can be had (BaseSettings)
    data                        rows and steps              PlanSettings, LoaderSettings
    optimizer, train            how it is optimised         OptimizerSettings, TrainingSettings
    mesh                        devices                     MeshSettings
    eval                        what is decoded and scored  EvalSettings
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ml_collections import ConfigDict, config_dict

from ccl_jax.data.plan import PlanSettings
from ccl_jax.decoding.settings import CONSTRAINTS, check_choices
from ccl_jax.errors import UserError
from ccl_jax.expansion.settings import ExpansionSettings
from ccl_jax.model.settings import REMAT, LoraSettings
from ccl_jax.sources.corpus import SourceSettings
from ccl_jax.tasks import TASKS
from ccl_jax.tasks.settings import TaskSettings
from ccl_jax.training.settings import OptimizerSettings, TrainingSettings

# Values of `eval.checkpoint`.
NEWEST, BEST = 'newest', 'best'
# Values of `eval.baselines`.
BASELINES = ('lookup', 'lookup_terms', 'tfidf', 'majority')

_Settings = TypeVar('_Settings')


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Where the weights come from, and in which types they are kept and multiplied.

    Attributes:
        path: a Hugging Face folder (config.json, tokenizer, safetensors); '' where
            `base` makes one.
        remat: one of `REMAT`: what the backward pass computes again instead of keeping it.
    """

    path: str = ''
    param_dtype: str = 'float32'
    compute_dtype: str = 'float32'
    remat: str = 'none'

    def __post_init__(self) -> None:
        for field in ('param_dtype', 'compute_dtype'):
            if getattr(self, field) not in ('float32', 'bfloat16'):
                raise UserError(f'{field} is "{getattr(self, field)}"; it must be float32 or bfloat16')
        if self.remat not in REMAT:
            raise UserError(f'remat is {self.remat!r}; it must be one of {", ".join(REMAT)}')


@dataclasses.dataclass(frozen=True)
class LoaderSettings:
    """How batches are read: threads, or processes beside the main one, and steps read ahead."""

    threads: int = 2
    workers: int = 0
    prefetch: int = 4

    def __post_init__(self) -> None:
        if min(self.threads, self.workers, self.prefetch) < 0:
            raise UserError('threads, workers and prefetch must be at least 0')


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Sizes of the mesh axes; one may be -1 and takes what is left."""

    replica: int = 1
    fsdp: int = -1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """What is decoded and scored.

    Attributes:
        split: of the source.
        max_documents: the first so many; 0 for all.
        max_new_tokens: tokens of an answer at most.
        batch_rows: documents decoded at once.
        constrain, overlong, recheck: see `DecodingSettings`; windows overlap by `tasks.window_overlap`.
        label_space: a file of the codes that an answer may have, one a line; '' for those of the release.
        bootstrap_samples: of the intervals.
        baselines: of `BASELINES`, to stand beside the model: a dictionary of the training evidence and
            spans; the same with the terms of the whole release; TF-IDF and logistic regression; the most
            frequent codes. One that cannot be made is left out with a sentence.
        checkpoint: 'newest', or 'best': the one with the lowest dev loss, where it was measured.
        loss_every: steps of the training between measurements of the dev loss; 0 for none.
        loss_split: the split of the source that it is measured on, as the document task.
        loss_documents: the first so many of its documents; 0 for all.
        score_every: steps of the training between decodings of a split whose code-level metrics, whole and by
            stratum, go to `scores.jsonl`, and one more at the end; 0 for none.
        score_split: the split of the source that is decoded for them.
        score_documents: the first so many of its documents; 0 for all.
    """

    split: str = 'test'
    max_documents: int = 0
    max_new_tokens: int = 256
    batch_rows: int = 32
    constrain: tuple[str, ...] = CONSTRAINTS
    overlong: str = 'windows'
    recheck: bool = False
    label_space: str = ''
    bootstrap_samples: int = 1000
    baselines: tuple[str, ...] = BASELINES
    checkpoint: str = NEWEST
    loss_every: int = 0
    loss_split: str = 'dev'
    loss_documents: int = 500
    score_every: int = 0
    score_split: str = 'dev'
    score_documents: int = 0

    def __post_init__(self) -> None:
        if self.checkpoint not in (NEWEST, BEST):
            raise UserError(f'checkpoint is "{self.checkpoint}"; choose {NEWEST} or {BEST}')
        check_choices(self.constrain, self.overlong, self.max_new_tokens)
        unknown = [name for name in self.baselines if name not in BASELINES]
        if unknown:
            raise UserError(f'baselines has "{unknown[0]}"; choose of {", ".join(BASELINES)}, or none')
        for field, least in (
            ('max_documents', 0),
            ('max_new_tokens', 1),
            ('batch_rows', 1),
            ('bootstrap_samples', 1),
            ('loss_every', 0),
            ('loss_documents', 0),
            ('score_every', 0),
            ('score_documents', 0),
        ):
            if getattr(self, field) < least:
                raise UserError(f'{field} is {getattr(self, field)}; it must be at least {least}')


@dataclasses.dataclass(frozen=True)
class BaseSettings:
    """The stand-in for pretraining: a tokenizer and a small decoder made from the corpus and open texts.

    Attributes:
        vocab_size: of the tokenizer, at most.
        texts: texts to model at most; 0 for all. `pipeline.base_texts` has their order and what is kept out.
        terms: also model the terms of the release, category by category, without the codes.
        corpora: files and folders of further texts, of the kinds of `sources.corpora`; they come before the
            source's own unlabelled texts.
        initializer_range: standard deviation of the random weights; the 0.02 of large
            models is too little for a hidden size in the hundreds, 1/sqrt of which fits.
    """

    enabled: bool = False
    vocab_size: int = 1024
    texts: int = 4000
    terms: bool = False
    corpora: tuple[str, ...] = ()
    hidden_size: int = 128
    intermediate_size: int = 320
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    max_position_embeddings: int = 2048
    rope_theta: float = 10_000.0
    initializer_range: float = 0.06

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = 0 if field.name == 'texts' else 1
            if field.type is int and getattr(self, field.name) < least:
                raise UserError(f'{field.name} is {getattr(self, field.name)}; it must be at least {least}')
        if not all(isinstance(path, str) and path for path in self.corpora):
            raise UserError(f'corpora is {self.corpora}; it must hold paths, as in ("texts.jsonl.gz",)')


def default_config() -> ConfigDict:
    """Returns a tree with every key and its default; experiment files start from it."""
    return ConfigDict(
        {
            'seed': 0,
            # Files or folders of an ICD-10-CM release, separated by commas; '' for the embedded one.
            'icd': {'release': ''},
            'sources': _section(SourceSettings()),
            'expansion': _section(ExpansionSettings()),
            'tasks': _section(TaskSettings()),
            'model': _section(ModelSettings()),
            'lora': _section(LoraSettings()),
            'base': {**_section(BaseSettings()), **_training_sections()},
            **_training_sections(),
            'mesh': _section(MeshSettings()),
            'eval': _section(EvalSettings()),
        }
    )


def _training_sections() -> dict[str, Any]:
    return {
        'data': {
            # Empty: at most max_buckets multiples of bucket_multiple up to longest, chosen from the examples' lengths.
            'buckets': (256, 512, 1024, 2048),
            'max_buckets': 8,
            'bucket_multiple': 128,
            'longest': 0,
            'tokens_per_step': 8192,
            'row_multiple': 8,
            'max_segments': 64,
            # Examples planned at a time.
            'window': 100_000,
            # One of the two: a number of steps, or (steps = 0) passes over the examples.
            'steps': 0,
            'epochs': 1.0,
            # Shares of the target tokens, or of what mix_by names; all 0: every example once per epoch.
            'mix': dict.fromkeys(TASKS, 0.0),
            'mix_by': 'target_tokens',
            # The shares at the end, all 0: the same.
            'mix_end': dict.fromkeys(TASKS, 0.0),
            'normalization': 'token',
            **_section(LoaderSettings()),
        },
        'optimizer': {**_section(OptimizerSettings()), 'adamw_learning_rate': config_dict.placeholder(float)},
        'train': {**_section(TrainingSettings()), 'task_weights': dict.fromkeys(TASKS, 1.0)},
    }


@dataclasses.dataclass(frozen=True)
class TrainingPart:
    """The settings of one training run: the main one, or that of the base model."""

    plan: PlanSettings
    loader: LoaderSettings
    optimizer: OptimizerSettings
    train: TrainingSettings


@dataclasses.dataclass(frozen=True)
class Config:
    """A checked config.

    Attributes:
        tree: the whole as plain JSON values, for `config.json`.
    """

    seed: int
    release: str
    sources: SourceSettings
    expansion: ExpansionSettings
    tasks: TaskSettings
    model: ModelSettings
    lora: LoraSettings
    base: BaseSettings
    base_training: TrainingPart
    training: TrainingPart
    mesh: MeshSettings
    eval: EvalSettings
    tree: dict[str, Any]


def check_config(tree: ConfigDict | dict[str, Any], *, needs_model: bool = True) -> Config:
    """Checks a tree once, at the edge, and returns the settings in it. Missing keys get their defaults.

    Args:
        needs_model: whether the config must say where the weights come from.

    Raises:
        UserError: a key is unknown (the nearest known one is named), a value has
            the wrong type or is out of range, or sections contradict each other.
    """
    given = tree.to_dict() if isinstance(tree, ConfigDict) else tree
    defaults = default_config().to_dict()
    _check_keys(given, defaults)
    whole = _merged(given, defaults, '')
    if needs_model and not whole['base']['enabled'] and not whole['model']['path']:
        raise UserError('model.path is empty; set it to a Hugging Face folder, or base.enabled=True for a small one')
    seed = whole['seed']
    return Config(
        seed=seed,
        release=whole['icd']['release'],
        sources=_build_nested(SourceSettings, whole['sources'], 'sources'),
        expansion=_build_nested(ExpansionSettings, whole['expansion'], 'expansion'),
        tasks=_build(TaskSettings, whole['tasks'], 'tasks'),
        model=_build(ModelSettings, whole['model'], 'model'),
        lora=_build(LoraSettings, whole['lora'], 'lora'),
        base=_build(BaseSettings, _own(whole['base'], BaseSettings), 'base'),
        base_training=_training_part(whole['base'], seed, 'base.'),
        training=_training_part(whole, seed, ''),
        mesh=_build(MeshSettings, whole['mesh'], 'mesh'),
        eval=_build(EvalSettings, whole['eval'], 'eval'),
        tree=json.loads(json.dumps(whole)),
    )


def nearest_key(unknown: str) -> str:
    """Returns the known key most like `unknown`, dotted."""
    known = [path for path, _ in leaves(default_config().to_dict())]
    # The last name alone often is right, in the wrong section.
    by_name = difflib.get_close_matches(unknown.rpartition('.')[2], [path.rpartition('.')[2] for path in known], 1, 0.8)
    candidates = [path for path in known if not by_name or path.rpartition('.')[2] == by_name[0]]
    return max(candidates, key=lambda path: difflib.SequenceMatcher(None, unknown, path).ratio())


def check_key(path: str) -> None:
    """Raises UserError if the dotted `path` is no key that can be set, with the nearest known one."""
    known = [leaf for leaf, _ in leaves(default_config().to_dict())]
    if any(leaf.startswith(f'{path}.') for leaf in known):
        raise UserError(f'config key "{path}" is a section; set one of its keys, such as "{nearest_key(path)}"')
    if path not in known:
        raise _unknown_key(path)


def _unknown_key(path: str) -> UserError:
    return UserError(f'unknown config key "{path}"; the nearest known one is "{nearest_key(path)}"')


def _training_part(sections: dict[str, Any], seed: int, prefix: str) -> TrainingPart:
    data = sections['data']
    plan = {
        **_own(data, PlanSettings),
        'seed': seed,
        'steps': data['steps'] or None,
        'epochs': None if data['steps'] else data['epochs'],
        **{name: data[name] if any(data[name].values()) else {} for name in ('mix', 'mix_end')},
    }
    return TrainingPart(
        plan=_build(PlanSettings, plan, f'{prefix}data'),
        loader=_build(LoaderSettings, _own(data, LoaderSettings), f'{prefix}data'),
        optimizer=_build(OptimizerSettings, sections['optimizer'], f'{prefix}optimizer'),
        train=_build(TrainingSettings, sections['train'], f'{prefix}train'),
    )


def _section(settings: Any) -> dict[str, Any]:
    return dataclasses.asdict(settings)


def _own(section: dict[str, Any], cls: type) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    return {name: value for name, value in section.items() if name in names}


def _build(cls: Callable[..., _Settings], values: dict[str, Any], where: str) -> _Settings:
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f'config section {where}: {error}') from None


def _build_nested(cls: Callable[..., _Settings], values: dict[str, Any], where: str) -> _Settings:
    """Builds settings whose defaults show which of their fields are settings themselves."""
    built = {
        name: _build(type(own), values[name], f'{where}.{name}') if dataclasses.is_dataclass(own) else values[name]
        for name, own in vars(cls()).items()
    }
    return _build(cls, built, where)


def leaves(tree: dict[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of a plain tree."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def _check_keys(given: dict[str, Any], defaults: dict[str, Any], prefix: str = '') -> None:
    for name, value in given.items():
        path = f'{prefix}{name}'
        if name not in defaults:
            raise _unknown_key(path)
        if isinstance(defaults[name], dict):
            if not isinstance(value, dict):
                raise UserError(f'config key "{path}" is a section with keys such as "{next(iter(defaults[name]))}"')
            _check_keys(value, defaults[name], f'{path}.')


def _merged(given: dict[str, Any], defaults: dict[str, Any], prefix: str) -> dict[str, Any]:
    merged = {}
    for name, default in defaults.items():
        path = f'{prefix}{name}'
        if name not in given:
            merged[name] = default
        elif isinstance(default, dict):
            merged[name] = _merged(given[name], default, f'{path}.')
        else:
            merged[name] = _typed(given[name], default, path)
    return merged


def _typed(value: Any, default: Any, path: str) -> Any:
    """Returns the value in the type of the default; a whole number serves as a float, a list as a tuple."""
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        if default and any(not isinstance(item, type(default[0])) for item in value):
            raise UserError(f'config key "{path}" must hold values such as {default[0]!r}')
        return tuple(value)
    if default is None and (value is None or (isinstance(value, int | float) and not isinstance(value, bool))):
        return value
    if isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise UserError(f'config key "{path}" is {value}; it must be finite')
        return float(value)
    if type(value) is not type(default):
        raise UserError(f'config key "{path}" is {value!r}; it must be like {default!r}')
    return value
