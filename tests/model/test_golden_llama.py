"""Parity with transformers on machines without torch: goldens/make_llama.py wrote the expectation."""

from pathlib import Path

import numpy as np

from ccl_jax.decoding.generate import generate
from ccl_jax.model.hf import load_decoder

FOLDER = Path(__file__).parents[1] / 'goldens' / 'llama'


def test_logits_and_greedy_tokens_equal_those_of_transformers():
    expected = np.load(FOLDER / 'expected.npz')
    decoder = load_decoder(FOLDER)
    tokens = expected['tokens'].astype(np.int32)
    positions = np.tile(np.arange(tokens.shape[1], dtype=np.int32), (len(tokens), 1))
    logits = decoder.logits(decoder(tokens, positions, np.ones_like(tokens)))
    np.testing.assert_allclose(logits, expected['logits'], atol=1e-4)
    generations = generate(decoder, tokens.tolist(), end_ids=(), max_new_tokens=10, buckets=(16,), batch_rows=2)
    assert [list(generation.tokens) for generation in generations] == expected['greedy'].tolist()
