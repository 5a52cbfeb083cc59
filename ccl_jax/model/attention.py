"""Attention over segments: one function and a short list of backends.

A query sees a key if both lie in the same segment of the row, the key's position is not
later, and, with a window, is less than `window` positions before. A backend honours all of
what a call asks for or says in `supports` that it can't; none ignores a part of it.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

import jax

from ccl_jax.model.attention_kernels import cudnn_attention, cudnn_supports, splash_attention, splash_supports
from ccl_jax.model.attention_xla import MAX_SEGMENTS, Call, Places, dot_product, reference

__all__ = ['BACKENDS', 'MAX_SEGMENTS', 'Backend', 'Call', 'Places', 'attend']


@dataclasses.dataclass(frozen=True)
class Backend:
    """A way to compute attention.

    Attributes:
        supports: whether it runs, and gives right results, for a call.
        attend: (query, key, value, queries, keys, call) -> [B, T, N, H], see `attend`.
    """

    name: str
    supports: Callable[[Call], bool]
    attend: Callable[..., jax.Array]


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    queries: Places,
    keys: Places | None = None,
    *,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    backend: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_segments: int = MAX_SEGMENTS,
) -> jax.Array:
    """Returns softmax(scale * query key^T) value over the keys that each query sees.

    Args:
        query: [B, T, N, H].
        key, value: [B, S, K, H]; query head n uses key/value head n // (N / K).
        queries: where the queries lie.
        keys: where the keys lie; None if they belong to the same tokens as the queries (S = T). Then
            a segment is one stretch of its row, and positions rise by 1 along it.
        window: a query sees its own position and the `window` - 1 before it; None for all before.
        softcap: scores become softcap * tanh(score / softcap) before the softmax (Gemma 2, arXiv 2408.00118).
        scale: factor of the scores, H^-1/2 by default.
        backend: a name in `BACKENDS`; by default the first that supports the call.
        mesh: mesh over which the arrays are spread, rows over `replica` and `fsdp` and heads over
            `tensor`. Only kernels that XLA can't distribute by itself look at it.
        max_segments: segments of a row at most, the padding tail included. Only cuDNN looks at it, whose
            memory grows with it.

    Returns:
        [B, T, N, H] in the type of `query`. The softmax is computed in float32. The
        result of a query that sees no key is finite and has no meaning.

    Raises:
        ValueError: the backend is unknown or does not support the call.
    """
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    call = Call(
        platform=device.platform,
        query_shape=query.shape,
        key_shape=key.shape,
        dtype=query.dtype,
        own_keys=keys is None,
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        window=window,
        softcap=softcap,
        mesh=mesh,
        compute_capability=_compute_capability(device),
        max_segments=max_segments,
    )
    for candidate in BACKENDS:
        if backend in (None, candidate.name) and candidate.supports(call):
            return candidate.attend(query, key, value, queries, queries if keys is None else keys, call)
    known = ', '.join(candidate.name for candidate in BACKENDS)
    raise ValueError(f'no attention backend {backend!r} for {call}; known: {known}')


def _compute_capability(device: jax.Device) -> float | None:
    """That of an NVIDIA GPU; other makers' are no numbers."""
    text = str(getattr(device, 'compute_capability', ''))
    return float(text) if re.fullmatch(r'\d+\.\d+', text) else None


# In order of preference.
BACKENDS = (
    Backend('splash', lambda call: call.platform == 'tpu' and splash_supports(call), splash_attention),
    Backend('cudnn', cudnn_supports, cudnn_attention),
    # Elsewhere only for a soft-cap, which `dot_product` lacks.
    Backend('reference', lambda call: call.platform == 'cpu' or call.softcap is not None, reference),
    Backend('dot_product', lambda call: call.softcap is None, dot_product),
    # Thousands of times slower than the kernel; this is how it is tested where no TPU is.
    Backend(
        'splash_interpret',
        lambda call: call.platform == 'cpu' and splash_supports(call),
        functools.partial(splash_attention, interpret=True),
    ),
)
