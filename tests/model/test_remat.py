"""What the policies of rematerialisation keep, and that none changes a gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.ad_checkpoint import saved_residuals
from jax._src.interpreters import partial_eval
from jax.extend.core import jaxprs_in_params

from ccl_jax.model import attention_kernels
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.attention_xla import Call, Places
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.lora import add_lora, split_trained
from ccl_jax.model.remat import recomputed
from ccl_jax.model.settings import LINEARS, REMAT, LoraSettings

SMALL = Architecture(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=256,
    initializer_range=0.2,
)


def rows(count, length):
    tokens = np.random.default_rng(0).integers(0, 97, (count, length)).astype(np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (count, 1))
    return tokens, positions, np.ones((count, length), np.int32)


def loss_of(decoder, batch):
    graphdef, params = nnx.split(decoder)
    return lambda params: jnp.mean(jnp.sin(nnx.merge(graphdef, params)(*batch))), params


def primitives(function, *arguments):
    """Yields the names of all that is computed, what nobody uses left out, as XLA leaves it out."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    yield from _primitives(used)


def _primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jaxprs_in_params(equation.params):
            yield from _primitives(inner)


@pytest.mark.slow
def test_policies_change_no_gradient_and_keep_less_and_less():
    gradients, kept = {}, {}
    for remat in REMAT:
        loss, params = loss_of(Decoder(SMALL, rngs=nnx.Rngs(0), remat=remat), rows(2, 64))
        compiled = jax.jit(jax.grad(loss)).lower(params).compile()
        gradients[remat], kept[remat] = compiled(params), compiled.memory_analysis().temp_size_in_bytes
    for remat in REMAT:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradients[remat], gradients['none'])
    assert kept['full'] < 0.9 * kept['dots'] < 0.9 * kept['none']
    # On CPU attention is no kernel.
    assert kept['save_attention'] == kept['full']


def test_an_unknown_policy_is_refused():
    loss, params = loss_of(Decoder(SMALL, rngs=nnx.Rngs(0), remat=True), rows(1, 8))
    with pytest.raises(ValueError, match='remat is True; it must be one of none, dots, save_attention, full'):
        loss(params)


@pytest.mark.parametrize(('remat', 'forward'), [('none', 1), ('dots', 1), ('save_attention', 1), ('full', 2)])
def test_what_splash_computed_is_kept(remat, forward):
    """Of one layer's kernels, two are the backward pass."""
    architecture = dataclasses.replace(SMALL, num_hidden_layers=9)
    loss, params = loss_of(
        nnx.eval_shape(lambda: Decoder(architecture, rngs=nnx.Rngs(0), remat=remat, attention='splash_interpret')),
        rows(1, 128),
    )
    assert list(primitives(jax.value_and_grad(loss), params)).count('pallas_call') == 2 + forward


@pytest.mark.parametrize(('remat', 'forward'), [('none', 1), ('dots', 1), ('save_attention', 1), ('full', 2)])
def test_what_cudnn_computed_is_kept(remat, forward, monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, 'check_cudnn_version', lambda: 91300)
    monkeypatch.setattr(cudnn, 'check_compute_capability', lambda capability: True)
    shape = (2, 256, 4, 64)
    call = Call('gpu', shape, shape, jnp.dtype(jnp.bfloat16), own_keys=True, scale=0.1, compute_capability=9.0)
    segment_ids = jnp.ones(shape[:2], jnp.int32)

    def layer(x):
        places = Places(segment_ids, segment_ids)
        return jnp.sin(attention_kernels.cudnn_attention(jnp.sin(x), x, x, places, places, call))

    def loss(x):
        return jnp.sum(recomputed(layer, remat, in_loop=True)(x).astype(jnp.float32))

    found = list(primitives(jax.value_and_grad(loss), jax.ShapeDtypeStruct(shape, jnp.bfloat16)))
    assert found.count('dot_product_attention_fwd_wrapper') == forward


def test_the_products_of_adapters_are_not_kept():
    """Seven adapters keep what one does: what the linears of a frozen layer keep anyway."""

    def kept(names):
        decoder = Decoder(SMALL, rngs=nnx.Rngs(0), remat='dots')
        add_lora(decoder, LoraSettings(rank=1, targets=f'^({"|".join(names)})$'), 0)
        graphdef, trained, frozen = split_trained(decoder)

        def loss(trained):
            return jnp.mean(jnp.sin(nnx.merge(graphdef, trained, frozen)(*rows(2, 64))))

        of_rows = [aval for aval, _ in saved_residuals(loss, trained) if 64 in aval.shape]
        return sum(aval.size * aval.dtype.itemsize for aval in of_rows)

    one_by_one = [kept([name]) for name in LINEARS]
    assert {kept(LINEARS)} == set(one_by_one)
