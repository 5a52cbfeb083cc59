"""Which prompt is in which row, and the few shapes that are compiled for them."""

import dataclasses
from collections import deque
from collections.abc import Collection, Sequence

import numpy as np

from ccl_jax.decoding.steps import UNUSED, Rows

# Tokens of a prefill on each device: enough to fill it, and few beside the cache.
_PREFILL_TOKENS = 4096
# Rows are refilled together up to this part of all, so that few of them wait.
_REFILLED_PART = 4


@dataclasses.dataclass(frozen=True)
class Generation:
    """What the model wrote after a prompt.

    Attributes:
        tokens: without the token that ended it.
        logprobs: natural log-probability of each token given all before it, by the model alone: of all tokens,
            at temperature 1, whatever was allowed and however it was drawn.
        ended: whether an end token came; if not, the length limit cut it.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The sizes of arrays.

    Attributes:
        rows: decoded at a time, a multiple of `row_devices`.
        row_devices: parts into which rows are divided.
        buckets: lengths of prompts, rising.
        max_new_tokens: of an answer.
        max_positions: of the model.
    """

    rows: int
    row_devices: int
    buckets: tuple[int, ...]
    max_new_tokens: int
    max_positions: int

    @classmethod
    def choose(
        cls,
        prompts: int,
        batch_rows: int,
        *,
        row_devices: int,
        buckets: Collection[int],
        max_new_tokens: int,
        max_positions: int,
    ) -> 'Shapes':
        """Takes `batch_rows`, or for fewer prompts a power of two that holds them, times the devices."""
        most, needed = (-(-count // row_devices) for count in (batch_rows, prompts))
        rows = row_devices * min(most, _power_of_two(needed))
        lengths = tuple(sorted({min(bucket, max_positions) for bucket in buckets}))
        return cls(rows, row_devices, lengths, max_new_tokens, max_positions)

    def bucket(self, length: int) -> int:
        """The length to which a prompt is padded."""
        return next(bucket for bucket in self.buckets if bucket >= length)

    def slots(self, length: int) -> int:
        """The slots of a cache for a prompt and its answer."""
        return min(self.bucket(length) + self.max_new_tokens, self.max_positions)

    def limit(self, length: int) -> int:
        """How many tokens may follow a prompt."""
        return min(self.max_new_tokens, self.max_positions - length)

    def group(self, length: int) -> int:
        """How many rows are prefilled at a time if the longest has this length."""
        rows = max(1, min(self.rows // self.row_devices // _REFILLED_PART, _PREFILL_TOKENS // self.bucket(length)))
        return self.row_devices * (1 << (rows.bit_length() - 1))

    def prefill(self, lengths: Sequence[int]) -> tuple[int, int]:
        """Rows and tokens of the array that takes prompts of these lengths, no more than a group."""
        return self.row_devices * _power_of_two(-(-len(lengths) // self.row_devices)), self.bucket(max(lengths))


class Batch:
    """What is in the rows, what waits, the longest first, and what has been written.

    Attributes:
        waiting: numbers of prompts.
        rows: of the host; its arrays change.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], end_ids: Collection[int], shapes: Shapes):
        self._prompts = prompts
        self._end_ids = frozenset(end_ids)
        self._shapes = shapes
        self._tokens: list[list[int]] = [[] for _ in prompts]
        self._logprobs: list[list[float]] = [[] for _ in prompts]
        self._ended = [False] * len(prompts)
        self.waiting = deque(sorted(range(len(prompts)), key=lambda number: -len(prompts[number])))
        zeros = np.zeros(shapes.rows, np.int32)
        self.rows = Rows(zeros, zeros.copy(), zeros.copy(), zeros.copy(), zeros.astype(bool))

    @property
    def active(self) -> int:
        return int(self.rows.active.sum())

    @property
    def finished(self) -> int:
        return len(self._prompts) - len(self.waiting) - self.active

    @property
    def wanted(self) -> int:
        """How many rows have to be free before the next prompts come in; more than there are if none waits."""
        if not self.waiting:
            return self._shapes.rows + 1
        return min(len(self.waiting), self._shapes.group(len(self._prompts[self.waiting[0]])))

    @property
    def slots(self) -> int:
        """The slots of a cache that holds all that is there and all that waits."""
        numbers = [*self.rows.prompts[self.rows.active].tolist(), *self.waiting]
        return self._shapes.slots(max(len(self._prompts[number]) for number in numbers))

    def next_prompts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Puts the next prompts into free rows.

        Returns:
            Tokens [P, T], padded on the right, lengths [P], and rows [P], which are no rows where no prompt is.
        """
        free = np.flatnonzero(~self.rows.active)[: self.wanted]
        numbers = [self.waiting.popleft() for _ in free]
        chosen = [self._prompts[number] for number in numbers]
        shape = self._shapes.prefill([len(prompt) for prompt in chosen])
        tokens, lengths, rows = (
            np.zeros(shape, np.int32),
            np.ones(shape[0], np.int32),
            np.full(shape[0], len(self.rows.active), np.int32),
        )
        for place, (row, number, prompt) in enumerate(zip(free, numbers, chosen, strict=True)):
            tokens[place, : len(prompt)], lengths[place], rows[place] = prompt, len(prompt), row
            self.rows.prompts[row], self.rows.positions[row], self.rows.written[row] = number, len(prompt), 0
            self.rows.limits[row], self.rows.active[row] = self._shapes.limit(len(prompt)), True
        return tokens, lengths, rows

    def take(self, tokens: np.ndarray, logprobs: np.ndarray) -> None:
        """Adds tokens [R, N] and their log-probabilities to the active rows' answers, up to the first `UNUSED`."""
        for row in np.flatnonzero(self.rows.active):
            number = self.rows.prompts[row]
            new = [token for token in tokens[row].tolist() if token != UNUSED]
            self.rows.positions[row] += len(new)
            self.rows.written[row] += len(new)
            self._ended[number] = new[-1] in self._end_ids
            self.rows.active[row] = not self._ended[number] and self.rows.written[row] < self.rows.limits[row]
            kept = len(new) - self._ended[number]
            self._tokens[number] += new[:kept]
            self._logprobs[number] += logprobs[row, :kept].tolist()

    def generations(self) -> list[Generation]:
        """Returns the answers in the order of the prompts."""
        return [
            Generation(tuple(tokens), tuple(logprobs), ended)
            for tokens, logprobs, ended in zip(self._tokens, self._logprobs, self._ended, strict=True)
        ]


def _power_of_two(number: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (number - 1).bit_length()
