"""Flags on codes whose place in the April 2026 release was looked up by hand."""

import pytest

from ccl_jax.evaluation.flags import flags_of
from ccl_jax.icd.codes import ICD9CM, ICD10CM
from ccl_jax.icd.release import Release
from ccl_jax.records import Annotation, Document, PredictedCode, Prediction


@pytest.fixture(scope='module')
def release():
    return Release.embedded()


def flags(release, predicted, gold=(), **arguments):
    document = Document('d', 'x', tuple(Annotation(code) for code in gold))
    found = flags_of(document, Prediction('d', tuple(PredictedCode(code) for code in predicted)), release, **arguments)
    return {code: [flag.kind for flag in of_code] for (_, code), of_code in found.items()}


def test_a_code_that_the_release_lacks_is_retired_only_where_people_used_it(release):
    lacking = ['I10', 'Z99.ZZ', 'C81.0Z']
    assert flags(release, lacking) == {'Z99.ZZ': ['not_in_release'], 'C81.0Z': ['not_in_release']}
    assert flags(release, lacking, gold=['Z99.ZZ'], known_codes={(ICD10CM, 'C81.0Z')}) == {
        'Z99.ZZ': ['retired'],
        'C81.0Z': ['retired'],
    }
    assert flags(release, [], gold=['Z99.ZZ', 'I10']) == {'Z99.ZZ': ['retired']}


def test_headers_and_codes_without_seventh_character_are_not_billable(release):
    # M54.5 was split into M54.50 and others in October 2021.
    assert flags(release, ['M54.5', 'W19.XXX', 'W19.XXXA', 'M54.50']) == {
        'M54.5': ['not_billable'],
        'W19.XXX': ['not_billable'],
    }


def test_both_sides_of_an_excludes1_conflict_among_predicted_codes_are_flagged(release):
    assert flags(release, ['E10.9', 'I10', 'E11.9']) == {'E10.9': ['excludes1'] * 2, 'E11.9': ['excludes1'] * 2}
    assert flags(release, ['E10.9'], gold=['E11.9']) == {}


def test_a_conflict_names_the_other_code_and_the_note(release):
    codes = tuple(PredictedCode(code) for code in ('E10.9', 'E11.9'))
    found = flags_of(Document('d', 'x'), Prediction('d', codes), release)
    details = [flag.detail for flag in found[ICD10CM, 'E10.9']]
    assert all(detail.startswith('not beside E11.9') for detail in details)
    assert {'note at E10, ' in detail for detail in details} == {True, False}


def test_disagreement_is_another_code_for_the_evidence_alone(release):
    codes = (
        PredictedCode('I10', rechecked=('R52', 'I11.9')),
        PredictedCode('R52', rechecked=('I10', 'R52')),
        PredictedCode('E11.9'),
    )
    found = flags_of(Document('d', 'x'), Prediction('d', codes), release)
    assert {code: [tuple(flag) for flag in of_code] for (_, code), of_code in found.items()} == {
        'I10': [('disagreement', 'from the evidence alone the model gave R52, I11.9')]
    }


def test_codes_of_other_systems_are_not_looked_up(release):
    prediction = Prediction('d', (PredictedCode('401.9', ICD9CM),))
    assert flags_of(Document('d', 'x'), prediction, release) == {}
