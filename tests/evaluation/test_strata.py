"""Strata: who knew a code, and what of gold and predictions stays in each."""

import pytest

from ccl_jax.errors import UserError
from ccl_jax.evaluation.pairs import CodePairs, align
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


def test_the_frequency_buckets_count_documents_not_annotations():
    # A00 stands once in 5 documents, A01 in 6, A02 in 20, A03 in 21; A04 twice in one document.
    carried = {'A00': 5, 'A01': 6, 'A02': 20, 'A03': 21}
    documents = [
        Document(f't{i}', 'note', tuple(Annotation(code) for code, count in carried.items() if i < count))
        for i in range(21)
    ]
    documents.append(Document('twice', 'note', (Annotation('A04'), Annotation('A04'))))
    strata = Strata.from_training(documents, [Span('s', 'ache', 'R52', 'gold', 'title')])
    expected = {'A00': '1-5', 'A01': '6-20', 'A02': '6-20', 'A03': '>20', 'A04': '1-5', 'R52': '0', 'ZZZ': '0'}
    assert {code: strata.frequency(cm(code)) for code in expected} == expected
    assert strata.document_counts[cm('A04')] == 1


def test_the_strata_divide_gold_and_predictions():
    strata = Strata.from_training(*training())
    gold = [Document('d', 'note', tuple(Annotation(code) for code in ('I10', 'R52', 'J45.909')))]
    answers = [Prediction('d', tuple(PredictedCode(code) for code in ('R52', 'ZZZ', 'I10', 'AAA')))]
    pairs = CodePairs.of(align(gold, answers))
    parts = {name: pairs.only(strata.stratum, name) for name in STRATA}

    def named(part, indices):
        return [part.codes[i][1] for i in indices]

    assert {name: named(part, part.gold_codes) for name, part in parts.items()} == {
        'S0': ['I10'],
        'S1': ['R52'],
        'S2': [],
        'S3': ['J45.909'],
    }
    # The order of the ranking stays.
    assert [named(part, part.predicted_codes) for part in parts.values()] == [['I10'], ['R52'], [], ['ZZZ', 'AAA']]
