"""One system's evaluation as saved in metrics.json, and the table that sets systems side by side."""

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from typing import Any

from ccl_jax.evaluation.bootstrap import Estimate, Statistics, bootstrap_parts
from ccl_jax.evaluation.evidence import NO_CLEANING, Cleaning, EvidenceCounts
from ccl_jax.evaluation.familiarity import FAMILIARITIES, Familiarity
from ccl_jax.evaluation.metrics import pair_statistics
from ccl_jax.evaluation.pairs import Code, CodePairs, Grouping, align
from ccl_jax.evaluation.strata import FREQUENCIES, STRATA, Strata
from ccl_jax.records import Document, Prediction

WHOLE = ''
"""The part that holds all codes."""

SEEN = ('seen', 'unseen')
CONVENTIONS = """\
Brackets: 95 % bootstrap intervals over documents; '-': undefined (no such codes or no evidence).
micro_f1: hits, false positives and false negatives summed over all (document, code); invented codes count as false.
macro_f1_gold: mean F1 of the codes that are gold in this split; macro_f1_active: of those gold or predicted.
S0..S3: micro_f1 of the codes carried by a training document / only by a training span / held out / the rest.
seen, unseen words: micro_f1 of the codes whose evidence is, or is not, the text of a training span (of any code).
evidence: evidence_span_exact_f1, items (document, begin, end, code), end to end.
grounded: share of the quotes that occur in their document; invalid: share of the predicted codes that are not valid."""

# Why a metric may be undefined, by the beginning of its name; the first that fits holds.
_NO_GOLD = 'there are no gold codes'
_REASONS = {
    'evidence_': 'the gold documents carry no evidence',
    'grounding_': 'nothing was quoted',
    'invalid_code_rate': 'no code was predicted',
    'map_codiesp': 'no document with gold codes has a valid predicted code',
    'map': _NO_GOLD,
    'micro_recall': _NO_GOLD,
    'micro_f1_edin': _NO_GOLD,
    'macro_f1_edin': _NO_GOLD,
    'macro_f1_gold': _NO_GOLD,
    'precision_at_': _NO_GOLD,
    'recall_at_': _NO_GOLD,
    'r_precision': _NO_GOLD,
    '': 'there are neither gold nor predicted codes',
}


def evaluate(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    *,
    strata: Strata | None,
    valid_codes: Container[Code],
    label_space: Collection[Code] = frozenset(),
    familiarity: Familiarity | None = None,
    cleaning: Cleaning = NO_CLEANING,
    seed: int,
    samples: int = 1000,
    by: Grouping = 'document',
) -> dict[str, Any]:
    """All metrics of one system on one split, ready for JSON.

    Args:
        strata: what training saw; None where that is unknown.
        valid_codes: the codes that count as valid, as (system, code).
        label_space: labels of `macro_f1_caml` beside every gold or predicted code.
        familiarity: what tells codes apart whose evidence is, or is not, the text of a training span.
        cleaning: what is done to spans before MDACE's metrics.
        by: count codes per document, or per group of documents with one `group_id`. Evidence
            is always counted per group, MDACE's chart.

    Returns:
        `{"metrics": {name: {"value", "low", "high"}}, "undefined": {name: reason}, "counts":
        {...}, "strata": {"S0": {"metrics", ...}, ...}, "training_frequency": {"0": ...},
        "evidence_in_spans": {"seen": ..., ...}, "settings": {...}}`; a part without gold and
        predicted codes is absent, an undefined number is None.

    Raises:
        UserError: as `align`.
    """
    pairs, evidence = _counted(gold, predictions, valid_codes, cleaning, by)
    parts: dict[str, tuple[CodePairs, EvidenceCounts, frozenset[Code]]] = {
        WHOLE: (pairs, evidence, frozenset(label_space))
    }
    for name, kind_of, kind in _code_kinds(strata):
        labels = frozenset(code for code in label_space if kind_of(code) == kind)
        parts[f'{name}/{kind}'] = pairs.only(kind_of, kind), evidence.only(kind_of, kind), labels
    if familiarity is not None:
        for kind in FAMILIARITIES:
            restricted = familiarity.restrict(gold, predictions, kind)
            parts[f'evidence_in_spans/{kind}'] = *_counted(*restricted, valid_codes, cleaning, by), frozenset()
    parts = {name: part for name, part in parts.items() if name == WHOLE or part[0].codes}

    codes: dict[str, Statistics] = {
        name: pair_statistics(part, valid_codes=valid_codes, label_space=labels, is_part=name != WHOLE)
        for name, (part, _, labels) in parts.items()
    }
    quotes = {name: part.statistics() for name, (_, part, _) in parts.items()}
    of_codes = bootstrap_parts(codes, seed=seed, samples=samples)
    of_quotes = bootstrap_parts(quotes, seed=seed, samples=samples)
    sections = {
        name: {**_metrics(of_codes[name] | of_quotes[name]), 'counts': _counts(*parts[name][:2])} for name in parts
    }
    result = sections.pop(WHOLE)
    answered = {prediction.doc_id for prediction in predictions}
    result['counts'] = {
        'documents': len(gold),
        'documents_without_prediction': sum(document.doc_id not in answered for document in gold),
        **result['counts'],
    }
    result |= {'strata': {}, 'training_frequency': {}} if strata is not None else {'strata': {}}
    result |= {'evidence_in_spans': {}} if familiarity is not None else {}
    for name, section in sections.items():
        kind, _, part_name = name.partition('/')
        result[kind][part_name] = section
    result['settings'] = {'by': by, 'seed': seed, 'samples': samples, 'interval': 'bootstrap 95 %'}
    return result


def format_metrics(result: Mapping[str, Any]) -> str:
    """All metrics of one result of `evaluate`, one a line, then a line for each part of the codes."""
    lines = [(name, _with_interval(metric)) for name, metric in result['metrics'].items()]
    parts = [
        (f'{kind} {name}', section)
        for kind in ('strata', 'training_frequency')
        for name, section in result.get(kind, {}).items()
    ]
    lines += [(f'micro_f1 of {name}', _with_interval(section['metrics']['micro_f1'])) for name, section in parts]
    width = max(len(name) for name, _ in lines)
    return '\n'.join(f'{name.ljust(width)}  {value}' for name, value in lines)


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


def _code_kinds(strata: Strata | None) -> list[tuple[str, Callable[[Code], str], str]]:
    """(name of the division, what kind a code is, one of the kinds) of all parts that a code falls into by itself."""
    if strata is None:
        return []
    return [
        *(('strata', strata.stratum, stratum) for stratum in STRATA),
        *(('training_frequency', strata.frequency, bucket) for bucket in FREQUENCIES),
    ]


def _counted(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    valid_codes: Container[Code],
    cleaning: Cleaning,
    by: Grouping,
) -> tuple[CodePairs, EvidenceCounts]:
    charts = align(gold, predictions, by='group')
    units = charts if by == 'group' else align(gold, predictions, by=by)
    return CodePairs.of(units), EvidenceCounts.of(charts, valid_codes=valid_codes, cleaning=cleaning)


def _metrics(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    reasons = {
        name: next(reason for beginning, reason in _REASONS.items() if name.startswith(beginning))
        for name, estimate in estimates.items()
        if estimate.value is None
    }
    return {'metrics': {name: estimate.to_json() for name, estimate in estimates.items()}, 'undefined': reasons}


def _counts(pairs: CodePairs, evidence: EvidenceCounts) -> dict[str, int]:
    grounding = evidence.grounding_counts()
    return {
        'gold_pairs': len(pairs.gold_units),
        'predicted_pairs': len(pairs.predicted_units),
        'gold_codes': len(set(pairs.gold_codes.tolist())),
        'predicted_codes': len(set(pairs.predicted_codes.tolist())),
        'gold_evidence': evidence.gold_spans(),
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
