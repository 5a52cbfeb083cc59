"""Strata: who knew a code, and what of gold and predictions stays in each."""

import pytest

from ccl_jax.errors import UserError
from ccl_jax.evaluation.strata import STRATA, Strata
from ccl_jax.icd.codes import ICD9CM, ICD10CM
from ccl_jax.records import Annotation, Document, PredictedCode, Prediction, Span


def cm(code):
    return ICD10CM, code


def training():
    documents = [Document('t', 'note', (Annotation('I10'), Annotation('250.00', ICD9CM)))]
    spans = [Span('s1', 'hypertension', 'I10', 'gold', 'title'), Span('s2', 'ache', 'R52', 'gold', 'title')]
    return documents, spans


def test_each_code_has_the_stratum_of_its_first_carrier():
    strata = Strata.from_training(*training(), held_out={cm('J45.909')})
    expected = {
        cm('I10'): 'S0',
        (ICD9CM, '250.00'): 'S0',
        cm('250.00'): 'S3',
        cm('R52'): 'S1',
        cm('J45.909'): 'S2',
        cm('ZZZ'): 'S3',
    }
    assert {code: strata.stratum(code) for code in expected} == expected


@pytest.mark.parametrize('leaked', ['I10', 'R52'])
def test_a_held_out_code_in_training_is_refused(leaked):
    with pytest.raises(UserError, match=leaked):
        Strata.from_training(*training(), held_out={cm(leaked)})


def test_the_strata_divide_gold_and_predictions():
    strata = Strata.from_training(*training())
    gold = [Document('d', 'note', tuple(Annotation(code) for code in ('I10', 'R52', 'J45.909')))]
    answers = [Prediction('d', tuple(PredictedCode(code) for code in ('R52', 'ZZZ', 'I10')))]
    kept = {name: strata.restrict(gold, answers, name) for name in STRATA}
    assert {name: sorted(documents[0].codes) for name, (documents, _) in kept.items()} == {
        'S0': ['I10'],
        'S1': ['R52'],
        'S2': [],
        'S3': ['J45.909'],
    }
    assert [[c.code for c in kept[name][1][0].codes] for name in STRATA] == [['I10'], ['R52'], [], ['ZZZ']]
    assert all(documents[0].text == 'note' for documents, _ in kept.values())
