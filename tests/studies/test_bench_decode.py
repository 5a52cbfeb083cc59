"""The bench of decoding runs and compares what it says; how fast a machine is, no test can say."""

import dataclasses
import importlib.util
import re

import numpy as np
import pytest

from ccl_jax.errors import UserError
from ccl_jax.studies import bench_decode as study
from ccl_jax.studies import decode_vllm

SIZE = dataclasses.replace(
    study._SIZE,
    architecture=dataclasses.replace(
        study._SIZE.architecture,
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=64,
        initializer_range=0.3,
    ),
    prompts=3,
    shortest=3,
    longest=20,
    new_tokens=4,
    buckets=(8, 32),
    allowed_ids=5,
)


def test_prompts_have_all_lengths_from_the_shortest_to_the_longest():
    lengths = [len(prompt) for prompt in study.make_prompts(study._SIZE)]
    assert (len(lengths), min(lengths), max(lengths)) == (16, 100, 900)
    assert np.diff(sorted(lengths)).max() <= 54
    assert lengths != sorted(lengths)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('torch') is None, reason='compares with torch')
def test_every_way_is_measured_and_answers_are_equal():
    made = []

    def constraint(prompt):
        made.append(len(prompt))
        return study.RandomIds(40, 5)

    text = study.bench_decode(SIZE, repeats=1, constraint=constraint)
    assert re.findall(r'^(\w+(?:, constrained)?) +[\d.]+ +[\d.]+ +[\d.]+ +[\d,]+$', text, re.MULTILINE) == [
        study.THEIRS,
        study.OURS,
        study.CONSTRAINED,
    ]
    assert 'greedy answers equal, token by token: 3 of 3' in text
    # A warm-up and a run, each with a new constraint for every prompt.
    assert sorted(made) == sorted([3, 11, 20] * 2)


def test_report_compares_runs_of_the_same_turn():
    answers = {way: [[1, 2, 3, 4]] * 3 for way in (study.THEIRS, study.OURS, study.CONSTRAINED)}
    answers[study.OURS] = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 5]]
    seconds = {
        study.THEIRS: [4.0, 9.0, 6.0],
        study.OURS: [2.0, 3.0, 2.0],
        study.CONSTRAINED: [2.1, 3.5, 2.0],
        study.PREFILL: [1.0, 1.0, 1.0],
    }
    text = study.report(SIZE, study.make_prompts(SIZE), answers, seconds)
    assert re.search(r'^transformers +6.00 +4.00 +9.00 +2$', text, re.MULTILINE)
    assert 'writes 3.00 x as many tokens a second as transformers (2.00 to 3.00)' in text
    assert 'allowed ids a step costs 10.0% of decoding time (0.0% to 25.0%)' in text
    assert 'equal, token by token: 2 of 3' in text
    answers[study.THEIRS] = [[1]] * 3
    with pytest.raises(ValueError, match='transformers did not write 4 tokens'):
        study.report(SIZE, study.make_prompts(SIZE), answers, seconds)


def test_vllm_or_a_gpu_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(decode_vllm.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='needs vLLM, which is not installed; run pip install vllm'):
        decode_vllm.bench_decode_vllm()
    monkeypatch.setattr(decode_vllm.importlib.util, 'find_spec', lambda name: name)
    monkeypatch.setattr(decode_vllm.shutil, 'which', lambda name: None)
    with pytest.raises(UserError, match='needs an NVIDIA GPU'):
        decode_vllm.bench_decode_vllm()
