"""What a batch plan depends on besides the examples."""

import dataclasses
import math
from collections.abc import Mapping

from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS

UNITS = ('target_tokens', 'tokens', 'examples')


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """What the plan depends on besides the examples.

    Attributes:
        buckets: row lengths T, ascending; empty: chosen from the lengths of the
            examples, at most `max_buckets` multiples of `bucket_multiple`, none above
            `longest`.
        tokens_per_step: positions that a step should have, rows x T.
        row_multiple: rows of a step are a multiple of it; devices that hold
            rows x accumulation must divide it.
        max_segments: segments of a row at most, the padding tail included.
        window: examples that are planned at a time, about; memory and the time to
            reach a step grow with it. Ten steps of every bucket or more pack well.
        epochs: passes over the examples; of a fraction, that share of the steps. Or
        steps: number of steps, over as many epochs as they take.
        mix: share that each task gets, in any unit. An epoch then holds as much as
            the examples do, measured by `mix_by`: every example of a task as often as
            its share asks. Empty: every example once per epoch.
        mix_by: what the shares are of, `target_tokens`, `tokens` or `examples`.
        mix_end: the mix at the end of the plan; the shares go from `mix` to it in a
            straight line. Empty: the mix stays.
        normalization: `token`, every target token weighs 1; or `example`, every
            example weighs 1.

    Raises:
        UserError: a setting is out of range.
    """

    buckets: tuple[int, ...]
    tokens_per_step: int
    row_multiple: int = 1
    max_segments: int = 64
    seed: int = 0
    epochs: float | None = None
    steps: int | None = None
    mix: Mapping[str, float] = dataclasses.field(default_factory=dict)
    normalization: str = 'token'
    mix_by: str = 'target_tokens'
    mix_end: Mapping[str, float] = dataclasses.field(default_factory=dict)
    window: int = 100_000
    max_buckets: int = 8
    bucket_multiple: int = 128
    longest: int = 0

    def __post_init__(self) -> None:
        # One form of the same settings, whatever the caller's types and order: they are part of the hash.
        object.__setattr__(self, 'buckets', tuple(int(bucket) for bucket in self.buckets))
        object.__setattr__(self, 'epochs', None if self.epochs is None else float(self.epochs))
        for name in ('mix', 'mix_end'):
            shares = {task: float(share) for task, share in sorted(getattr(self, name).items())}
            object.__setattr__(self, name, shares)
            _check_shares(name, shares)
        self._check_buckets()
        for name, least in (
            ('tokens_per_step', 1),
            ('row_multiple', 1),
            ('max_segments', 2),
            ('seed', 0),
            ('window', 1),
        ):
            self._check_least(name, least)
        if (self.epochs is None) == (self.steps is None):
            raise UserError('give the length of the plan as epochs or as steps, one of the two')
        length = self.epochs if self.steps is None else self.steps
        if length is None or not 0 < length < math.inf:
            raise UserError(f'the plan is {length} long; epochs or steps must be above 0')
        if self.normalization not in ('token', 'example'):
            raise UserError(f'normalization is {self.normalization!r}; it must be token or example')
        if self.mix_by not in UNITS:
            raise UserError(f'mix_by is {self.mix_by!r}; it must be one of {", ".join(UNITS)}')
        if self.mix_end and not self.mix:
            raise UserError('mix_end says where the mix goes and mix is empty; give the shares of the beginning as mix')

    @property
    def longest_row(self) -> int:
        """Tokens of the longest example that can be planned."""
        return self.buckets[-1] if self.buckets else self.longest

    @property
    def prompt_lengths(self) -> tuple[int, ...]:
        """Lengths to compile for where no lengths of examples are known: the buckets, or halves of the longest row."""
        if self.buckets:
            return self.buckets
        halves = [self.longest]
        while halves[-1] >= 256:
            halves.append(halves[-1] // 2)
        return tuple(reversed(halves))

    def rows_per_step(self, bucket: int) -> int:
        """The multiple of `row_multiple`, at least one, nearest to tokens_per_step / bucket."""
        return self.row_multiple * max(1, math.floor(self.tokens_per_step / (bucket * self.row_multiple) + 0.5))

    def _check_buckets(self) -> None:
        if not self.buckets and not self.longest:
            raise UserError('buckets is empty; give row lengths, or longest, the longest that may be chosen')
        if self.buckets and (self.buckets[0] < 2 or list(self.buckets) != sorted(set(self.buckets))):
            raise UserError(f'buckets are {list(self.buckets)}; give ascending row lengths of at least 2')
        if self.buckets and self.longest not in (0, self.buckets[-1]):
            raise UserError(
                f'longest is {self.longest} and the longest bucket {self.buckets[-1]}; longest is for buckets that are '
                'chosen: empty buckets, or set longest to 0'
            )
        self._check_least('max_buckets', 1)
        self._check_least('bucket_multiple', 2)
        if not self.buckets and self.longest % self.bucket_multiple:
            raise UserError(
                f'longest is {self.longest}, no multiple of {self.bucket_multiple}; change longest or bucket_multiple'
            )

    def _check_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise UserError(f'{name} is {getattr(self, name)}; it must be at least {least}')


def _check_shares(name: str, shares: Mapping[str, float]) -> None:
    unknown = sorted(set(shares) - set(TASKS))
    if unknown:
        raise UserError(f'{name} names the unknown task {unknown[0]!r}; tasks are {", ".join(TASKS)}')
    if shares and not (all(0 <= share < math.inf for share in shares.values()) and sum(shares.values()) > 0):
        raise UserError(f'the shares of {name} must be 0 or more, and one of them above 0')
