"""What the loop needs to know of the batch plan."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ccl_jax.data.plan import Plan


@dataclasses.dataclass(frozen=True)
class Run:
    """The steps of a run, seen from the loop.

    Attributes:
        total_steps: of the whole run, from step 0.
        shapes: the different (rows, length) of its batches.
        real_tokens: per step, its tokens without padding.
        task_constants: N_t by task name.
        flops: step -> FLOPs that its examples need, for MFU; None where nobody counts them.
        example_ids: step -> ids of its examples, to name those of a step that went wrong.
    """

    total_steps: int
    shapes: tuple[tuple[int, int], ...]
    real_tokens: np.ndarray
    task_constants: Mapping[str, float]
    flops: Callable[[int], float] | None = None
    example_ids: Callable[[int], Sequence[str]] | None = None

    @classmethod
    def from_plan(
        cls,
        plan: Plan,
        *,
        flops: Callable[[int], float] | None = None,
        example_ids: Callable[[int], Sequence[str]] | None = None,
    ) -> 'Run':
        return cls(
            total_steps=plan.steps,
            shapes=tuple(sorted(plan.shapes)),
            real_tokens=plan.step_tokens,
            task_constants=plan.task_constants,
            flops=flops,
            example_ids=example_ids,
        )
