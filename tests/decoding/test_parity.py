"""Greedy answers against transformers on torch, for every architecture, live: batched there and here."""

import numpy as np
import pytest

from ccl_jax.decoding.generate import generate
from ccl_jax.model.hf import load_decoder
from ccl_jax.studies.bench_decode import their_way
from ccl_jax.studies.bench_parity import CASES, random_reference

pytest.importorskip('torch')

LENGTHS = (40, 3, 17, 1, 26, 9, 33)


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow) for name in CASES if 'vision' not in name])
def test_ragged_batches_are_continued_as_transformers_does(name, tmp_path):
    config = CASES[name].config
    random_reference(config, seed=4).save_pretrained(tmp_path)
    rng = np.random.default_rng(4)
    prompts = [rng.integers(0, config['vocab_size'], length).tolist() for length in LENGTHS]
    expected = their_way(str(tmp_path), prompts, 16)()
    decoder = load_decoder(tmp_path)
    generations = generate(decoder, prompts, end_ids=(), max_new_tokens=16, buckets=(16, 64), batch_rows=4)
    assert [list(generation.tokens) for generation in generations] == expected
