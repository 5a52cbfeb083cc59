"""The kernels for accelerators, as far as a CPU can follow them; their numbers are tested in test_attention.py."""

import os
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.model import attention, attention_kernels
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.attention import Call, Places
from ccl_jax.model.decoder import Decoder

SEGMENT_OFFSETS = jax.jit(attention_kernels.segment_offsets, static_argnums=1)
JAX_VERSION = tuple(map(int, jax.__version__.split('.')[:3]))

ON_EIGHT_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from ccl_jax.model.attention import Places, attend
assert jax.device_count() == 8
mesh = jax.make_mesh((2, 2, 2), ('replica', 'fsdp', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 3)
rng = np.random.default_rng(0)
inputs = [rng.normal(size=(4, 128, heads, 8)).astype(np.float32) for heads in (4, 2, 2)]
weights = rng.normal(size=(4, 128, 4, 8)).astype(np.float32)
begins = np.sort(rng.integers(1, 128, (4, 3)), axis=1)
segment_ids = (np.arange(128)[None, None] >= begins[:, :, None]).sum(axis=1).astype(np.int32)
positions = np.stack([np.concatenate([np.arange(n) for n in np.bincount(row) if n]) for row in segment_ids])
places = Places(segment_ids, positions.astype(np.int32))

def loss(backend, mesh=None):
    def f(*inputs):
        return jnp.sum(weights * attend(*inputs, places, window=30, softcap=4.0, backend=backend, mesh=mesh))
    return jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))

rows_and_heads = jax.NamedSharding(mesh, jax.P(('replica', 'fsdp'), None, 'tensor'))
spread = [jax.device_put(x, rows_and_heads) for x in inputs]
ours = loss('splash_interpret', mesh)(*spread)
assert ours[1][1].sharding.is_equivalent_to(rows_and_heads, 4), ours[1][1].sharding
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5), ours, loss('reference')(*inputs))

for shape in ((3, 128, 4, 8), (4, 128, 3, 8)):
    x = np.zeros(shape, np.float32)
    one = Places(np.ones(shape[:2], np.int32), np.ones(shape[:2], np.int32))
    try:
        attend(x, x, x, one, backend='splash_interpret', mesh=mesh)
    except ValueError:
        continue
    raise AssertionError(f'{shape} does not divide over the mesh')
print('same')
"""


def call(**changes):
    given = {
        'platform': 'gpu',
        'query_shape': (2, 256, 4, 64),
        'key_shape': (2, 256, 2, 64),
        'dtype': jnp.dtype(jnp.bfloat16),
        'own_keys': True,
        'scale': 0.1,
        'compute_capability': 9.0,
    }
    return Call(**{**given, **changes})


def gradient_of(attention, asked):
    """A jitted gradient of `attention`, and the shapes of its arguments."""

    def loss(query, key, value, segment_ids):
        places = Places(segment_ids, segment_ids)
        return jnp.sum(attention(query, key, value, places, places, asked).astype(jnp.float32))

    shapes = [jax.ShapeDtypeStruct(shape, asked.dtype) for shape in (asked.query_shape, *[asked.key_shape] * 2)]
    segment_ids = jax.ShapeDtypeStruct(asked.query_shape[:2], jnp.int32)
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2))), (*shapes, segment_ids)


def test_splash_divides_over_rows_and_heads():
    environment = {
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8',
    }
    finished = subprocess.run(
        [sys.executable, '-c', ON_EIGHT_DEVICES], env=environment, capture_output=True, text=True, timeout=300
    )
    assert finished.stdout == 'same\n', finished.stderr[-2000:]


@pytest.mark.parametrize(('head_dim', 'options'), [(64, {}), (128, {'window': 300}), (256, {'softcap': 50.0})])
def test_splash_compiles_to_three_kernels_for_a_tpu(head_dim, options):
    """Forward, and backward for queries and for keys; Mosaic checks tiles and layouts while it lowers."""
    asked = call(platform='tpu', query_shape=(2, 1024, 4, head_dim), key_shape=(2, 1024, 2, head_dim), **options)
    assert attention_kernels.splash_supports(asked)
    gradient, shapes = gradient_of(attention_kernels.splash_attention, asked)
    lowered = gradient.trace(*shapes).lower(lowering_platforms=('tpu',))
    assert lowered.as_text().count('@tpu_custom_call') == 3


@pytest.mark.parametrize('length', [128, 384, 640, 1024, 8192])
def test_tiles_divide_every_row_that_is_supported(length):
    assert attention_kernels.splash_supports(call(platform='tpu', query_shape=(1, length, 4, 64)))
    jax.eval_shape(
        lambda q, k, v, s: attention_kernels.splash_attention(q, k, v, Places(s, s), None, call(platform='tpu')),
        *[jax.ShapeDtypeStruct((1, length, heads, 64), jnp.bfloat16) for heads in (4, 2, 2)],
        jax.ShapeDtypeStruct((1, length), jnp.int32),
    )


def test_cudnn_refuses_what_is_not_known_to_be_right(monkeypatch):
    monkeypatch.setattr(jax, '__version__', '0.11.1')
    assert attention_kernels.cudnn_supports(call())
    for change in (
        {'platform': 'tpu'},
        {'platform': 'cpu'},
        {'window': 5},
        {'softcap': 50.0},
        {'own_keys': False},
        {'dtype': jnp.dtype(jnp.float32)},
        {'compute_capability': 8.9},
        {'compute_capability': None},
        {'query_shape': (2, 256, 4, 256)},
        {'query_shape': (2, 256, 4, 60)},
    ):
        assert not attention_kernels.cudnn_supports(call(**change)), change
    for version in ('0.10.2', '0.11.0', '0.9.9'):
        monkeypatch.setattr(jax, '__version__', version)
        assert not attention_kernels.cudnn_supports(call())
    for version in ('0.12.0.1', '0.11.2rc0', '1.0.0'):
        monkeypatch.setattr(jax, '__version__', version)
        assert attention_kernels.cudnn_supports(call())


@pytest.mark.skipif(JAX_VERSION < (0, 11, 1), reason='this jax is wrong about grouped-query heads')
def test_cudnn_is_asked_for_packed_causal_rows(monkeypatch):
    """Up to the call of the kernel, as if this machine had a GPU."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, 'check_cudnn_version', lambda: 91500)
    monkeypatch.setattr(cudnn, 'check_compute_capability', lambda capability: True)
    gradient, shapes = gradient_of(attention_kernels.cudnn_attention, call())
    lowered = gradient.trace(*shapes).lower(lowering_platforms=('cuda',)).as_text()
    for kernel in ('__cudnn$fmhaSoftmax(', '__cudnn$fmhaSoftmaxBackward('):
        (line,) = [line for line in lowered.splitlines() if f'@{kernel}' in line]
        assert r'\22mask_type\22: \22PADDING_CAUSAL\22' in line
        assert r'\22max_seg_per_batch\22: 64' in line
        assert r'\22fmha_scale\22: 0.1' in line


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(cuts=st.tuples(*[st.sets(st.integers(1, 23))] * 3), most=st.sampled_from([1, 9, 24]))
def test_segment_offsets_are_those_of_a_loop(cuts, most):
    rows = [[0, *sorted(row), 24] for row in cuts]
    segment_ids = np.stack([np.searchsorted(row, np.arange(24), side='right') for row in rows]).astype(np.int32)
    offsets, lengths, fits = SEGMENT_OFFSETS(segment_ids, most)
    for row, edges in enumerate(rows):
        assert bool(fits[row]) == (len(edges) - 1 <= most)
        if fits[row]:
            empty = most - (len(edges) - 1)
            assert offsets[row].tolist() == edges[:-1] + [-1] * (empty + 1)
            assert lengths[row].tolist() == np.diff(edges).tolist() + [-1] * empty


def test_segments_of_a_row_are_as_many_as_the_decoder_is_told(monkeypatch):
    """From the decoder to cuDNN, whose memory grows with it; a row of more is no silent mistake."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    shapes = []

    def kernel(query, key, value, *, q_offsets, **_):
        shapes.append(q_offsets.shape)
        return query

    monkeypatch.setattr(cudnn, 'dot_product_attention', kernel)
    backend = attention.Backend('cudnn', lambda call: True, attention_kernels.cudnn_attention)
    monkeypatch.setattr(attention, 'BACKENDS', (backend,))
    architecture = Architecture(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=64,
    )
    decoder = Decoder(architecture, rngs=nnx.Rngs(0), max_segments=3)
    segment_ids = np.array([[1, 1, 2, 3, 3, 3], [1, 2, 3, 4, 4, 4]], np.int32)
    hidden = decoder(segment_ids, np.zeros_like(segment_ids), segment_ids)
    assert shapes == [(2, 4)]
    assert np.isnan(np.asarray(hidden)).all(axis=(1, 2)).tolist() == [False, True]
