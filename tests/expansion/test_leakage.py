"""Leaks against hand-worked cases, a planted span, and a search by brute force."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.expansion.leakage import DRAWN, SHARED, Leakage
from ccl_jax.icd.folding import fold
from ccl_jax.records import Document, Span

TEXT = 'The patient, aged 70, was admitted with acute pain of the left knee. Fever since\nMonday; no Rash.'


def _span(text: str, provenance: str = 'a release: title') -> Span:
    return Span('s', text, 'R50.9', 'gold', provenance)


@pytest.mark.parametrize(
    ('provenance', 'reason'),
    [
        ('doc:dev1', DRAWN),
        ('doc:dev1, silver: terms: title of R50.9', DRAWN),
        ('doc:dev1, edited from R50.8: other -> unspecified; title', DRAWN),
        ('doc:dev12', ''),
        ('doc:dev1 ', ''),
        ('doc:Smith, John', DRAWN),
        ('doc:Smith, John, silver: terms: title', DRAWN),
        ('doc:Smith', ''),
        ('edited from R50.8: doc:dev1', ''),
        ('dev1', ''),
    ],
)
def test_provenance(provenance, reason):
    leakage = Leakage([Document('dev1', TEXT), Document('Smith, John', 'x')])
    assert leakage.reasons([_span('chills', provenance)]) == [reason]


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('admitted with acute pain of the left knee', SHARED),
        ('ADMITTED with acute pain: of the left, knée; and more words', SHARED),
        ('left knee fever since monday no rash', ''),
        ('of the left knee fever since monday no', SHARED),
        ('acute pain of the left knee', ''),
        ('fever', ''),
        ('pain of the left knee with acute admitted was patient', ''),
        ('no rash the patient aged 70 was admitted', ''),
        ('', ''),
    ],
)
def test_runs_of_eight_words(text, reason):
    assert Leakage([Document('dev1', TEXT)]).reasons([_span(text)]) == [reason]


def test_no_run_goes_across_two_documents_and_none_leaks_without_documents():
    leakage = Leakage([Document('a', 'one two three four'), Document('b', 'five six seven eight')])
    assert leakage.reasons([_span('one two three four five six seven eight')]) == ['']
    assert Leakage([]).reasons([_span(TEXT, 'doc:dev1'), _span('fever')]) == ['', '']
    with pytest.raises(ValueError, match='run'):
        Leakage([], run=0)


_WORDS = st.lists(st.sampled_from('ab'), max_size=12).map(' '.join)


@given(st.lists(_WORDS, max_size=3), st.lists(_WORDS, max_size=5), st.integers(1, 5))
def test_runs_as_found_by_brute_force(texts, spans, run):
    documents = [Document(f'd{i}', text) for i, text in enumerate(texts)]

    def shares(text: str) -> bool:
        words = text.split()
        runs = [' '.join(words[i : i + run]) for i in range(len(words) - run + 1)]
        return any(f' {words} ' in f' {fold(document)} ' for words in runs for document in texts)

    expected = [SHARED if shares(text) else '' for text in spans]
    assert Leakage(documents, run).reasons([_span(text) for text in spans]) == expected


def test_many_spans_keep_their_order():
    source = random.Random(0)
    words = [f'w{i}' for i in range(50)]
    document = Document('d', ' '.join(source.choices(words, k=500)))
    in_document = document.text.split()
    leaking = [source.random() < 0.1 for _ in range(60_000)]
    spans = []
    for leaks in leaking:
        begin = source.randrange(400)
        spans.append(_span(' '.join(in_document[begin : begin + 9] if leaks else ['new', *source.choices(words, k=6)])))
    assert Leakage([document]).reasons(spans) == [SHARED if leaks else '' for leaks in leaking]


def test_texts_that_share_a_run():
    leakage = Leakage([Document('dev1', TEXT)])
    assert leakage.shares(['Admitted with acute pain of the left knee.', 'acute pain', '']) == [True, False, False]
