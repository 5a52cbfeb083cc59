"""Search against hand-worked cases, a naive BM25, and the embedded release."""

import math
from collections import Counter

import numpy as np
import pytest

from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release
from ccl_jax.icd.search import TermIndex, search, suggest_codes
from ccl_jax.icd.terms import natural_form

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


class NaiveBM25:
    """The formula written out, with K1 = 1.2 and B = 0.75."""

    def __init__(self, release: Release):
        self.terms = [(code, fold(term.text).split()) for code, term in release.term_table()]
        self.frequency = Counter(word for _, words in self.terms for word in set(words))
        self.common = {word for word, count in self.frequency.items() if count > 0.05 * len(self.terms)}
        essential = [
            fold(natural_form(term.text) if '(' in term.text else term.text).split() for _, term in release.term_table()
        ]
        self.lengths = [sum(word not in self.common for word in words) for words in essential]
        self.average = max(sum(self.lengths) / len(self.lengths), 1)

    def scores(self, query: str) -> dict[str, float]:
        """Code -> score of its best term, of the codes that a rarer word of the query finds, if it has one."""
        known = {word for word in fold(query).split() if word in self.frequency}
        finding = known - self.common or known
        scores: dict[str, float] = {}
        for (code, words), length in zip(self.terms, self.lengths, strict=True):
            if finding.isdisjoint(words):
                continue
            score = 0.0
            for word in known.intersection(words):
                idf = math.log(1 + (len(self.terms) - self.frequency[word] + 0.5) / (self.frequency[word] + 0.5))
                count = words.count(word)
                score += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / self.average))
            scores[code] = max(scores.get(code, 0.0), score)
        return scores


def test_rank_against_a_naive_bm25(release):
    naive, index = NaiveBM25(release), TermIndex(release)
    queries = ['myocardial infarction', 'heart failure failure', 'cardiac asthma', 'nothing known']
    for query, ranked in zip(queries, index.rank(queries, k=50), strict=True):
        expected = naive.scores(query)
        assert dict(ranked) == pytest.approx(expected)
        assert [score for _, score in ranked] == sorted(dict(ranked).values(), reverse=True)


def test_rank_against_a_naive_bm25_with_common_words(tmp_path):
    """A release of 400 codes whose titles are random words, some of them in very many titles."""
    random = np.random.default_rng(0)
    words = [f'w{number}' for number in range(200)]
    weights = 1 / np.arange(1, 201)

    def text() -> str:
        return ' '.join(random.choice(words, size=random.integers(1, 8), p=weights / weights.sum()))

    codes = [f'{letter}{number:02}' for letter in 'ABCD' for number in range(100)]
    diags = ''.join(
        f'<diag><name>{code}</name><desc>{text()}</desc><inclusionTerm><note>{text()} ({text()})</note>'
        '</inclusionTerm></diag>'
        for code in codes
    )
    path = tmp_path / 'tabular.xml'
    path.write_text(
        '<ICD10CM.tabular><version>1</version><chapter><name>1</name><desc>C (A00-D99)</desc><section id="A00-D99">'
        f'<desc>B (A00-D99)</desc>{diags}</section></chapter></ICD10CM.tabular>',
        encoding='utf-8',
    )
    release = Release.from_tabular(path)
    naive = NaiveBM25(release)
    assert {'w0', 'w1'} <= naive.common < set(words)
    queries = [text() for _ in range(100)] + ['w0', 'w1 w0']
    for k in (1, 3, 20):
        for query, ranked in zip(queries, TermIndex(release).rank(queries, k), strict=True):
            expected = naive.scores(query)
            assert [score for _, score in ranked] == pytest.approx(sorted(expected.values(), reverse=True)[:k])
            assert dict(ranked) == pytest.approx({code: expected[code] for code, _ in ranked})


def test_rank_gives_at_most_k(release):
    assert [len(ranked) for ranked in TermIndex(release).rank(['infarction', 'infarction of', ''], k=2)] == [2, 2, 0]
    assert TermIndex(release).rank([], k=2) == []


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


def test_rank_finds_every_title_of_a_sample():
    release = Release.embedded()
    index = TermIndex(release)
    sample = release.codes()[::500]
    ranked = index.rank([release.title(code) for code in sample], k=5)
    found = [code in {other for other, _ in best} for code, best in zip(sample, ranked, strict=True)]
    # Some headers share their title with the codes below them, and may stand behind more than five.
    assert np.mean(found) > 0.95
