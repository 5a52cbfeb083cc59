"""Curves of a sweep, worked by hand."""

import csv
import io

import pytest

from ccl_jax.errors import UserError
from ccl_jax.studies.sweep import gather_results
from ccl_jax.studies.sweep_curves import compare, gather_curves, mean_curve
from ccl_jax.studies.sweep_result import read_record, result_of
from tests.studies.sweep_helpers import finish, score_lines, sweep_of

# (FLOPs, score) of two seeds. The reference ends at 100 with its best, 0.5 and 0.7, mean 0.6.
CURVES = {
    'ref': ([(20, 0.1), (60, 0.3), (100, 0.5)], [(20, 0.3), (60, 0.5), (100, 0.7)]),
    # Twice as fast, and it ends at 80.
    'fast': ([(20, 0.3), (40, 0.5), (80, 0.6)], [(20, 0.5), (40, 0.7), (80, 0.9)]),
    'slow': ([(60, 0.1), (100, 0.2)], [(60, 0.1), (100, 0.4)]),
}


def made(tmp_path, monkeypatch, arms=('ref', 'fast', 'slow'), metrics=('micro_f1',), **keys):
    sweep, runs = sweep_of(tmp_path / 'w', list(arms), monkeypatch, seeds=(0, 1), metrics=metrics, **keys)
    for run in runs:
        scores = score_lines(CURVES[run.arm][run.seed]) if run.arm in CURVES else ()
        finish(run, 0.5, {'d0': ('I10',)}, scores=scores)
    return sweep, runs


def curves(sweep, runs):
    return gather_curves(sweep, [result_of(run, read_record(run)) for run in runs])


def test_the_mean_of_curves_is_taken_where_all_have_scores():
    costs, scores = zip(*mean_curve([[(10, 0.1), (30, 0.3)], [(20, 0.4), (40, 0.8)]]), strict=True)
    assert costs == (20, 30)
    assert scores == pytest.approx([(0.2 + 0.4) / 2, (0.3 + 0.6) / 2])
    assert mean_curve([[(10, 0.1), (30, 0.3)]]) == [(10, 0.1), (30, 0.3)]
    assert mean_curve([[(10, 0.1)], [(20, 0.1)]]) == []


def test_equal_cost_hand_worked(tmp_path, monkeypatch):
    (of_metric,) = curves(*made(tmp_path, monkeypatch))
    ref, fast, slow = compare(of_metric, 'ref')
    assert [point.name for point in fast.points] == ['1/5', '2/5', '3/5', '4/5', 'end']
    assert [point.score.value for point in ref.points] == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6])
    assert {point.difference.value for point in ref.points} == {0.0}
    # At 60, seed 0 lies at 0.55 and seed 1 at 0.8, against 0.3 and 0.5.
    assert [point.score.value for point in fast.points] == pytest.approx([0.4, 0.6, 0.675, 0.75, 0.75])
    third = fast.points[2].difference
    assert third.value == pytest.approx((0.25 + 0.3) / 2)
    # t(0.975, 1) = 12.706; the standard deviation of two values over the root of 2 is half their distance.
    assert third.high - third.value == pytest.approx(12.7062 * 0.025, rel=1e-4)
    # The end is the greatest cost that both have: 80, where the reference has 0.4 and 0.6.
    assert (fast.points[4].cost, fast.points[4].share) == (80, 0.8)
    assert fast.points[4].difference.value == pytest.approx((0.2 + 0.3) / 2)
    # Not scored before 60.
    assert [point.difference.value is None for point in slow.points] == [True, True, False, False, False]
    assert slow.points[4].difference.value == pytest.approx(-0.3)


def test_the_cost_of_the_best_score_hand_worked(tmp_path, monkeypatch):
    (of_metric,) = curves(*made(tmp_path, monkeypatch))
    ref, fast, slow = compare(of_metric, 'ref')
    assert (ref.best, ref.ratio, ref.ratios) == (pytest.approx(0.6), 1.0, {0: 1.0, 1: 1.0})
    # Its mean is 0.4, 0.6, 0.75: 0.6 at 40. Seed 0 reaches 0.5 and seed 1 reaches 0.7, both at 40 too.
    assert fast.ratio == pytest.approx(0.4)
    assert fast.ratios == pytest.approx({0: 0.4, 1: 0.4})
    assert (slow.ratio, slow.ratios) == (None, {0: None, 1: None})


def test_the_files(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch, arms=('ref', 'fast', 'slow', 'unscored'))
    text = gather_results(sweep, runs, tmp_path / 'w')
    folder = tmp_path / 'w' / 'results'
    assert text.splitlines()[-3:] == [str(folder / name) for name in ('curves.md', 'curves.csv', 'curves.png')]
    markdown = (folder / 'curves.md').read_text()
    assert '| ref | 2 | 0.200 | 0.300 | 0.400 | 0.500 | 0.600 | 1.00 | 1.00 | 1.00, 1.00 |' in markdown
    assert '| slow | 2 | - | - | 0.100, -0.300 [' in markdown
    assert markdown.count('| 1.00 | never | never, never |') == 1
    assert '| 0.80 | 0.40 | 0.40, 0.40 |' in markdown
    assert 'on 8 documents of dev' in markdown
    lines = list(csv.DictReader(io.StringIO((folder / 'curves.csv').read_text())))
    assert len(lines) == 3 * 5
    assert (lines[9]['arm'], lines[9]['at'], lines[9]['share'], lines[9]['flops']) == ('fast', 'end', '0.8', '80')
    assert (lines[9]['mean'], lines[9]['difference'], lines[9]['ratio_to_reach_it']) == ('0.75', '0.25', '0.4')
    assert (lines[14]['ratio_to_reach_it'], lines[14]['ratio_by_seed']) == ('never', '0:never 1:never')
    assert (folder / 'curves.png').read_bytes().startswith(b'\x89PNG')


def test_only_metrics_that_all_scores_have_are_curves(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch, metrics=('S0.micro_f1', 'micro_f1'))
    assert [of_metric.metric for of_metric in curves(sweep, runs)] == ['micro_f1']
    for run in runs:
        (run.workdir / 'scores.jsonl').unlink()
    assert curves(sweep, runs) == []
    gather_results(sweep, runs, tmp_path / 'w')
    assert not (tmp_path / 'w' / 'results' / 'curves.md').exists()


def test_without_a_score_of_the_reference_there_are_curves_and_nothing_is_compared(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch, arms=('unscored', 'fast'))
    gather_results(sweep, runs, tmp_path / 'w')
    markdown = (tmp_path / 'w' / 'results' / 'curves.md').read_text()
    assert '| fast | 0 | - | - | - | - | - | - |  |  |' in markdown


def test_scores_that_cannot_be_compared_or_read(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch)
    path = runs[0].workdir / 'scores.jsonl'
    whole = path.read_text()
    path.write_text(whole.replace('"dev"', '"test"'))
    with pytest.raises(UserError, match='the scores are of different documents'):
        gather_results(sweep, runs, tmp_path / 'w')
    # What does not depend on them is there.
    assert (tmp_path / 'w' / 'results' / 'table.md').exists()
    path.write_text(whole[:-5])
    with pytest.raises(UserError, match=r'scores.jsonl in .* cannot be read; run "ccl-jax train" there again'):
        curves(sweep, runs)
