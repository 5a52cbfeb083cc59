"""Search against hand-worked cases and the embedded release."""

import pytest

from ccl_jax.icd.release import Release
from ccl_jax.icd.search import search, suggest_codes

TABULAR = """<ICD10CM.tabular><version>1999</version><chapter><name>9</name><desc>Circulation (I00-I99)</desc>
<section id="I00-I99"><desc>Heart (I00-I99)</desc>
  <diag><name>I10</name><desc>Essential (primary) hypertension</desc></diag>
  <diag><name>I21</name><desc>Acute myocardial infarction</desc><includes><note>cardiac infarction</note></includes>
    <diag><name>I21.0</name><desc>Infarction of the anterior wall</desc></diag>
    <diag><name>I21.9</name><desc>Acute myocardial infarction, unspecified</desc></diag></diag>
  <diag><name>I50</name><desc>Heart failure</desc>
    <diag><name>I50.1</name><desc>Left ventricular failure, unspecified</desc>
      <inclusionTerm><note>Cardiac asthma</note></inclusionTerm></diag>
    <diag><name>I50.9</name><desc>Heart failure, unspecified</desc></diag></diag>
  <diag><name>I97</name><desc>Cardiac complication</desc>
    <sevenChrDef><extension char="A">initial encounter</extension><extension char="S">sequela</extension></sevenChrDef>
  </diag>
</section></chapter></ICD10CM.tabular>
"""


@pytest.fixture(scope='module')
def release(tmp_path_factory) -> Release:
    path = tmp_path_factory.mktemp('release') / 'tabular.xml'
    path.write_text(TABULAR, encoding='utf-8')
    return Release.from_tabular(path)


def test_inherited_terms_find_the_billable_codes_too(release):
    hits = search(release, 'cardiac infarction')
    assert [hit.code for hit in hits[:3]] == ['I21', 'I21.0', 'I21.9']
    assert {hit.term for hit in hits[:3]} == {('cardiac infarction', 'includes')}
    assert len(search(release, 'cardiac infarction', limit=2)) == 2


def test_the_own_term_is_shown_where_it_is_the_better_one(release):
    best = search(release, 'cardiac asthma')[0]
    assert (best.code, best.term) == ('I50.1', ('Cardiac asthma', 'inclusion_term'))


@pytest.mark.parametrize(
    'words', ['cardiac infraction', 'Cardiac  INFARCTION!', 'cardiac infarct', 'cardiak infarction']
)
def test_misspelled_words(release, words):
    assert search(release, words)[0].code == 'I21'


@pytest.mark.parametrize('words', ['', '---', 'qqqqqqqq'])
def test_words_that_find_nothing(release, words):
    assert search(release, words) == []


@pytest.mark.parametrize(
    ('code', 'first'),
    [
        ('I97.XXX', 'I97.XXXA'),
        ('i50.99', 'I50.9'),
        ('I21.4', 'I21.9'),
        ('I1O', 'I10'),
        ('infarction', 'I21.0'),
    ],
)
def test_suggestions(release, code, first):
    suggestions = suggest_codes(release, code, limit=4)
    assert first in suggestions[:2]
    assert len(suggestions) == len(set(suggestions)) == 4
    assert all(suggestion in release for suggestion in suggestions)


def test_suggestions_for_an_incomplete_code_begin_with_its_completions(release):
    assert suggest_codes(release, 'I97.XXX')[:2] == ['I97.XXXA', 'I97.XXXS']


def test_embedded_release():
    release = Release.embedded()
    codes = [hit.code for hit in search(release, 'cardiac infarction')]
    assert len(codes) == 10
    assert sum(code.startswith('I21.') and release.billable(code) for code in codes) >= 3
    assert search(release, 'pneumonia')[0].code == 'J18.9'
    assert search(release, 'hypertention')[0].code == 'I10'
    assert search(release, 'covid')[0].code == 'U07.1'
    assert suggest_codes(release, 'W19.XXX')[:3] == ['W19.XXXA', 'W19.XXXD', 'W19.XXXS']
    assert suggest_codes(release, 'nonsense')
