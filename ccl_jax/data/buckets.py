"""Choosing buckets: the row lengths that make the examples cheapest, under a limit on their number.

First by a model of `plan`'s rules, in which examples flow like water: an example longer
than half of the shortest bucket has a row of the smallest bucket that holds it; the
others fill the slack of those rows, and what is left of them fills rows of the shortest
bucket. With A the cost of the rows of the long ones, S their slack and P the tokens of
the short ones, that is

    A + r max(0, P - S),    r the cost of a token in a full row of the shortest bucket.

For a given shortest bucket, number of buckets and worth of slack w, A - w S is a sum over
the buckets, and a dynamic programme finds its minimum exactly. Where slack is never
filled up (w = 0) or always (w = r), that is the minimum of the cost. In between some
worths are tried, and each result is judged by the cost itself.

Then by trial, because rows are not filled by water and two long ones may share one: the
best choice for every shortest bucket and several numbers of buckets packs a sample of
the examples, and the best of those pack all that are given.
"""

import dataclasses

import numpy as np

from ccl_jax.data.cost import modelled_cost
from ccl_jax.data.packing import assign_rows, pack
from ccl_jax.data.plan_settings import PlanSettings

# Parts of r that slack is taken to be worth.
_WORTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

_SAMPLE = 4_000
_FINALISTS = 3


@dataclasses.dataclass(frozen=True, order=True)
class Choice:
    """Buckets and their modelled cost, relative to that of the examples alone, unpadded and unpacked."""

    relative_cost: float
    buckets: tuple[int, ...]


def choose_buckets(lengths: np.ndarray, longest: int, settings: PlanSettings, whole: bool) -> tuple[int, ...]:
    """Chooses at most `max_buckets` multiples of `bucket_multiple` that hold `longest` tokens.

    Args:
        lengths: of the examples of a window, tokens.
        longest: tokens of the longest example of all.
        whole: the window is an epoch, whose end costs padding, more of it with more buckets.
    """
    sample = np.random.default_rng(settings.seed).permutation(lengths)[:_SAMPLE]
    choices = model_choices(np.bincount(lengths, minlength=longest + 1), settings)
    finalists = []
    # Fewer buckets than allowed only pay off at the end of an epoch.
    for number in {len(choice.buckets) for choice in choices} if whole else {max(len(c.buckets) for c in choices)}:
        trials: list[Choice] = []
        for choice in choices:
            # Water mostly fills rows better than examples do: what follows costs more than the best.
            if trials and choice.relative_cost >= min(trials).relative_cost:
                break
            if len(choice.buckets) == number:
                trials.append(_try(sample, choice.buckets, settings, False))
        finalists += sorted(trials)[:_FINALISTS]
    return min(_try(lengths, choice.buckets, settings, whole) for choice in finalists).buckets


def model_choices(histogram: np.ndarray, settings: PlanSettings) -> list[Choice]:
    """Returns the choice of least modelled cost for every shortest bucket and several numbers of buckets, best first.

    The numbers are `max_buckets` and its halves.

    Args:
        histogram: number of examples of each length, [longest length + 1]; the last may be 0.
    """
    multiple = settings.bucket_multiple
    candidates = multiple * np.arange(1, -(-(len(histogram) - 1) // multiple) + 1)
    table = _Table(histogram, candidates, settings.max_segments)
    ideal = float((histogram * modelled_cost(np.arange(len(histogram)))).sum())
    numbers = {settings.max_buckets >> halvings for halvings in range(settings.max_buckets.bit_length())}
    choices = set()
    for first in range(len(candidates)):
        found = [table.cheapest(first, worth, numbers) for worth in _WORTHS]
        for same_number in zip(*found, strict=True):
            rated = [(table.cost(chosen) / ideal, chosen) for chosen in same_number if chosen]
            if rated:
                cost, chosen = min(rated)
                choices.add(Choice(cost, tuple(int(candidates[c]) for c in chosen)))
    return sorted(choices, key=lambda choice: (choice.relative_cost, len(choice.buckets)))


def _try(lengths: np.ndarray, buckets: tuple[int, ...], settings: PlanSettings, whole: bool) -> Choice:
    """Returns the cost of packing `lengths`; `whole`: into steps, too, the last one padded."""
    settings = dataclasses.replace(settings, buckets=buckets, longest=0)
    rng = np.random.default_rng(settings.seed)
    if whole:
        steps = pack(np.arange(len(lengths)), lengths, settings, rng, last=True)
        rows = np.repeat(steps.step_lengths, steps.step_sizes)
    else:
        rows = assign_rows(lengths, settings, rng)[2]
    return Choice(float(modelled_cost(rows).sum() / modelled_cost(lengths).sum()), buckets)


class _Table:
    """Sums over the lengths up to each candidate, from which the cost of any choice follows."""

    def __init__(self, histogram: np.ndarray, candidates: np.ndarray, max_segments: int):
        self._candidates = candidates
        self._max_segments = max_segments
        self._row_costs = modelled_cost(candidates)
        lengths = np.arange(len(histogram))
        padded = np.pad(np.stack([histogram, histogram * lengths]), ((0, 0), (0, int(candidates[-1]) + 1)))
        # Examples and tokens up to a length, inclusive.
        self._examples, self._tokens = np.cumsum(padded, axis=1).astype(np.float64)

    def cost(self, chosen: list[int]) -> float:
        """Returns the modelled cost of the buckets candidates[chosen], ascending."""
        first = chosen[0]
        rows, slack = 0.0, 0.0
        below = int(self._candidates[first]) // 2
        for c in chosen:
            count, tokens = self._between(below, c)
            rows += count * self._row_costs[c]
            slack += count * self._candidates[c] - tokens
            below = int(self._candidates[c])
        short = self._tokens[self._candidates[first] // 2]
        return float(rows + self._rate(first) * max(0.0, short - slack))

    def cheapest(self, first: int, worth: float, numbers: set[int]) -> list[list[int]]:
        """Returns, for each number, the choice of so many candidates or fewer, from `first` to the last, with the
        least A - w S; an empty one where one candidate would have to be two.

        Args:
            worth: w as a part of r.
        """
        value = worth * self._rate(first)
        last = len(self._candidates) - 1
        edges = self._edges(value)
        # costs[n][c]: the least cost of the examples up to candidate c, where c is the bucket number n.
        costs = [np.full(last + 1, np.inf)]
        costs[0][first] = self._edge(int(self._candidates[first]) // 2, first, value)
        came_from: list[np.ndarray] = []
        for _ in range(max(numbers) - 1):
            through = costs[-1][:, None] + edges
            came_from.append(through.argmin(axis=0))
            costs.append(through.min(axis=0))
        choices = []
        for number in sorted(numbers):
            best = int(np.argmin([costs[n][last] for n in range(number)]))
            chosen = [last]
            for previous in reversed(came_from[:best]):
                chosen.append(int(previous[chosen[-1]]))
            choices.append(chosen[::-1] if np.isfinite(costs[best][last]) else [])
        return choices

    def _edges(self, value: float) -> np.ndarray:
        """Returns what the examples between two candidates cost in the longer of them, [from, to]; inf backwards."""
        ends = self._examples[self._candidates], self._tokens[self._candidates]
        counts, tokens = (end[None, :] - end[:, None] for end in ends)
        costs = counts * self._row_costs - value * (counts * self._candidates - tokens)
        return np.where(np.arange(len(costs))[:, None] < np.arange(len(costs)), costs, np.inf)

    def _edge(self, below: int, c: int, value: float) -> float:
        count, tokens = self._between(below, c)
        return float(count * self._row_costs[c] - value * (count * self._candidates[c] - tokens))

    def _between(self, below: int, c: int) -> tuple[float, float]:
        """Returns the number of examples longer than `below` and no longer than candidate c, and their tokens."""
        end = self._candidates[c]
        return self._examples[end] - self._examples[below], self._tokens[end] - self._tokens[below]

    def _rate(self, first: int) -> float:
        """Returns r; a row of short ones is full at its length or at max_segments - 1 of them."""
        half = self._candidates[first] // 2
        if not self._examples[half]:
            return 0.0
        mean = self._tokens[half] / self._examples[half]
        return float(self._row_costs[first] / min(self._candidates[first], (self._max_segments - 1) * mean))
