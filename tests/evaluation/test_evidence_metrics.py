"""Evidence metrics against hand-worked cases; placing quotes against brute force."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.evaluation.evidence import (
    EVIDENCE_METRICS,
    MDACE_METRICS,
    Cleaning,
    EvidenceCounts,
    evidence_metrics,
    mdace_tokens,
)
from ccl_jax.evaluation.grounding import QuoteFinder, folded_words
from ccl_jax.evaluation.pairs import align
from ccl_jax.records import Annotation, Document, Evidence, PredictedCode, Prediction, slice_evidence

TEXT = 'Chest pain and dyspnea. Chest pain since 12 days.'


def evidence(text, quote, occurrence=0):
    begin = [match.start() for match in re.finditer(re.escape(quote), text)][occurrence]
    return Evidence(((begin, begin + len(quote)),), quote)


def unplaced(quote):
    return Evidence((), quote)


def case(gold, predicted, text=TEXT):
    """One document; gold and predicted are {code: [evidence]}."""
    annotations = tuple(Annotation(code, evidence=tuple(items)) for code, items in gold.items())
    codes = tuple(PredictedCode(code, evidence=tuple(items)) for code, items in predicted.items())
    return [Document('d', text, annotations)], [Prediction('d', codes)]


def values(*arguments, **keywords):
    estimates = evidence_metrics(*case(*arguments, **keywords), seed=0, samples=3)
    return {name: estimate.value for name, estimate in estimates.items()}


def test_the_four_metrics_on_one_case_worked_by_hand():
    first, second = evidence(TEXT, 'Chest pain'), evidence(TEXT, 'Chest pain', 1)
    result = values(
        {'R07.9': [first], 'R06.00': [evidence(TEXT, 'dyspnea')]},
        {'R07.9': [second], 'R06.00': [evidence(TEXT, 'and dyspnea')]},
    )
    # Other places: no span is right; without places 'chest pain' is.
    assert result['evidence_span_exact_f1'] == 0
    assert result['evidence_span_free_f1'] == pytest.approx(1 / 2)
    # Gold tokens: chest@0 pain@6 dyspnea@15; predicted: chest@24 pain@30 and@11 dyspnea@15.
    assert result['evidence_token_exact_precision'] == pytest.approx(1 / 4)
    assert result['evidence_token_exact_recall'] == pytest.approx(1 / 3)
    assert result['evidence_token_free_precision'] == pytest.approx(3 / 4)
    assert result['evidence_token_free_recall'] == 1
    assert result['grounding_rate'] == 1


def test_evidence_of_a_wrong_code_is_wrong():
    quote = evidence(TEXT, 'dyspnea')
    result = values({'R06.00': [quote]}, {'R06.09': [quote]})
    assert all(result[f'{name}_f1'] == 0 for name in EVIDENCE_METRICS)


def test_a_discontinuous_reference_is_one_span_from_first_to_last_word():
    parts = Evidence(((0, 5), (15, 22)), 'Chest dyspnea')
    whole = Evidence(((0, 22),), TEXT[:22])
    result = values({'R06.00': [parts]}, {'R06.00': [whole]})
    assert result['evidence_span_exact_f1'] == 1
    assert result['evidence_span_free_f1'] == 0
    # chest, dyspnea against chest, pain, and, dyspnea.
    assert result['evidence_token_exact_precision'] == pytest.approx(1 / 2)
    assert result['evidence_token_exact_recall'] == 1


def test_a_quote_found_nowhere_is_a_false_positive():
    result = values({'R06.00': [evidence(TEXT, 'dyspnea')]}, {'R06.00': [evidence(TEXT, 'dyspnea'), unplaced('fever')]})
    for name in MDACE_METRICS:
        assert result[f'{name}_precision'] == pytest.approx(1 / 2), name
        assert result[f'{name}_recall'] == 1
    assert result['grounding_rate'] == result['grounding_not_found'] == pytest.approx(1 / 2)


def test_quotes_without_offsets_are_placed():
    result = values({'R07.9': [evidence(TEXT, 'Chest pain')]}, {'R07.9': [unplaced('chest  PAIN')]})
    assert result['evidence_span_exact_f1'] == result['grounding_folded'] == 1


def test_without_gold_evidence_or_quotes_nothing_is_defined():
    nothing_gold = values({'R07.9': []}, {'R07.9': [unplaced('Chest pain')]})
    assert all(nothing_gold[f'{name}_f1'] is None for name in EVIDENCE_METRICS)
    nothing_quoted = values({'R07.9': [evidence(TEXT, 'Chest pain')]}, {'R07.9': [unplaced(' ')]})
    assert nothing_quoted['grounding_rate'] is None
    assert nothing_quoted['evidence_span_exact_f1'] == 0


def test_free_items_are_a_set_per_group_on_request():
    documents = [
        Document(name, TEXT, (Annotation('R07.9', evidence=(evidence(TEXT, 'Chest pain'),)),), group_id='stay')
        for name in ('a', 'b')
    ]
    answers = [Prediction('a', (PredictedCode('R07.9', evidence=(unplaced('Chest pain'),)),))]

    def recall(by):
        return evidence_metrics(documents, answers, by=by, seed=0, samples=2)

    assert recall('document')['evidence_span_free_recall'].value == pytest.approx(1 / 2)
    assert recall('group')['evidence_span_free_recall'].value == 1
    assert recall('group')['evidence_span_exact_recall'].value == pytest.approx(1 / 2)


def test_a_chart_is_a_group():
    # Two notes of one stay hold the same words; the prediction quotes them from the other note than gold.
    documents = [
        Document('a', TEXT, (Annotation('R07.9', evidence=(evidence(TEXT, 'Chest pain'),)),), group_id='stay'),
        Document('b', TEXT, group_id='stay'),
    ]
    answers = [Prediction('b', (PredictedCode('R07.9', evidence=(evidence(TEXT, 'Chest pain'),)),))]
    result = evidence_metrics(documents, answers, seed=0, samples=2)
    assert (result['evidence_span_exact_f1'].value, result['evidence_token_exact_f1'].value) == (0, 0)
    assert (result['evidence_span_free_f1'].value, result['evidence_token_free_f1'].value) == (1, 1)


MESSY = 'Dx: (chest pain), dyspnea; fever. HTA'


def cleaned(gold, predicted, text=MESSY, **cleaning):
    estimates = evidence_metrics(*case(gold, predicted, text=text), cleaning=Cleaning(**cleaning), seed=0, samples=2)
    return {name: estimate.value for name, estimate in estimates.items()}


def test_trim_strips_both_ends():
    # '(' is stripped on the right alone, ')' on the left alone, the other characters at both ends.
    for messy, clean in (('chest pain), ', None), (' dyspnea', 'dyspnea'), (', dyspnea', 'dyspnea'), ('), dys', 'dys')):
        gold = {'R07.9': [evidence(MESSY, clean or 'chest pain)')]}
        predicted = {'R07.9': [evidence(MESSY, messy)]}
        assert cleaned(gold, predicted)['evidence_span_exact_f1'] == 0
        trimmed = cleaned(gold, predicted, trim=True)
        assert (trimmed['evidence_span_exact_f1'], trimmed['evidence_span_free_f1']) == (1, 1), messy
    # Gold is trimmed too; a quote that occurs nowhere is trimmed as a string.
    assert (
        cleaned({'R50.9': [evidence(MESSY, ' fever.')]}, {'R50.9': [evidence(MESSY, 'fever')]}, trim=True)[
            'evidence_span_exact_f1'
        ]
        == 1
    )
    nowhere = cleaned({'R50.9': [evidence(MESSY, 'fever')]}, {'R50.9': [unplaced('- FEVER! fever /')]}, trim=True)
    assert nowhere['evidence_span_free_precision'] == 0
    # ';' is none of the characters.
    kept = cleaned({'R06.00': [evidence(MESSY, 'dyspnea;')]}, {'R06.00': [evidence(MESSY, 'dyspnea')]}, trim=True)
    assert kept['evidence_span_exact_f1'] == 0


def test_a_span_of_punctuation_stays_a_wrong_item():
    result = cleaned(
        {'R50.9': [evidence(MESSY, 'fever')]}, {'R50.9': [evidence(MESSY, 'fever'), evidence(MESSY, ', ')]}, trim=True
    )
    assert result['evidence_span_exact_precision'] == result['evidence_span_free_precision'] == pytest.approx(1 / 2)
    assert result['evidence_token_exact_precision'] == 1


def test_merge_adjacent_joins_neighbours_of_one_code():
    text = 'pain, acute - chest and arm'
    whole = {'R07.9': [evidence(text, 'pain, acute - chest')]}
    pieces = [evidence(text, 'chest'), evidence(text, 'pain'), evidence(text, 'acute')]
    assert cleaned(whole, {'R07.9': pieces}, text)['evidence_span_exact_f1'] == 0
    assert cleaned(whole, {'R07.9': pieces}, text, merge_adjacent=True)['evidence_span_exact_f1'] == 1
    # A word between them keeps spans apart: one of two is right.
    apart = cleaned(whole, {'R07.9': [*pieces, evidence(text, 'arm')]}, text, merge_adjacent=True)
    assert apart['evidence_span_exact_precision'] == pytest.approx(1 / 2)
    # So does a span of another code that begins between them.
    halves = {'R07.9': [evidence(text, 'pain'), evidence(text, 'acute - chest')]}
    assert cleaned(whole, halves, text, merge_adjacent=True)['evidence_span_exact_f1'] == 1
    between = {**halves, 'R52': [evidence(text, ', acute')]}
    assert cleaned(whole, between, text, merge_adjacent=True)['evidence_span_exact_f1'] == 0


def test_merge_comes_before_trim():
    # Trimmed first, the span of punctuation would be an empty one, and a third item.
    text = 'pain , . chest'
    predicted = {'R07.9': [evidence(text, 'pain '), evidence(text, ', .'), evidence(text, ' chest')]}
    result = cleaned({'R07.9': [evidence(text, text)]}, predicted, text, merge_adjacent=True, trim=True)
    assert (result['evidence_span_exact_precision'], result['evidence_span_exact_recall']) == (1, 1)


def test_overlapping_neighbours_merge_up_to_the_end_of_the_later_one():
    # As in MDACE's program: of nested spans the outer one is cut.
    text = 'acute chest pain'
    nested = {'R07.9': [evidence(text, 'acute chest pain'), evidence(text, 'chest')]}
    result = cleaned({'R07.9': [evidence(text, 'acute chest')]}, nested, text, merge_adjacent=True)
    assert result['evidence_span_exact_f1'] == 1


def test_given_gold_leaves_out_the_evidence_of_other_codes():
    quote = evidence(TEXT, 'dyspnea')
    result = values({'R06.00': [quote]}, {'R06.00': [quote], 'R06.09': [quote]})
    assert result['evidence_span_exact_precision'] == pytest.approx(1 / 2)
    assert result['evidence_span_exact_given_gold_precision'] == 1
    assert result['evidence_span_exact_given_gold_recall'] == 1
    # A gold code without gold evidence is gold all the same: its quote stays.
    unevidenced = values({'R06.00': [quote], 'I10': []}, {'R06.00': [quote], 'I10': [evidence(TEXT, 'and')]})
    assert unevidenced['evidence_span_exact_given_gold_precision'] == pytest.approx(1 / 2)


def interval(begin, end):
    return Evidence(((begin, end),), '')


LONG = 'x' * 100


def codiesp(gold, predicted, valid=None):
    estimates = evidence_metrics(*case(gold, predicted, text=LONG), valid_codes=valid, seed=0, samples=2)
    return tuple(estimates[f'evidence_codiesp_x_{part}'].value for part in ('precision', 'recall', 'f1'))


@pytest.mark.parametrize(
    ('begin', 'end', 'hit'),
    [(40, 50, 1), (30, 60, 1), (29, 50, 0), (40, 61, 0), (41, 50, 0), (40, 49, 0)],
)
def test_codiesp_x_allows_ten_more_characters_on_each_side_and_none_less(begin, end, hit):
    assert codiesp({'I10': [interval(40, 50)]}, {'I10': [interval(begin, end)]}) == (hit, hit, hit)


def test_codiesp_x_counts_distinct_pairs():
    # I10 has two references of which one is found, by the second of three intervals; R52 is missed; E11.9 is wrong.
    gold = {'I10': [interval(0, 5), interval(40, 50)], 'R52': [interval(60, 64)], 'J00': []}
    predicted = {'I10': [interval(20, 25), interval(38, 52), interval(38, 52)], 'E11.9': [interval(60, 64)], 'J00': []}
    # J00 has no interval on either side, so it is no pair of this track.
    assert codiesp(gold, predicted) == (1 / 2, 1 / 2, 1 / 2)
    # An unknown code is no predicted pair.
    assert codiesp(gold, predicted, valid={('ICD-10-CM', 'I10'), ('ICD-10-CM', 'R52')}) == (
        1,
        1 / 2,
        pytest.approx(2 / 3),
    )


def test_codiesp_x_takes_a_discontinuous_reference_from_first_start_to_last_end():
    gold = {'I10': [Evidence(((40, 44), (50, 54)), '')]}
    assert codiesp(gold, {'I10': [interval(40, 54)]}) == (1, 1, 1)
    assert codiesp(gold, {'I10': [interval(40, 44)]}) == (0, 0, 0)
    # The same for a prediction, in whatever order its parts come.
    assert codiesp({'I10': [interval(41, 53)]}, {'I10': [Evidence(((50, 54), (40, 44)), '')]}) == (1, 1, 1)


def test_tokens_as_mdace_defines_them():
    assert mdace_tokens('BP 120/80, day 3 of 10; a_b') == [
        ('bp', 0),
        ('day', 11),
        ('3', 15),
        ('of', 17),
        ('10', 20),
        ('a_b', 24),
    ]
    assert mdace_tokens('007 ' + '9' * 5000) == [('007', 0)]


def test_grounding_compares_strings_not_claims():
    text = 'Fibrilación auricular.\nHTA'
    decomposed = 'fibrilacio\u0301n  auricular'
    quotes = [
        Evidence((), 'HTA'),
        Evidence((), decomposed),
        Evidence((), 'fibrilacion auricular'),
        Evidence(((0, 5),), 'HTA'),
        Evidence(((0, 999),), 'diabetes'),
        Evidence(((0, 11), (23, 26)), 'fibrilación, HTA'),
    ]
    documents, answers = case({}, {'I10': quotes}, text=text)
    # The accent counts; offsets that hold other words do not ground a quote, and the quote itself is searched.
    assert EvidenceCounts.of(align(documents, answers)).grounding_counts() == {'exact': 2, 'folded': 2, 'not_found': 2}


def test_whole_words_come_before_parts_of_words():
    finder = QuoteFinder('ADMITTED with DM, not DMARD')
    assert finder.place(unplaced('DM')) == ('exact', ((14, 16),))
    assert finder.place(unplaced('MIT')) == ('exact', ((2, 5),))
    assert finder.place(unplaced('mit')) == ('not_found', ())
    assert finder.place(unplaced('...')) == ('not_found', ())


@settings(max_examples=200, deadline=None)
@given(st.text('aA\u00e9\u0301b .,-\n', max_size=30), st.text('aA\u00e9\u0301b .-', min_size=1, max_size=6))
def test_folded_places_agree_with_brute_force(text, quote):
    if not quote.strip():
        return
    kind, parts = QuoteFinder(text).place(unplaced(quote))
    words, wanted = [w for w, _, _ in folded_words(text)], [w for w, _, _ in folded_words(quote)]
    occurs = bool(wanted) and any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))
    assert (kind == 'exact') == (quote.strip() in text)
    assert (kind != 'not_found') == (occurs or quote.strip() in text)
    if kind == 'exact':
        assert slice_evidence(text, parts) == quote.strip()
    if kind == 'folded':
        assert [w for w, _, _ in folded_words(slice_evidence(text, parts))] == wanted


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60), st.lists(st.text(max_size=8), max_size=4), st.integers(-3, 70), st.integers(-3, 70))
def test_hostile_strings_keep_every_share_in_bounds(text, quotes, begin, end):
    predicted = {'I10': [unplaced(quote) for quote in quotes], 'E11.9': [Evidence(((begin, end),), 'x')]}
    gold = {'I10': [Evidence(((0, len(text)),), text)]} if text else {}
    for value in values(gold, predicted, text=text).values():
        assert value is None or 0 <= value <= 1


@settings(max_examples=50, deadline=None)
@given(st.text('ab c.', min_size=3, max_size=30).filter(str.strip), st.data())
def test_perfect_evidence_gives_1(text, data):
    spans = data.draw(st.lists(st.tuples(st.integers(0, len(text) - 1), st.integers(1, 5)), min_size=1, max_size=3))
    items = [Evidence(((b, min(b + n, len(text))),), text[b : b + n]) for b, n in spans]
    result = values({'I10': items}, {'I10': items}, text=text)
    assert result['evidence_span_exact_f1'] == result['evidence_span_free_f1'] == result['grounding_rate'] == 1
    if any(mdace_tokens(item.text) for item in items):
        assert result['evidence_token_exact_f1'] == result['evidence_token_free_f1'] == 1
