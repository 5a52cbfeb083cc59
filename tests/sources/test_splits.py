"""Iterative stratification against the paper's algorithm run over every choice it leaves open."""

import itertools
import os
import random
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.sources.splits import stratify

ROOT = Path(__file__).resolve().parents[2]
SHARES = {'train': Fraction(8, 10), 'dev': Fraction(1, 10), 'test': Fraction(1, 10)}


def _outcomes(groups, shares):
    """Returns every assignment that algorithm 1 of Sechidis et al. (2011) can end with.

    Written from the paper's pseudocode in exact fractions. Where it leaves a choice (labels with equally few
    examples, the order of the examples of a label, subsets that desire equally many), all are followed.
    """
    labels = {label for own in groups.values() for label in own}
    ends = set()
    seen = set()

    def follow(rest, label, assigned):
        state = (rest, label, frozenset(assigned.items()))
        if state in seen:
            return
        seen.add(state)
        if not rest:
            ends.add(frozenset(assigned.items()))
            return

        def desired(split, of=None):
            members = [g for g in groups if of is None or of in groups[g]]
            return shares[split] * len(members) - sum(assigned.get(g) == split for g in members)

        if label is None or not any(label in groups[g] for g in rest):
            left = {x: n for x in labels if (n := sum(x in groups[g] for g in rest))}
            if left:
                for x in (x for x, n in left.items() if n == min(left.values())):
                    follow(rest, x, assigned)
                return
            label = None
        for group in rest:
            if label is None or label in groups[group]:
                most = max(desired(split, label) for split in shares)
                best = [split for split in shares if desired(split, label) == most]
                most = max(desired(split) for split in best)
                for split in (split for split in best if desired(split) == most):
                    follow(rest - {group}, label, assigned | {group: split})

    follow(frozenset(groups), None, {})
    return ends


HALVES = {'a': Fraction(1, 2), 'b': Fraction(1, 2)}
QUARTERS = {'a': Fraction(3, 4), 'b': Fraction(1, 4)}


def _found(groups, shares, seeds):
    shares = {name: float(share) for name, share in shares.items()}
    return {frozenset(stratify(groups, shares, seed).items()) for seed in range(seeds)}


@settings(max_examples=60, deadline=None)
@given(
    own=st.lists(st.frozensets(st.sampled_from('xyz')), max_size=5),
    shares=st.sampled_from([SHARES, HALVES, QUARTERS]),
)
def test_the_result_is_one_that_the_paper_allows(own, shares):
    groups = {f'g{i}': labels for i, labels in enumerate(own)}
    assert _found(groups, shares, 5) <= _outcomes(groups, shares)


@pytest.mark.parametrize(
    ('own', 'shares'),
    [
        # The second group goes where the first did not, though its label asks for neither split.
        (('x', 'y'), HALVES),
        (('x', 'x', 'xy'), HALVES),
        (('x', 'xy', 'yz', 'z'), QUARTERS),
        (('x', '', 'xy', 'xyz', ''), HALVES),
    ],
)
def test_chance_reaches_every_outcome_and_no_other(own, shares):
    groups = {f'g{i}': set(labels) for i, labels in enumerate(own)}
    outcomes = _outcomes(groups, shares)
    assert _found(groups, shares, 300) == outcomes
    assert len(outcomes) > 1


@settings(max_examples=50, deadline=None)
@given(
    own=st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=40),
    seed=st.integers(0, 3),
    order=st.randoms(use_true_random=False),
)
def test_every_group_once_and_independent_of_the_order(own, seed, order):
    groups = {f'g{i}': labels for i, labels in enumerate(own)}
    splits = stratify(groups, {'train': 0.8, 'dev': 0.1, 'test': 0.1}, seed)
    assert splits.keys() == groups.keys()
    assert set(splits.values()) <= {'train', 'dev', 'test'}
    items = list(groups.items())
    order.shuffle(items)
    shuffled = {group: [*order.sample(labels, len(labels)), *labels] for group, labels in items}
    assert stratify(shuffled, {'train': 8, 'dev': 1, 'test': 1}, seed) == splits


def test_the_same_in_every_process():
    # The order of a set of strings changes from process to process.
    program = (
        'from ccl_jax.sources.splits import stratify\n'
        'groups = {f"g{i}": {f"x{i % 7}", f"y{i % 5}", f"z{i % 3}"} for i in range(40)}\n'
        'print(stratify(groups, {"a": 0.5, "b": 0.5}, 0))'
    )
    printed = {
        subprocess.run(
            [sys.executable, '-c', program],
            cwd=ROOT,
            env={**os.environ, 'PYTHONHASHSEED': seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ('1', '2', '3')
    }
    assert len(printed) == 1


def test_labels_keep_their_shares_better_than_by_chance():
    chance = random.Random(0)
    weights = [1 / rank for rank in range(1, 201)]
    groups = {f'g{i}': set(chance.choices(range(200), weights, k=8)) for i in range(3000)}
    shares = {'train': 0.8, 'dev': 0.1, 'test': 0.1}
    counts = Counter(label for own in groups.values() for label in own)

    def error(splits):
        """Mean distance of a label's share of a split from the split's own, over labels of at least ten groups."""
        held = Counter((splits[group], label) for group, own in groups.items() for label in own)
        pairs = [(s, label) for s, label in itertools.product(shares, counts) if counts[label] >= 10]
        return sum(abs(held[pair] / counts[pair[1]] - shares[pair[0]]) for pair in pairs) / len(pairs)

    splits = stratify(groups, shares, 0)
    by_chance = {group: chance.choices(list(shares), list(shares.values()))[0] for group in groups}
    assert error(splits) < error(by_chance) / 3
    sizes = Counter(splits.values())
    assert all(abs(sizes[split] / 3000 - share) < 0.02 for split, share in shares.items())


def test_groups_without_labels_fill_up_the_shares():
    splits = stratify({f'g{i}': () for i in range(50)}, {'train': 0.8, 'dev': 0.1, 'test': 0.1}, 3)
    assert Counter(splits.values()) == {'train': 40, 'dev': 5, 'test': 5}


def test_a_split_of_share_zero_stays_empty():
    splits = stratify({f'g{i}': {i % 3} for i in range(30)}, {'train': 0.9, 'dev': 0.0, 'test': 0.1}, 0)
    assert set(splits.values()) == {'train', 'test'}


@pytest.mark.parametrize('shares', [(1, -0.1, 0), (0, 0, 0), (float('nan'), 1, 1), (float('inf'), 1, 1)])
def test_unusable_shares(shares):
    with pytest.raises(UserError, match='shares of the splits'):
        stratify({'g': {'x'}}, dict(zip(('train', 'dev', 'test'), shares, strict=True)), 0)
