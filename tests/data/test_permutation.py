"""The endless permutation: bijective in every pass, another one each time, fair for small n."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.data.permutation import endless_permutation


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 400), key=st.integers(0, 2**64 - 1), passes=st.integers(1, 4))
def test_every_pass_is_a_permutation(n, key, passes):
    values = endless_permutation(np.arange(passes * n), n, key).reshape(passes, n)
    assert (np.sort(values, axis=1) == np.arange(n)).all()


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 10**12), key=st.integers(0, 2**64 - 1), start=st.integers(0, 10**13))
def test_any_piece_is_found_by_itself(n, key, start):
    piece = endless_permutation(np.arange(start, start + 50), n, key)
    assert ((piece >= 0) & (piece < n)).all()
    singly = [endless_permutation(np.array([p]), n, key)[0] for p in range(start, start + 50)]
    assert piece.tolist() == singly
    inside = piece[np.arange(start, start + 50) // n == start // n]
    assert len(set(inside.tolist())) == len(inside)


@pytest.mark.parametrize('n', [3, 4, 5])
def test_small_orders_are_equally_frequent(n):
    orders = list(itertools.permutations(range(n)))
    passes = 400 * len(orders)
    values = endless_permutation(np.arange(passes * n), n, 7).reshape(passes, n)
    counts = collections.Counter(map(tuple, values.tolist()))
    chi_squared = sum((counts[order] - 400) ** 2 / 400 for order in orders)
    # Mean and standard deviation of chi squared with k - 1 degrees of freedom; five of them are a rare event.
    assert chi_squared < len(orders) - 1 + 5 * (2 * (len(orders) - 1)) ** 0.5


def test_a_large_order_has_no_trend_and_neighbours_do_not_stay_together():
    n = 100_003
    for key in (1, 2):
        order = endless_permutation(np.arange(n), n, key)
        assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 5 / n**0.5
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / n**0.5
        # The first tenth is a fair sample of every tenth: binomial, 5 standard deviations.
        of_tenth = np.histogram(order[: n // 10], bins=10, range=(0, n))[0]
        assert (abs(of_tenth - n / 100) < 5 * (n / 100) ** 0.5).all()
    # Two random orders agree at one place on average.
    assert (endless_permutation(np.arange(n), n, 1) == endless_permutation(np.arange(n), n, 2)).sum() < 10
