"""`eval --predictions`: score anybody's predictions against gold documents."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.evaluation.evidence import NO_CLEANING, Cleaning
from ccl_jax.evaluation.label_space import ValidCodes, read_label_space, without_form
from ccl_jax.evaluation.pairs import Code, Grouping, code_key, document_codes
from ccl_jax.evaluation.report import evaluate, format_metrics
from ccl_jax.evaluation.strata import Strata
from ccl_jax.icd.release import open_release
from ccl_jax.records import Prediction
from ccl_jax.sources.jsonl import read_predictions, read_references, read_spans

GROUPINGS: dict[str, Grouping] = {'note': 'document', 'group': 'group'}
SEED = 0
SAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class ScoreOptions:
    """What `eval --predictions` is asked to do.

    Attributes:
        predictions, gold: JSONL files of the records that the README describes.
        group: 'note' counts codes per document, 'group' unites those of one `group_id`.
        label_space: file of `read_label_space`: the labels of `macro_f1_caml` and, with the
            gold codes, the valid codes. Without it the labels are the gold and predicted
            codes, and the valid codes are those of the release.
        release: as `icd.release.open_release`.
        training, spans: JSONL files of the training documents and spans, for strata and
            training-frequency buckets; spans without training documents say nothing.
        cleaning: what is done to spans before MDACE's metrics.
    """

    predictions: Path
    gold: Path
    group: str = 'note'
    label_space: Path | None = None
    release: str = ''
    training: Path | None = None
    spans: Path | None = None
    cleaning: Cleaning = NO_CLEANING


def score_predictions(options: ScoreOptions) -> dict[str, Any]:
    """Returns the result of `report.evaluate` with "documents" and "options", ready for JSON.

    A gold document without a prediction counts as one without predicted codes; a
    prediction for a document that is not gold counts nowhere. Both are in "counts".

    Raises:
        UserError: a file cannot be read or has a bad record, no prediction has a gold
            document, or the options contradict each other.
    """
    if options.group not in GROUPINGS:
        raise UserError(f'--group is "{options.group}"; take note or group')
    if options.spans and not options.training:
        raise UserError('--spans says which codes training saw beside its documents; give --training too')
    gold = list(read_references(options.gold))
    answered = list(read_predictions(options.predictions))
    known = {document.doc_id for document in gold}
    predictions = [prediction for prediction in answered if prediction.doc_id in known]
    if not predictions:
        raise UserError(
            f'no prediction in {options.predictions} has a document in {options.gold}; check that their doc_ids agree'
        )
    annotated = document_codes(gold)
    label_space = frozenset[Code]()
    if options.label_space:
        used = annotated | {code_key(code) for prediction in predictions for code in prediction.codes}
        label_space = read_label_space(options.label_space, used)
    result = evaluate(
        gold,
        predictions,
        strata=_strata(options),
        valid_codes=label_space | annotated if label_space else ValidCodes(open_release(options.release), annotated),
        label_space=label_space,
        cleaning=options.cleaning,
        seed=SEED,
        samples=SAMPLES,
        by=GROUPINGS[options.group],
    )
    result['documents'] = len(gold)
    result['options'] = _options_to_json(options)
    result['counts'] |= {
        'predictions_without_document': len(answered) - len(predictions),
        'codes_listed_again': sum(_repeated(prediction) for prediction in predictions),
        'predictions_not_in_order_of_score': sum(map(_is_out_of_order, predictions)),
        'gold_codes_not_of_their_form': without_form(annotated),
        **({'labels': len(label_space)} if label_space else {}),
    }
    return result


def score_table(result: dict[str, Any]) -> str:
    """The result of `score_predictions` as text."""
    counts = {name: count for name, count in result['counts'].items() if name != 'documents'}
    width = max(map(len, counts))
    return '\n'.join(
        [
            f'{result["documents"]} documents; brackets: 95 % bootstrap intervals; "-": undefined',
            '',
            format_metrics(result),
            '',
            *(f'{name.ljust(width)}  {count}' for name, count in counts.items()),
        ]
    )


def _strata(options: ScoreOptions) -> Strata | None:
    if not options.training:
        return None
    spans = list(read_spans(options.spans)) if options.spans else []
    return Strata.from_training(list(read_references(options.training)), spans)


def _options_to_json(options: ScoreOptions) -> dict[str, Any]:
    named = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    return {**named, 'cleaning': dataclasses.asdict(options.cleaning)}


def _repeated(prediction: Prediction) -> int:
    return len(prediction.codes) - len({code_key(code) for code in prediction.codes})


def _is_out_of_order(prediction: Prediction) -> bool:
    """Whether the list, which is the ranking, contradicts its scores."""
    scores = [code.score for code in prediction.codes if code.score is not None]
    return any(later > earlier for earlier, later in itertools.pairwise(scores))
