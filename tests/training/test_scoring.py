"""Scores on the way: when, with which weights, and once each in a resumed run."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from tiny import fit_tiny, lines, losses, tiny_lora, tiny_params

from ccl_jax.model.lora import LoraParam
from ccl_jax.model.settings import LoraSettings
from ccl_jax.training import goodput, recorder
from ccl_jax.training.mesh import make_mesh
from ccl_jax.training.scoring import Scoring


def sum_of_weights(decoder):
    return sum(
        float(np.abs(leaf).sum())
        for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(decoder, nnx.Any(nnx.Param, LoraParam))))
    )


def scoring(every):
    def measure(decoder):
        return {'split': 'dev', 'metrics': {'micro_f1': sum_of_weights(decoder)}, 'decoding': {'documents': 1}}

    return Scoring(every, measure, lambda steps: {'tokens': 100 * steps, 'flops': 7 * steps})


def without_times(found):
    return [
        line | {'cost': {k: v for k, v in line['cost'].items() if k != 'device_seconds'}, 'decoding': None}
        for line in found
    ]


@pytest.mark.slow
@pytest.mark.parametrize('lora', [None, {'rank': 2, 'targets': 'query|value', 'alpha': 8.0}], ids=['full', 'lora'])
def test_the_weights_so_far_are_scored_at_the_interval_and_at_the_end(tmp_path, lora):
    state = fit_tiny(tmp_path / 'with', scoring=scoring(4), lora=lora)
    fit_tiny(tmp_path / 'without', lora=lora)
    assert losses(tmp_path / 'with') == losses(tmp_path / 'without')
    found = lines(tmp_path / 'with', 'scores.jsonl')
    assert [line['step'] for line in found] == [3, 7, 9]
    assert [line['cost']['tokens'] for line in found] == [400, 800, 1000]
    seconds = [line['cost']['device_seconds'] for line in found]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    if lora is None:
        (graphdef, _), frozen = tiny_params(make_mesh()), {}
    else:
        graphdef, _, frozen = tiny_lora(make_mesh(), LoraSettings(**lora))
    last = sum_of_weights(nnx.merge(graphdef, state.params, frozen))
    assert found[-1]['metrics']['micro_f1'] == pytest.approx(last, rel=1e-6)
    assert len({line['metrics']['micro_f1'] for line in found}) == 3


def test_a_resumed_run_has_each_score_once(tmp_path):
    def fail(step, batch):
        if step == 7:
            raise RuntimeError('no more data')
        return batch

    with pytest.raises(RuntimeError):
        fit_tiny(tmp_path / 'twice', scoring=scoring(3), change=fail)
    assert [line['step'] for line in lines(tmp_path / 'twice', 'scores.jsonl')] == [2, 5]
    fit_tiny(tmp_path / 'twice', scoring=scoring(3))
    fit_tiny(tmp_path / 'once', scoring=scoring(3))
    once, twice = (without_times(lines(tmp_path / name, 'scores.jsonl')) for name in ('once', 'twice'))
    assert twice == once
    assert [line['step'] for line in once] == [2, 5, 8, 9]


def test_the_time_of_scores_belongs_to_no_step(tmp_path, monkeypatch):
    """On a clock that only scoring moves."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(goodput, 'time', clock)
    monkeypatch.setattr(recorder, 'time', clock)

    def measure(decoder):
        clock.now += 100
        return {'split': 'dev', 'metrics': {}, 'decoding': {'documents': 1}}

    fit_tiny(tmp_path, scoring=Scoring(5, measure, lambda steps: {'tokens': 0, 'flops': 0}))
    assert {line['seconds'] for line in lines(tmp_path)} == {0}
    found = lines(tmp_path, 'scores.jsonl')
    assert [line['decoding']['device_seconds'] for line in found] == [100, 100]
    assert [line['cost']['device_seconds'] for line in found] == [0, 0]
    seconds = json.loads((tmp_path / 'goodput.json').read_text())['seconds']
    assert seconds == {**dict.fromkeys(seconds, 0), 'scoring': 200}
