"""The TF-IDF baseline against scikit-learn's own one-vs-rest, brute force, and cases with one answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.evaluation import tfidf
from ccl_jax.evaluation.tfidf import best_threshold, fit_tfidf
from ccl_jax.records import Annotation, Document

pytest.importorskip('sklearn')

WORDS = {'I10': 'high blood pressure', 'E11.9': 'sweet urine', 'J45.909': 'wheezing at night'}


def document(name, codes, group=''):
    text = ' and '.join(WORDS.get(code, 'a rash') for code in codes)
    return Document(name, f'seen for {text} today', tuple(map(Annotation, codes)), group)


def corpus():
    """Forty documents; L30.9 is in one of them alone."""
    choices = [('I10',), ('E11.9',), ('I10', 'J45.909'), ('E11.9', 'J45.909'), ('E11.9', 'I10')]
    return [document(f'd{i}', choices[i % 5]) for i in range(39)] + [document('rare', ('I10', 'L30.9'))]


def test_codes_are_found_by_their_words_surest_first_and_one_with_a_single_document_never_is():
    model = fit_tfidf(corpus())
    for codes in (('I10',), ('E11.9', 'J45.909'), ('E11.9', 'I10')):
        answer = model.predict(document('new', codes)).codes
        assert {c.code for c in answer} == set(codes)
        assert [c.score for c in answer] == sorted((c.score for c in answer), reverse=True)
    assert 'L30.9' not in {c.code for c in model.predict(document('new', ('L30.9',))).codes}
    assert [code for _, code in model.codes] == ['E11.9', 'I10', 'J45.909']


def test_the_probabilities_are_those_of_one_vs_rest_in_scikit_learn():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer

    documents = [d for d in corpus() if d.doc_id != 'rare']
    model = fit_tfidf(documents)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    labels = MultiLabelBinarizer().fit(d.codes for d in documents)
    # The primal solver comes to the same optimum by another way.
    regression = LogisticRegression(C=10, class_weight='balanced', solver='liblinear', tol=1e-8, random_state=0)
    reference = OneVsRestClassifier(regression)
    reference.fit(vectorizer.fit_transform(d.text for d in documents), labels.transform(d.codes for d in documents))
    new = document('new', ('I10', 'J45.909'))
    expected = dict(zip(labels.classes_, reference.predict_proba(vectorizer.transform([new.text]))[0], strict=True))
    answer = model.predict(new).codes
    assert len(answer) >= 2
    for code in answer:
        assert code.score == pytest.approx(expected[code.code], abs=0.02)


def test_the_same_documents_and_seed_give_the_same_model():
    first, second = fit_tfidf(corpus(), seed=3), fit_tfidf(corpus(), seed=3)
    assert first.threshold == second.threshold
    np.testing.assert_array_equal(first.weights, second.weights)


def test_a_group_is_tuned_on_as_a_whole():
    documents = [document(f'd{i}', ('I10',), group=f'g{i % 10}') for i in range(40)]
    tuning = tfidf._tuning_documents(documents, seed=0)
    chosen = {d.group_id for d, held in zip(documents, tuning, strict=True) if held}
    assert len(chosen) == 2
    assert [d.group_id in chosen for d in documents] == list(tuning)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.booleans()), max_size=12), st.integers(0, 4))
def test_the_threshold_is_the_best_of_all(pairs, unseen):
    probabilities = np.array([p for p, _ in pairs])
    is_gold = np.array([g for _, g in pairs], bool)
    gold = int(is_gold.sum()) + unseen

    def f1(threshold):
        predicted = probabilities >= threshold
        total = predicted.sum() + gold
        return 2 * (predicted & is_gold).sum() / total if total else 0.0

    chosen = best_threshold(probabilities, is_gold, gold)
    assert f1(chosen) == pytest.approx(max(map(f1, (0.05, 0.1, 0.3, 0.5, 0.9, 2.0))))


def test_what_cannot_be_fitted_is_refused_with_the_mend(monkeypatch):
    with pytest.raises(UserError, match='more training documents'):
        fit_tfidf([])
    with pytest.raises(UserError, match='more training documents'):
        fit_tfidf([document(f'd{i}', ()) for i in range(10)])
    with pytest.raises(UserError, match='no word'):
        fit_tfidf([Document(f'd{i}', '- . -', (Annotation('I10'),)) for i in range(10)])
    monkeypatch.setattr(tfidf, 'MOST_WORK', 10)
    with pytest.raises(UserError, match=r'leave tfidf out of eval\.baselines'):
        fit_tfidf(corpus())


def test_a_code_of_every_document_is_always_predicted():
    documents = [document(f'd{i}', ('I10', 'E11.9') if i % 2 else ('I10',)) for i in range(20)]
    assert 'I10' in {c.code for c in fit_tfidf(documents).predict(Document('new', 'sweet urine')).codes}
