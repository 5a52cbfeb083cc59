"""The settings of training; light to import, because every config holds them."""

import dataclasses
import math
from collections.abc import Mapping

from ccl_jax.errors import UserError

NAMES = ('adamw', 'muon')
SCHEDULES = ('cosine', 'linear', 'constant')


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """What is optimised how.

    Attributes:
        name: one of `NAMES`.
        learning_rate: the peak. A Muon update is scaled to a root mean square of
            0.2, which AdamW's has too (arXiv 2502.16982), so that one rate suits both.
        adamw_learning_rate: under `muon`, the peak for embeddings, norms and
            biases; None takes `learning_rate`.
        warmup_steps: steps of linear rise; the first step already moves.
        schedule: one of `SCHEDULES`, from the peak after the warm-up to
            `end_fraction` of it at the last step.
        weight_decay: decoupled, times the learning rate; on hidden matrices only,
            and on embeddings where `decay_embeddings`.
        clip_norm: gradients are scaled down to this global norm; None for never.
    """

    name: str = 'adamw'
    learning_rate: float = 1e-4
    adamw_learning_rate: float | None = None
    warmup_steps: int = 0
    schedule: str = 'cosine'
    end_fraction: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_embeddings: bool = False
    clip_norm: float | None = 1.0

    def __post_init__(self):
        _check(self.name in NAMES, f'optimizer "{self.name}" is unknown; choose {" or ".join(NAMES)}')
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
        _check(0 <= self.end_fraction <= 1, f'end_fraction is {self.end_fraction}; it must lie between 0 and 1')
        _check(0 <= self.weight_decay < math.inf, f'weight_decay is {self.weight_decay}; it must be at least 0')
        _check(self.warmup_steps >= 0, f'warmup_steps is {self.warmup_steps}; it must be at least 0')


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How the loop runs.

    Attributes:
        task_weights: lambda_t by task name; a task left out has weight 1.
        tile_tokens: the most tokens per device whose logits exist at once.
        accumulation: micro-batches per step; divides the rows of every bucket.
        checkpoint_every: steps between checkpoints; one is always made at the end.
        keep: how many of the latest checkpoints to keep, at least 2.
        log_every: steps between progress lines where the output is no terminal.
    """

    task_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tile_tokens: int = 4096
    accumulation: int = 1
    checkpoint_every: int = 1000
    keep: int = 2
    log_every: int = 20

    def __post_init__(self):
        for field, least in (
            ('tile_tokens', 1),
            ('accumulation', 1),
            ('checkpoint_every', 1),
            ('keep', 2),
            ('log_every', 1),
        ):
            if getattr(self, field) < least:
                raise UserError(f'{field} is {getattr(self, field)}; it must be at least {least}')


def _check(holds: bool, sentence: str) -> None:
    if not holds:
        raise UserError(sentence)
