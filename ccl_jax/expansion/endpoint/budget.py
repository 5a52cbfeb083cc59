"""What requests have cost, and whether one more can be paid."""

import dataclasses
from typing import NamedTuple

from ccl_jax.expansion.endpoint.settings import EndpointSettings

_PER_PRICE = 1_000_000


class Tokens(NamedTuple):
    """Tokens read and written by the model."""

    input: int = 0
    output: int = 0

    def plus(self, other: 'Tokens') -> 'Tokens':
        return Tokens(self.input + other.input, self.output + other.output)

    def minus(self, other: 'Tokens') -> 'Tokens':
        return Tokens(self.input - other.input, self.output - other.output)


NOTHING = Tokens()


@dataclasses.dataclass
class Budget:
    """A meter with limits: a request reserves its upper bound before it is sent and is settled afterwards.

    So the limits hold under concurrency, as far as the endpoint keeps `max_tokens`. A request of unknown
    cost (timed out, broken off, or answered without usage) counts with its upper bound.

    Attributes:
        before: paid by earlier runs, as the cache says.
        metered: reported by the endpoint in this run.
        assumed: upper bounds of this run's requests of unknown cost.
        requests: requests settled in this run, failed ones too.
    """

    settings: EndpointSettings
    before: Tokens = NOTHING
    metered: Tokens = NOTHING
    assumed: Tokens = NOTHING
    reserved: Tokens = NOTHING
    requests: int = 0
    requests_of_unknown_cost: int = 0

    def fits(self, bound: Tokens) -> bool:
        """Whether a request of at most `bound` stays within the limits, whatever is under way."""
        total = self.before.plus(self.metered).plus(self.assumed).plus(self.reserved).plus(bound)
        within_tokens = not self.settings.max_total_tokens or sum(total) <= self.settings.max_total_tokens
        return within_tokens and (not self.settings.max_cost or self.cost(total) <= self.settings.max_cost)

    def reserve(self, bound: Tokens) -> None:
        self.reserved = self.reserved.plus(bound)

    def settle(self, bound: Tokens, used: Tokens | None) -> Tokens:
        """Replaces the reserved `bound` by what was used, None if unknown; returns what is charged."""
        self.reserved = self.reserved.minus(bound)
        self.requests += 1
        if used is None:
            self.requests_of_unknown_cost += 1
            self.assumed = self.assumed.plus(bound)
            return bound
        self.metered = self.metered.plus(used)
        return used

    def cost(self, tokens: Tokens) -> float:
        """In the unit of the prices."""
        return (tokens.input * self.settings.input_price + tokens.output * self.settings.output_price) / _PER_PRICE

    def why_stopped(self) -> str:
        """One sentence with the mend, for a request that does not fit."""
        spent = self.before.plus(self.metered).plus(self.assumed)
        limits = []
        if self.settings.max_total_tokens:
            limits.append(f'{sum(spent)} of max_total_tokens={self.settings.max_total_tokens} tokens are used')
        if self.settings.max_cost:
            limits.append(f'{self.cost(spent):.4f} of max_cost={self.settings.max_cost} is spent')
        earlier = f' ({sum(self.before)} tokens by earlier runs)' if any(self.before) else ''
        return f'the budget is used up: {" and ".join(limits)}{earlier}; raise it and run again to go on'

    def report(self) -> dict[str, float]:
        return {
            'requests': self.requests,
            'input_tokens': self.metered.input,
            'output_tokens': self.metered.output,
            'cost': round(self.cost(self.metered), 6),
            'requests_of_unknown_cost': self.requests_of_unknown_cost,
            'assumed_tokens': sum(self.assumed),
            'assumed_cost': round(self.cost(self.assumed), 6),
            'tokens_of_earlier_runs': sum(self.before),
            'cost_of_earlier_runs': round(self.cost(self.before), 6),
        }
