"""The modelled cost of a row: what it takes to compute, relative to a token by itself."""

import numpy as np

# Row length at which causal attention costs as much as all else, for Llama 3.1 8B:
# 2 x 7.5e9 multiplied weights a token over 2 x 32 layers x 4,096 a token and position.
_ATTENTION_CROSSOVER = 57_000


def modelled_cost(lengths: np.ndarray) -> np.ndarray:
    """Returns the FLOPs of causal rows of `lengths` tokens, in those of a token without attention; float64.

    Attention is computed over the whole row, whatever its segments.
    """
    lengths = np.asarray(lengths, np.float64)
    return lengths * (1 + lengths / _ATTENTION_CROSSOVER)
