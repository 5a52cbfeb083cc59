"""The settings of adapters; light to import, because every config holds them."""

import dataclasses
import math
import re

from ccl_jax.errors import UserError

# The linear layers that an adapter can be added to, under the decoder's names.
LINEARS = ('query', 'key', 'value', 'output', 'gate', 'up', 'down')
# What the backward pass does not compute again of a layer, from most memory to least: `none`: it keeps all. `dots`: it
# keeps the results of the linear layers and of attention kernels. `save_attention`: those of attention kernels alone,
# which are the dearest to compute again where rows are long. `full`: nothing but the layer's input. Attention without
# a kernel (on CPU) keeps its scores under `none` only.
REMAT = ('none', 'dots', 'save_attention', 'full')


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (arXiv 2106.09685) beside linear layers of a frozen decoder.

    Attributes:
        rank: r of the adapters; 0 for none: then all weights are trained.
        alpha: the product of an adapter is scaled by alpha / rank.
        dropout: share of an adapter's inputs that a training step sets to 0.
        targets: regular expression; a linear of `LINEARS` whose whole name it matches gets an adapter.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str = '.*'

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise UserError(f'rank is {self.rank}; it must be at least 1, or 0 for no adapters')
        if not 0 < self.alpha < math.inf:
            raise UserError(f'alpha is {self.alpha}; it must be above 0')
        if not 0 <= self.dropout < 1:
            raise UserError(f'dropout is {self.dropout}; it must be at least 0 and below 1')
        try:
            names = self.names
        except re.error as error:
            raise UserError(f'targets is "{self.targets}", which is no regular expression ({error})') from None
        if not names:
            raise UserError(f'targets "{self.targets}" matches no linear layer; they are {", ".join(LINEARS)}')

    @property
    def enabled(self) -> bool:
        return self.rank > 0

    @property
    def names(self) -> tuple[str, ...]:
        """The linears that get an adapter, in the order of `LINEARS`."""
        return tuple(name for name in LINEARS if re.fullmatch(self.targets, name))
