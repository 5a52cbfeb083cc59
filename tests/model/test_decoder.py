import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.model.architecture import Architecture, LinearRopeScaling, Llama3RopeScaling
from ccl_jax.model.decoder import LINEARS, Decoder
from ccl_jax.model.hf import init_decoder, load_decoder
from ccl_jax.model.rope import inverse_frequencies

# A large initializer_range makes logits of order 1, so that a tolerance of 1e-4 means something.
GROUPED = Architecture(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=256,
    initializer_range=0.2,
)
TIED = dataclasses.replace(
    GROUPED, num_key_value_heads=4, rope_theta=500_000.0, rms_norm_eps=1e-6, tie_word_embeddings=True
)
SCALED = dataclasses.replace(
    GROUPED,
    num_key_value_heads=1,
    head_dim=16,
    rope_theta=1000.0,
    rope_scaling=Llama3RopeScaling(8.0, 1.0, 4.0, 32),
)
DEEP = dataclasses.replace(GROUPED, num_hidden_layers=10)
# No published model has all of these. Two periods of layers and a rest.
FEATURED = dataclasses.replace(
    GROUPED,
    num_hidden_layers=5,
    hidden_act='gelu_pytorch_tanh',
    rope_scaling=LinearRopeScaling(4.0),
    qkv_bias=True,
    qk_norm=True,
    post_norms=True,
    norm_plus_one=True,
    scale_embeddings=True,
    query_scale=0.4,
    attention_softcap=2.0,
    final_softcap=3.0,
    sliding_window=4,
    windowed=(True, False, True, False, True),
    local_rope_theta=50.0,
)

DEEPLY_FEATURED = dataclasses.replace(FEATURED, num_hidden_layers=11, windowed=(True, False) * 5 + (True,))


def random_rows(rows, length, seed=0, vocab_size=97):
    tokens = np.random.default_rng(seed).integers(0, vocab_size, (rows, length)).astype(np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return tokens, positions, np.ones((rows, length), np.int32)


def shallow(architecture):
    """The architecture with two layers, or with one period of them and a rest."""
    if architecture.windowed:
        return dataclasses.replace(architecture, num_hidden_layers=3, windowed=architecture.windowed[:3])
    return dataclasses.replace(architecture, num_hidden_layers=2)


def logits_of(decoder, *rows):
    return jax.jit(lambda *rows: decoder.logits(decoder(*rows)))(*rows)


@pytest.mark.parametrize('architecture', [GROUPED, TIED, SCALED, DEEP], ids=['grouped', 'tied', 'scaled', 'deep'])
def test_logits_equal_transformers(architecture, tmp_path):
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    reference = transformers.LlamaForCausalLM(transformers.LlamaConfig(**architecture.to_hf())).eval()
    reference.save_pretrained(tmp_path)
    tokens, positions, segment_ids = random_rows(2, 150)
    with torch.no_grad():
        expected = reference(torch.from_numpy(tokens).long()).logits.numpy()
    assert expected.std() > 0.3
    decoder = load_decoder(tmp_path)
    assert decoder.architecture == architecture
    logits = logits_of(decoder, tokens, positions, segment_ids)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_rotary_frequencies_equal_transformers():
    pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    for architecture in (GROUPED, SCALED):
        expected = LlamaRotaryEmbedding(transformers.LlamaConfig(**architecture.to_hf())).inv_freq.numpy()
        ours = inverse_frequencies(architecture.head_dim, architecture.rope_theta, architecture.rope_scaling)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
    ropes = {
        'full_attention': {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1e6},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4},
    }
    both = Gemma3RotaryEmbedding(transformers.Gemma3TextConfig(head_dim=8, rope_parameters=ropes))
    full = inverse_frequencies(8, 1e6, LinearRopeScaling(8.0))
    np.testing.assert_allclose(full, both.full_attention_inv_freq.numpy(), rtol=1e-6)
    np.testing.assert_allclose(inverse_frequencies(8, 1e4, None), both.sliding_attention_inv_freq.numpy(), rtol=1e-6)


@pytest.mark.parametrize('architecture', [GROUPED, FEATURED], ids=['grouped', 'featured'])
def test_packed_rows_equal_rows_of_their_own_in_values_and_gradients(architecture):
    lengths, longest = (9, 1, 14), 14
    tokens, positions, segment_ids = random_rows(3, longest)
    packed = tuple(
        np.concatenate([rows[i, :n] for i, n in enumerate(lengths)])[None]
        for rows in (tokens, positions, np.cumsum(segment_ids, axis=0))
    )
    own = np.arange(longest) < np.array(lengths)[:, None]
    unpacked = (tokens, positions, own.astype(np.int32))
    graphdef, params = nnx.split(init_decoder(shallow(architecture), seed=1))

    def gradients(rows, select):
        def loss(params):
            decoder = nnx.merge(graphdef, params)
            logits = select(decoder.logits(decoder(*rows)))  # [sum of lengths, V]
            return jnp.mean(jax.nn.log_softmax(logits)[np.arange(sum(lengths)), packed[0][0]]), logits

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    left, logits = gradients(packed, lambda logits: logits[0])
    right, expected = gradients(unpacked, lambda logits: logits[own])
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), left, right)


@pytest.mark.slow
@pytest.mark.parametrize('architecture', [shallow(GROUPED), FEATURED], ids=['grouped', 'featured'])
def test_rematerialisation_changes_no_gradient(architecture):
    tokens, positions, segment_ids = random_rows(2, 20)
    decoder = init_decoder(architecture, seed=0)

    def gradients(remat):
        decoder.remat = remat
        graphdef, params = nnx.split(decoder)

        def loss(params):
            return jnp.mean(jnp.sin(nnx.merge(graphdef, params)(tokens, positions, segment_ids)))

        compiled = jax.jit(jax.grad(loss)).lower(params).compile()
        return compiled(params), compiled.memory_analysis().temp_size_in_bytes

    (kept, kept_bytes), (recomputed, recomputed_bytes) = gradients('none'), gradients('full')
    assert recomputed_bytes < 0.8 * kept_bytes
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), kept, recomputed)


@pytest.mark.parametrize(('windowed', 'gradients'), [((True, False) * 6, True), ((True, False) * 6 + (True,), False)])
def test_the_loop_over_layers_copies_no_weights(windowed, gradients):
    """The weights outweigh the activations; XLA's own count of temporary bytes shows at most a few layers of them."""
    architecture = dataclasses.replace(
        GROUPED,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=len(windowed),
        windowed=windowed,
        sliding_window=4,
    )
    for form in (architecture, dataclasses.replace(architecture, windowed=(), sliding_window=None)):
        decoder = nnx.eval_shape(lambda form=form: Decoder(form, rngs=nnx.Rngs(0), remat='full'))
        graphdef, params = nnx.split(decoder)

        def mean(params, *rows, graphdef=graphdef):
            return nnx.merge(graphdef, params)(*rows).mean()

        compiled = jax.jit(jax.grad(mean) if gradients else mean).lower(params, *random_rows(1, 8)).compile()
        size = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
        assert compiled.memory_analysis().temp_size_in_bytes < 0.35 * size


class Delta(nnx.Module):
    """An adapter that adds to the weights."""

    def __init__(self, shape, seed):
        self.weight = nnx.Variable(0.1 * jax.random.normal(jax.random.key(seed), shape))

    def __call__(self, x, key):
        scale = 1 if key is None else jax.random.uniform(key)
        return scale * (x @ self.weight[...])


def test_adapters_add_to_every_linear_product():
    rows = random_rows(2, 12)
    decoder = init_decoder(shallow(FEATURED), seed=0)
    changed = nnx.clone(decoder)
    for seed, name in enumerate(LINEARS):
        weights = getattr(decoder.layers, name)
        decoder.layers.adapters[name] = Delta(weights[...].shape, seed)
    graphdef, state = nnx.split(decoder)
    run = jax.jit(lambda state, key: nnx.merge(graphdef, state)(*rows, dropout_key=key))
    plain = jax.jit(lambda params: nnx.merge(nnx.graphdef(changed), params)(*rows))
    before = plain(nnx.state(changed))
    for name in LINEARS:
        # One at a time, so that none can stand in for another.
        alone = nnx.clone(decoder)
        for other in LINEARS:
            alone.layers.adapters[other].weight[...] *= float(other == name)
        with_delta = nnx.clone(changed)
        getattr(with_delta.layers, name)[...] += decoder.layers.adapters[name].weight[...]
        expected = plain(nnx.state(with_delta))
        assert np.abs(expected - before).max() > 0.01, name
        np.testing.assert_allclose(run(nnx.state(alone), None), expected, atol=1e-4, err_msg=name)
    key = jax.random.key(1)
    once = run(state, key)
    np.testing.assert_array_equal(run(state, key), once)
    assert np.abs(run(state, jax.random.key(2)) - once).max() > 0.01
    decoder.remat = 'full'
    recomputed = jax.jit(lambda state: nnx.merge(nnx.graphdef(decoder), state)(*rows, dropout_key=key))(state)
    np.testing.assert_allclose(recomputed, once, atol=1e-5)


def test_every_layer_and_linear_product_has_a_key_of_its_own():
    keys = []

    class Spy(nnx.Module):
        def __call__(self, x, key):
            jax.debug.callback(lambda data: keys.append(tuple(data.tolist())), jax.random.key_data(key))
            return 0 * x[..., :1]

    for architecture in (shallow(GROUPED), shallow(FEATURED)):
        keys.clear()
        decoder = init_decoder(architecture, seed=0)
        for name in LINEARS:
            decoder.layers.adapters[name] = Spy()
        graphdef, params = nnx.split(decoder)
        run = jax.jit(lambda params, key, g=graphdef: nnx.merge(g, params)(*random_rows(1, 4), dropout_key=key))
        run(params, jax.random.key(0)).block_until_ready()
        jax.effects_barrier()
        assert len(keys) == len(set(keys)) == len(LINEARS) * architecture.num_hidden_layers


def with_more_slots(cache, count, filling):
    """The cache with `count` slots more, of keys [., B, K, H, S] and values [., B, K, S, H]."""
    axes = {'key': 4, 'value': 3}
    return {
        name: tuple(
            jnp.pad(stack, [(0, count * (axis == axes[name])) for axis in range(5)], constant_values=filling)
            for stack in stacks
        )
        for name, stacks in cache.items()
    }


@pytest.mark.parametrize('architecture', [SCALED, FEATURED, DEEP, DEEPLY_FEATURED])
def test_cached_decoding_equals_the_full_forward(architecture):
    """Rows go on from places of their own, over slots in which something else was before."""
    prompts, new, padded = (9, 4, 1), 6, 9
    decoder = init_decoder(architecture, seed=3)
    tokens, positions, segment_ids = random_rows(3, max(prompts) + new)
    full = jax.jit(lambda *rows: decoder(*rows))(tokens, positions, segment_ids)
    right_padded = np.where(np.arange(padded) < np.array(prompts)[:, None], tokens[:, :padded], 5)
    hidden, cache = jax.jit(decoder.prefill)(right_padded)
    for row, length in enumerate(prompts):
        np.testing.assert_allclose(hidden[row, :length], full[row, :length], atol=1e-5)
    cache = with_more_slots(cache, new, 7.0)
    decode, rows = jax.jit(decoder.decode), np.arange(3)
    for step in range(new):
        place = np.array(prompts, np.int32) + step
        hidden, cache = decode(tokens[rows, place], place, cache)
        np.testing.assert_allclose(hidden, full[rows, place], atol=1e-5)


def abstract_params(architecture, **types):
    return nnx.state(nnx.eval_shape(lambda: Decoder(architecture, rngs=nnx.Rngs(0), **types)))


def test_types_of_parameters_computation_and_logits():
    decoder = init_decoder(GROUPED, seed=0, param_dtype=jnp.float32, compute_dtype=jnp.bfloat16)
    exact = nnx.clone(decoder)
    exact.compute_dtype = jnp.dtype('float32')
    rows = random_rows(2, 16)
    hidden = jax.jit(lambda *rows: decoder(*rows))(*rows)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(decoder))} == {jnp.dtype('float32')}
    halved = abstract_params(GROUPED, param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(halved)} == {jnp.dtype('bfloat16')}
    assert hidden.dtype == jnp.bfloat16
    logits = decoder.logits(hidden)
    assert logits.dtype == jnp.float32
    assert decoder.output_embedding().shape == (32, 97)
    # bfloat16 keeps 8 bits: a few percent of the logits' spread after three layers.
    expected = logits_of(exact, *rows)
    assert jnp.abs(logits - expected).mean() < 0.05 * expected.std()


def test_the_shapes_of_an_8b_model_cost_nothing():
    architecture = Architecture(128256, 4096, 14336, 32, 32, 8, 128, 131072, rope_theta=500_000.0)
    decoder = nnx.eval_shape(lambda: Decoder(architecture, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16))
    graphdef, params = nnx.split(decoder, nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 8_030_261_248
    rows = [jax.ShapeDtypeStruct((2, 64), jnp.int32)] * 3
    hidden = jax.eval_shape(lambda params, *rows: nnx.merge(graphdef, params)(*rows), params, *rows)
    assert hidden.shape == (2, 64, 4096)


@pytest.mark.parametrize(
    'architecture', [GROUPED, TIED, SCALED, FEATURED], ids=['grouped', 'tied', 'scaled', 'featured']
)
def test_the_parameter_count_is_that_of_the_parameters(architecture):
    assert architecture.parameter_count() == sum(leaf.size for leaf in jax.tree.leaves(abstract_params(architecture)))
