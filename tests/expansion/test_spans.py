"""Spans of a tiny corpus against hand-made ones, on the embedded release."""

import pytest

from ccl_jax.errors import UserError
from ccl_jax.expansion.spans import ExpansionSettings, document_spans, expand, gold_spans
from ccl_jax.icd.release import Release
from ccl_jax.icd.terms import natural_form
from ccl_jax.records import Annotation, Document, Evidence

TEXT = 'HTN and Htn; old heart failure'
DOCUMENT = Document(
    'd1',
    TEXT,
    (
        Annotation('I10', evidence=(Evidence(((0, 3),), 'HTN'), Evidence(((8, 11),), 'Htn'))),
        Annotation('I50.9', evidence=(Evidence(((17, 30),), 'heart failure'),)),
        Annotation('Z99.99', evidence=(Evidence(((13, 16),), 'old'),)),
    ),
)


@pytest.mark.parametrize(
    ('term', 'natural'),
    [
        ('Heart failure, unspecified', 'heart failure'),
        ('Essential (primary) hypertension', 'essential hypertension'),
        ('TIA', 'TIA'),
        ('Depression NOS', 'depression'),
        ('Otitis media, unspecified, unspecified ear', 'otitis media'),
        ('Pressure ulcer of unspecified site, unspecified stage', 'pressure ulcer'),
        ("Crohn's disease NOS", "Crohn's disease"),
        ('Miller Fisher Syndrome', 'Miller Fisher Syndrome'),
        ('Pleural effusion, not elsewhere classified', 'pleural effusion'),
        ('Unspecified fall', 'fall'),
        ('NOS', 'NOS'),
    ],
)
def test_natural_form(term, natural):
    assert natural_form(term) == natural


def test_gold_spans_are_the_terms_as_printed_and_as_written():
    found = [
        (span.text, span.provenance.split(': ')[1]) for span in gold_spans(Release.embedded(), ['F32.A', 'Q00.XX'])
    ]
    assert found == [
        ('Depression, unspecified', 'title'),
        ('depression', 'title, natural form'),
        ('Depression NOS', 'inclusion_term'),
        ('Depressive disorder NOS', 'inclusion_term'),
        ('depressive disorder', 'inclusion_term, natural form'),
    ]


def test_document_spans_once_per_wording_and_code():
    assert [(span.text, span.code) for span in document_spans([DOCUMENT, DOCUMENT])] == [
        ('HTN', 'I10'),
        ('heart failure', 'I50.9'),
        ('old', 'Z99.99'),
    ]


def test_span_ids_are_unique_where_references_share_a_beginning():
    evidence = (Evidence(((8, 11), (17, 22)), 'Htn heart'), Evidence(((8, 11), (23, 30)), 'Htn failure'))
    spans = list(document_spans([Document('d', TEXT, (Annotation('I11.0', evidence=evidence),))]))
    assert len({span.span_id for span in spans}) == len(spans) == 2


def test_categories_scope_and_held_out_codes():
    release = Release.embedded()
    settings = ExpansionSettings(scope='categories', held_out_share=0.5)
    made = expand([DOCUMENT], settings, release)
    codes = {span.code for span in made.spans}
    assert codes >= {'I10', 'I50.9', 'Z99.99'}, 'codes of training documents are never held out'
    assert made.held_out.isdisjoint(codes)
    in_category = {code for code in release.billable_codes() if code[:3] in ('I10', 'I50', 'Z99')}
    assert codes - {'Z99.99'} == in_category - made.held_out
    outside = {code for code in release.codes() if code not in ('I10', 'I50.9')}
    assert 0.48 < len(made.held_out & outside) / len(outside) < 0.52
    assert expand([DOCUMENT], settings, release).held_out == made.held_out
    assert made.report['dropped_held_out'] > 0


def test_tiers_and_cap():
    release = Release.embedded()
    only = expand([DOCUMENT], ExpansionSettings(tiers=('document',)), release)
    assert {span.tier for span in only.spans} == {'document'}
    capped = expand([DOCUMENT], ExpansionSettings(tiers=('gold',), scope='release', max_gold_spans=50), release)
    assert len(capped.spans) == 50
    with pytest.raises(UserError, match='scope'):
        expand([DOCUMENT], ExpansionSettings(scope='source'), release)
