"""Contrasts of a sweep, against numpy, scipy and all resamples of two documents."""

import csv
import io
import itertools

import numpy as np
import pytest
from scipy import stats

from ccl_jax.errors import UserError
from ccl_jax.evaluation.bootstrap import Statistics, combined_bootstrap
from ccl_jax.studies.sweep import gather_results
from ccl_jax.studies.sweep_contrasts import gather_contrasts
from ccl_jax.studies.sweep_result import read_record, result_of
from tests.studies.sweep_helpers import finish, sweep_of, write_metrics

# I10 and E11.9 are S0, R07.9 and J45.909 are S3, in both documents.
GOLD = {'d0': ('I10', 'R07.9', 'J45.909'), 'd1': ('E11.9', 'I10', 'R07.9')}
PREDICTED = {
    'B': ({'d0': ('I10', 'J45.909'), 'd1': ('R07.9',)}, {'d0': ('E11.9',), 'd1': ('R07.9', 'J45.909')}),
    'D': ({'d0': ('I10', 'R07.9'), 'd1': ('I10', 'R07.9')}, {'d0': ('I10', 'R07.9'), 'd1': ('E11.9',)}),
}
KINDS = {'S0': {'I10', 'E11.9'}, 'S3': {'R07.9', 'J45.909'}}
TERMS = (('+', 'D', 'S0.micro_f1'), ('-', 'B', 'S0.micro_f1'), ('-', 'D', 'S3.micro_f1'), ('+', 'B', 'S3.micro_f1'))


def micro_f1(predicted, documents, kind):
    pairs = [(set(GOLD[d]) & KINDS[kind], set(predicted[d]) & KINDS[kind]) for d in documents]
    return (
        2 * sum(len(gold & answer) for gold, answer in pairs) / sum(len(gold) + len(answer) for gold, answer in pairs)
    )


def contrast(documents, seed):
    signs = {'+': 1, '-': -1}
    return sum(
        signs[sign] * micro_f1(PREDICTED[arm][seed], documents, metric.partition('.')[0]) for sign, arm, metric in TERMS
    )


def made(tmp_path, monkeypatch, arms=('B', 'D'), seeds=(0, 1), **keys):
    keys = {'contrasts': {'transfer': TERMS}, 'metrics': ('micro_f1',), **keys}
    sweep, runs = sweep_of(tmp_path / 'w', list(arms), monkeypatch, seeds=seeds, **keys)
    for run in runs:
        if run.arm in PREDICTED:
            finish(run, None, PREDICTED[run.arm][run.seed], gold=GOLD)
    return sweep, runs


def contrasts(sweep, runs):
    return gather_contrasts(sweep, [result_of(run, read_record(run)) for run in runs])


def test_both_intervals_worked_out(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch)
    (found,) = contrasts(sweep, runs)
    by_seed = [contrast(('d0', 'd1'), seed) for seed in (0, 1)]
    interval = stats.t.interval(0.95, 1, np.mean(by_seed), stats.sem(by_seed))
    estimate = found.over_seeds
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((np.mean(by_seed), *interval))
    # Two documents have four equally likely resamples.
    draws = [np.mean([contrast(pair, seed) for seed in (0, 1)]) for pair in itertools.product(GOLD, repeat=2)]
    moved = np.mean(by_seed) - np.mean(draws)
    assert found.over_documents.value == pytest.approx(np.mean(by_seed))
    assert found.over_documents.low == pytest.approx(min(draws) + moved, abs=0.02)
    assert found.over_documents.high == pytest.approx(max(draws) + moved, abs=0.02)
    assert min(draws) < max(draws)


def test_the_seeds_are_those_that_all_arms_have(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch)
    (found,) = contrasts(sweep, [run for run in runs if (run.arm, run.seed) != ('B', 1)])
    assert found.seeds == (0,)
    assert found.over_seeds.value == pytest.approx(contrast(('d0', 'd1'), 0))
    assert (found.over_seeds.low, found.over_documents.low is None) == (None, False)
    (none,) = contrasts(sweep, [run for run in runs if run.arm == 'D'])
    assert (none.seeds, none.over_seeds.value, none.over_documents.value) == ((), None, None)


def test_where_documents_do_not_decide_there_is_no_interval_over_them(tmp_path, monkeypatch):
    terms = (('+', 'D', 'invalid_code_rate'), ('-', 'B', 'invalid_code_rate'))
    sweep, runs = made(tmp_path, monkeypatch, contrasts={'invalid': terms, 'S2': (('+', 'D', 'S2.micro_f1'),)})
    invalid, empty = contrasts(sweep, runs)
    assert (invalid.over_seeds.value, invalid.over_documents.value) == (0.0, None)
    assert (empty.over_seeds.value, empty.over_documents.value) == (None, None)


def test_the_files(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch)
    text = gather_results(sweep, runs, tmp_path / 'w')
    formula = '+ D S0.micro_f1 - B S0.micro_f1 - D S3.micro_f1 + B S3.micro_f1'
    value = np.mean([contrast(('d0', 'd1'), seed) for seed in (0, 1)])
    assert f'| transfer | {formula} | 2 | {value:+.3f} [' in text
    assert text.startswith((tmp_path / 'w' / 'results' / 'table.md').read_text())
    (line,) = csv.DictReader(io.StringIO((tmp_path / 'w' / 'results' / 'contrasts.csv').read_text()))
    assert (line['contrast'], line['of'], line['seeds']) == ('transfer', formula, '0 1')
    assert float(line['value']) == pytest.approx(value, abs=1e-6)
    assert float(line['documents_low']) < float(line['value']) < float(line['documents_high'])


def test_mistakes(tmp_path, monkeypatch):
    sweep, runs = made(tmp_path, monkeypatch, seeds=(0,), contrasts={'c': (('+', 'D', 'S0.mikro_f1'),)})
    write_metrics(runs[0], {'metrics': {}, 'strata': {}})
    with pytest.raises(UserError, match=r'no run has the metric "S0.mikro_f1" of the sweep; the nearest one is "S'):
        contrasts(sweep, runs)
    one, other = (Statistics((name,), lambda weights: {'m': weights[:, 0]}, 1) for name in 'ab')
    with pytest.raises(UserError, match='on the same documents'):
        combined_bootstrap([(1, 'm', one), (-1, 'm', other)], seed=0)


def test_a_sum_is_not_cut_off_at_one():
    always = Statistics(('a', 'b'), lambda weights: {'m': np.ones(len(weights))}, 1)
    found = combined_bootstrap([(1, 'm', always), (1, 'm', always)], seed=0, samples=10)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
