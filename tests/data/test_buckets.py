"""The choice of buckets against brute force over all subsets, and the model of the cost against a plain reckoning."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.data.buckets import choose_buckets, model_choices
from ccl_jax.data.plan import PlanSettings, make_plan


def row_cost(length):
    return length * (1 + length / 57_000)


def model(lengths, buckets, max_segments=64):
    """The cost that `buckets` documents, example by example."""
    long_ones = [n for n in lengths if 2 * n > buckets[0]]
    short = [n for n in lengths if 2 * n <= buckets[0]]
    own = [min(b for b in buckets if b >= n) for n in long_ones]
    slack = sum(own) - sum(long_ones)
    rate = 0.0
    if short:
        rate = row_cost(buckets[0]) / min(buckets[0], (max_segments - 1) * sum(short) / len(short))
    return sum(map(row_cost, own)) + rate * max(0, sum(short) - slack)


def brute_force(lengths, multiple, most):
    longest = -(-max(lengths) // multiple) * multiple
    candidates = range(multiple, longest, multiple)
    choices = ((*some, longest) for k in range(most) for some in itertools.combinations(candidates, k))
    return min((model(lengths, choice), choice) for choice in choices)


def choose(lengths, multiple, most):
    given = PlanSettings((), 1000, epochs=1, longest=100 * multiple, bucket_multiple=multiple, max_buckets=most)
    return model_choices(np.bincount(lengths), given)[0]


def ideal(lengths):
    return sum(map(row_cost, lengths))


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(150, 640), min_size=1, max_size=12),
    short=st.sampled_from([0, 2000]),
    most=st.integers(1, 4),
)
def test_where_slack_is_never_or_always_filled_it_is_exactly_the_cheapest(lengths, short, most):
    # 2,000 spans of 40 tokens fill more than the slack of 12 rows of at most 640.
    lengths = lengths + [40] * short
    choice = choose(lengths, 80, most)
    least, _ = brute_force(lengths, 80, most)
    assert choice.relative_cost * ideal(lengths) == pytest.approx(least)


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 640), min_size=1, max_size=40),
    most=st.integers(1, 4),
)
def test_in_between_it_is_near_the_cheapest(lengths, most):
    least, _ = brute_force(lengths, 80, most)
    found = choose(lengths, 80, most).relative_cost * ideal(lengths)
    assert least * (1 - 1e-9) <= found <= 1.02 * least


def test_a_choice_by_hand():
    # Two kinds of documents, and no room for two: a row length for each, rounded up; a third is of no use.
    lengths = [210] * 5 + [290] * 5
    assert choose(lengths, 50, 3).buckets == (250, 300)
    assert choose(lengths, 50, 1).buckets == (300,)
    cost = row_cost(250) * 5 + row_cost(300) * 5
    assert choose(lengths, 50, 2).relative_cost == pytest.approx(cost / ideal(lengths))


def lognormal(documents, spans):
    rng = np.random.default_rng(0)
    return np.concatenate(
        [
            np.clip(rng.lognormal(np.log(2200), 0.6, documents), 64, 8192).astype(int),
            np.clip(rng.lognormal(np.log(48), 0.5, spans), 12, 400).astype(int),
        ]
    )


def cost_of(lengths, **changes):
    settings = PlanSettings(**{'buckets': (), 'tokens_per_step': 16_384, 'epochs': 1, **changes})
    plan = make_plan(lengths, np.zeros_like(lengths), np.ones_like(lengths), settings)
    assert plan.buckets == plan.settings.buckets
    return plan.report['modelled_cost'], plan.buckets


def test_chosen_buckets_cost_less_than_powers_of_two_and_equal_steps():
    lengths = lognormal(1500, 22_500)
    cost, buckets = cost_of(lengths, longest=8192)
    assert cost <= 1.03
    assert len(buckets) <= 8
    assert all(bucket % 128 == 0 for bucket in buckets)
    assert cost < cost_of(lengths, buckets=(256, 512, 1024, 2048, 4096, 8192))[0]
    assert cost <= cost_of(lengths, buckets=tuple(range(1024, 8193, 1024)))[0]
    assert cost_of(lengths, longest=8192, max_buckets=3)[0] > cost


def test_few_steps_get_few_buckets():
    # All in about three steps: every further bucket would leave more rows empty or moved.
    lengths = lognormal(60, 900)
    cost, buckets = cost_of(lengths, longest=8192, tokens_per_step=65_536)
    assert len(buckets) < 8
    assert cost < cost_of(lengths, buckets=tuple(range(1024, 8193, 1024)), tokens_per_step=65_536)[0]


def test_the_longest_bucket_holds_the_longest_example_even_if_the_window_has_shorter_ones():
    lengths = np.array([100] * 20 + [700])
    assert choose_buckets(lengths[:20], 700, PlanSettings((), 1000, epochs=1, longest=1024), whole=False)[-1] == 768
    assert cost_of(lengths, longest=1024, window=3)[1][-1] == 768
