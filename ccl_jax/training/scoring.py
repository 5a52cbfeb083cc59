"""Scores of what the model writes, between the steps of its training."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ccl_jax.model.decoder import Decoder


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What is decoded and scored, and when.

    Attributes:
        every: steps between scores; one more is made at the end.
        measure: decodes with the weights so far -> what goes into the line of scores.jsonl: `split`, `metrics`
            and `decoding`, the tokens and FLOPs that decoding took. Every process calls it.
        cost: steps done -> what training has cost up to there, as `tokens` and `flops`.
    """

    every: int
    measure: Callable[[Decoder], dict[str, Any]]
    cost: Callable[[int], dict[str, float]]
