"""All tiers together, on a tiny corpus and the embedded release."""

import dataclasses
import json

import pytest

from ccl_jax.errors import UserError
from ccl_jax.expansion.documents import document_spans
from ccl_jax.expansion.expand import expand
from ccl_jax.expansion.held_out import draw_held_out, held_out_to_json, read_held_out
from ccl_jax.expansion.settings import ExpansionSettings, FilterSettings
from ccl_jax.icd.release import Release
from ccl_jax.icd.terms import natural_form
from ccl_jax.records import Annotation, Document, Evidence, Span

TEXT = 'HTN and Htn; old heart failure. Cough. Type 2 diabetes mellitus.'
DOCUMENT = Document(
    'd1',
    TEXT,
    (
        Annotation('I10', evidence=(Evidence(((0, 3),), 'HTN'), Evidence(((8, 11),), 'Htn'))),
        Annotation('I50.9', evidence=(Evidence(((17, 30),), 'heart failure'),)),
        Annotation('Z99.99', evidence=(Evidence(((13, 16),), 'old'),)),
        Annotation('E11'),
    ),
)
UNFILTERED = FilterSettings(round_trip_depth=0)


@pytest.fixture(scope='module')
def release():
    return Release.embedded()


def _settings(**changes):
    return ExpansionSettings(**{'scope': 'categories', 'filters': UNFILTERED, **changes})


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


def test_document_spans_once_per_wording_and_code():
    found = Annotation('R05.9', evidence=(Evidence(((32, 37),), 'Cough', origin='terms: title'),))
    documents = [DOCUMENT, dataclasses.replace(DOCUMENT, annotations=(*DOCUMENT.annotations, found))]
    assert [(span.text, span.code, span.tier, span.provenance) for span in document_spans(documents)] == [
        ('HTN', 'I10', 'document', 'doc:d1'),
        ('heart failure', 'I50.9', 'document', 'doc:d1'),
        ('old', 'Z99.99', 'document', 'doc:d1'),
        ('Cough', 'R05.9', 'silver', 'doc:d1, terms: title'),
    ]


def test_span_ids_are_unique_where_references_share_a_beginning():
    evidence = (Evidence(((8, 11), (17, 22)), 'Htn heart'), Evidence(((8, 11), (23, 30)), 'Htn failure'))
    spans = list(document_spans([Document('d', TEXT, (Annotation('I11.0', evidence=evidence),))]))
    assert len({span.span_id for span in spans}) == len(spans) == 2


def test_categories_scope_and_held_out_codes(release):
    made = expand([DOCUMENT], _settings(held_out_share=0.5), release)
    codes = {span.code for span in made.spans}
    assert codes >= {'I10', 'I50.9', 'Z99.99', 'E11'}, 'codes of training documents are never held out'
    assert made.held_out.isdisjoint(codes)
    in_category = {code for code in release.billable_codes() if code[:3] in ('I10', 'I50', 'Z99', 'E11')}
    assert codes - {'Z99.99', 'E11'} == in_category - made.held_out
    outside = {code for code in release.codes() if code not in ('I10', 'I50.9', 'E11')}
    assert 0.48 < len(made.held_out & outside) / len(outside) < 0.52
    assert expand([DOCUMENT], _settings(held_out_share=0.5), release).held_out == made.held_out
    assert made.report['counts']['codes in scope that are held out'] == len(in_category & made.held_out)


@pytest.mark.slow
def test_no_tier_carries_a_held_out_code(release):
    own = [Span('o1', 'dry cough', 'R05.1', 'gold', 'mine'), Span('o2', 'wet cough', 'R05.2', 'gold', 'mine')]
    tiers = ('gold', 'document', 'silver', 'synthetic')
    settings = _settings(tiers=tiers, scope='release')
    made = expand([DOCUMENT], settings, release, own_spans=own, held_out=frozenset({'R05.1', 'J18.9'}))
    codes = {span.code for span in made.spans}
    assert codes.isdisjoint({'R05.1', 'J18.9'})
    assert {'R05.2', 'J15.9'} <= codes
    assert made.report['counts']['own spans of held-out codes'] == 1
    # The silver words are a gold term too, and stay as that.
    assert {span.tier for span in made.spans} == {'gold', 'document', 'synthetic'}
    assert made.report['filters']['dropped']['duplicate']['silver'] == 1


def test_whether_a_code_is_drawn_depends_on_nothing_else():
    codes = [f'A{number:02d}' for number in range(100)]
    drawn = draw_held_out(codes, (), 0.4, seed=1)
    assert 20 < len(drawn) < 60
    assert draw_held_out(reversed(codes[50:]), (), 0.4, seed=1) == drawn & set(codes[50:])
    assert draw_held_out(codes, {'A00', 'A01'}, 0.4, seed=1) == drawn - {'A00', 'A01'}
    assert draw_held_out(codes, (), 0.4, seed=2) != drawn
    assert (draw_held_out(codes, (), 0, 1), draw_held_out(codes, (), 1, 1)) == (frozenset(), frozenset(codes))


def test_held_out_codes_of_a_file(release, tmp_path):
    path = tmp_path / 'held_out.json'
    path.write_text(held_out_to_json({'J18.9', 'R05.1'}, 0.4, 0))
    assert read_held_out(path) == {'J18.9', 'R05.1'}
    made = expand([DOCUMENT], _settings(held_out_file=str(path)), release)
    assert made.held_out == {'J18.9', 'R05.1'}
    path.write_text(json.dumps({'codes': ['i10', 'j189']}))
    with pytest.raises(UserError, match=r'1 codes of .* carried by training documents, I10 first'):
        expand([DOCUMENT], _settings(held_out_file=str(path)), release)
    for content in ('', '[]', '{"codes": 3}', '{"codes": [3]}'):
        path.write_text(content)
        with pytest.raises(UserError, match='no list of held-out codes'):
            read_held_out(path)
    with pytest.raises(UserError, match='cannot read'):
        read_held_out(tmp_path / 'none.json')


def test_silver_is_looked_for_where_nothing_is_annotated(release):
    spans = expand([DOCUMENT], _settings(tiers=('silver',)), release).spans
    assert [(span.text, span.code, span.tier) for span in spans] == [('Type 2 diabetes mellitus', 'E11', 'silver')]
    assert spans[0].provenance.startswith('doc:d1, ')


def test_evaluation_documents_do_not_leak(release):
    words = 'chronic cough of a smoker who worked in the mines for years'
    own = [
        Span('drawn', 'cough of smokers', 'J41.0', 'silver', 'doc:e1, someone'),
        Span('shared', 'cough of a smoker who worked in the mines', 'J41.0', 'silver', 'doc:d9'),
        Span('seven', 'cough of a smoker who worked in', 'J41.0', 'silver', 'doc:d9'),
        Span('equal', 'chronic cough', 'R05.3', 'gold', 'title'),
    ]
    evaluation = [Document('e1', f'Chronic cough. {words}.')]
    settings = _settings(tiers=(), held_out_share=0.0)
    made = expand([DOCUMENT], settings, release, own_spans=own, evaluation=evaluation)
    assert sorted(span.span_id for span in made.spans) == ['equal', 'seven']
    assert sum(map(len, made.report['filters']['dropped'].values())) == 2


def test_documents_of_one_id(release):
    settings = _settings(tiers=('document',), held_out_share=0.0)
    same = expand([DOCUMENT], settings, release, evaluation=[DOCUMENT])
    other = expand([DOCUMENT], settings, release, evaluation=[Document('d1', 'Another note by the same name.')])
    assert (len(same.spans), len(other.spans)) == (0, 3)


def test_a_model_writes_synthetic_spans(release):
    asked = []

    def generate(prompts):
        asked.extend(prompts)
        return [json.dumps({'phrases': ['a wholly new phrase']}) for _ in prompts]

    settings = _settings(tiers=('gold', 'synthetic'), spans_per_code=50, held_out_share=0.0)
    made = expand([DOCUMENT], settings, release, generate=generate)
    assert asked
    # The same phrase for many codes says nothing of any.
    assert not [span for span in made.spans if span.tier == 'synthetic']
    assert made.report['counts']['prompts asked'] == len(asked)


def test_bad_settings(release):
    with pytest.raises(UserError, match='scope'):
        expand([DOCUMENT], ExpansionSettings(scope='source'), release)
    for changes, message in (
        ({'tiers': ('bronze',)}, 'bronze'),
        ({'finder': 'oracle'}, 'terms, endpoint, model'),
        ({'generator': 'oracle'}, 'rules, endpoint, model'),
        ({'forms': ('loud',)}, 'printed'),
        ({'held_out_share': 1.5}, 'between 0 and 1'),
        ({'spans_per_code': 0}, 'at least 1'),
    ):
        with pytest.raises(UserError, match=message):
            ExpansionSettings(**changes)
