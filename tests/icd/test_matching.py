"""Matches against hand-worked cases, and places found against a search by regular expression."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.icd.folding import FoldedText, fold
from ccl_jax.icd.matching import TermMatcher
from ccl_jax.icd.release import Release

TABULAR = """<?xml version="1.0" encoding="utf-8"?>
<ICD10CM.tabular><version>1999</version><chapter><name>9</name><desc>Circulation (I00-I99)</desc>
<section id="I00-I99"><desc>Heart (I00-I99)</desc>
  <diag><name>I50</name><desc>Heart failure</desc>
    <includes><note>weak heart</note></includes>
    <diag><name>I50.2</name><desc>Systolic (congestive) heart failure</desc>
      <inclusionTerm><note>HF</note></inclusionTerm>
      <inclusionTerm><note>failure</note></inclusionTerm>
      <diag><name>I50.20</name><desc>Unspecified systolic (congestive) heart failure</desc></diag>
      <diag><name>I50.21</name><desc>Acute systolic heart failure</desc>
        <inclusionTerm><note>Ménière's heart</note></inclusionTerm></diag>
    </diag></diag>
  <diag><name>I60</name><desc>Receptor status</desc>
    <diag><name>I60.0</name><desc>Hormone receptor positive</desc>
      <inclusionTerm><note>HR+</note></inclusionTerm></diag></diag>
</section></chapter></ICD10CM.tabular>
"""


@pytest.fixture(scope='module')
def matcher(tmp_path_factory) -> TermMatcher:
    path = tmp_path_factory.mktemp('release') / 'tabular.xml'
    path.write_text(TABULAR, encoding='utf-8')
    return TermMatcher(Release.from_tabular(path))


def _found(matcher, text, code):
    return [(text[m.begin : m.end], m.term.text, m.term.origin, m.term_code) for m in matcher.find(text, code)]


def test_own_terms_come_before_those_above_and_longer_ones_before_shorter(matcher):
    text = 'A weak heart. Heart failure, later ACUTE  systolic\nheart-failure; failure of pump.'
    assert _found(matcher, text, 'I50.21') == [
        ('ACUTE  systolic\nheart-failure', 'Acute systolic heart failure', 'title', 'I50.21'),
        ('failure', 'failure', 'inclusion_term', 'I50.2'),
        ('failure', 'failure', 'inclusion_term', 'I50.2'),
        ('weak heart', 'weak heart', 'includes', 'I50'),
    ]
    assert _found(matcher, text, 'I50') == [
        ('Heart failure', 'Heart failure', 'title', 'I50'),
        ('heart-failure', 'Heart failure', 'title', 'I50'),
        ('weak heart', 'weak heart', 'includes', 'I50'),
    ]


def test_natural_form_and_printed_form(matcher):
    for words in ('systolic heart failure', 'Systolic (congestive) Heart Failure', 'systolic congestive heart failure'):
        assert _found(matcher, f'has {words}.', 'I50.2') == [
            (words, 'Systolic (congestive) heart failure', 'title', 'I50.2')
        ]


def test_accents_and_apostrophes(matcher):
    for words in ("Meniere's heart", 'Ménière\u2019s heart', 'MENIERES HEART', 'Me\u0301nie\u0300re\u2019s heart'):
        assert [text for text, *_ in _found(matcher, f'the {words},', 'I50.21')] == [words]


def test_whole_words_only(matcher):
    assert _found(matcher, 'nonsystolic heart failures; weak hearts; xheart failurex', 'I50.20') == []
    assert _found(matcher, '', 'I50.20') == []


def test_abbreviations_need_capitals_and_results_their_sign(matcher):
    assert _found(matcher, 'hf Hf HF (HF) HFx', 'I50.2') == [('HF', 'HF', 'inclusion_term', 'I50.2')] * 2
    assert _found(matcher, 'HR 98, HR- and hr+', 'I60.0') == []
    assert [m.begin for m in matcher.find('HR 98, HR+.', 'I60.0')] == [7]


def test_codes_that_the_release_lacks(matcher):
    assert _found(matcher, 'heart failure', 'I50.2X9') == [('failure', 'failure', 'inclusion_term', 'I50.2')]
    assert matcher.find('heart failure', 'Z99.9') == []


def test_a_folded_text_serves_many_codes(matcher):
    text = FoldedText('Heart failure, HR+')
    assert [(m.begin, m.end) for m in matcher.find(text, 'I50')] == [(0, 13)]
    assert [(m.begin, m.end) for m in matcher.find(text, 'I60.0')] == [(15, 17)]


@pytest.mark.parametrize(
    ('text', 'folded'),
    [
        ("  Crohn's\tdisease (of ileum) ", 'crohns disease of ileum'),
        ('Straße', 'strasse'),
        ('T2-weighted; 20.5%', 't2 weighted 20 5'),
        ('ﬁbrosis', 'fibrosis'),
        ('--', ''),
    ],
)
def test_fold(text, folded):
    assert fold(text) == folded


# Letters that fold to one letter, two, none, or themselves and a mark; and separators.
_ALPHABET = "aAbBéé\u0301ßﬁ '-.\n\u00a0½"


@given(st.text(_ALPHABET), st.text(_ALPHABET))
def test_folding_a_text_and_folding_with_offsets_agree(left, right):
    text = FoldedText(left + right)
    assert ' '.join(text.folded.split()) == fold(left + right)
    assert text.folded.startswith(' ')
    assert text.folded.endswith(' ')
    assert '  ' not in text.folded
    assert fold(f'{left}.{right}') == ' '.join(f'{fold(left)} {fold(right)}'.split())


@given(st.text(_ALPHABET + '\u0301'), st.sampled_from(['a', 'b', 'ab', 'a b', 'b a b', 'e', 'fi', 'ss']))
def test_places_of_a_phrase(text, phrase):
    """Every place folds to the phrase, and there are as many as a regular expression finds in the folded words."""
    places = FoldedText(text).find(phrase)
    pattern = rf'(?<!\w){phrase}(?!\w)'
    assert len(places) == len(re.findall(pattern, fold(text)))
    for begin, end in places:
        assert fold(text[begin:end]) == phrase
        assert not text[end : end + 1].isalnum()
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(places))
