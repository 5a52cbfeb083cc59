"""Baselines against hand-worked cases and a brute-force matcher."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.evaluation.baselines import fit_lookup, fit_majority, release_terms
from ccl_jax.evaluation.grounding import folded_words
from ccl_jax.evaluation.metrics import code_metrics
from ccl_jax.icd.codes import normalize_code
from ccl_jax.icd.release import Release
from ccl_jax.records import Annotation, Document, Evidence, Span, slice_evidence

CODIESP = Path(__file__).parents[3] / 'shared' / 'data' / 'codiesp'


def span(text, code):
    return Span(f'{text}:{code}', text, code, 'gold', 'title')


def document(text, annotated=(), name='d'):
    """`annotated`: (quote, code) pairs; every quote is annotated at its first occurrence."""
    annotations = tuple(
        Annotation(code, evidence=(Evidence(((text.index(quote), text.index(quote) + len(quote)),), quote),))
        for quote, code in annotated
    )
    return Document(name, text, annotations)


def found(lookup, text):
    return [(c.code, [e.text for e in c.evidence]) for c in lookup.predict(Document('d', text)).codes]


def test_whole_words_longest_first_without_overlap_in_order_of_the_first_hit():
    spans = [span('renal failure', 'N19'), span('acute renal failure', 'N17.9'), span('failure', 'R69')]
    lookup = fit_lookup([], spans)
    text = 'Failure to thrive; ACUTE  renal-failure. Renal failures, renal failure. Failure.'
    assert found(lookup, text) == [
        ('R69', ['Failure', 'Failure']),
        ('N17.9', ['ACUTE  renal-failure']),
        ('N19', ['renal failure']),
    ]


def test_the_longest_term_wins_over_one_that_begins_earlier():
    lookup = fit_lookup([], [span('a b', 'A'), span('b c d', 'B')])
    assert found(lookup, 'a b c d') == [('B', ['b c d'])]


def test_accents_are_kept_and_offsets_slice_the_original_text():
    lookup = fit_lookup([], [span('Fibrilación auricular', 'I48.91')])
    text = 'fibrilacion auricular, luego FIBRILACIO\u0301N,\n AURICULAR.'
    (code,) = lookup.predict(Document('d', text)).codes
    (evidence,) = code.evidence
    assert evidence.text == slice_evidence(text, evidence.parts) == 'FIBRILACIO\u0301N,\n AURICULAR'


def test_tau_filters_strings_that_are_seldom_annotated():
    # 'pain' stands five times in the training documents and is annotated once: 0.2.
    documents = [document('pain. pain pain', [('pain', 'R52')], 'a'), document('Pain, then pain again', name='b')]
    assert found(fit_lookup(documents, tau=0.2), 'pain') == [('R52', ['pain'])]
    assert found(fit_lookup([*documents, document('pain', name='c')], [span('ache', 'R52')], tau=0.2), 'pain') == []
    # A span's string that no training document holds always passes; one that stands there unannotated does not.
    spans = [span('ache', 'R52'), span('again', 'Z99')]
    assert found(fit_lookup(documents, spans, tau=1), 'ache again') == [('R52', ['ache'])]
    assert found(fit_lookup(documents, spans, tau=0), 'ache again') == [('R52', ['ache']), ('Z99', ['again'])]


def test_a_code_without_evidence_supports_its_words_anywhere_in_its_document():
    coded = Document('a', 'gout. gout', (Annotation('M10.9'),))
    spans = [span('gout', 'M10.9'), span('x', 'Z99')]
    # Two of three occurrences stand in a document of the code; with evidence elsewhere they would not count.
    assert found(fit_lookup([coded, document('gout', name='b')], spans, tau=0.6), 'gout') == [('M10.9', ['gout'])]
    assert found(fit_lookup([coded, document('gout', name='b')], spans, tau=0.7), 'gout') == []
    elsewhere = document('gout. podagra', [('podagra', 'M10.9')], 'a')
    assert found(fit_lookup([elsewhere], spans, tau=0.2), 'gout') == []


TABULAR = """<ICD10CM.tabular><version>2026</version><chapter><name>9</name><desc>Heart</desc><section id="I00-I99">
<desc>Heart (I00-I99)</desc>
  <diag><name>I10</name><desc>Essential (primary) hypertension</desc>
    <inclusionTerm><note>High blood pressure</note></inclusionTerm></diag>
  <diag><name>I50</name><desc>Heart failure</desc>
    <diag><name>I50.1</name><desc>Left ventricular failure, unspecified</desc></diag>
    <diag><name>I50.9</name><desc>Cardiac decompensation</desc></diag></diag>
</section></chapter></ICD10CM.tabular>
"""


def test_terms_of_the_release_are_looked_up_but_not_those_held_out(tmp_path):
    (tmp_path / 'tabular.xml').write_text(TABULAR)
    release = Release.from_tabular(tmp_path / 'tabular.xml')
    text = (
        'High blood pressure, left ventricular failure. Cardiac decompensation; heart failure. Essential hypertension'
    )
    lookup = fit_lookup([], release_terms(release, (), {'I50.9'}))
    # The header I50 is no billable code; it is looked up where training documents carry it.
    assert found(lookup, text) == [
        ('I10', ['High blood pressure', 'Essential hypertension']),
        ('I50.1', ['left ventricular failure']),
    ]
    lookup = fit_lookup([], release_terms(release, ['I50', 'Z99.99'], {'I50.9'}))
    assert ('I50', ['heart failure']) in found(lookup, text)


def test_a_filtered_term_does_not_hide_a_shorter_one():
    documents = [document('chest pain. chest pain. chest pain', [('chest pain', 'R07.9')])]
    lookup = fit_lookup(documents, [span('pain', 'R52')], tau=0.5)
    assert found(lookup, 'chest pain') == []
    spans = [span('chest', 'R07.9')]
    assert found(fit_lookup([document('x')], [*spans, span('chest pain', 'R07.89')]), 'chest pain') == [
        ('R07.89', ['chest pain'])
    ]
    other = [document('no chest pain. no chest pain', name='b'), document('chest', [('chest', 'R07.9')], 'c')]
    assert found(fit_lookup(other, [span('chest pain', 'R07.89')]), 'chest pain') == [('R07.9', ['chest'])]


def test_an_annotation_counts_at_its_own_words_only():
    # The reference 'pain ... left' is discontinuous, so the words 'pain left' that stand together are not annotated.
    text = 'pain on the left; pain left'
    annotation = Annotation('M79.602', evidence=(Evidence(((0, 4), (12, 16)), 'pain left'),))
    documents = [Document('d', text, (annotation,))]
    assert found(fit_lookup(documents, [span('x', 'Z99')], tau=0.2), 'pain left') == []
    # Nor are the words 'pain on', which are as many as the reference has and begin where it begins.
    assert found(fit_lookup(documents, [span('pain on', 'M79.602'), span('x', 'Z99')], tau=0.2), 'pain on') == []
    assert found(fit_lookup(documents, tau=0), 'pain left') == [('M79.602', ['pain left'])]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from('abc'), min_size=1, max_size=3), min_size=1, max_size=5),
    st.lists(st.sampled_from('abcd'), max_size=12),
)
def test_hits_agree_with_a_brute_force_matcher(terms, words):
    lookup = fit_lookup([], [span(' '.join(term), ''.join(term).upper()) for term in terms])
    expected, free = [], [True] * len(words)
    for length in (3, 2, 1):
        for i in range(len(words) - length + 1):
            if words[i : i + length] in terms and all(free[i : i + length]):
                free[i : i + length] = [False] * length
                expected.append((2 * i, 2 * (i + length) - 1, ''.join(words[i : i + length]).upper()))
    prediction = lookup.predict(Document('d', ' '.join(words)))
    hits = [(*part, c.code) for c in prediction.codes for e in c.evidence for part in e.parts]
    assert sorted(hits) == sorted(expected)
    first = {code: min(b for b, _, other in expected if other == code) for _, _, code in expected}
    assert [c.code for c in prediction.codes] == sorted(first, key=lambda code: first[code])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40), st.lists(st.text(max_size=10), min_size=1, max_size=4))
def test_hits_in_any_text_slice_back_and_fold_to_a_term(text, terms):
    lookup = fit_lookup([], [span(term, 'I10') for term in terms] + [span('x', 'I10')])
    for code in lookup.predict(Document('d', text)).codes:
        for evidence in code.evidence:
            assert evidence.text == slice_evidence(text, evidence.parts)
            assert tuple(word for word, _, _ in folded_words(evidence.text)) in lookup.codes


def test_majority_takes_the_rounded_mean_number_of_codes():
    documents = [
        Document('a', 'x', (Annotation('I10'), Annotation('R52'), Annotation('R52'))),
        Document('b', 'x', (Annotation('I10'), Annotation('E11.9'))),
        Document('c', 'x', (Annotation('R52'),)),
    ]
    # Five distinct (document, code) in three documents: two codes.
    majority = fit_majority(documents)
    assert [c.code for c in majority.predict(Document('new', 'y')).codes] == ['I10', 'R52']
    assert majority.predict(Document('new', 'y')).doc_id == 'new'


def test_nothing_to_learn_from_is_refused():
    for fit in (lambda: fit_lookup([]), lambda: fit_lookup([], [span('...', 'I10')]), lambda: fit_majority([])):
        with pytest.raises(UserError):
            fit()
    with pytest.raises(UserError, match='tau'):
        fit_lookup([], [span('x', 'I10')], tau=1.5)


def read_codiesp(split):
    texts = {path.stem: path.read_text(encoding='utf-8') for path in (CODIESP / split / 'text_files').glob('*.txt')}
    codes = {name: {} for name in texts}
    for line in (CODIESP / split / f'{split}D.tsv').read_text(encoding='utf-8').splitlines():
        name, code = line.split('\t')[:2]
        codes[name][normalize_code(code)] = []
    for line in (CODIESP / split / f'{split}X.tsv').read_text(encoding='utf-8').split('\n'):
        name, label, code, _, offsets = line.split('\t') if line else ('', '', '', '', '')
        if label == 'DIAGNOSTICO':
            parts = tuple(sorted(tuple(int(i) for i in part.split()) for part in offsets.split(';')))
            evidence = Evidence(parts, slice_evidence(texts[name], parts))
            codes[name].setdefault(normalize_code(code), []).append(evidence)
    return [
        Document(name, texts[name], tuple(Annotation(code, evidence=tuple(e)) for code, e in codes[name].items()))
        for name in texts
    ]


@pytest.mark.skipif(not CODIESP.is_dir(), reason='CodiEsp is not at ../shared/data/codiesp')
def test_codiesp_dev_lies_where_an_independent_prototype_put_it():
    # The prototype: tau 0.2, P .869, R .536, micro F1 .663, macro_f1_active .328, macro_f1_gold .337.
    documents = read_codiesp('dev')
    lookup = fit_lookup(read_codiesp('train'), tau=0.2)
    result = code_metrics(documents, [lookup.predict(d) for d in documents], valid_codes=frozenset(), seed=0, samples=2)
    assert result['micro_precision'].value == pytest.approx(0.869, abs=0.015)
    assert result['micro_recall'].value == pytest.approx(0.536, abs=0.01)
    assert result['micro_f1'].value == pytest.approx(0.663, abs=0.01)
    assert result['macro_f1_active'].value == pytest.approx(0.328, abs=0.01)
    assert result['macro_f1_gold'].value == pytest.approx(0.337, abs=0.01)
