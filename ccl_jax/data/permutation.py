"""Pseudo-random orders of 0..n-1 that are computed where they are needed and never stored.

A Feistel network over the grid a x b that just holds n (Luby and Rackoff 1988, with
addition modulo the side instead of exclusive or); a point that falls outside 0..n-1 goes
through the network again until it is inside (cycle walking; Black and Rogaway 2002).
"""

import math

import numpy as np

# Fewer leave small orders unequally frequent.
_ROUNDS = 16
# Of splitmix64 (Steele, Lea and Flood 2014).
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def endless_permutation(positions: np.ndarray, n: int, key: int) -> np.ndarray:
    """Returns the elements at `positions` of an endless sequence: 0..n-1 in a random order, again in another, ...

    Args:
        positions: from 0, int64; p lies in the pass p // n.
        n: at least 1.
        key: below 2^64; other keys give other orders.
    """
    positions = np.asarray(positions)
    width = math.isqrt(n - 1) + 1
    sides = np.uint64(width), np.uint64(-(-n // width))
    passes, start = np.divmod(positions.astype(np.uint64), np.uint64(n))
    keys = _scramble(passes + np.uint64(key))
    points = _network(start, keys, sides)
    outside = np.flatnonzero(points >= n)
    while len(outside):
        points[outside] = _network(points[outside], keys[outside], sides)
        outside = outside[points[outside] >= n]
    return points.astype(np.int64)


def _network(points: np.ndarray, keys: np.ndarray, sides: tuple[np.uint64, np.uint64]) -> np.ndarray:
    left, right = np.divmod(points, sides[1])
    for round_ in range(_ROUNDS):
        keys = keys + _STEP
        if round_ % 2:
            right = (right + _scramble(left ^ keys) % sides[1]) % sides[1]
        else:
            left = (left + _scramble(right ^ keys) % sides[0]) % sides[0]
    return left * sides[1] + right


def _scramble(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of a value changes about half of the bits."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))
