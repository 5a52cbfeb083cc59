"""Splits of patients in which every code keeps its share.

Iterative stratification, algorithm 1 of Sechidis, Tsoumakas and Vlahavas, "On
the stratification of multi-label data", ECML PKDD 2011. The examples here are
groups of documents, so that no patient is in two splits.
"""

import random
from collections.abc import Collection, Mapping

import numpy as np

from ccl_jax.errors import UserError

# Shares are taken in whole millionths: sums of whole numbers are exact, so that ties are seen as ties.
_WHOLE = 10**6


def stratify(groups: Mapping[str, Collection], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assigns every group to a split; the rarest label that is left is spread first.

    Of the groups that hold the label with the fewest groups left, each goes to
    the split that wants most groups of this label, on a tie to the one that
    wants most groups at all, on a further tie to one by chance. The groups
    without labels come last. The result depends on the groups, the shares and
    the seed alone, not on the order of the mapping.

    Args:
        groups: group -> its labels (of one type that can be sorted; repeated ones count once).
        shares: split -> share of the groups; they need not sum to 1. A split of share 0 stays empty.
        seed: of the order of the groups and of the choices on ties.

    Returns:
        group -> split.

    Raises:
        UserError: a share is negative or not finite, or all are 0.
    """
    names = [name for name, share in shares.items() if share != 0]
    weights = _whole_shares([shares[name] for name in names])
    chance = random.Random(seed)
    order = sorted(groups)
    chance.shuffle(order)
    starts, labels = _label_table([groups[group] for group in order])
    by_label = _groups_by_label(starts, labels)

    total = int(weights.sum())
    # Multiplied by `total`, so that whole numbers hold them: groups that each split still wants, in all and per label.
    wanted = len(order) * weights
    left = np.bincount(labels, minlength=len(by_label))
    wanted_of_label = left[:, None] * weights
    label_rank = list(range(len(by_label)))
    chance.shuffle(label_rank)
    assigned = np.full(len(order), -1, np.int32)

    def assign(group: int, candidates: np.ndarray) -> None:
        best = np.flatnonzero(candidates == candidates.max())
        if len(best) > 1:
            best = best[wanted[best] == wanted[best].max()]
        split = int(best[0]) if len(best) == 1 else int(chance.choice(best))
        own = labels[starts[group] : starts[group + 1]]
        assigned[group] = split
        left[own] -= 1
        wanted_of_label[own, split] -= total
        wanted[split] -= total

    ranks = np.array(label_rank, np.int64)
    while len(ties := _fewest(left)):
        label = ties[ranks[ties].argmin()]
        for group in by_label[label].tolist():
            if assigned[group] < 0:
                assign(group, wanted_of_label[label])
    for group in np.flatnonzero(assigned < 0).tolist():
        assign(group, wanted)
    return {group: names[split] for group, split in zip(order, assigned.tolist(), strict=True)}


def _whole_shares(shares: list[float]) -> np.ndarray:
    """Returns whole numbers in the ratio of the shares."""
    if not shares or not all(0 < share < float('inf') for share in shares):
        raise UserError(f'the shares of the splits are {shares}; give numbers of at least 0, one above 0')
    return np.array([max(1, round(share / sum(shares) * _WHOLE)) for share in shares], np.int64)


def _label_table(groups: list[Collection]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (starts, labels): the labels of group i, numbered from 0, are labels[starts[i]:starts[i + 1]]."""
    known = sorted({label for labels in groups for label in labels})
    numbers = {label: number for number, label in enumerate(known)}
    rows = [np.array(sorted({numbers[label] for label in labels}), np.int32) for labels in groups]
    starts = np.cumsum([0, *(len(row) for row in rows)])
    return starts, np.concatenate([np.zeros(0, np.int32), *rows])


def _groups_by_label(starts: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    groups = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.argsort(labels, kind='stable')
    counts = np.bincount(labels)
    return np.split(groups[order], np.cumsum(counts)[:-1]) if len(counts) else []


def _fewest(left: np.ndarray) -> np.ndarray:
    """Returns the labels with the fewest groups left, of those that have some."""
    some = np.flatnonzero(left)
    return some[left[some] == left[some].min()] if len(some) else some
