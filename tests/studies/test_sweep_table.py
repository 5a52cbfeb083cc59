"""The table of a sweep, against scipy, a bootstrap written out by hand, and hand-worked cases."""

import csv
import io
import itertools
import json

import numpy as np
import pytest
from scipy import stats

from ccl_jax.errors import UserError
from ccl_jax.studies.sweep import gather_results
from ccl_jax.studies.sweep_result import read_record, result_of
from ccl_jax.studies.sweep_table import gather, gather_baselines, over_seeds
from tests.studies.sweep_helpers import GOLD, finish, sweep_of

SHOWN = ('micro_f1', 'S0.micro_f1', 'S1.micro_f1')
# What the seeds of two arms predict; I10 and E11.9 are S0, N17.9 is held out, R07.9 is S3.
PREDICTED = {
    'a': ({'d0': ('I10',), 'd1': ()}, {'d0': ('I10', 'R07.9'), 'd1': ('R07.9',)}, {'d0': (), 'd1': ('I10',)}),
    'b': ({'d0': ('I10', 'E11.9'), 'd1': ('N17.9',)}, {'d0': ('I10',), 'd1': ()}, {'d0': ('E11.9',), 'd1': ('R07.9',)}),
}
VALUES = {'a': (0.5, 0.6, 0.7), 'b': (0.55, 0.7, 0.7)}


def made(tmp_path, monkeypatch, arms=('a', 'b'), seeds=(0, 1, 2), **keys):
    sweep, runs = sweep_of(tmp_path / 'w', list(arms), monkeypatch, seeds=seeds, metrics=SHOWN, **keys)
    for run in runs:
        if run.arm in VALUES:
            values, predicted = VALUES[run.arm][run.seed], PREDICTED[run.arm][run.seed]
            finish(run, values, predicted, low=values - 0.2, high=values + 0.1)
    return sweep, runs


def rows(sweep, runs):
    return gather(sweep, [result_of(run, read_record(run)) for run in runs])


def test_means_and_paired_differences_over_seeds_are_those_of_scipy(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch)
    a, b = rows(sweep, runs)
    for row in (a, b):
        interval = stats.t.interval(0.95, 2, np.mean(VALUES[row.arm]), stats.sem(VALUES[row.arm]))
        found = row.metrics['micro_f1']
        assert (found.value, found.low, found.high) == pytest.approx((np.mean(VALUES[row.arm]), *interval))
    paired = stats.ttest_rel(VALUES['b'], VALUES['a']).confidence_interval(0.95)
    found = b.differences['micro_f1']
    assert (found.value, found.low, found.high) == pytest.approx((0.05, paired.low, paired.high))
    assert (a.differences, a.by_documents) == ({}, {})
    assert b.metrics['S1.micro_f1'].value is None


def micro_f1(predicted, documents, codes):
    """Written out: hits, predicted and gold pairs of the drawn documents; None where there is nothing to count."""
    pairs = [(set(GOLD[d]) & codes, set(predicted[d]) & codes) for d in documents]
    total = sum(len(gold) + len(answer) for gold, answer in pairs)
    return 2 * sum(len(gold & answer) for gold, answer in pairs) / total if total else None


@pytest.mark.parametrize(
    ('name', 'codes'), [('micro_f1', {'I10', 'E11.9', 'R07.9', 'N17.9'}), ('S0.micro_f1', {'I10', 'E11.9'})]
)
def test_the_interval_over_documents_is_that_of_all_resamples(tmp_path, monkeypatch, name, codes):
    """Two documents have four equally likely resamples, so the bootstrap can be written out."""
    sweep, runs = made(tmp_path, monkeypatch)
    found = rows(sweep, runs)[1].by_documents[name]

    def difference(documents):
        scores = {arm: [micro_f1(p, documents, codes) for p in seeds] for arm, seeds in PREDICTED.items()}
        if any(score is None for score in itertools.chain(*scores.values())):
            return None
        return np.mean(scores['b']) - np.mean(scores['a'])

    value = difference(['d0', 'd1'])
    draws = [d for pair in itertools.product(GOLD, repeat=2) if (d := difference(pair)) is not None]
    # The draws are moved so that their mean lies on the value; 1,000 random ones have nearly this mean.
    assert found.value == pytest.approx(value)
    assert found.low == pytest.approx(min(draws) - np.mean(draws) + value, abs=0.02)
    assert found.high == pytest.approx(max(draws) - np.mean(draws) + value, abs=0.02)


def test_baselines_of_the_reference_stand_below_and_count_once_where_they_are_the_same(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch)
    records = [read_record(run) for run in runs]
    for run, record in zip(runs, records, strict=True):
        # The interval is drawn anew with each seed; another arm's baselines are not shown.
        values = {'fixed': 0.4 if run.arm == 'a' else 0.9, 'fitted': 0.3 + 0.1 * run.seed}
        record['metrics']['baselines'] = {
            name: {
                'metrics': {'micro_f1': {'value': value, 'low': value - 0.01 * (1 + run.seed), 'high': value + 0.1}},
                'strata': {},
            }
            for name, value in values.items()
        }
    fitted, fixed = gather_baselines(sweep, [result_of(*pair) for pair in zip(runs, records, strict=True)])
    assert (fixed.arm, fixed.seeds, fitted.arm, fitted.seeds) == ('fixed (a)', (0,), 'fitted (a)', (0, 1, 2))
    found = fixed.metrics['micro_f1']
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.39, 0.5))
    assert fitted.metrics['micro_f1'].value == pytest.approx(0.4)
    assert fixed.metrics['S1.micro_f1'].value is None
    # Paired with the arm by seed, whose values are 0.5, 0.6, 0.7.
    differences = [fixed.differences['micro_f1'], fitted.differences['micro_f1']]
    assert [d.value for d in differences] == pytest.approx([-0.2, -0.2])
    paired = stats.t.interval(0.95, 2, -0.2, stats.sem((-0.1, -0.2, -0.3)))
    assert (differences[0].low, differences[0].high) == pytest.approx(paired)
    assert (differences[1].low, differences[1].high) == pytest.approx((-0.2, -0.2))


def test_one_seed_has_intervals_over_documents(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch, seeds=(0,))
    _, b = rows(sweep, runs)
    assert (b.metrics['micro_f1'].low, b.metrics['micro_f1'].high) == pytest.approx((0.35, 0.65))
    assert b.differences['micro_f1'].value == pytest.approx(0.05)
    assert b.differences['micro_f1'].low is None
    assert b.by_documents['micro_f1'].low is not None


def test_only_seeds_that_both_have_are_paired(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch)
    finished = [run for run in runs if (run.arm, run.seed) not in (('a', 0), ('b', 1))]
    a, b = rows(sweep, finished)
    assert (a.seeds, b.seeds) == ((1, 2), (0, 2))
    assert b.differences['micro_f1'].value == pytest.approx(0.0)
    assert b.metrics['micro_f1'].value == pytest.approx(0.625)
    # Without the reference there is nothing to compare with.
    (alone,) = rows(sweep, [run for run in runs if run.arm == 'b'])
    assert (alone.differences, alone.by_documents) == ({}, {})


def test_cost_ratios_hand_worked(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch, seeds=(0, 1))
    costs = {('a', 0): 100, ('b', 0): 40, ('a', 1): 300, ('b', 1): 60}
    for run in runs:
        total = {'tokens': costs[run.arm, run.seed], 'flops': 2e9, 'device_seconds': None}
        (run.workdir / 'cost.json').write_text(json.dumps({'total': total}))
    a, b = rows(sweep, runs)
    assert b.cost_ratios == {'tokens': 0.25, 'flops': 1.0}
    assert a.costs == {'tokens': 200.0, 'flops': 2e9}
    text = gather_results(sweep, runs, tmp_path / 'w')
    assert '| x tokens | x FLOPs |' in text
    reference, other = text.splitlines()[2:4]
    assert reference.endswith('| 1.00 | 1.00 |')
    assert other.endswith('| 0.25 | 1.00 |')


def test_the_files(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch, arms=('a', 'b', 'unfinished'))
    text = gather_results(sweep, runs, tmp_path / 'w')
    folder = tmp_path / 'w' / 'results'
    markdown = (folder / 'table.md').read_text()
    assert text.startswith(markdown)
    # 0.05 +- 4.303 x 0.05 / sqrt(3), and so on.
    assert '| b | 3 | 0.650 [0.435, 0.865] | +0.050 [-0.074, +0.174] (' in markdown
    assert '6 of 9 runs, the others are not finished' in markdown
    assert 'x tokens' not in markdown
    table = list(csv.DictReader(io.StringIO((folder / 'table.csv').read_text())))
    assert [(line['arm'], line['metric']) for line in table] == list(itertools.product('ab', SHOWN))
    assert table[3]['mean'] == '0.65'
    assert (table[3]['difference'], table[3]['cost_tokens'], table[3]['seeds']) == ('0.05', '', '0 1 2')
    values = list(csv.DictReader(io.StringIO((folder / 'runs.csv').read_text())))
    assert [(line['arm'], line['seed'], float(line['micro_f1'])) for line in values] == [
        (arm, str(seed), VALUES[arm][seed]) for seed in range(3) for arm in 'ab'
    ]
    assert (folder / 'plot.png').read_bytes().startswith(b'\x89PNG')
    assert gather_results(sweep, runs[2:3], tmp_path / 'w').startswith('none of the 1 runs')


def test_an_unknown_metric_is_refused_with_the_nearest(tmp_path, monkeypatch):
    sweep, runs = sweep_of(tmp_path / 'w', ['a'], monkeypatch, seeds=(0,), metrics=('mikro_f1',))
    finish(runs[0], 0.5, {'d0': ('I10',)})
    with pytest.raises(UserError, match=r'no run has the metric "mikro_f1".*"micro_f1"'):
        rows(sweep, runs)


def test_no_value_has_no_mean():
    assert over_seeds([]).value is None
