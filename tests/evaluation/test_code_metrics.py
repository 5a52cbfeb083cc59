"""Code-level metrics against hand-worked cases, scikit-learn, and documents that are really repeated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.evaluation.bootstrap import COUNT_METRICS, bootstrap, bootstrap_parts, paired_bootstrap
from ccl_jax.evaluation.metrics import code_metrics, code_statistics
from ccl_jax.evaluation.pairs import align
from ccl_jax.icd.codes import ICD9CM, ICD10CM
from ccl_jax.records import Annotation, Document, PredictedCode, Prediction

LETTERS = 'ABCDEF'
VALID = frozenset((ICD10CM, letter) for letter in 'ABCDE')


def document(name, codes, group=''):
    return Document(f'd{name}', 'note', tuple(Annotation(code) for code in codes), group_id=group)


def prediction(name, codes):
    return Prediction(f'd{name}', tuple(PredictedCode(code) for code in codes))


def values(golds, predicteds, **arguments):
    """Metric values of code sets given as strings of one-letter codes."""
    documents = [document(i, codes) for i, codes in enumerate(golds)]
    answers = [prediction(i, codes) for i, codes in enumerate(predicteds)]
    estimates = code_metrics(documents, answers, valid_codes=VALID, seed=0, samples=3, **arguments)
    return {name: estimate.value for name, estimate in estimates.items()}


@st.composite
def splits(draw):
    count = draw(st.integers(1, 6))
    sets = st.sets(st.sampled_from(LETTERS), max_size=4).map(lambda codes: ''.join(sorted(codes)))
    return [draw(sets) for _ in range(count)], [draw(sets) for _ in range(count)]


def test_every_convention_on_one_case_worked_by_hand():
    # A: gold in 0 and 1, found twice. B: gold in 0, missed. C: gold in 1, found, and a false positive in 2.
    # D: never gold, predicted in 0. Document 2 has no gold codes. Z: invented, predicted in 1.
    result = values(['AB', 'AC', ''], ['AD', 'ACF', 'C'])
    # Hits A, A, C = 3; predicted 6; gold 4.
    assert result['micro_precision'] == pytest.approx(3 / 6)
    assert result['micro_recall'] == pytest.approx(3 / 4)
    assert result['micro_f1'] == pytest.approx(6 / 10)
    # F1: A 1, B 0, C 2/3, D 0, F 0.
    assert result['macro_f1_active'] == pytest.approx((1 + 2 / 3) / 5)
    assert result['macro_f1_gold'] == pytest.approx((1 + 2 / 3) / 3)
    # Document 2 is dropped, and D and F with it: A 1, B 0, C 1; hits 3, predicted 3, gold 4.
    assert result['macro_f1_edin'] == pytest.approx(2 / 3)
    assert result['micro_f1_edin'] == pytest.approx(6 / 7)
    # Precision A 1, B 0, C 1/2, D 0, F 0; recall A 1, B 0, C 1, D 0, F 0; five labels.
    precision, recall = 1.5 / 5, 2 / 5
    assert result['macro_f1_caml'] == pytest.approx(2 * precision * recall / (precision + recall))
    assert result['samples_f1'] == pytest.approx((2 / 4 + 4 / 5 + 0) / 3)
    assert values(['A', '', ''], ['A', '', 'B'])['samples_f1'] == pytest.approx((1 + 0 + 0) / 3)
    assert values(['A', '', ''], ['A', '', 'B'])['exact_match_ratio'] == pytest.approx(2 / 3)
    assert result['exact_match_ratio'] == 0
    assert (result['mean_predicted'], result['mean_gold']) == (pytest.approx(2), pytest.approx(4 / 3))
    assert result['invalid_code_rate'] == pytest.approx(1 / 6)


def test_the_conventions_rank_two_systems_differently():
    # System 1 adds invented codes to right answers; system 2 is silent about half of the codes.
    golds = ['A', 'B', 'C', 'D']
    noisy = values(golds, ['AE', 'BF', 'CE', 'DF'])
    silent = values(golds, ['A', 'B', 'C', ''])
    assert (noisy['macro_f1_gold'], silent['macro_f1_gold']) == (1, 0.75)
    assert noisy['macro_f1_active'] == pytest.approx(4 / 6)
    assert silent['macro_f1_active'] == 0.75
    assert noisy['micro_f1_edin'] == 1
    assert noisy['micro_f1'] == pytest.approx(8 / 12)


def test_caml_divides_by_the_whole_label_space():
    assert values(['A'], ['A'])['macro_f1_caml'] == 1
    four = {(ICD10CM, code) for code in 'ABCD'}
    # Precision and recall are 1/4 each.
    assert values(['A'], ['A'], label_space=four)['macro_f1_caml'] == pytest.approx(0.25)
    # A predicted code outside the space joins it: five labels.
    assert values(['A'], ['AE'], label_space=four)['macro_f1_caml'] == pytest.approx(0.2)


def test_a_code_is_compared_with_its_system_and_counted_once():
    documents = [Document('d', 'note', (Annotation('250.00', ICD9CM),))]
    wrong = [Prediction('d', (PredictedCode('250.00', ICD10CM),))]
    right = [Prediction('d', (PredictedCode('250.00', ICD9CM), PredictedCode('250.00', ICD9CM)))]
    valid = {(ICD9CM, '250.00')}
    assert code_metrics(documents, wrong, valid_codes=valid, seed=0, samples=2)['micro_f1'].value == 0
    result = code_metrics(documents, right, valid_codes=valid, seed=0, samples=2)
    assert (result['micro_precision'].value, result['invalid_code_rate'].value) == (1, 0)


def test_nothing_gold_and_nothing_predicted_is_undefined():
    result = values(['', ''], ['', ''])
    assert {name for name, value in result.items() if value is None} == set(result) - set(COUNT_METRICS)
    # Without gold codes, precision and F1 measure the false positives; recall measures nothing.
    spoken = values([''], ['A'])
    assert (spoken['micro_precision'], spoken['micro_recall'], spoken['micro_f1']) == (0, None, 0)
    assert (spoken['macro_f1_gold'], spoken['micro_f1_edin'], spoken['map'], spoken['precision_at_1']) == (None,) * 4
    silent = values(['A'], [''])
    assert (silent['micro_precision'], silent['micro_f1'], silent['invalid_code_rate']) == (0, 0, None)


def test_documents_of_a_group_are_one_unit_on_request():
    documents = [document(0, 'A', group='x'), document(1, 'B', group='x'), document(2, 'C')]
    answers = [prediction(0, 'B'), prediction(1, 'A'), prediction(2, 'C')]

    def micro(by):
        return code_metrics(documents, answers, valid_codes=VALID, seed=0, samples=2, by=by)['micro_f1'].value

    assert (micro('document'), micro('group')) == (pytest.approx(1 / 3), 1)


def test_missing_unknown_and_repeated_records():
    documents = [document(0, 'A'), document(1, 'B')]
    assert code_metrics(documents, [prediction(0, 'A')], valid_codes=VALID, seed=0)['micro_recall'].value == 0.5
    for documents_, answers, words in (
        (documents, [prediction(7, 'A')], 'no document'),
        (documents, [prediction(0, 'A'), prediction(0, 'A')], 'two predictions'),
        ([*documents, documents[0]], [], 'occurs twice'),
        ([], [], 'no gold documents'),
    ):
        with pytest.raises(UserError, match=words):
            align(documents_, answers)


@settings(max_examples=60, deadline=None)
@given(splits())
def test_agrees_with_scikit_learn(split):
    sklearn = pytest.importorskip('sklearn.metrics')
    golds, predicteds = split
    truth = np.array([[letter in codes for letter in LETTERS] for codes in golds])
    guess = np.array([[letter in codes for letter in LETTERS] for codes in predicteds])
    active, is_gold = (truth | guess).any(axis=0), truth.any(axis=0)
    result = values(golds, predicteds)
    if not active.any():
        assert result['micro_f1'] is None
        return

    def reference(score, average, columns=None, rows=slice(None)):
        # `labels`, not a slice: scikit-learn takes a single column for a binary problem and averages over both classes.
        labels = None if columns is None else np.flatnonzero(columns)
        return score(truth[rows], guess[rows], labels=labels, average=average, zero_division=0)

    assert result['micro_precision'] == pytest.approx(reference(sklearn.precision_score, 'micro'))
    recall = reference(sklearn.recall_score, 'micro')
    assert result['micro_recall'] == (pytest.approx(recall) if is_gold.any() else None)
    assert result['micro_f1'] == pytest.approx(reference(sklearn.f1_score, 'micro'))
    assert result['macro_f1_active'] == pytest.approx(reference(sklearn.f1_score, 'macro', active))
    precision = reference(sklearn.precision_score, 'macro', active)
    recall = reference(sklearn.recall_score, 'macro', active)
    caml = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert result['macro_f1_caml'] == pytest.approx(caml)
    assert result['samples_f1'] == pytest.approx(reference(sklearn.f1_score, 'samples'))
    assert result['exact_match_ratio'] == pytest.approx(sklearn.accuracy_score(truth, guess))
    if is_gold.any():
        rows = truth.any(axis=1)
        assert result['macro_f1_gold'] == pytest.approx(reference(sklearn.f1_score, 'macro', is_gold))
        assert result['macro_f1_edin'] == pytest.approx(reference(sklearn.f1_score, 'macro', is_gold, rows))
        assert result['micro_f1_edin'] == pytest.approx(reference(sklearn.f1_score, 'micro', is_gold, rows))


@settings(max_examples=60, deadline=None)
@given(splits())
def test_shares_lie_between_0_and_1_and_a_perfect_answer_gives_1(split):
    golds, predicteds = split
    for name, value in values(golds, predicteds).items():
        assert value is None or value >= 0
        assert value is None or value <= 1 or name in COUNT_METRICS
    if any(golds):
        # Not 1: precision among more codes than are gold, recall among fewer, the F1 of a document without codes.
        golds = [codes for codes in golds if codes]
        perfect = values(golds, golds)
        for name in set(perfect) - {*COUNT_METRICS, 'invalid_code_rate'}:
            if '_at_' not in name and name != 'map_codiesp':
                assert perfect[name] == pytest.approx(1), name


@settings(max_examples=30, deadline=None)
@given(splits(), st.randoms(use_true_random=False))
def test_the_order_of_the_documents_changes_nothing(split, random):
    golds, predicteds = split
    documents = [document(i, codes) for i, codes in enumerate(golds)]
    answers = [prediction(i, codes) for i, codes in enumerate(predicteds)]
    result = code_metrics(documents, answers, valid_codes=VALID, seed=5, samples=20)
    random.shuffle(documents)
    random.shuffle(answers)
    assert code_metrics(documents, answers, valid_codes=VALID, seed=5, samples=20) == result


@settings(max_examples=60, deadline=None)
@given(splits(), st.data())
def test_a_weight_is_the_document_that_many_times(split, data):
    golds, predicteds = split
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(golds), max_size=len(golds)).filter(any))
    space = {(ICD10CM, 'A'), (ICD10CM, 'X')}
    documents = [document(i, codes) for i, codes in enumerate(golds)]
    answers = [prediction(i, codes) for i, codes in enumerate(predicteds)]
    statistics = code_statistics(documents, answers, valid_codes=VALID, label_space=space)
    weighted = statistics.compute(np.array([weights, weights], float))

    copies = [(i, n) for i, weight in enumerate(weights) for n in range(weight)]
    repeated = code_statistics(
        [document(f'{i}-{n}', golds[i]) for i, n in copies],
        [prediction(f'{i}-{n}', predicteds[i]) for i, n in copies],
        valid_codes=VALID,
        # Codes of documents that were not drawn stay in the label space only if the caller named them.
        label_space=space,
    ).compute(np.ones((1, len(copies))))
    for name, drawn in weighted.items():
        np.testing.assert_allclose(drawn, np.repeat(repeated[name], 2), err_msg=name)


def test_intervals_agree_with_a_brute_force_bootstrap():
    random = np.random.default_rng(3)
    golds = [''.join(c for c in LETTERS if random.random() < 0.4) for _ in range(40)]
    predicteds = [''.join(c for c in LETTERS if random.random() < (0.7 if c in codes else 0.2)) for codes in golds]
    documents = [document(i, codes) for i, codes in enumerate(golds)]
    answers = [prediction(i, codes) for i, codes in enumerate(predicteds)]
    estimate = code_metrics(documents, answers, valid_codes=VALID, seed=0, samples=4000)['micro_f1']

    draws = []
    for _ in range(4000):
        drawn = random.integers(0, 40, 40)
        hits = sum(len(set(golds[i]) & set(predicteds[i])) for i in drawn)
        draws.append(2 * hits / sum(len(golds[i]) + len(predicteds[i]) for i in drawn))
    low, high = np.percentile(draws, [2.5, 97.5])
    assert estimate.low == pytest.approx(low, abs=0.01)
    assert estimate.high == pytest.approx(high, abs=0.01)


def resampled(golds, predicteds, space):
    """Some metrics of one-letter codes, by counting codes of really repeated documents one by one."""
    codes = set(''.join([*golds, *predicteds]))
    hits = {c: sum(c in g and c in p for g, p in zip(golds, predicteds, strict=True)) for c in codes}
    gold = {c: sum(c in g for g in golds) for c in codes}
    predicted = {c: sum(c in p for p in predicteds) for c in codes}
    beside_gold = {c: sum(c in p for g, p in zip(golds, predicteds, strict=True) if g) for c in codes}
    in_gold = [c for c in codes if gold[c]]
    labels = codes | set(space)
    precision = sum(hits[c] / predicted[c] for c in codes if predicted[c]) / len(labels)
    recall = sum(hits[c] / gold[c] for c in in_gold) / len(labels)
    edin = {c: 2 * hits[c] / (gold[c] + beside_gold[c]) for c in in_gold}
    return {
        'micro_f1': 2 * sum(hits.values()) / (sum(gold.values()) + sum(predicted.values())),
        'macro_f1_active': sum(2 * hits[c] / (gold[c] + predicted[c]) for c in codes) / len(codes),
        'macro_f1_gold': sum(2 * hits[c] / (gold[c] + predicted[c]) for c in in_gold) / len(in_gold),
        'macro_f1_edin': sum(edin.values()) / len(in_gold),
        'micro_f1_edin': 2 * sum(hits.values()) / sum(gold[c] + beside_gold[c] for c in in_gold),
        'macro_f1_caml': 2 * precision * recall / (precision + recall),
    }


def test_every_draw_is_the_metric_of_the_resampled_documents():
    random = np.random.default_rng(1)
    letters, space = 'ABCDEFGHIJ', 'AXYZ'
    golds = [''.join(c for c in letters if random.random() < 0.25) for _ in range(30)]
    predicteds = [''.join(c for c in letters if random.random() < (0.6 if c in g else 0.15)) for g in golds]
    assert '' in golds
    documents = [document(f'{i:02}', codes) for i, codes in enumerate(golds)]
    answers = [prediction(f'{i:02}', codes) for i, codes in enumerate(predicteds)]
    labels = {(ICD10CM, code) for code in space}
    found = code_metrics(documents, answers, valid_codes=VALID, label_space=labels, seed=7, samples=200)
    # As documented: documents drawn with replacement by this generator, percentiles moved to the value.
    draws = [
        resampled([golds[i] for i in drawn], [predicteds[i] for i in drawn], space)
        for drawn in np.random.default_rng(7).integers(0, 30, size=(200, 30))
    ]
    for name, value in resampled(golds, predicteds, space).items():
        column = np.array([draw[name] for draw in draws])
        low, high = np.percentile(column, [2.5, 97.5]) - column.mean() + value
        assert found[name].value == pytest.approx(value), name
        assert (found[name].low, found[name].high) == pytest.approx((low, high), abs=1e-5), name


def test_parts_of_a_split_share_the_draws():
    documents, answers = [document(i, 'AB'[i % 2]) for i in range(20)], [prediction(i, 'A') for i in range(20)]
    statistics = code_statistics(documents, answers, valid_codes=VALID)
    parts = bootstrap_parts({'one': statistics, 'two': statistics}, seed=3, samples=50)
    assert parts['one'] == parts['two'] == bootstrap(statistics, seed=3, samples=50)
    other = code_statistics(documents[:5], [], valid_codes=VALID)
    with pytest.raises(UserError, match='same documents'):
        bootstrap_parts({'one': statistics, 'two': other}, seed=3)


def test_an_interval_of_a_macro_average_over_rare_codes_holds_its_value():
    # Sixty codes that are gold once; each is found, and predicted once more beside another document.
    count = 60
    documents = [document(i, [f'C{i}']) for i in range(count)]
    answers = [prediction(i, [f'C{i}', f'C{(i + 1) % count}']) for i in range(count)]
    statistics = code_statistics(documents, answers, valid_codes=VALID)
    estimate = bootstrap(statistics, seed=0, samples=500)['macro_f1_gold']
    assert estimate.value == pytest.approx(2 / 3)
    assert estimate.low < estimate.value < estimate.high
    # A code's false positive is drawn with its hit in only a part of the resamples: the plain draws lie higher.
    weights = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=500).astype(float)
    assert np.percentile(statistics.compute(weights)['macro_f1_gold'], 2.5) > estimate.value


def test_paired_differences():
    golds = ['A'] * 20 + ['B'] * 20
    documents = [document(i, codes) for i, codes in enumerate(golds)]

    def statistics(answers):
        return code_statistics(documents, answers, valid_codes=VALID)

    better = statistics([prediction(i, codes) for i, codes in enumerate(golds)])
    worse = statistics([prediction(i, 'A') for i in range(40)])
    same = paired_bootstrap(better, better, seed=0, samples=50)['micro_f1']
    assert (same.value, same.low, same.high) == (0, 0, 0)
    ahead = paired_bootstrap(better, worse, seed=0, samples=200)['micro_f1']
    behind = paired_bootstrap(worse, better, seed=0, samples=200)['micro_f1']
    assert ahead.value == pytest.approx(0.5)
    assert 0.3 < ahead.low < 0.5 < ahead.high < 0.7
    assert (behind.value, behind.low, behind.high) == pytest.approx((-ahead.value, -ahead.high, -ahead.low))
    other = code_statistics([document(99, 'A')], [], valid_codes=VALID)
    with pytest.raises(UserError, match='same documents'):
        paired_bootstrap(better, other, seed=0)
