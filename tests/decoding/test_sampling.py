"""Draws against the distribution that they should have, and bits of ids against the ids."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.decoding.sampling import choose, make_sampling, pack_flags

LOGITS = np.log(np.array([0.4, 0.05, 0.3, 0.2, 0.05], np.float32))
DRAWS = 20_000
# No multiple of eight.
SIZE = 37

jitted = jax.jit(choose)


def frequencies(allowed=None, **settings):
    """Of each token among draws for as many prompts."""
    prompts, zeros = np.arange(DRAWS, dtype=np.int32), np.zeros(DRAWS, np.int32)
    bits = None if allowed is None else pack_flags(np.tile(np.isin(np.arange(5), allowed), (DRAWS, 1)))
    sampling = make_sampling(**{'temperature': 1.0, 'top_p': 1.0, 'seed': 5, **settings})
    tokens, logprobs = jitted(np.tile(LOGITS + 2, (DRAWS, 1)), sampling, prompts, zeros, bits)
    # Those of the model alone, whatever was drawn from.
    np.testing.assert_allclose(logprobs, LOGITS[tokens], atol=1e-5)
    return np.bincount(tokens, minlength=5) / DRAWS


def close(drawn, expected):
    """Within five standard deviations of a binomial."""
    expected = np.array(expected) / np.sum(expected)
    np.testing.assert_array_less(np.abs(drawn - expected), 5 * np.sqrt(expected * (1 - expected) / DRAWS) + 1e-9)


def test_draws_have_the_probabilities_of_the_model():
    close(frequencies(), [0.4, 0.05, 0.3, 0.2, 0.05])


def test_temperature_is_a_power_of_the_probabilities():
    close(frequencies(temperature=0.5), np.square([0.4, 0.05, 0.3, 0.2, 0.05]))


def test_top_p_keeps_the_likeliest_until_they_have_it():
    close(frequencies(top_p=0.65), [0.4, 0, 0.3, 0, 0])
    close(frequencies(top_p=0.75), [0.4, 0, 0.3, 0.2, 0])
    close(frequencies(top_p=0.01), [1, 0, 0, 0, 0])


def test_what_is_not_allowed_is_not_drawn_and_has_no_share_of_top_p():
    close(frequencies(allowed=[1, 3, 4]), [0, 0.05, 0, 0.2, 0.05])
    close(frequencies(allowed=[1, 2, 3], top_p=0.6), [0, 0, 0.3, 0.2, 0])
    close(frequencies(allowed=[4], temperature=0.0), [0, 0, 0, 0, 1])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.integers(0, SIZE - 1), min_size=1), min_size=4, max_size=4), st.integers(0, 1000))
def test_the_likeliest_of_the_allowed_is_chosen(rows, seed):
    bits = pack_flags(np.stack([np.isin(np.arange(SIZE), list(ids)) for ids in rows]))
    logits = np.random.default_rng(seed).normal(size=(4, SIZE)).astype(np.float32)
    zeros = np.zeros(4, np.int32)
    tokens, _ = jitted(logits, None, zeros, zeros, bits)
    assert tokens.tolist() == [max(ids, key=lambda token: row[token]) for ids, row in zip(rows, logits, strict=True)]
