"""The plots: their numbers by hand and against scikit-learn, their pictures by opening them."""

import io

import numpy as np
import pytest
from PIL import Image

from ccl_jax.evaluation.plots import (
    Confusion,
    Point,
    bucket_scores,
    code_frequencies,
    evaluation_plots,
    evidence_lengths,
    precision_recall,
    sibling_confusions,
)
from ccl_jax.evaluation.strata import Strata
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.records import Annotation, Document, Evidence, PredictedCode, Prediction

FILES = {'precision_recall.png', 'frequency.png', 'siblings.png', 'evidence_lengths.png'}


def gold(name, *codes):
    return Document(name, 'text', tuple(map(Annotation, codes)))


def answer(name, **scores):
    """Codes as keywords, 'I50_9' for I50.9."""
    codes = tuple(PredictedCode(code.replace('_', '.'), score=score) for code, score in scores.items())
    return Prediction(name, codes)


def quote(text):
    return Evidence((), text)


def key(code):
    return ICD10CM, code


def test_precision_and_recall_at_each_threshold():
    documents = [gold('a', 'I10', 'E11.9'), gold('b', 'R52')]
    predictions = [answer('a', I10=-1.0, R52=-2.0), answer('b', R52=-2.0, I10=-3.0)]
    # One of one right; then two more at one threshold, one of them right; then a wrong one. Three pairs are gold.
    assert precision_recall(documents, predictions) == [
        Point(1.0, 1 / 3, -1.0),
        Point(2 / 3, 2 / 3, -2.0),
        Point(2 / 4, 2 / 3, -3.0),
    ]


def test_the_curve_agrees_with_scikit_learn_where_everything_is_scored():
    metrics = pytest.importorskip('sklearn.metrics')
    generator = np.random.default_rng(0)
    names = [f'A{i:02d}' for i in range(30)]
    is_gold = generator.random((20, 30)) < 0.2
    scores = np.round(generator.normal(is_gold, 1.0), 1)
    documents = [gold(f'd{i}', *(n for n, g in zip(names, row, strict=True) if g)) for i, row in enumerate(is_gold)]
    predictions = [answer(f'd{i}', **dict(zip(names, map(float, row), strict=True))) for i, row in enumerate(scores)]
    precision, recall, thresholds = metrics.precision_recall_curve(is_gold.ravel(), scores.ravel())
    points = precision_recall(documents, predictions)
    np.testing.assert_allclose([p.threshold for p in points], thresholds[::-1])
    # scikit-learn adds the point of no prediction.
    np.testing.assert_allclose([p.precision for p in points], precision[-2::-1])
    np.testing.assert_allclose([p.recall for p in points], recall[-2::-1])


def test_without_a_score_there_is_one_point_and_without_predictions_none():
    documents = [gold('a', 'I10', 'E11.9')]
    assert precision_recall(documents, [answer('a', I10=None, R52=-1.0, N19=None)]) == [Point(1 / 3, 1 / 2, None)]
    assert precision_recall(documents, [answer('a')]) == []
    # A code that is written twice counts once, by its surest line.
    twice = Prediction('a', (PredictedCode('I10', score=-3.0), PredictedCode('I10', score=-1.0)))
    assert precision_recall(documents, [twice]) == [Point(1.0, 1 / 2, -1.0)]


def test_f1_and_training_frequency_of_each_code():
    documents = [gold('a', 'I10', 'E11.9'), gold('b', 'I10')]
    predictions = [answer('a', I10=None, R52=None), answer('b')]
    found = code_frequencies(documents, predictions, {key('I10'): 7, key('E11.9'): 2})
    # I10: one hit, one miss: 2 / (2 + 1).
    assert found == [(key('E11.9'), 2, 0.0), (key('I10'), 7, 2 / 3), (key('R52'), 0, 0.0)]


def test_micro_f1_of_the_buckets_by_hand():
    documents = [gold('a', 'I10', 'E11.9', 'R52'), gold('b', 'I10', 'N19')]
    predictions = [answer('a', I10=None, N19=None), answer('b', N19=None, R52=None)]
    strata = Strata({key('I10'): 6, key('E11.9'): 5, key('N19'): 1}, frozenset(), frozenset())
    none, few, some, many = bucket_scores(documents, predictions, strata, seed=0, samples=50)
    assert none.value == 0.0  # R52: missed once, wrong once
    assert few.value == pytest.approx(2 * 1 / (2 + 2))  # E11.9 missed, N19 wrong and right
    assert some.value == pytest.approx(2 * 1 / (2 + 1))  # I10 right and missed
    assert many.value is None
    assert few.low <= few.value <= few.high


def test_siblings_are_a_missed_and_a_wrong_code_of_one_category():
    documents = [gold('a', 'I50.9', 'E11.9'), gold('b', 'I50.9', 'I50.1'), gold('c', 'I50.9', 'I51.7')]
    predictions = [
        answer('a', I50_22=None, E11_9=None, E11_8=None),  # E11.9 is right, so E11.8 is an extra code, no confusion
        answer('b', I50_22=None, I50_1=None),
        answer('c', I50_9=None, I50_1=None),  # I51.7 is missed, and nothing of its category is wrong
    ]
    assert sibling_confusions(documents, predictions) == ([Confusion('I50.9', 'I50.22', 2)], 3)


def test_lengths_are_counted_in_words_and_a_piece_of_several_codes_once():
    text = 'acute heart-failure, oedema'
    pieces = Evidence(((0, 19),), 'acute heart-failure'), Evidence(((21, 27),), 'oedema')
    document = Document('a', text, (Annotation('I50.9', evidence=pieces), Annotation('R60.9', evidence=pieces[1:])))
    predicted = Prediction('a', (PredictedCode('I50.9', evidence=(quote('acute'), quote('nowhere to be found'))),))
    of_gold, of_predicted = evidence_lengths([document], [predicted])
    assert of_gold == {3: 1, 1: 1}
    assert of_predicted == {1: 1, 4: 1}


def plots(documents, systems):
    strata = Strata({key('I50.9'): 1}, frozenset({key('I50.1')}), frozenset({key('R52')}))
    return evaluation_plots(documents, systems, model='model', strata=strata, seed=0, samples=20)


def picture(plot):
    with Image.open(io.BytesIO(plot.image)) as image:
        image.load()
        assert image.format == 'PNG'
        return image.size


def test_pictures_open_and_say_what_they_show():
    evidence = (quote('heart failure'),)
    documents = [
        Document('a', 'heart failure', (Annotation('I50.9', evidence=evidence), Annotation('R52'))),
        gold('b', 'I50.1'),
    ]
    systems = {
        'model': [
            Prediction('a', (PredictedCode('I50.9', score=-0.5, evidence=evidence),)),
            Prediction('b', (PredictedCode('I50.9', score=-1.5),)),
        ],
        'majority': [Prediction(d.doc_id, (PredictedCode('I50.9'),)) for d in documents],
    }
    drawn = plots(documents, systems)
    assert set(drawn) == FILES
    for plot in drawn.values():
        width, height = picture(plot)
        assert width > 600
        assert height > 150
    # One hit of two predicted and three gold.
    assert 'all codes: precision 0.50, recall 0.33, F1 0.40' in drawn['precision_recall.png'].alt
    assert 'S2: nothing predicted' in drawn['precision_recall.png'].alt
    assert 'majority F1 0.40' in drawn['precision_recall.png'].alt
    assert '0: 0.00 (2 codes); 1-5: 0.67 (1 codes)' in drawn['frequency.png'].alt
    assert 'I50.1 missed and I50.9 written, 1 documents' in drawn['siblings.png'].alt
    assert 'gold: 1 pieces, median length 2' in drawn['evidence_lengths.png'].alt


@pytest.mark.parametrize('documents', [[], [gold('a')], [gold('a', 'I50.9')]], ids=['none', 'no codes', 'no answer'])
def test_where_there_is_nothing_the_picture_says_so(documents):
    drawn = plots(documents, {'model': [Prediction(d.doc_id, ()) for d in documents]})
    assert set(drawn) == FILES
    for plot in drawn.values():
        assert picture(plot)[0] > 600
    for name in ('siblings.png', 'evidence_lengths.png', 'precision_recall.png'):
        assert 'nothing to show' in drawn[name].alt


def test_equal_numbers_give_equal_bytes():
    documents, systems = [gold('a', 'I50.9')], {'model': [answer('a', I50_9=-1.0)]}
    assert plots(documents, systems) == plots(documents, systems)
