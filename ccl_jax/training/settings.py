"""The settings of training; light to import, because every config holds them."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from ccl_jax.errors import UserError

NAMES = ('adamw', 'adafactor', 'lion', 'muon')
SCHEDULES = ('cosine', 'linear', 'constant', 'warmup_stable_decay')


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """What is optimised how.

    Attributes:
        name: one of `NAMES`. AdamW (arXiv 1711.05101) keeps two moments, Lion (arXiv 2302.06675)
            and Muon (arXiv 2502.16982) one. Adafactor (arXiv 1804.04235) keeps the sums over rows and
            columns of one, no first moment (b1, b2 and eps don't apply), and takes absolute steps
            whose root mean square is at most the learning rate.
        learning_rate: the peak. A Muon update is scaled to a root mean square of
            0.2, which AdamW's has too (arXiv 2502.16982), so that one rate suits both; Lion wants
            a third to a tenth of it.
        adamw_learning_rate: under `muon`, the peak for embeddings, norms and
            biases; None takes `learning_rate`.
        rate_factors: pairs (regular expression, factor): the learning rate of a parameter is times the
            factor of the first expression that is found in its path, e.g. ('embedding|lm_head', 0.1).
        warmup_steps: steps of linear rise; the first step already moves.
        schedule: one of `SCHEDULES`, from the peak after the warm-up to
            `end_fraction` of it at the last step.
        decay_fraction: of `warmup_stable_decay`: the share of the run, at its end, in which the rate falls.
        weight_decay: decoupled, times the learning rate.
        decay_pattern: regular expression; parameters in whose path it is found decay. By
            default the matrices of layers and adapters, not embeddings, norms and biases.
        clip_norm: gradients are scaled down to this global norm; None for never.
    """

    name: str = 'adamw'
    learning_rate: float = 1e-4
    adamw_learning_rate: float | None = None
    rate_factors: tuple[tuple[str, float], ...] = ()
    warmup_steps: int = 0
    schedule: str = 'cosine'
    end_fraction: float = 0.1
    decay_fraction: float = 0.2
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_pattern: str = r'layers/(query|key|value|output|gate|up|down)$|/adapters/'
    clip_norm: float | None = 1.0

    def __post_init__(self):
        _check(self.name in NAMES, f'optimizer "{self.name}" is unknown; choose one of {", ".join(NAMES)}')
        _check(
            self.schedule in SCHEDULES,
            f'schedule "{self.schedule}" is unknown; choose one of {", ".join(SCHEDULES)}',
        )
        for field in ('learning_rate', 'adamw_learning_rate', 'clip_norm', 'eps'):
            value = getattr(self, field)
            _check(value is None or 0 < value < math.inf, f'{field} is {value}; it must be above 0')
        for field in ('b1', 'b2'):
            value = getattr(self, field)
            _check(0 <= value < 1, f'{field} is {value}; it must be at least 0 and below 1')
        for field in ('end_fraction', 'decay_fraction'):
            value = getattr(self, field)
            _check(0 <= value <= 1, f'{field} is {value}; it must lie between 0 and 1')
        _check(0 <= self.weight_decay < math.inf, f'weight_decay is {self.weight_decay}; it must be at least 0')
        _check(self.warmup_steps >= 0, f'warmup_steps is {self.warmup_steps}; it must be at least 0')
        _check_pattern('decay_pattern', self.decay_pattern)
        # JSON and the command line have lists.
        object.__setattr__(self, 'rate_factors', tuple(map(_rate_factor, self.rate_factors)))


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How the loop runs.

    Attributes:
        task_weights: lambda_t by task name; a task left out has weight 1.
        tile_tokens: the most tokens per device whose logits exist at once.
        accumulation: micro-batches per step; divides the rows of every bucket.
        checkpoint_every: steps between checkpoints; 0 for none by steps. One is always made at the end, and
            one after every measurement of the dev loss.
        checkpoint_minutes: minutes between checkpoints; 0 for none by time.
        checkpoint_directory: where they lie, e.g. gs://bucket/folder, a folder of this run alone; '' for
            `checkpoints` in the workdir.
        keep: how many of the latest checkpoints to keep, at least 2.
        keep_best: how many of those with the lowest dev loss to keep beside them, where it is measured.
        log_every: steps between progress lines, which show the mean over these steps.
        most_skipped: steps in a row whose loss or gradient is not finite that end the run.
        profile_start, profile_steps: the first step that the profiler records and how many; 0 for none.
        compilation_cache: a folder that keeps compiled programs, of several hosts one that they
            share; 'user' for the user's cache directory, 'off' for none.
    """

    task_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tile_tokens: int = 4096
    accumulation: int = 1
    checkpoint_every: int = 1000
    checkpoint_minutes: float = 0.0
    checkpoint_directory: str = ''
    keep: int = 2
    keep_best: int = 1
    log_every: int = 20
    most_skipped: int = 25
    profile_start: int = 10
    profile_steps: int = 0
    compilation_cache: str = 'user'

    def __post_init__(self):
        for field, least in (
            ('tile_tokens', 1),
            ('accumulation', 1),
            ('checkpoint_every', 0),
            ('checkpoint_minutes', 0),
            ('keep', 2),
            ('keep_best', 0),
            ('log_every', 1),
            ('most_skipped', 1),
            ('profile_start', 0),
            ('profile_steps', 0),
        ):
            if getattr(self, field) < least:
                raise UserError(f'{field} is {getattr(self, field)}; it must be at least {least}')
        if not self.compilation_cache:
            raise UserError("compilation_cache is empty; name a folder, or 'user', or 'off'")


def _rate_factor(pair: Any) -> tuple[str, float]:
    shape = isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)
    _check(
        shape and isinstance(pair[1], int | float) and 0 <= pair[1] < math.inf,
        f"rate_factors holds {pair!r}; it must hold pairs such as ('embedding', 0.1), with a factor of at least 0",
    )
    _check_pattern('rate_factors', pair[0])
    return pair[0], float(pair[1])


def _check_pattern(field: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f'{field}: "{pattern}" is no regular expression ({error})') from None


def _check(holds: bool, sentence: str) -> None:
    if not holds:
        raise UserError(sentence)
