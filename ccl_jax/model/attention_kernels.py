"""Attention by kernels that never hold all scores: splash on TPU, cuDNN on NVIDIA GPUs.

Both want the keys of the queries' own tokens, in segments that are one stretch of a row each. Then
"causal within the row and in the same segment" is the rule of `attend`, whatever the positions are.
XLA can't divide a kernel over devices, so both run under `shard_map`, rows over `replica` and `fsdp` and
heads over `tensor`; key/value heads are never repeated.
"""

import functools
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import PartitionSpec

from ccl_jax.model.attention_xla import Call, Places
from ccl_jax.model.remat import ATTENDED

# The lanes of a TPU's vector unit: splash wants rows in multiples of them.
_LANES = 128
_LARGEST_TILE = 512
_ROWS, _HEADS = ('replica', 'fsdp'), 'tensor'


def splash_supports(call: Call) -> bool:
    """Whether splash attention takes a call, be it on a TPU or interpreted."""
    length, head_dim = call.query_shape[1], call.query_shape[3]
    # Interpreted, any head dimension will do; compiled, only those that real models have were tried by its authors.
    known_dimension = head_dim % 64 == 0 or call.platform == 'cpu'
    return call.own_keys and length % _LANES == 0 and known_dimension and _divides(call)


def splash_attention(query, key, value, queries: Places, keys: Places, call: Call, *, interpret=False) -> jax.Array:
    """Runs the Pallas kernel for TPUs that comes with jax, forward and backward."""
    del keys  # They are those of the queries.

    def kernel(query, key, value, segment_ids) -> jax.Array:
        attend_row = _splash_kernel(query.shape[1], query.shape[2], call.window, call.softcap, interpret)
        query, key, value = (x.swapaxes(1, 2) for x in (query * call.scale, key, value))
        return jax.vmap(attend_row)(query, key, value, splash.SegmentIds(segment_ids, segment_ids)).swapaxes(1, 2)

    return _over_mesh(kernel, call)(query, key, value, queries.segment_ids)


def _splash_kernel(length: int, heads: int, window: int | None, softcap: float | None, interpret: bool):
    shape = (length, length)
    # A local mask takes how many keys are seen to the left and to the right of the query's own.
    mask = splash.CausalMask(shape) if window is None else splash.LocalMask(shape, (window - 1, 0), 0)
    tile = next(size for size in range(_LARGEST_TILE, 0, -_LANES) if length % size == 0)
    return splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            block_q=tile,
            block_kv=tile,
            block_q_dq=tile,
            block_kv_dq=tile,
            block_q_dkv=tile,
            block_kv_dkv=tile,
        ),
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name=ATTENDED,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )


def cudnn_supports(call: Call) -> bool:
    """Whether cuDNN takes a call and gives right results.

    Packed rows need a GPU of Hopper or later, half precision, and a jax that is right about grouped-query
    heads: before 0.11.1 the offsets of keys are multiplied by the number of query heads. Refused too
    is what jax has no test for together with packed rows: windows, and heads larger than 128. cuDNN has no soft-cap.
    """
    jax_version = tuple(int(part) for part in re.findall(r'\d+', jax.__version__)[:3])
    return (
        call.platform == 'gpu'
        and jax_version >= (0, 11, 1)
        and (call.compute_capability or 0) >= 9
        and call.dtype in (jnp.bfloat16, jnp.float16)
        and call.own_keys
        and call.window is None
        and call.softcap is None
        and call.query_shape[3] % 8 == 0
        and call.query_shape[3] <= 128
        and _divides(call)
    )


def cudnn_attention(query, key, value, queries: Places, keys: Places, call: Call) -> jax.Array:
    """Runs cuDNN's fused attention on packed rows of at most `max_segments` segments; a row with more becomes NaN.

    To cuDNN every segment is a sequence as long as the row: float32 [B x max_segments, N, T] is kept for the
    backward pass, and what whole steps allocated with different micro-batches says that the pass itself takes
    about two float32 arrays [B x max_segments, N, T, H] (jax 0.11.2, H200): 16 GiB for a row of 8,192 tokens,
    64 segments and 32 heads of 128. A smaller `max_segments` is the mend.
    """
    # jax.nn has no argument for offsets, only this function has.
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    del keys  # They are those of the queries.

    def kernel(query, key, value, segment_ids) -> jax.Array:
        offsets, lengths, fits = segment_offsets(segment_ids, min(call.max_segments, segment_ids.shape[1]))
        attended = cudnn.dot_product_attention(
            query,
            key,
            value,
            q_seqlen=lengths,
            kv_seqlen=lengths,
            q_offsets=offsets,
            kv_offsets=offsets,
            scale=call.scale,
            mask_type=cudnn.MaskType.PADDING_CAUSAL,
        )
        return jnp.where(fits[:, None, None, None], attended, jnp.nan)

    return _over_mesh(kernel, call)(query, key, value, queries.segment_ids)


def segment_offsets(segment_ids: jax.Array, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns where the segments of [B, T] rows begin, int32 [B, most + 1], and their lengths, int32 [B, most].

    Both are filled up with -1. The third result, bool [B], says which rows hold `most` segments or fewer.
    """
    batch, length = segment_ids.shape
    new = jnp.concatenate([jnp.ones((batch, 1), bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1)
    find = functools.partial(jnp.nonzero, size=most + 1, fill_value=length)
    begins = jax.vmap(lambda row: find(row)[0])(new).astype(jnp.int32)
    lengths = jnp.where(begins[:, :-1] < length, jnp.diff(begins), -1)
    fits = begins[:, -1] == length
    return jnp.where(begins < length, begins, -1), lengths, fits


def _divides(call: Call) -> bool:
    """Whether rows and heads divide over the mesh, as `_over_mesh` wants it."""
    if call.mesh is None:
        return True
    rows, heads = math.prod(call.mesh.shape[axis] for axis in _ROWS), call.mesh.shape[_HEADS]
    return call.query_shape[0] % rows == 0 and call.key_shape[2] % heads == 0


def _over_mesh(kernel: Callable[..., jax.Array], call: Call) -> Callable[..., jax.Array]:
    """Returns `kernel` of (query, key, value, segment_ids), run by each device on its rows and heads."""
    if call.mesh is None or call.mesh.size == 1:
        return kernel
    array = PartitionSpec(_ROWS, None, _HEADS, None)
    return jax.shard_map(
        kernel,
        mesh=call.mesh,
        in_specs=(array, array, array, PartitionSpec(_ROWS, None)),
        out_specs=array,
        check_vma=False,  # A kernel does not say over which axes its result varies.
    )
