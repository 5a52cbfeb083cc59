"""One system's evaluation as saved in metrics.json, and the table that sets systems side by side."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ccl_jax.evaluation.evidence import evidence_metrics, grounding_counts
from ccl_jax.evaluation.familiarity import FAMILIARITIES, Familiarity
from ccl_jax.evaluation.metrics import Code, Estimate, Grouping, code_key, code_metrics, document_codes
from ccl_jax.evaluation.strata import STRATA, Strata
from ccl_jax.records import Document, Prediction

SEEN = ('seen', 'unseen')
CONVENTIONS = """\
Brackets: 95 % bootstrap intervals over documents; '-': undefined (no such codes or no evidence).
micro_f1: hits, false positives and false negatives summed over all (document, code); invented codes count as false.
macro_f1_gold: mean F1 of the codes that are gold in this split; macro_f1_active: of those gold or predicted.
S0..S3: micro_f1 of the codes carried by a training document / only by a training span / held out / the rest.
seen, unseen words: micro_f1 of the codes whose evidence is, or is not, the text of a training span (of any code).
evidence: evidence_span_exact_f1, items (document, begin, end, code), end to end.
grounded: share of the quotes that occur in their document; invalid: share of the predicted codes that are not valid."""


def evaluate(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    *,
    strata: Strata | None,
    valid_codes: Collection[Code],
    familiarity: Familiarity | None = None,
    seed: int,
    samples: int = 1000,
    by: Grouping = 'document',
) -> dict[str, Any]:
    """All metrics of one system on one split, ready for JSON.

    Args:
        strata: what training saw; None where that is unknown. The label space of
            `macro_f1_caml` is its training documents' codes and every gold or predicted code.
        valid_codes: the codes that count as valid, as (system, code).
        familiarity: what tells codes apart whose evidence is, or is not, the text of a training span.
        by: count per document, or per group of documents with one `group_id`.

    Returns:
        `{"metrics": {name: {"value", "low", "high"}}, "counts": {...}, "strata":
        {"S0": {"metrics", "counts"}, ...}, "evidence_in_spans": {"seen": {"metrics", "counts"}, ...},
        "settings": {...}}`; a part without gold and predicted codes is absent, an
        undefined number is None.

    Raises:
        UserError: as `metrics.align`.
    """
    label_space = strata.document_codes if strata is not None else frozenset()

    def section(documents: Sequence[Document], answers: Sequence[Prediction], labels: Collection[Code]) -> dict:
        codes = code_metrics(
            documents, answers, valid_codes=valid_codes, label_space=labels, by=by, seed=seed, samples=samples
        )
        evidence = evidence_metrics(documents, answers, by=by, seed=seed, samples=samples)
        return {
            'metrics': {name: estimate.to_json() for name, estimate in (codes | evidence).items()},
            'counts': _counts(documents, answers),
        }

    result = section(gold, predictions, label_space)
    result['strata'] = {}
    if strata is not None:
        for stratum in STRATA:
            documents, answers = strata.restrict(gold, predictions, stratum)
            if _any_codes(documents, answers):
                # The codes of the training documents are S0, so only there the label space goes beyond what occurs.
                labels = label_space if stratum == 'S0' else frozenset()
                result['strata'][stratum] = section(documents, answers, labels)
    if familiarity is not None:
        parts = {kind: familiarity.restrict(gold, predictions, kind) for kind in FAMILIARITIES}
        result['evidence_in_spans'] = {
            kind: section(*part, frozenset()) for kind, part in parts.items() if _any_codes(*part)
        }
    result['settings'] = {'by': by, 'seed': seed, 'samples': samples, 'interval': 'bootstrap 95 %'}
    return result


def format_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A plain table of systems (name -> result of `evaluate`), with the conventions below it."""
    strata = [s for s in STRATA if any(s in result['strata'] for result in rows.values())]
    seen = [kind for kind in SEEN if any(kind in result.get('evidence_in_spans', {}) for result in rows.values())]
    header = ['system', 'micro_f1', 'macro_f1_gold', 'macro_f1_active', *strata]
    header += [*(f'{kind} words' for kind in seen), 'evidence', 'grounded', 'invalid']
    lines = [header]
    for name, result in rows.items():
        metrics = result['metrics']
        lines.append(
            [
                name,
                _with_interval(metrics['micro_f1']),
                _number(metrics['macro_f1_gold']['value']),
                _number(metrics['macro_f1_active']['value']),
                *(_number(_micro_f1(result['strata'], stratum)) for stratum in strata),
                *(_number(_micro_f1(result.get('evidence_in_spans', {}), kind)) for kind in seen),
                _number(metrics['evidence_span_exact_f1']['value']),
                _number(metrics['grounding_rate']['value']),
                _number(metrics['invalid_code_rate']['value']),
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    table = [
        '  '.join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return '\n'.join([table[0], '-' * len(table[0]), *table[1:], '', CONVENTIONS])


def verdict(
    rows: Mapping[str, Mapping[str, Any]], model: str, differences: Mapping[str, Estimate] | None = None
) -> str:
    """One sentence: does the model beat the best baseline by micro F1?

    Args:
        rows: as for `format_table`; all rows but `model` are baselines.
        differences: baseline -> `micro_f1` of model - baseline from `paired_bootstrap`; with it,
            a lead whose interval contains 0 is said to be within the noise.
    """
    scores = {name: result['metrics']['micro_f1']['value'] or 0.0 for name, result in rows.items()}
    baselines = [name for name in rows if name != model]
    if not baselines:
        return 'There is no baseline beside the model, so its numbers say little.'
    best = max(baselines, key=lambda name: scores[name])
    figures = f'micro F1 {scores[model]:.3f} against {scores[best]:.3f}'
    difference = (differences or {}).get(best)
    low = difference.low if difference is not None else None
    if difference is not None and low is not None:
        figures += f' (difference {difference.value:+.3f}, 95 % interval {low:+.3f} to {difference.high:+.3f})'
    if scores[model] <= scores[best]:
        return f'The model does not beat the {best} baseline: {figures}.'
    if low is not None and low <= 0:
        return f'The model is ahead of the best baseline, {best}, but within the noise: {figures}.'
    return f'The model beats the best baseline, {best}: {figures}.'


def _any_codes(gold: Sequence[Document], predictions: Sequence[Prediction]) -> bool:
    return bool(document_codes(gold)) or any(prediction.codes for prediction in predictions)


def _counts(gold: Sequence[Document], predictions: Sequence[Prediction]) -> dict[str, int]:
    answered = {prediction.doc_id: {code_key(c) for c in prediction.codes} for prediction in predictions}
    grounding = grounding_counts(gold, predictions)
    return {
        'documents': len(gold),
        'documents_without_prediction': sum(document.doc_id not in answered for document in gold),
        'gold_pairs': sum(len({code_key(a) for a in document.annotations}) for document in gold),
        'predicted_pairs': sum(len(codes) for codes in answered.values()),
        'gold_codes': len(document_codes(gold)),
        'predicted_codes': len(set().union(*answered.values())),
        'gold_evidence': sum(len(a.evidence) for document in gold for a in document.annotations),
        'predicted_evidence': sum(grounding.values()),
        **{f'quotes_{kind}': count for kind, count in grounding.items()},
    }


def _micro_f1(parts: Mapping[str, Any], name: str) -> float | None:
    return parts[name]['metrics']['micro_f1']['value'] if name in parts else None


def _with_interval(estimate: Mapping[str, float | None]) -> str:
    low, high = estimate['low'], estimate['high']
    interval = '' if low is None else f' [{_number(low)}, {_number(high)}]'
    return _number(estimate['value']) + interval


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'
