"""Whether each attention backend of a device gives packed rows what their segments get alone, and how fast it is."""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.model.attention import BACKENDS, MAX_SEGMENTS, Call, Places, attend
from ccl_jax.studies.plan_scale import SPANS_PER_DOCUMENT, lognormal_examples

# The padding tail is one more segment.
_MOST_SEGMENTS = MAX_SEGMENTS - 1
_TIMED = 10
# Of the largest value of each array: what rounding may do. A key of another segment changes values by their own size.
_TOLERANCES = {'float32': 1e-4, 'bfloat16': 0.03}
_NAMES = ('forward', 'd query', 'd key', 'd value')


@dataclasses.dataclass(frozen=True)
class AttentionJob:
    """What to compare.

    Attributes:
        lengths: T of the rows; longer ones than `tokens` have a batch of one row.
        tokens: B x T.
        heads, kv_heads, head_dim: N, K, H.
        checked_rows: of each batch, whose segments are computed one by one.
        shrink: documents and spans are so many times shorter than those of rows of 8,192 tokens.
    """

    lengths: Sequence[int] = (1024, 2048, 8192)
    tokens: int = 8192
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    dtype: str = 'bfloat16'
    checked_rows: int = 2
    shrink: int = 1


def measure(job: AttentionJob) -> list[dict[str, Any]]:
    """Returns a record of each length and backend that supports it on this device; to be the work of a process.

    `errors` has, of the forward pass and of the gradients, the largest difference between a packed row and the
    same segments alone in plain float32, over the largest value; `forward` and `backward` are milliseconds,
    the latter of both passes. A backend that fails has an `error` instead.
    """
    records = []
    for length in job.lengths:
        print(f'attention over rows of {length} tokens ...', file=sys.stderr, flush=True)
        rows = max(1, job.tokens // length)
        segments = [_segments(length, job.shrink, row) for row in range(rows)]
        arrays = _random_arrays(job, rows, length)
        expected = [_alone(job, arrays, row, own) for row, own in enumerate(segments[: job.checked_rows])]
        for backend in _backends(job, rows, length):
            record: dict[str, Any] = {'length': length, 'rows': rows, 'backend': backend}
            try:
                record.update(_measure_backend(job, backend, arrays, segments, expected))
            except Exception as error:  # of whatever library; the other backends are measured all the same
                record['error'] = f'{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}'
            records.append(record)
    return records


def report(job: AttentionJob, records: Sequence[dict[str, Any]]) -> str:
    """Returns the records of a job as a table."""
    lines = [
        f'attention in {job.dtype}, {job.heads} query and {job.kv_heads} key/value heads of {job.head_dim}, rows of '
        'documents and spans;',
        'packed against each segment alone in plain float32, over the largest value',
        f'{"backend":18}     T  rows  segments  ' + '  '.join(f'{name:>8}' for name in _NAMES) + '  equal'
        '  forward ms  with backward ms',
    ]
    for record in records:
        begin = f'{record["backend"]:18}{record["length"]:6}  {record["rows"]:4}'
        if 'error' in record:
            lines.append(f'{begin}  failed: {record["error"]}')
            continue
        equal = all(error <= _TOLERANCES[job.dtype] for error in record['errors'])
        lines.append(
            f'{begin}  {record["segments"]:8}  '
            + '  '.join(f'{error:8.1e}' for error in record['errors'])
            + f'  {"yes" if equal else "NO":>5}  {record["forward"]:10.2f}  {record["backward"]:16.2f}'
        )
    return '\n'.join(lines) + '\n'


def _measure_backend(
    job: AttentionJob,
    backend: str,
    arrays: Sequence[jax.Array],
    segments: Sequence[Sequence[int]],
    expected: Sequence[list[list[np.ndarray]]],
) -> dict[str, Any]:
    *inputs, cotangent = (array.astype(job.dtype) for array in arrays)
    places = _places(segments, cotangent.shape[1])

    def forward(query, key, value):
        return attend(query, key, value, places, backend=backend)

    def both(query, key, value, cotangent):
        attended, pull = jax.vjp(forward, query, key, value)
        return attended, *pull(cotangent)

    run_forward, run_both = jax.jit(forward), jax.jit(both)
    results = [np.asarray(x, np.float32) for x in run_both(*inputs, cotangent)]
    errors = []
    for number, result in enumerate(results):
        differences, largest = [], []
        for row, of_row in enumerate(expected):
            ends = np.cumsum(segments[row])
            for begin, end, of_segment in zip(ends - segments[row], ends, of_row, strict=True):
                differences.append(np.abs(result[row, begin:end] - of_segment[number]).max())
                largest.append(np.abs(of_segment[number]).max())
        errors.append(float(max(differences) / max(largest)))
    return {
        'segments': max(map(len, segments)),
        'errors': errors,
        'forward': _milliseconds(run_forward, inputs),
        'backward': _milliseconds(run_both, (*inputs, cotangent)),
    }


def _backends(job: AttentionJob, rows: int, length: int) -> list[str]:
    device = jax.devices()[0]
    capability = getattr(device, 'compute_capability', None)
    call = Call(
        platform=device.platform,
        query_shape=(rows, length, job.heads, job.head_dim),
        key_shape=(rows, length, job.kv_heads, job.head_dim),
        dtype=jnp.dtype(job.dtype),
        own_keys=True,
        scale=job.head_dim**-0.5,
        compute_capability=None if capability is None else float(capability),
    )
    return [backend.name for backend in BACKENDS if backend.supports(call)]


def _segments(length: int, shrink: int, seed: int) -> list[int]:
    """Returns the lengths of documents and spans, in random order, that a row of `length` tokens holds."""
    drawn = lognormal_examples(40 * (1 + SPANS_PER_DOCUMENT), seed).lengths // shrink
    chosen: list[int] = []
    for example in np.random.default_rng(seed).permutation(np.maximum(1, drawn)).tolist():
        if sum(chosen) + example < length and len(chosen) < _MOST_SEGMENTS:
            chosen.append(example)
    return chosen


def _places(segments: Sequence[Sequence[int]], length: int) -> Places:
    segment_ids, positions = (np.zeros((len(segments), length), np.int32) for _ in range(2))
    for row, own in enumerate(segments):
        whole = [*own, length - sum(own)]  # The padding tail is a segment too.
        segment_ids[row] = np.repeat(np.arange(1, len(whole) + 1), whole)
        positions[row] = np.concatenate([np.arange(size) for size in whole])
    return Places(jnp.asarray(segment_ids), jnp.asarray(positions))


def _random_arrays(job: AttentionJob, rows: int, length: int) -> tuple[jax.Array, ...]:
    """Returns query, key, value and the result's gradient, float32 of values that `job.dtype` holds exactly."""
    keys = jax.random.split(jax.random.key(length), 4)
    heads = (job.heads, job.kv_heads, job.kv_heads, job.heads)
    draws = [
        jax.random.normal(key, (rows, length, count, job.head_dim)) for key, count in zip(keys, heads, strict=True)
    ]
    return tuple(draw.astype(job.dtype).astype(jnp.float32) for draw in draws)


def _alone(job: AttentionJob, arrays: Sequence[jax.Array], row: int, segments: Sequence[int]) -> list[list[np.ndarray]]:
    """Returns result and gradients of each segment of a row by itself: causal attention written out in float32."""
    own = [np.asarray(x[row]) for x in arrays]
    results = []
    ends = np.cumsum(segments)
    for begin, size in zip((ends - segments).tolist(), segments, strict=True):
        # Filled up to the length of the row, so that all are compiled once: nothing before sees what comes after.
        # On the host, because an accelerator would compile the slices of every size.
        *inputs, cotangent = (np.zeros_like(x) for x in own)
        for filled, x in zip((*inputs, cotangent), own, strict=True):
            filled[:size] = x[begin : begin + size]
        results.append([np.asarray(x)[:size] for x in _plain(*inputs, cotangent)])
    return results


@jax.jit
def _plain(query, key, value, cotangent):
    """Causal attention of one text: query [T, N, H], key and value [T, K, H]; with its gradients."""
    length, heads, head_dim = query.shape
    group = heads // key.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))

    def of_group(inputs):
        """One key/value head at a time: scores of all heads at once may not fit."""
        query, key, value = inputs
        with jax.default_matmul_precision('highest'):
            scores = jnp.einsum('tgh,sh->gts', query, key) * head_dim**-0.5
            weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
            return jnp.einsum('gts,sh->tgh', weights, value)

    def with_gradients(inputs):
        *inputs, cotangent = inputs
        attended, pull = jax.vjp(of_group, tuple(inputs))
        with jax.default_matmul_precision('highest'):
            return attended, *pull(cotangent)[0]

    def by_group(x):
        return x.reshape(length, -1, group, head_dim).swapaxes(0, 1)

    grouped = by_group(query), key.swapaxes(0, 1), value.swapaxes(0, 1), by_group(cotangent)
    attended, of_query, of_key, of_value = jax.lax.map(with_gradients, grouped)
    whole = (x.swapaxes(0, 1).reshape(length, heads, head_dim) for x in (attended, of_query))
    return *whole, of_key.swapaxes(0, 1), of_value.swapaxes(0, 1)


def _milliseconds(function: Callable[..., Any], inputs: Sequence[jax.Array]) -> float:
    jax.block_until_ready(function(*inputs))
    spent = []
    for _ in range(_TIMED):
        began = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        spent.append(time.perf_counter() - began)
    return 1000 * statistics.median(spent)
