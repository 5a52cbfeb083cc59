"""Metrics of a ranking: the order of a prediction's list; a code counts at its first place.

Array letters: U units, C codes, P predicted (unit, code) pairs.
"""

import numpy as np

from ccl_jax.evaluation.bootstrap import Ratio, divided
from ccl_jax.evaluation.pairs import CodePairs

KS = (1, 3, 5, 8, 10, 15)
"""The depths of `precision_at_<k>` and `recall_at_<k>`."""

# The official program leaves this default of trectools in place.
_CODIESP_DEPTH = 1000


def ranked_ratios(pairs: CodePairs, valid: np.ndarray, measured: np.ndarray) -> dict[str, Ratio]:
    """The ranked metrics, all means over units, with G the gold codes of a unit.

    - `precision_at_<k>`: share of gold codes among the first k; a shorter list is
      filled up with wrong codes.
    - `recall_at_<k>`: share of G among the first k.
    - `r_precision`: share of gold codes among the first |G|.
    - `map`: mean average precision: the precision at the place of each gold code, 0 for
      those that are missing, divided by |G|.
    - `map_codiesp`: the same as CodiEsp's official program has it: invalid codes are taken
      out of the ranking first, only units with a valid predicted code count, and the
      ranking ends at place 1,000.

    `precision_at_<k>` is a mean over the units `measured`, the others over units with
    gold codes. All are undefined without gold codes.

    Args:
        pairs: gold codes and rankings.
        valid: [C] whether a code exists.
        measured: [U] 1 for the units to average over, else 0.
    """
    units = len(pairs.unit_ids)
    gold = pairs.gold_counts()
    has_gold = (gold > 0).astype(float)
    hits, ranks = pairs.hits, _ranks(pairs.predicted_units, units)

    def hits_before(depth: np.ndarray | int) -> np.ndarray:
        return np.bincount(pairs.predicted_units[hits & (ranks < depth)], minlength=units).astype(float)

    ratios = {}
    for k in KS:
        ratios[f'precision_at_{k}'] = Ratio(hits_before(k) / k * measured, measured, has_gold)
    for k in KS:
        ratios[f'recall_at_{k}'] = Ratio(divided(hits_before(k), gold.astype(float)), has_gold)
    within_gold = hits_before(gold[pairs.predicted_units])
    ratios['r_precision'] = Ratio(divided(within_gold, gold.astype(float)), has_gold)
    ratios['map'] = Ratio(_average_precision(pairs.predicted_units, hits, ranks, gold), has_gold)
    kept = valid[pairs.predicted_codes]
    kept_units, kept_hits = pairs.predicted_units[kept], hits[kept]
    kept_ranks = _ranks(kept_units, units)
    precision = _average_precision(kept_units, kept_hits & (kept_ranks < _CODIESP_DEPTH), kept_ranks, gold)
    ratios['map_codiesp'] = Ratio(precision, has_gold * (np.bincount(kept_units, minlength=units) > 0))
    return ratios


def _ranks(predicted_units: np.ndarray, units: int) -> np.ndarray:
    """[P] the place from 0 of each predicted pair in the list of its unit."""
    counts = np.bincount(predicted_units, minlength=units)
    return np.arange(len(predicted_units)) - (np.cumsum(counts) - counts)[predicted_units]


def _average_precision(
    predicted_units: np.ndarray, hits: np.ndarray, ranks: np.ndarray, gold: np.ndarray
) -> np.ndarray:
    """[U] average precision of each unit, 0 without gold codes."""
    so_far = np.cumsum(hits)
    # Hits of the units before: what had been counted when the list of the unit began.
    before = (so_far - hits)[np.arange(len(ranks)) - ranks]
    precisions = np.where(hits, (so_far - before) / (ranks + 1), 0.0)
    sums = np.bincount(predicted_units, precisions, minlength=len(gold))
    return divided(sums, gold.astype(float))
