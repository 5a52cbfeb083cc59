"""What the steps of a plan cost: tokens by task, padding, FLOPs. A function of the plan and of how many steps are done.

FLOPs are those of `model.counts`, of each example as a text by itself, forward and backward apart: attention
causally halved, the backward pass of adapters without the gradients of the frozen weights; what is recomputed in the
backward pass and what is done to padding counts nothing.
"""

import dataclasses
from typing import Any

import numpy as np

from ccl_jax.data.examples import ExampleStore
from ccl_jax.data.plan import Plan
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.counts import text_flops
from ccl_jax.model.settings import LoraSettings
from ccl_jax.tasks import TASKS

# Rows that are counted at once.
_ROWS_AT_ONCE = 1 << 14


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of the first `steps` steps.

    Attributes:
        examples: in them, an example of several epochs as often as it came.
        prompt_tokens, target_tokens: by task, only tasks that occur.
        padding_tokens: positions of the batches that hold no token.
        forward, backward: FLOPs.
    """

    steps: int
    examples: int
    prompt_tokens: dict[str, int]
    target_tokens: dict[str, int]
    padding_tokens: int
    forward: float
    backward: float

    @property
    def tokens(self) -> int:
        """Prompt and target tokens, padding left out."""
        return sum(self.prompt_tokens.values()) + sum(self.target_tokens.values())

    def to_json(self) -> dict[str, Any]:
        return {
            'steps': self.steps,
            'examples': self.examples,
            'tokens': {
                task: {'prompt': self.prompt_tokens[task], 'target': self.target_tokens[task]}
                for task in self.prompt_tokens
            },
            'padding_tokens': self.padding_tokens,
            'flops': {'forward': self.forward, 'backward': self.backward},
        }


class StepCosts:
    """Counts steps from the columns of the example store, so that no example is read.

    Args:
        lora: of the adapters, where only they are trained.
    """

    def __init__(self, store: ExampleStore, plan: Plan, architecture: Architecture, lora: LoraSettings):
        self._store = store
        self._plan = plan
        # FLOPs of a text by its length.
        self._lengths = np.unique(store.lengths)
        self._flops = np.array([text_flops(architecture, length, lora) for length in self._lengths.tolist()])
        self._done = self._examples = 0
        self._prompt, self._target = np.zeros(len(TASKS), np.int64), np.zeros(len(TASKS), np.int64)
        self._spent = np.zeros(2)

    def flops_of(self, step: int) -> float:
        """The FLOPs of one step, forward and backward together."""
        return float(self._flops_of_texts(self._store.lengths[np.concatenate(self._plan.rows(step))]).sum())

    def up_to(self, steps: int) -> Cost:
        """The sum over the first `steps` steps; goes on from the last call, so later and later sums count each once."""
        if steps < self._done:
            self._done = self._examples = 0
            for sums in (self._prompt, self._target, self._spent):
                sums[:] = 0
        waiting: list[np.ndarray] = []
        for step in range(self._done, steps):
            waiting += self._plan.rows(step)
            if len(waiting) >= _ROWS_AT_ONCE or step + 1 == steps:
                self._add(np.concatenate(waiting))
                waiting = []
        self._done = steps
        lengths, counts = np.unique(self._plan.step_lengths[:steps], return_counts=True)
        positions = sum(
            count * length * self._plan.settings.rows_per_step(length)
            for length, count in zip(lengths.tolist(), counts.tolist(), strict=True)
        )
        present = [k for k in range(len(TASKS)) if self._target[k]]
        return Cost(
            steps=steps,
            examples=self._examples,
            prompt_tokens={TASKS[k]: int(self._prompt[k]) for k in present},
            target_tokens={TASKS[k]: int(self._target[k]) for k in present},
            padding_tokens=positions - int(self._plan.step_tokens[:steps].sum()),
            forward=float(self._spent[0]),
            backward=float(self._spent[1]),
        )

    def _add(self, examples: np.ndarray) -> None:
        lengths = self._store.lengths[examples].astype(np.int64)
        starts = self._store.target_starts[examples]
        tasks = self._store.task_ids[examples]
        self._examples += len(examples)
        # Sums in float64 are exact below 2^53 tokens.
        self._prompt += np.bincount(tasks, starts, len(TASKS)).astype(np.int64)
        self._target += np.bincount(tasks, lengths - starts, len(TASKS)).astype(np.int64)
        self._spent += self._flops_of_texts(lengths)

    def _flops_of_texts(self, lengths: np.ndarray) -> np.ndarray:
        """Returns the sums [forward, backward]."""
        return self._flops[np.searchsorted(self._lengths, lengths)].sum(axis=0)
