"""The saved result and the table: what is in them, and that the sentence follows the numbers."""

import json

import pytest

from ccl_jax.evaluation.bootstrap import Estimate
from ccl_jax.evaluation.report import evaluate, format_table, verdict
from ccl_jax.evaluation.strata import Strata
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.records import Annotation, Document, Evidence, PredictedCode, Prediction, Span

NOTE = 'Hypertension and pain.'
STRATA = Strata.from_training(
    [Document('t', 'x', (Annotation('I10'), Annotation('E11.9')))], [Span('s', 'pain', 'R52', 'gold', 'title')]
)
VALID = {(ICD10CM, code) for code in ('I10', 'R52', 'E11.9')}


def gold():
    hypertension = Annotation('I10', evidence=(Evidence(((0, 12),), 'Hypertension'),))
    return [Document('a', NOTE, (hypertension, Annotation('R52'))), Document('b', NOTE, (Annotation('I10'),))]


def answers():
    quoted = (Evidence((), 'hypertension'), Evidence((), 'diabetes'))
    return [Prediction('a', (PredictedCode('I10', evidence=quoted), PredictedCode('ZZZ')))]


def perfect():
    return [
        Prediction(d.doc_id, tuple(PredictedCode(a.code, evidence=a.evidence) for a in d.annotations)) for d in gold()
    ]


def result(predictions):
    return evaluate(
        gold(),
        predictions,
        strata=STRATA,
        valid_codes=VALID,
        label_space=STRATA.document_codes,
        seed=0,
        samples=20,
    )


def test_the_result_is_json_with_metrics_counts_and_the_strata_that_occur():
    saved = json.loads(json.dumps(result(answers()), allow_nan=False))
    assert saved['metrics']['micro_f1']['value'] == pytest.approx(2 / 5)
    assert saved['metrics']['invalid_code_rate']['value'] == pytest.approx(1 / 2)
    assert saved['metrics']['grounding_folded']['value'] == pytest.approx(1 / 2)
    assert saved['metrics']['evidence_span_exact_f1']['value'] == pytest.approx(2 / 3)
    assert all(set(estimate) == {'value', 'low', 'high'} for estimate in saved['metrics'].values())
    assert saved['counts'] == {
        'documents': 2,
        'documents_without_prediction': 1,
        'gold_pairs': 3,
        'predicted_pairs': 2,
        'gold_codes': 2,
        'predicted_codes': 2,
        'gold_evidence': 1,
        'predicted_evidence': 2,
        'quotes_exact': 0,
        'quotes_folded': 1,
        'quotes_not_found': 1,
    }
    strata = {name: section['metrics']['micro_f1']['value'] for name, section in saved['strata'].items()}
    assert strata == {'S0': pytest.approx(2 / 3), 'S1': 0, 'S3': 0}
    # S0 has two labels, I10 (found in one of two documents) and E11.9 (in training only): P 1/2, R 1/4.
    assert saved['strata']['S0']['metrics']['macro_f1_caml']['value'] == pytest.approx(1 / 3)
    assert saved['strata']['S1']['metrics']['evidence_span_exact_f1']['value'] is None


def test_training_codes_enlarge_the_label_space_of_their_stratum_only():
    strata = result(perfect())['strata']
    caml = {name: section['metrics']['macro_f1_caml']['value'] for name, section in strata.items()}
    # E11.9 is a label of S0 although nobody has it here.
    assert caml == {'S0': pytest.approx(1 / 2), 'S1': 1}


def test_without_strata_only_the_whole_split_is_reported():
    saved = evaluate(gold(), answers(), strata=None, valid_codes=VALID, seed=0, samples=5)
    assert saved['strata'] == {}


def test_the_table_shows_every_system_and_the_strata_of_any():
    table = format_table({'model': result(answers()), 'oracle': result(perfect())})
    header, rule, model, oracle = table.splitlines()[:4]
    assert header.split()[-7:] == ['macro_f1_active', 'S0', 'S1', 'S3', 'evidence', 'grounded', 'invalid']
    assert len(header) == len(rule) == len(model) == len(oracle)
    assert model.split()[:2] == ['model', '0.400']
    assert oracle.split()[1:] == ['1.000', '[1.000,', '1.000]', *['1.000'] * 4, '-', '1.000', '1.000', '0.000']
    assert 'macro_f1_gold: mean F1' in table
    assert table.isascii()


def rows(**scores):
    return {name: {'metrics': {'micro_f1': {'value': value}}} for name, value in scores.items()}


def test_the_sentence_follows_the_numbers():
    assert verdict(rows(model=0.12, lookup=0.41, majority=0.1), 'model') == (
        'The model does not beat the lookup baseline: micro F1 0.120 against 0.410.'
    )
    assert 'does not beat' in verdict(rows(model=0.41, lookup=0.41), 'model')
    assert verdict(rows(model=0.5, lookup=0.41, majority=0.1), 'model') == (
        'The model beats the best baseline, lookup: micro F1 0.500 against 0.410.'
    )
    noise = {'lookup': Estimate(0.01, -0.02, 0.04)}
    assert verdict(rows(model=0.42, lookup=0.41), 'model', noise) == (
        'The model is ahead of the best baseline, lookup, but within the noise: micro F1 0.420 against 0.410 '
        '(difference +0.010, 95 % interval -0.020 to +0.040).'
    )
    assert 'The model beats' in verdict(rows(model=0.42, lookup=0.41), 'model', {'lookup': Estimate(0.01, 0.005, 0.02)})
    assert 'no baseline' in verdict(rows(model=0.4), 'model')
    assert 'does not beat' in verdict(rows(model=None, lookup=0.4), 'model')
