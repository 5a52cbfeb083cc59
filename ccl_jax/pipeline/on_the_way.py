"""Scores on the way: a split decoded with the weights so far, its code-level metrics beside what training has cost."""

import math
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ccl_jax.config import Config
from ccl_jax.decoding.predict import predict_documents
from ccl_jax.errors import UserError
from ccl_jax.evaluation.label_space import ValidCodes
from ccl_jax.evaluation.metrics import code_statistics
from ccl_jax.evaluation.pairs import document_codes
from ccl_jax.icd.release import open_release
from ccl_jax.model.decoder import Decoder
from ccl_jax.pipeline.coding import allowed_codes, decoding_settings
from ccl_jax.pipeline.evaluate import evaluated_documents
from ccl_jax.pipeline.prepare import Prepared
from ccl_jax.training.scoring import Scoring
from ccl_jax.training.step_costs import StepCosts


def scoring(config: Config, prepared: Prepared, tokenizer: PreTrainedTokenizerBase, costs: StepCosts) -> Scoring | None:
    """What `eval.score_every` asks for; None where it asks for nothing.

    The metrics are those of `code_statistics`, valid codes as in the evaluation; no intervals.

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
    training_codes = document_codes(prepared.documents('train'))
    valid = ValidCodes(release, training_codes | document_codes(gold))
    codes = allowed_codes(settings.label_space, release)

    def measure(decoder: Decoder) -> dict[str, Any]:
        predictions, decoding = predict_documents(decoder, tokenizer, gold, decoding_settings(config), codes=codes)
        statistics = code_statistics(gold, predictions, valid_codes=valid, label_space=training_codes)
        metrics = statistics.compute(np.ones((1, len(statistics.unit_ids))))
        return {
            'split': settings.score_split,
            'metrics': {name: _finite(float(values[0])) for name, values in metrics.items()},
            'decoding': decoding.to_json(),
        }

    def cost(steps: int) -> dict[str, float]:
        spent = costs.up_to(steps)
        return {'tokens': spent.tokens, 'flops': spent.forward + spent.backward}

    return Scoring(settings.score_every, measure, cost)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
