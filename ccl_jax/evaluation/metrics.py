"""Code-level metrics, each named after its convention.

A fraction 0/0 counts as 0, as in scikit-learn; a metric that has nothing to
measure (no gold codes, or neither gold nor predicted ones) is undefined: None in
the results. Intervals: `ccl_jax.evaluation.bootstrap`.

Array letters here: R resamples, U units, C codes, E (unit, code) pairs.
"""

from collections.abc import Collection, Container, Sequence

import numpy as np
import scipy.sparse

from ccl_jax.evaluation.bootstrap import Estimate, Ratio, Statistics, bootstrap, divided, ratio_statistics
from ccl_jax.evaluation.pairs import Code, CodePairs, Grouping, align
from ccl_jax.evaluation.ranked import ranked_ratios
from ccl_jax.records import Document, Prediction


def code_metrics(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    *,
    valid_codes: Container[Code],
    label_space: Collection[Code] = frozenset(),
    by: Grouping = 'document',
    seed: int,
    samples: int = 1000,
) -> dict[str, Estimate]:
    """All code-level metrics of one system; see `code_statistics` and `bootstrap`."""
    statistics = code_statistics(gold, predictions, valid_codes=valid_codes, label_space=label_space, by=by)
    return bootstrap(statistics, seed=seed, samples=samples)


def code_statistics(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    *,
    valid_codes: Container[Code],
    label_space: Collection[Code] = frozenset(),
    by: Grouping = 'document',
) -> Statistics:
    """`pair_statistics` of documents and predictions. Raises UserError as `align` does."""
    pairs = CodePairs.of(align(gold, predictions, by=by))
    return pair_statistics(pairs, valid_codes=valid_codes, label_space=label_space)


def pair_statistics(
    pairs: CodePairs,
    *,
    valid_codes: Container[Code],
    label_space: Collection[Code] = frozenset(),
    is_part: bool = False,
) -> Statistics:
    """The code-level metrics, with G and P the gold and predicted sets of a unit.

    - `micro_precision`, `micro_recall`, `micro_f1`: hits, false positives and false
      negatives summed over all (unit, code). Recall is undefined without gold codes.
    - `macro_f1_active`: mean of the codes' F1 over codes that are gold or predicted
      somewhere (Code Like Humans).
    - `macro_f1_gold`: the same over codes that are gold somewhere in the split.
    - `macro_f1_edin`, `micro_f1_edin`: units without gold are dropped, then codes
      that are never gold in the split are removed from the predictions (Edin 2023).
    - `macro_f1_caml`: harmonic mean of macro precision and macro recall over the
      label space (Mullenbach 2018): `label_space` and every gold or predicted code,
      so an invented code adds a label without hits.
    - `samples_f1`, `exact_match_ratio`: means of F1(G, P) and of [G = P] over units. A
      unit with neither gold nor predicted codes has an F1 of 0 and is an exact match,
      as in scikit-learn.
    - `mean_predicted`, `mean_gold`: codes per unit.
    - `invalid_code_rate`: share of the predicted (unit, code) outside `valid_codes`;
      undefined without predictions.
    - the ranked metrics of `ranked.ranked_ratios`.

    Args:
        pairs: gold and predicted codes.
        valid_codes: the codes that exist.
        label_space: of `macro_f1_caml`.
        is_part: whether `pairs` are but a part of the codes, such as a stratum. Most units
            have none of them: the means over units then leave those out.
    """
    valid = np.array([code in valid_codes for code in pairs.codes], bool)
    gold, predicted = pairs.gold_counts(), pairs.predicted_counts()
    measured = (gold + predicted > 0).astype(float) if is_part else np.ones(len(gold))
    ratios = _set_ratios(pairs, valid, measured) | ranked_ratios(pairs, valid, measured)
    of_units, of_codes = ratio_statistics(ratios), _MacroAverages(pairs, label_space)

    def compute(weights: np.ndarray) -> dict[str, np.ndarray]:
        return of_units(weights) | of_codes(weights)

    return Statistics(pairs.unit_ids, compute, max(len(pairs.unit_ids), len(pairs.codes), 1))


def f1_ratios(name: str, hits: np.ndarray, gold: np.ndarray, predicted: np.ndarray) -> dict[str, Ratio]:
    """Precision, recall and F1 from set sizes [U]; undefined without any item, recall without gold ones."""
    return {
        f'{name}_precision': Ratio(hits, predicted, gold + predicted),
        f'{name}_recall': Ratio(hits, gold),
        f'{name}_f1': Ratio(2 * hits, gold + predicted),
    }


def _set_ratios(pairs: CodePairs, valid: np.ndarray, measured: np.ndarray) -> dict[str, Ratio]:
    units = len(pairs.unit_ids)
    gold, predicted = pairs.gold_counts().astype(float), pairs.predicted_counts().astype(float)
    hits = np.bincount(pairs.predicted_units[pairs.hits], minlength=units).astype(float)
    invalid = np.bincount(pairs.predicted_units[~valid[pairs.predicted_codes]], minlength=units).astype(float)
    exact = measured * (hits == gold) * (hits == predicted)
    any_code = gold + predicted
    return f1_ratios('micro', hits, gold, predicted) | {
        'samples_f1': Ratio(divided(2 * hits, any_code), measured, any_code),
        'exact_match_ratio': Ratio(exact, measured, any_code),
        'mean_predicted': Ratio(predicted, np.ones(units)),
        'mean_gold': Ratio(gold, np.ones(units)),
        'invalid_code_rate': Ratio(invalid, predicted),
    }


class _MacroAverages:
    """The macro averages, and the micro average that is conditioned on codes: weights [R, U] -> name -> [R].

    The counts of a code in all resamples are a product of sparse [C, U] and dense
    [U, R]; float32 is exact for them, as they are whole numbers below 2^24.
    """

    def __init__(self, pairs: CodePairs, label_space: Collection[Code]):
        def sparse(units: np.ndarray, codes: np.ndarray) -> scipy.sparse.csr_array:
            shape = len(pairs.codes), len(pairs.unit_ids)
            return scipy.sparse.csr_array((np.ones(len(units), np.float32), (codes, units)), shape=shape)

        hits, has_gold = pairs.hits, pairs.gold_counts() > 0
        beside_gold = has_gold[pairs.predicted_units]
        self._hits = sparse(pairs.predicted_units[hits], pairs.predicted_codes[hits])
        self._gold = sparse(pairs.gold_units, pairs.gold_codes)
        self._predicted = sparse(pairs.predicted_units, pairs.predicted_codes)
        # The predictions of units without gold, which Edin 2023 drops; mostly there are none.
        dropped = ~beside_gold
        self._dropped = sparse(pairs.predicted_units[dropped], pairs.predicted_codes[dropped])
        space = frozenset(label_space)
        self._in_label_space = np.array([code in space for code in pairs.codes], bool)
        # Labels that are neither gold nor predicted.
        self._other_labels = len(space) - int(self._in_label_space.sum())

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        by_unit = np.ascontiguousarray(weights.T)
        hits, gold, predicted = self._hits @ by_unit, self._gold @ by_unit, self._predicted @ by_unit
        is_gold, is_active = gold > 0, gold + predicted > 0
        f1 = _shares(2 * hits, gold + predicted)
        gold_codes, active_codes = is_gold.sum(axis=0), is_active.sum(axis=0)
        # A code that is not gold has no hits, so its F1 adds nothing to either sum.
        f1_sum = f1.sum(axis=0)
        if self._dropped.nnz:
            edin_predicted = predicted - self._dropped @ by_unit
            edin_f1_sum = _shares(2 * hits, gold + edin_predicted).sum(axis=0)
        else:
            edin_predicted, edin_f1_sum = predicted, f1_sum

        labels = self._other_labels + (is_active | self._in_label_space[:, None]).sum(axis=0)
        precision = _defined(_shares(hits, predicted).sum(axis=0), labels)
        recall = _defined(_shares(hits, gold).sum(axis=0), labels)
        return {
            'macro_f1_active': _defined(f1_sum, active_codes),
            'macro_f1_gold': _defined(f1_sum, gold_codes),
            'macro_f1_edin': _defined(edin_f1_sum, gold_codes),
            'micro_f1_edin': _defined(
                2 * hits.sum(axis=0), (gold.sum(axis=0) + np.where(is_gold, edin_predicted, 0).sum(axis=0))
            ),
            'macro_f1_caml': np.where(active_codes > 0, divided(2 * precision * recall, precision + recall), np.nan),
        }


def _shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole for whole numbers, 0 for 0/0."""
    return part / np.maximum(whole, 1)


def _defined(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN (undefined) where the denominator is 0."""
    return np.where(denominator == 0, np.nan, numerator / np.maximum(denominator, 1))
