"""Documents and short spans of random tokens on disk, for benches that train: lengths as in `plan_scale`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ccl_jax.data.examples import ExampleStore, TokenizedExample, write_examples
from ccl_jax.data.plan import Plan, make_plan
from ccl_jax.data.plan_settings import PlanSettings
from ccl_jax.studies.plan_scale import SPANS_PER_DOCUMENT, lognormal_examples
from ccl_jax.studies.step_process import ARRAYS, STORE
from ccl_jax.tasks import TASKS

_SHORTEST = 4


def write_mix(
    folder: Path, *, documents: int, vocabulary: int, shrink: int = 1, longest: int | None = None
) -> ExampleStore:
    """Writes the same examples twice: as a store, and as arrays for a process that has nothing of this package.

    The arrays are `tokens`, all examples one after the other, and `lengths` and `target_starts` [examples].

    Args:
        documents: each with 15 spans.
        shrink: what the lengths are divided by, so that tiny models have rows like those of large ones.
        longest: tokens; longer examples are cut.
    """
    rng = np.random.default_rng(0)
    examples = lognormal_examples(documents * (1 + SPANS_PER_DOCUMENT))
    lengths = np.clip(examples.lengths // shrink, _SHORTEST, longest)
    target_starts = np.maximum(1, lengths - np.maximum(_SHORTEST, lengths // 10))
    tokens = rng.integers(0, vocabulary, lengths.sum(), np.int32)
    np.savez(folder / ARRAYS, tokens=tokens, lengths=lengths, target_starts=target_starts)

    def tokenized() -> Iterator[TokenizedExample]:
        for number, own in enumerate(np.split(tokens, np.cumsum(lengths)[:-1])):
            task = TASKS[examples.task_ids[number]]
            yield TokenizedExample(f'{task}:{number}', task, own, int(target_starts[number]))

    return write_examples(tokenized(), folder / STORE, {})


def settle(store: ExampleStore, fields: Mapping[str, Any]) -> tuple[dict[str, Any], Plan]:
    """Returns fields of `PlanSettings` with the buckets that the plan chose, and the plan.

    With them, other seeds have the same shapes, which so are compiled once.
    """
    plan = make_plan(store.lengths, store.task_ids, store.target_starts, PlanSettings(**fields))
    return {**fields, 'buckets': plan.buckets, 'longest': 0}, plan
