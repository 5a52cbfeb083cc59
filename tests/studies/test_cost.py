"""Comparisons of runs, by cases worked by hand."""

import pytest

from ccl_jax.errors import UserError
from ccl_jax.studies.cost import (
    at_equal_cost,
    compare_runs,
    cost_report,
    cost_to_reach,
    curve,
    name_runs,
    score_at,
)

# Reaches 0.5 at 30, dips, and ends at 0.6 after 50.
CURVE = [(10.0, 0.1), (20.0, 0.3), (30.0, 0.5), (40.0, 0.4), (50.0, 0.6)]


@pytest.mark.parametrize(
    ('score', 'cost'), [(0.05, 10.0), (0.1, 10.0), (0.2, 15.0), (0.45, 27.5), (0.5, 30.0), (0.55, 47.5), (0.61, None)]
)
def test_the_cost_at_which_a_score_is_first_reached(score, cost):
    assert cost_to_reach(CURVE, score) == (None if cost is None else pytest.approx(cost))


@pytest.mark.parametrize(('cost', 'score'), [(9.9, None), (10, 0.1), (15, 0.2), (35, 0.45), (50, 0.6), (50.1, None)])
def test_the_score_at_a_cost(cost, score):
    assert score_at(CURVE, cost) == (None if score is None else pytest.approx(score))


def test_a_curve_of_one_point_and_of_none():
    assert score_at([(3.0, 0.2)], 3.0) == 0.2
    assert score_at([], 3.0) is None
    assert cost_to_reach([], 0.0) is None


def test_the_difference_at_the_greatest_cost_that_both_reached():
    short = [(20.0, 0.2), (40.0, 0.7)]
    assert at_equal_cost(CURVE, short) == pytest.approx(
        {'cost': 40.0, 'score': 0.4, 'reference_score': 0.7, 'difference': -0.3}
    )
    assert at_equal_cost(short, CURVE)['difference'] == pytest.approx(0.3)
    # One had ended before the other was scored for the first time.
    assert at_equal_cost(CURVE, [(60.0, 0.2), (70.0, 0.3)]) is None
    assert at_equal_cost([], CURVE) is None


def line(step, score, flops, split='dev'):
    return {
        'step': step,
        'split': split,
        'metrics': {'micro_f1': score},
        'decoding': {'documents': 8},
        'cost': {'tokens': flops // 10, 'flops': flops, 'device_seconds': step},
    }


def ledger(prompt, target, flops, seconds, kind='cpu', base=False):
    def stage(scale):
        return {
            'tokens': {
                'document': {'prompt': scale * prompt, 'target': scale * target},
                'span': {'prompt': 1, 'target': 2},
            },
            'flops': {'forward': scale * flops / 4, 'backward': scale * flops * 3 / 4},
            'device_seconds': scale * seconds,
        }

    evaluation = {'documents': 8, 'prompt_tokens': 80, 'new_tokens': 8, 'flops': 9.0, 'device_seconds': 1.5}
    stages = {
        'training': stage(1),
        'evaluation': {'test': evaluation, 'scores:dev': evaluation},
        'expansion': {'tokens': 5},
    }
    return {
        'device': {'kind': kind, 'count': 1, 'processes': 1},
        'stages': stages | ({'base': stage(3)} if base else {}),
    }


def test_two_runs_beside_each_other():
    # The second reaches the best of the first, 0.4 at 1,000 FLOPs, half-way between 200 and 300: at a quarter.
    ledgers = {'a': ledger(900, 97, 1000.0, 50.0, base=True), 'b': ledger(400, 97, 500.0, 10.0)}
    scores = {
        'a': [line(4, 0.2, 500), line(9, 0.4, 1000)],
        'b': [line(4, None, 100), line(6, 0.3, 200), line(8, 0.5, 300), line(9, 0.6, 500)],
    }
    comparison = compare_runs(ledgers, scores, reference='a', metric='micro_f1')
    a, b = comparison['runs']['a'], comparison['runs']['b']
    assert a['training'] == {'tokens': 1000, 'flops': 1000.0, 'device_seconds': 50.0}
    assert a['base'] == {'tokens': 3 * 997 + 3, 'flops': 3000.0, 'device_seconds': 150.0}
    assert b['base'] is None
    assert b['ratio'] == {'tokens': 0.5, 'flops': 0.5, 'device_seconds': 0.2}
    assert a['evaluation'] == {'tokens': 176, 'flops': 18.0, 'device_seconds': 3.0}
    assert b['curve'] == [(200, 0.3), (300, 0.5), (500, 0.6)]
    assert (a['best'], b['best']) == (0.4, 0.6)
    assert a['cost_to_reach_best_of_reference'] == 1000
    assert b['cost_to_reach_best_of_reference'] == pytest.approx(250)
    assert b['ratio_to_reach_best_of_reference'] == pytest.approx(0.25)
    assert b['at_equal_cost'] == pytest.approx({'cost': 500, 'score': 0.6, 'reference_score': 0.2, 'difference': 0.4})
    text = cost_report(comparison)
    (row,) = [text for text in text.splitlines() if text.startswith('b ') and '+0.400' in text]
    assert row.split() == ['b', '0.600', '250', '0.25', '0.600', '+0.400']
    # Seen from the other side, the worse run never gets there.
    back = compare_runs(ledgers, scores, reference='b', metric='micro_f1', cost='tokens')
    assert back['runs']['a']['cost_to_reach_best_of_reference'] is None
    assert 'never' in cost_report(back)


def test_runs_that_were_not_scored_have_costs_alone():
    comparison = compare_runs(
        {'a': ledger(1, 1, 1.0, 1.0), 'b': ledger(1, 1, 1.0, 1.0, 'TPU v5e')},
        {'a': [], 'b': []},
        reference='a',
        metric='x',
    )
    assert comparison['runs']['b']['at_equal_cost'] is None
    text = cost_report(comparison)
    assert 'No run was scored on the way' in text
    assert 'different devices, so their device-seconds do not compare (a: cpu, b: TPU v5e)' in text


def test_scores_that_do_not_compare():
    ledgers = {'a': ledger(1, 1, 1.0, 1.0), 'b': ledger(1, 1, 1.0, 1.0)}
    with pytest.raises(UserError, match='no metric "macro_f2"; choose one of micro_f1'):
        compare_runs(ledgers, {'a': [line(1, 0.1, 10)], 'b': []}, reference='a', metric='macro_f2')
    with pytest.raises(UserError, match='8 documents of dev, 8 documents of test'):
        compare_runs(
            ledgers, {'a': [line(1, 0.1, 10)], 'b': [line(1, 0.1, 10, 'test')]}, reference='a', metric='micro_f1'
        )


def test_a_curve_leaves_out_what_is_undefined_and_is_sorted():
    assert curve([line(2, 0.2, 20), line(1, None, 10), line(0, 0.1, 5)], 'micro_f1', 'flops') == [(5, 0.1), (20, 0.2)]


def test_runs_are_named_by_their_folders(tmp_path):
    paths = [str(tmp_path / name) for name in ('x/run', 'y/run', 'y/other')]
    assert list(name_runs(paths)) == [paths[0], paths[1], 'other']
