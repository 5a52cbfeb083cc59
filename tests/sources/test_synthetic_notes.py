"""The synthetic notes keep their promises: exact offsets, strata, unseen forms, determinism."""

import pytest

from ccl_jax.errors import UserError
from ccl_jax.evaluation.baselines import fit_lookup
from ccl_jax.evaluation.bootstrap import bootstrap
from ccl_jax.evaluation.metrics import pair_statistics
from ccl_jax.evaluation.pairs import CodePairs, align
from ccl_jax.evaluation.strata import Strata
from ccl_jax.expansion.expand import expand
from ccl_jax.expansion.settings import ExpansionSettings
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.release import Release
from ccl_jax.icd.terms import natural_form
from ccl_jax.records import document_from_json, document_to_json
from ccl_jax.sources.synthetic_notes import MARK, NoteSettings, SyntheticNotes
from ccl_jax.sources.synthetic_terms import VARIANTS

SETTINGS = NoteSettings(train=150, dev=20, test=150)


@pytest.fixture(scope='module')
def notes() -> SyntheticNotes:
    return SyntheticNotes(SETTINGS, Release.embedded())


@pytest.fixture(scope='module')
def corpus(notes):
    return {split: list(notes.documents(split)) for split in ('train', 'dev', 'test')}


@pytest.fixture(scope='module')
def spans(notes, corpus):
    space = notes.codes('S0') + notes.codes('S1')
    held_out = frozenset(notes.codes('S2'))
    settings = ExpansionSettings(forms=('printed', 'natural'))
    made = expand(corpus['train'], settings, Release.embedded(), code_space=space, held_out=held_out)
    return made.spans


def _folded(text: str) -> str:
    return ' '.join(text.lower().split())


def test_offsets_slice_back_and_every_note_is_marked(corpus):
    for documents in corpus.values():
        for document in documents:
            # The reader compares every offset with its text.
            assert document_from_json(document_to_json(document)) == document
            assert document.text.startswith(MARK)
            assert document.source == 'synthetic_notes'
            assert 'synthetic' in document.doc_id


def test_training_knows_s0_spans_know_s1_and_nothing_knows_s2(notes, corpus, spans):
    trained = {code for document in corpus['train'] for code in document.codes}
    assert trained <= set(notes.codes('S0'))
    in_spans = {span.code for span in spans}
    assert in_spans >= set(notes.codes('S1'))
    assert in_spans.isdisjoint(notes.codes('S2'))
    evaluated = {code for document in corpus['test'] for code in document.codes}
    for stratum in ('S0', 'S1', 'S2'):
        assert evaluated & set(notes.codes(stratum)), stratum


def test_no_training_text_holds_a_form_that_it_may_not_know(notes, corpus, spans):
    def holds(text: str, form: str) -> bool:
        return f' {form.lower()} ' in f' {text.lower()} '.replace(',', ' ').replace('.', ' ').replace(':', ' ')

    s2 = [form for code in notes.codes('S2') for form in notes.terms[code] + notes.variants[code]]
    s1_own = [form for code in notes.codes('S1') for form in notes.variants[code]]
    documents = ' '.join(document.text for document in corpus['train'])
    texts = ' '.join(text for _, text in notes.texts(200)).replace('\n', ' ')
    in_spans = ' '.join(f' {span.text} ;' for span in spans)
    # A word of several meanings ('sepsis' in 'septic picture') is no form; whole forms are compared.
    s0 = [form.lower() for code in notes.codes('S0') for form in notes.terms[code] + notes.variants[code]]
    for form in s2 + s1_own:
        if any(f' {form.lower()} ' in f' {known} ' for known in s0):
            continue
        assert not holds(documents, form), form
        assert not holds(texts, form), form
    for form in s1_own:
        assert not any(_folded(span.text) == _folded(form) for span in spans), form
    assert in_spans


def test_half_of_the_forms_of_each_s1_code_in_test_notes_are_in_no_span(notes, corpus, spans):
    known = {(span.code, _folded(span.text)) for span in spans}
    for code in notes.codes('S1'):
        forms = {
            _folded(evidence.text)
            for document in corpus['test']
            for annotation in document.annotations
            if annotation.code == code
            for evidence in annotation.evidence
        }
        unseen = {form for form in forms if (code, form) not in known}
        assert 2 * len(unseen) >= len(forms), code


def test_a_dictionary_neither_solves_the_corpus_nor_fails_on_it(notes, corpus, spans):
    lookup = fit_lookup(corpus['train'], spans)
    held_out = {(ICD10CM, code) for code in notes.codes('S2')}
    strata = Strata.from_training(corpus['train'], spans, held_out)
    pairs = CodePairs.of(align(corpus['test'], [lookup.predict(d) for d in corpus['test']]))
    statistics = pair_statistics(pairs.only(strata.stratum, 'S1'), valid_codes=set(), is_part=True)
    score = bootstrap(statistics, seed=0, samples=1)['micro_f1'].value
    assert score is not None
    assert 0.2 < score < 0.7


def test_same_settings_same_notes_other_seed_other_notes(notes, corpus):
    again = SyntheticNotes(SETTINGS, Release.embedded())
    assert list(again.documents('dev')) == corpus['dev']
    other = SyntheticNotes(NoteSettings(seed=1, dev=20), Release.embedded())
    assert list(other.documents('dev')) != corpus['dev']
    assert other.strata != notes.strata


def test_negated_and_family_mentions_are_no_evidence(corpus):
    for document in corpus['test']:
        for annotation in document.annotations:
            for evidence in annotation.evidence:
                ((begin, _),) = evidence.parts
                before = document.text[max(0, begin - 30) : begin]
                assert not before.endswith(('Denies ', 'No evidence of ', 'Mother had ', 'No family history of '))


def test_own_forms_are_not_forms_of_the_release():
    release = Release.embedded()
    for code, forms in VARIANTS.items():
        assert code in release, code
        printed = [release.title(code), *release.inclusion_terms(code)]
        known = {_folded(form) for term in printed for form in (term, natural_form(term))}
        assert known.isdisjoint({_folded(form) for form in forms}), code


def test_too_many_codes_are_refused():
    with pytest.raises(UserError, match='codes_s0'):
        SyntheticNotes(NoteSettings(codes_s0=500), Release.embedded())
