"""Gold spans of two releases: hand-worked codes, promises that hold for every code, and what switches forms off."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.expansion.gold import FORMS, gold_spans
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release
from ccl_jax.icd.terms import natural_form
from ccl_jax.sources.synthetic_terms import VARIANTS

EMBEDDED = Release.embedded()
RELEASE_2026 = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'icd10cm' / '2026'
PLAIN = ('printed', 'natural')


def texts(code: str, forms=FORMS, release: Release = EMBEDDED) -> list[str]:
    return [span.text for span in gold_spans(release, [code], forms)]


def origin(span) -> str:
    return span.provenance.removeprefix(f'{EMBEDDED.name}: ')


def test_a_code_by_hand():
    assert [(span.text, origin(span)) for span in gold_spans(EMBEDDED, ['F32.A'])] == [
        ('Depression, unspecified', 'title'),
        ('depression', 'title, natural form'),
        ('Depression NOS', 'inclusion_term'),
        ('Depressive disorder NOS', 'inclusion_term'),
        ('depressive disorder', 'inclusion_term, natural form'),
    ]


def test_a_seventh_character_is_joined_with_the_terms_of_the_code_above():
    found = {span.text: origin(span) for span in gold_spans(EMBEDDED, ['S52.322A'])}
    above = 'title of S52.322, seventh character'
    assert found['closed displaced transverse fracture of shaft of left radius'] == above
    assert found['displaced transverse fracture of shaft of left radius'] == above
    assert found['closed displaced transverse left radius shaft fracture'] == f'{above}, site first'
    assert 'sequela of displaced transverse fracture of shaft of left radius' in texts('S52.322S')
    driver = texts('V51.0XXS')
    assert any(text.startswith('driver of pick-up truck') and text.endswith(', late effect') for text in driver)
    assert not any(text.startswith('sequela of driver') for text in driver)


def test_a_rewording_leaves_its_words_to_the_code_that_has_them_as_title():
    # F10.230 is 'with withdrawal, uncomplicated', F10.239 'with withdrawal, unspecified'.
    assert 'alcohol dependence with withdrawal' in texts('F10.239')
    assert 'alcohol dependence with withdrawal' not in texts('F10.230')
    assert 'alcohol abuse' in texts('F10.10')


def test_vertebrae_are_no_codes():
    assert texts('S22.080A') != []


@pytest.mark.parametrize('forms', [PLAIN, PLAIN[::-1]])
def test_printed_and_natural_are_what_the_release_prints_and_its_natural_form(forms):
    for code in VARIANTS:
        terms = [EMBEDDED.title(code), *EMBEDDED.inclusion_terms(code)]
        expected = list(dict.fromkeys(fold(form) for term in terms for form in (term, natural_form(term))))
        found = [span for span in gold_spans(EMBEDDED, [code], forms) if not origin(span).startswith('includes')]
        assert [fold(span.text) for span in found] == expected
        # What running text has is there letter by letter.
        assert {natural_form(term) for term in terms} <= set(texts(code, forms))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(EMBEDDED.codes()), st.sets(st.sampled_from(FORMS), min_size=1))
def test_no_wording_twice_stable_ids_and_nothing_of_a_form_that_is_off(code, forms):
    spans = list(gold_spans(EMBEDDED, [code], sorted(forms)))
    folded = [fold(span.text) for span in spans]
    assert len(set(folded)) == len(folded)
    assert '' not in folded
    assert [span.span_id for span in spans] == [f'gold:{code}:{number}' for number in range(len(spans))]
    assert all(span.tier == 'gold' and span.code == code and span.text == span.text.strip() for span in spans)
    for form, mark in (
        ('abbreviations', 'abbreviated'),
        ('seventh_character', 'seventh character'),
        ('spelling', 'British'),
        ('reworded', 'site first'),
    ):
        assert form in forms or not any(mark in span.provenance for span in spans)
    if 'natural' in forms and ('reworded' in forms or 'abbreviations' not in forms):
        # Abbreviated is the last rewording, where there are any; natural forms stand for printed ones full of brackets.
        assert set(folded) <= {fold(text) for text in texts(code)} | {fold(EMBEDDED.title(code))}


def test_headers_incomplete_and_unknown_codes():
    assert texts('I50')[0] == 'heart failure'
    incomplete = list(gold_spans(EMBEDDED, ['W19.XXX', 'W19']))
    named = [span.text for span in incomplete if span.code == 'W19.XXX']
    assert named == [span.text for span in incomplete if span.code == 'W19'] != []
    assert {span.span_id.split(':')[1] for span in incomplete} == {'W19.XXX', 'W19'}
    assert texts('Q00.XX') == texts('Z99.99') == []


def test_notes_that_speak_of_codes_are_no_spans():
    assert any('classifiable' in note for note in EMBEDDED.includes('I70.22'))
    assert texts('I70.22') != []
    for code in ('I70.22', 'I11', 'G83', 'O11', 'B35'):
        assert not any(re.search(r'classifiable|any condition|[A-Z]\d\d', text) for text in texts(code)), code


def test_a_form_alone_yields_only_what_it_changes():
    assert texts('R42', ['abbreviations']) == texts('R42', ['spelling']) == []
    assert texts('D50.9', ['spelling'])[0] == 'iron deficiency anaemia'
    assert 'COPD' in texts('J44.9', ['abbreviations'])


def test_unknown_forms_are_refused():
    with pytest.raises(ValueError, match='bronze'):
        next(gold_spans(EMBEDDED, ['I10'], ['bronze']))


def test_every_billable_code_of_2026_has_spans_and_three_on_average():
    if not RELEASE_2026.is_dir():
        pytest.skip('the 2026 release is not here')
    release = Release.open([RELEASE_2026])
    codes = release.billable_codes()[::30]
    spans = list(gold_spans(release, codes))
    assert {span.code for span in spans} == set(codes)
    assert len(spans) >= 3 * len(codes)
    assert len({span.span_id for span in spans}) == len(spans)
    # Other than in names of drugs no text has the form of a code.
    coded = [span for span in spans if re.search(r'\b[A-TV-Z]\d\d\.\w', span.text)]
    assert not coded
