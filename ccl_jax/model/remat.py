"""What of a layer the backward pass keeps, and what it computes again (rematerialisation)."""

from collections.abc import Callable
from typing import Any

import jax

from ccl_jax.model.settings import REMAT

# Under this name splash marks its result and the sums that its gradient needs.
ATTENDED = 'attended'
# Under this one a layer marks its products with weights. Not those of adapters: as large, and cheap to compute again.
PRODUCT = 'product'
# jax's primitive that runs cuDNN forward, whose results are the same.
_CUDNN_FORWARD = 'dot_product_attention_fwd_wrapper'


def recomputed(layer: Callable[..., Any], name: str, *, in_loop: bool) -> Callable[..., Any]:
    """Returns the function of a layer whose backward pass keeps what the policy says.

    Args:
        name: one of `REMAT`, explained there.
        in_loop: the layer is the body of a loop. A loop by itself keeps XLA from merging the recomputation with
            the forward pass.

    Raises:
        ValueError: the policy is unknown.
    """
    if name not in REMAT:
        raise ValueError(f'remat is {name!r}; it must be one of {", ".join(REMAT)}')
    if name == 'none':
        return layer
    return jax.checkpoint(layer, policy=_POLICIES[name], prevent_cse=not in_loop)


def _attention(primitive: Any, *_: Any, **parameters: Any) -> bool:
    if primitive.name == 'name':
        return parameters['name'] == ATTENDED
    return primitive.name == _CUDNN_FORWARD


_POLICIES = {
    'full': jax.checkpoint_policies.nothing_saveable,
    'save_attention': _attention,
    'dots': jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.save_only_these_names(PRODUCT), _attention
    ),
}
