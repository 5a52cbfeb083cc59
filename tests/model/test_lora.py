"""Adapters against dense weights worked out in numpy, and what dropout, types and meshes do to them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.lora import Adapter, LoraParam, add_lora, merge_lora, split_trained
from ccl_jax.model.settings import LINEARS, LoraSettings

ARCHITECTURE = Architecture(
    vocab_size=37,
    hidden_size=20,
    intermediate_size=23,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    max_position_embeddings=64,
    initializer_range=0.3,
)
SETTINGS = LoraSettings(rank=3, alpha=5.0)


def decoder_with(settings=SETTINGS, *, trained=True, **options):
    """A decoder with adapters; `trained` ones have a B that is not 0."""
    decoder = Decoder(ARCHITECTURE, rngs=nnx.Rngs(0), **options)
    add_lora(decoder, settings, seed=1)
    if trained:
        for number, adapter in enumerate(decoder.layers.adapters.values()):
            adapter.b[...] = 0.2 * jax.random.normal(jax.random.key(number), adapter.b.shape)
    return decoder


def batch(rows=2, length=11):
    tokens = np.random.default_rng(0).integers(0, ARCHITECTURE.vocab_size, (rows, length)).astype(np.int32)
    return tokens, np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape), np.ones_like(tokens)


def logits(decoder, dropout_key=None):
    return np.asarray(_logits(*nnx.split(decoder), dropout_key), np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef, state, dropout_key):
    decoder = nnx.merge(graphdef, state)
    return decoder.logits(decoder(*batch(), dropout_key=dropout_key))


def dense(decoder):
    """The decoder without adapters whose weights are W + alpha / r A B, in float64."""
    result = Decoder(ARCHITECTURE, rngs=nnx.Rngs(0))
    for name, adapter in decoder.layers.adapters.items():
        a, b = (np.asarray(factor[...], np.float64) for factor in (adapter.a, adapter.b))
        weights = getattr(result.layers, name)
        product = np.stack([a[layer] @ b[layer] for layer in range(len(a))])
        weights[...] = jnp.asarray(weights[...] + SETTINGS.alpha / SETTINGS.rank * product, jnp.float32)
    return result


@pytest.mark.parametrize('targets', ['.*', 'query|value', 'down', 'output|gate|up'])
def test_an_adapter_is_a_change_of_the_weights(targets):
    decoder = decoder_with(dataclasses.replace(SETTINGS, targets=targets))
    before = logits(Decoder(ARCHITECTURE, rngs=nnx.Rngs(0)))
    got, expected = logits(decoder), logits(dense(decoder))
    assert np.abs(got - before).max() > 0.1
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_merged_weights_give_the_logits_of_the_adapters():
    decoder = decoder_with()
    before, expected = logits(decoder), dense(decoder)
    merge_lora(decoder)
    assert not nnx.state(decoder, LoraParam)
    for name in LINEARS:
        np.testing.assert_allclose(
            getattr(decoder.layers, name)[...], getattr(expected.layers, name)[...], rtol=1e-6, atol=1e-6
        )
    np.testing.assert_allclose(logits(decoder), before, atol=1e-5)


def test_merging_rounds_a_weight_of_bfloat16_once():
    decoder = decoder_with(param_dtype=jnp.bfloat16)
    adapter = decoder.layers.adapters['up']
    old = np.asarray(decoder.layers.up[...], np.float64)
    product = np.einsum('lir,lro->lio', *(np.asarray(f[...], np.float64) for f in (adapter.a, adapter.b)))
    merge_lora(decoder)
    merged = decoder.layers.up[...]
    assert merged.dtype == jnp.bfloat16
    exact = old + SETTINGS.alpha / SETTINGS.rank * product
    # Half a unit in the last of 8 bits, and float32's own error before it.
    assert (np.abs(np.asarray(merged, np.float64) - exact) <= 2.0**-8 * np.abs(exact) + 1e-6).all()


def test_decoding_with_a_cache_uses_the_adapters():
    decoder = decoder_with()
    tokens, positions, segments = batch()
    expected = decoder(tokens, positions, segments)
    hidden, cache = decoder.prefill(tokens[:, :8])
    cache = {
        'key': tuple(jnp.pad(stack, ((0, 0),) * 4 + ((0, 4),)) for stack in cache['key']),
        'value': tuple(jnp.pad(stack, ((0, 0),) * 3 + ((0, 4), (0, 0))) for stack in cache['value']),
    }
    np.testing.assert_allclose(hidden, expected[:, :8], atol=1e-5)
    for slot in range(8, 11):
        hidden, cache = decoder.decode(tokens[:, slot], positions[:, slot], cache)
        np.testing.assert_allclose(hidden, expected[:, slot], atol=1e-5)


def test_new_adapters_change_nothing_and_are_drawn_as_peft_draws_them():
    plain, decoder = Decoder(ARCHITECTURE, rngs=nnx.Rngs(0)), decoder_with(trained=False)
    np.testing.assert_array_equal(logits(decoder), logits(plain))
    wide = Decoder(dataclasses.replace(ARCHITECTURE, intermediate_size=400), rngs=nnx.Rngs(0))
    add_lora(wide, LoraSettings(rank=16), seed=0)
    a = np.asarray(wide.layers.adapters['down'].a[...])
    # kaiming_uniform_ with a = sqrt(5): bound = sqrt(6 / ((1 + 5) in)).
    bound = np.sqrt(6 / (6 * 400))
    assert bound * 0.99 < np.abs(a).max() <= bound
    np.testing.assert_allclose(a.std(), bound / np.sqrt(3), rtol=0.02)
    assert not np.allclose(a[0], a[1])


def test_what_is_drawn_depends_on_seed_and_name_alone():
    def drawn(settings, seed):
        decoder = Decoder(ARCHITECTURE, rngs=nnx.Rngs(0))
        add_lora(decoder, settings, seed)
        return {name: np.asarray(adapter.a[...]) for name, adapter in decoder.layers.adapters.items()}

    everything, some = drawn(SETTINGS, 1), drawn(dataclasses.replace(SETTINGS, targets='up|key'), 1)
    assert list(everything) == list(LINEARS)
    assert list(some) == ['key', 'up']
    for name in some:
        np.testing.assert_array_equal(some[name], everything[name])
    assert not np.allclose(everything['gate'], everything['up'])
    assert not np.allclose(everything['up'], drawn(SETTINGS, 2)['up'])


def test_what_is_trained_is_told_apart_from_what_is_frozen():
    graphdef, trained, frozen = split_trained(decoder_with())
    assert {path[-1] for path, _ in nnx.to_flat_state(trained)} == {'a', 'b'}
    assert len(nnx.to_flat_state(trained)) == 2 * len(LINEARS)
    weights = nnx.to_pure_dict(nnx.state(Decoder(ARCHITECTURE, rngs=nnx.Rngs(0))))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(frozen), weights)
    np.testing.assert_array_equal(logits(nnx.merge(graphdef, trained, frozen)), logits(decoder_with()))
    _, trained, frozen = split_trained(Decoder(ARCHITECTURE, rngs=nnx.Rngs(0)))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(trained), weights)
    assert not frozen


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_adapters_and_their_gradients_are_float32_over_any_weights(dtype):
    graphdef, trained, frozen = split_trained(decoder_with(param_dtype=dtype, compute_dtype=dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype(dtype)}

    @jax.jit
    @jax.grad
    def gradient(trained):
        decoder = nnx.merge(graphdef, trained, frozen)
        return jnp.mean(jax.nn.logsumexp(decoder.logits(decoder(*batch())), axis=-1))

    gradients = gradient(nnx.to_pure_dict(trained))
    for leaf in jax.tree.leaves(gradients):
        assert leaf.dtype == jnp.float32
        assert jnp.abs(leaf).max() > 0


def test_dropout_zeroes_its_share_of_the_inputs_and_keeps_their_mean():
    eye = jnp.eye(50)
    adapter = Adapter(eye, eye, scale=1.0, dropout=0.2)
    x = jax.random.normal(jax.random.key(0), (8, 40, 50))
    dropped = adapter(x, jax.random.key(1))
    zero = np.asarray(dropped == 0)
    # 16,000 draws: a standard deviation of 0.003.
    assert abs(zero.mean() - 0.2) < 0.015
    np.testing.assert_allclose(dropped[~zero], x[~zero] / 0.8, rtol=1e-6)
    assert not np.array_equal(zero, np.asarray(adapter(x, jax.random.key(2)) == 0))
    np.testing.assert_allclose(adapter(x), x, rtol=1e-6)


def test_every_layer_and_linear_has_a_key_of_its_own():
    seen = []

    class Recorder(nnx.Module):
        def __call__(self, x, key):
            jax.debug.callback(lambda bits: seen.append(tuple(bits.tolist())), jax.random.key_data(key))
            return jnp.zeros(())

    decoder = Decoder(ARCHITECTURE, rngs=nnx.Rngs(0))
    decoder.layers.adapters = nnx.Dict({name: Recorder() for name in LINEARS})
    for seed in (0, 1):
        jax.block_until_ready(decoder(*batch(), dropout_key=jax.random.key(seed)))
        jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 2 * ARCHITECTURE.num_hidden_layers * len(LINEARS)


def test_dropout_needs_a_key():
    decoder = decoder_with(dataclasses.replace(SETTINGS, dropout=0.5))
    np.testing.assert_array_equal(logits(decoder), logits(decoder_with()))
    one, two = (logits(decoder, dropout_key=jax.random.key(seed)) for seed in (1, 2))
    assert np.abs(one - logits(decoder)).max() > 0.1
    assert np.abs(one - two).max() > 0.1
    np.testing.assert_array_equal(one, logits(decoder, dropout_key=jax.random.key(1)))


@pytest.mark.parametrize(
    ('targets', 'names'),
    [
        ('.*', LINEARS),
        ('query|value', ('query', 'value')),
        ('(gate|up|down)', ('gate', 'up', 'down')),
        ('k.*', ('key',)),
    ],
)
def test_targets_match_whole_names(targets, names):
    assert LoraSettings(rank=1, targets=targets).names == names


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'rank': -1}, 'rank is -1'),
        ({'alpha': 0.0}, 'alpha is 0.0'),
        ({'alpha': float('inf')}, 'alpha is inf'),
        ({'dropout': 1.0}, 'dropout is 1.0'),
        ({'targets': 'q_proj'}, r'matches no linear layer; they are query, key'),
        ({'targets': '(up'}, 'no regular expression'),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        LoraSettings(**options)


def test_no_adapters_by_default():
    assert not LoraSettings().enabled
    assert LoraSettings(rank=1).enabled
