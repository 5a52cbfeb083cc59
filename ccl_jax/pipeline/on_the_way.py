"""Scores on the way: a split decoded with the weights so far, its code-level metrics beside what training has cost."""

import math
from collections.abc import Collection, Container, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ccl_jax.config import Config
from ccl_jax.decoding.predict import predict_documents
from ccl_jax.errors import UserError
from ccl_jax.evaluation.label_space import ValidCodes
from ccl_jax.evaluation.metrics import pair_statistics
from ccl_jax.evaluation.pairs import Code, CodePairs, align, document_codes
from ccl_jax.evaluation.strata import STRATA, Strata
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.release import open_release
from ccl_jax.model.decoder import Decoder
from ccl_jax.pipeline.coding import allowed_codes, decoding_settings
from ccl_jax.pipeline.evaluate import evaluated_documents
from ccl_jax.pipeline.prepare import Prepared
from ccl_jax.records import Document, Prediction
from ccl_jax.training.scoring import Scoring
from ccl_jax.training.step_costs import StepCosts


def scoring(config: Config, prepared: Prepared, tokenizer: PreTrainedTokenizerBase, costs: StepCosts) -> Scoring | None:
    """What `eval.score_every` asks for; None where it asks for nothing.

    The metrics are those of `code_metrics_of`, valid codes and strata as in the evaluation; no intervals.

    Raises:
        UserError: the source has no split `eval.score_split`, or no document in it.
    """
    settings = config.eval
    if not settings.score_every:
        return None
    if settings.score_split not in prepared.splits:
        raise UserError(
            f'the source has no split "{settings.score_split}" to score on the way; '
            f'set eval.score_split to one of {", ".join(prepared.splits)}'
        )
    gold = evaluated_documents(prepared, settings.score_split, settings.score_documents)
    release = open_release(config.release)
    # Codes that annotators used count as valid although the release may have retired them.
    held_out = {(ICD10CM, code) for code in prepared.held_out}
    strata = Strata.from_training(prepared.documents('train'), prepared.stream_spans(), held_out)
    valid = ValidCodes(release, strata.document_codes | document_codes(gold))
    codes = allowed_codes(settings.label_space, release)

    def measure(decoder: Decoder) -> dict[str, Any]:
        predictions, decoding = predict_documents(decoder, tokenizer, gold, decoding_settings(config), codes=codes)
        return {
            'split': settings.score_split,
            'metrics': code_metrics_of(gold, predictions, strata, valid),
            'decoding': decoding.to_json(),
        }

    def cost(steps: int) -> dict[str, float]:
        spent = costs.up_to(steps)
        return {'tokens': spent.tokens, 'flops': spent.forward + spent.backward}

    return Scoring(settings.score_every, measure, cost)


def code_metrics_of(
    gold: Sequence[Document], predictions: Sequence[Prediction], strata: Strata, valid: Container[Code]
) -> dict[str, float | None]:
    """The metrics of `pair_statistics`, of all codes and of each stratum: micro_f1, S1.micro_f1; None if undefined.

    Raises:
        UserError: as `align`.
    """
    pairs = CodePairs.of(align(gold, predictions))
    metrics = _values(pairs, valid, strata.document_codes)
    for stratum in STRATA:
        # As in the evaluation, a stratum's labels are its own; document codes are S0.
        labels = strata.document_codes if stratum == 'S0' else frozenset()
        of_stratum = _values(pairs.only(strata.stratum, stratum), valid, labels, is_part=True)
        metrics |= {f'{stratum}.{name}': value for name, value in of_stratum.items()}
    return metrics


def _values(
    pairs: CodePairs, valid: Container[Code], labels: Collection[Code], is_part: bool = False
) -> dict[str, float | None]:
    statistics = pair_statistics(pairs, valid_codes=valid, label_space=labels, is_part=is_part)
    values = statistics.compute(np.ones((1, len(statistics.unit_ids))))
    return {name: _finite(float(value[0])) for name, value in values.items()}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
