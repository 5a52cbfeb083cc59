"""Scores on the way are the numbers of the evaluation, of all codes and of each stratum."""

import pytest

from ccl_jax.evaluation.report import evaluate
from ccl_jax.evaluation.strata import STRATA, Strata
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.pipeline.on_the_way import code_metrics_of
from ccl_jax.records import Annotation, Document, PredictedCode, Prediction, Span

GOLD = {'a': ('I10', 'E11.9', 'R07.9'), 'b': ('I10', 'N17.9'), 'c': ('E11.9', 'N17.9')}
PREDICTED = {'a': ('I10', 'R07.9', 'J45.909'), 'b': ('N17.9', 'R07.9'), 'c': ()}


def test_they_are_those_of_the_evaluation_by_stratum_too():
    gold = [Document(doc_id, 'text', tuple(map(Annotation, codes))) for doc_id, codes in GOLD.items()]
    predictions = [Prediction(doc_id, tuple(map(PredictedCode, codes))) for doc_id, codes in PREDICTED.items()]
    training = [Document('t', 'text', (Annotation('I10'), Annotation('E11.9'), Annotation('Z00.00')))]
    spans = [Span('s', 'text', 'R07.9', 'gold', 'made up')]
    # I10, E11.9 are S0, R07.9 is S1, N17.9 is S2; J45.909 is S3 and only predicted.
    strata = Strata.from_training(training, spans, {(ICD10CM, 'N17.9')})
    valid = {(ICD10CM, code) for codes in GOLD.values() for code in codes}
    found = code_metrics_of(gold, predictions, strata, valid)
    # R07.9: one hit, one false positive; N17.9: one hit, one miss.
    assert found['S1.micro_f1'] == found['S2.micro_f1'] == pytest.approx(2 / 3)
    assert found['micro_f1'] == pytest.approx(2 * 3 / (7 + 5))
    assert (found['S3.micro_f1'], found['S3.micro_recall']) == (0.0, None)
    labels = strata.document_codes
    whole = evaluate(gold, predictions, strata=strata, valid_codes=valid, label_space=labels, seed=0, samples=1)
    for prefix, section in (('', whole), *((f'{name}.', whole['strata'][name]) for name in STRATA)):
        for name, estimate in section['metrics'].items():
            if not name.startswith(('evidence_', 'grounding_')):
                assert found[f'{prefix}{name}'] == pytest.approx(estimate['value'])


def test_a_stratum_without_codes_is_undefined():
    strata = Strata.from_training([Document('t', 'text', (Annotation('I10'),))], ())
    gold = [Document('a', 'text', (Annotation('I10'),))]
    found = code_metrics_of(gold, [Prediction('a', (PredictedCode('I10'),))], strata, ())
    assert (found['S0.micro_f1'], found['S1.micro_f1']) == (1.0, None)
