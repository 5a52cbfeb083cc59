"""Ranked metrics against cases worked by hand, scikit-learn, and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.evaluation.metrics import code_metrics
from ccl_jax.evaluation.ranked import KS
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.records import Annotation, Document, PredictedCode, Prediction

LETTERS = 'ABCDEFGH'
VALID = frozenset((ICD10CM, letter) for letter in LETTERS)


def values(golds, rankings, groups=None, **arguments):
    """Metric values of one-letter codes; a ranking is a string, or None where there is no prediction."""
    documents = [
        Document(f'd{i}', 'note', tuple(Annotation(code) for code in codes), group_id=groups[i] if groups else '')
        for i, codes in enumerate(golds)
    ]
    answers = [
        Prediction(f'd{i}', tuple(PredictedCode(code) for code in codes))
        for i, codes in enumerate(rankings)
        if codes is not None
    ]
    estimates = code_metrics(documents, answers, valid_codes=VALID, seed=0, samples=3, **arguments)
    return {name: estimate.value for name, estimate in estimates.items()}


def test_one_ranking_worked_by_hand():
    # Places: B 1 (wrong), A 2 (right), Z 3 (invented: wrong), C 4 (right), D missing. |G| = 3.
    result = values(['ACD'], ['BAZC'])
    assert [result[f'precision_at_{k}'] for k in KS] == pytest.approx([0, 1 / 3, 2 / 5, 2 / 8, 2 / 10, 2 / 15])
    assert [result[f'recall_at_{k}'] for k in KS] == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    # Among the first three: A.
    assert result['r_precision'] == pytest.approx(1 / 3)
    # Precision at A 1/2, at C 2/4, at D 0.
    assert result['map'] == pytest.approx((1 / 2 + 2 / 4 + 0) / 3)
    # Without Z, C comes third: 2/3.
    assert result['map_codiesp'] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)


def test_a_repeated_code_counts_at_its_first_place():
    once, twice = values(['AC'], ['BAC']), values(['AC'], ['BBABC'])
    assert {name: once[name] for name in once} == twice


def test_which_documents_a_mean_is_over():
    # 0: perfect. 1: no prediction. 2: only an invented code. 3: no gold codes, one predicted.
    result = values(['A', 'B', 'C', ''], ['A', None, 'Z', 'A'])
    assert result['precision_at_1'] == pytest.approx((1 + 0 + 0 + 0) / 4)
    # Recall, R-precision and average precision say nothing about document 3.
    for name in ('recall_at_1', 'r_precision', 'map'):
        assert result[name] == pytest.approx((1 + 0 + 0) / 3), name
    # CodiEsp: documents 1 and 2 have no valid prediction, document 3 has no gold codes.
    assert result['map_codiesp'] == 1
    assert values(['C'], ['Z'])['map_codiesp'] is None


def test_codiesp_stops_at_place_1000():
    codes = [f'X{i:04}' for i in range(1001)]
    documents = [Document('d', 'note', (Annotation(codes[-1]), Annotation(codes[999])))]
    answers = [Prediction('d', tuple(map(PredictedCode, codes)))]
    valid = {(ICD10CM, code) for code in codes}
    result = code_metrics(documents, answers, valid_codes=valid, seed=0, samples=2)
    assert result['map'].value == pytest.approx((1 / 1000 + 2 / 1001) / 2)
    assert result['map_codiesp'].value == pytest.approx(1 / 1000 / 2)


def test_rankings_of_a_group_are_merged_place_by_place():
    # d0: A B C, d1: D A: first places A D, second places B (A is there already), third C.
    result = values(['C', 'D'], ['ABC', 'DA'], groups=['g', 'g'], by='group')
    # Ranking A D B C, G = {C, D}: precision at D 1/2, at C 2/4.
    assert result['map'] == pytest.approx((1 / 2 + 2 / 4) / 2)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_average_precision_agrees_with_scikit_learn_where_all_labels_are_ranked(data):
    sklearn = pytest.importorskip('sklearn.metrics')
    count = data.draw(st.integers(1, 4))
    golds = [data.draw(st.sets(st.sampled_from(LETTERS), min_size=1)) for _ in range(count)]
    rankings = [data.draw(st.permutations(LETTERS)) for _ in range(count)]
    truth = [[letter in gold for letter in LETTERS] for gold in golds]
    scores = [[-ranking.index(letter) for letter in LETTERS] for ranking in rankings]
    result = values(golds, rankings)
    expected = np.mean([sklearn.average_precision_score(t, s) for t, s in zip(truth, scores, strict=True)])
    assert result['map'] == pytest.approx(expected)
    assert result['map_codiesp'] == pytest.approx(expected)
    assert result['map'] == pytest.approx(sklearn.label_ranking_average_precision_score(np.array(truth), scores))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sets(st.sampled_from(LETTERS)), st.text('ABCDEFGHYZ', max_size=12)), min_size=1, max_size=5)
)
def test_agrees_with_brute_force(split):
    golds, rankings = [gold for gold, _ in split], [ranking for _, ranking in split]
    result = values(golds, rankings)
    if not any(golds):
        assert result['map'] is None
        return

    def average_precision(gold, ranking):
        right = [sum(code in gold for code in ranking[: i + 1]) / (i + 1) for i, c in enumerate(ranking) if c in gold]
        return sum(right) / len(gold)

    distinct = [list(dict.fromkeys(ranking)) for ranking in rankings]
    with_gold = [(g, r) for g, r in zip(golds, distinct, strict=True) if g]
    assert result['map'] == pytest.approx(np.mean([average_precision(g, r) for g, r in with_gold]))
    for k in KS:
        precision = np.mean([len(g & set(r[:k])) / k for g, r in zip(golds, distinct, strict=True)])
        assert result[f'precision_at_{k}'] == pytest.approx(precision)
        assert result[f'recall_at_{k}'] == pytest.approx(np.mean([len(g & set(r[:k])) / len(g) for g, r in with_gold]))
    expected = np.mean([len(g & set(r[: len(g)])) / len(g) for g, r in with_gold])
    assert result['r_precision'] == pytest.approx(expected)
    valid = [(g, [code for code in r if code in LETTERS]) for g, r in with_gold]
    official = [average_precision(g, r) for g, r in valid if r]
    assert result['map_codiesp'] == (pytest.approx(np.mean(official)) if official else None)
