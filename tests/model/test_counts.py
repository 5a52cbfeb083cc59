"""The counts against the matrix products of the traced program, and against numbers worked by hand."""

import dataclasses
import itertools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.counts import flops_per_token, generation_flops, lora_parameter_count, mean_keys, text_flops
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.lora import LoraParam, add_lora
from ccl_jax.model.settings import LoraSettings

LENGTH = 12
PLAIN = Architecture(
    vocab_size=37,
    hidden_size=20,
    intermediate_size=23,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    max_position_embeddings=64,
)
WINDOWED = dataclasses.replace(PLAIN, sliding_window=5, windowed=(True, False, True), tie_word_embeddings=True)
LORA = LoraSettings(rank=3, targets='query|value|down')


def products_of(jaxpr) -> int:
    """FLOPs of all matrix products of a program, those in a loop as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == 'dot_general':
            (contracted, _), _ = equation.params['dimension_numbers']
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        assert equation.primitive.name not in ('while', 'cond'), 'how often it runs is not known'
        repeats = equation.params['length'] if equation.primitive.name == 'scan' else 1
        parameters = jax.tree.leaves(list(equation.params.values()), is_leaf=is_program)
        total += repeats * sum(products_of(parameter) for parameter in parameters if is_program(parameter))
    return total


def is_program(parameter) -> bool:
    return hasattr(parameter, 'eqns')


def traced_flops(architecture, backward, lora=None) -> float:
    """FLOPs per token of the program, the scores that it masks away taken out."""
    decoder = Decoder(architecture, rngs=nnx.Rngs(0))
    if lora is not None:
        add_lora(decoder, lora, seed=0)
    graphdef, trained, frozen = nnx.split(decoder, LoraParam if lora else nnx.Param, ...)
    tokens = np.zeros((1, LENGTH), np.int32)
    positions = np.arange(LENGTH, dtype=np.int32)[None]

    def loss(trained):
        model = nnx.merge(graphdef, trained, frozen)
        return jnp.sum(jnp.sin(model.logits(model(tokens, positions, np.ones_like(tokens)))))

    program = jax.make_jaxpr(loss if backward == 'none' else jax.grad(loss))(trained)
    # Forward two products with the square of scores, backward four.
    products = 2 if backward == 'none' else 6
    heads = architecture.num_attention_heads * architecture.head_dim
    masked = sum(
        2 * products * heads * (LENGTH * LENGTH - seen_keys(architecture, layer))
        for layer in range(architecture.num_hidden_layers)
    )
    return (products_of(program.jaxpr) - masked) / LENGTH


def seen_keys(architecture, layer) -> int:
    window = architecture.sliding_window if architecture.windowed and architecture.windowed[layer] else LENGTH
    return sum(0 <= query - key < window for query, key in itertools.product(range(LENGTH), repeat=2))


@pytest.mark.parametrize('backward', ['none', 'full'])
@pytest.mark.parametrize('architecture', [PLAIN, WINDOWED], ids=['plain', 'windowed'])
def test_flops_are_those_of_the_program(architecture, backward):
    assert flops_per_token(architecture, LENGTH, backward=backward) == pytest.approx(
        traced_flops(architecture, backward), rel=1e-9
    )


def test_flops_of_lora_are_those_of_the_program():
    adapters = lora_parameter_count(PLAIN, LORA.rank, LORA.targets)
    expected = traced_flops(PLAIN, 'lora', LORA)
    assert flops_per_token(PLAIN, LENGTH, backward='lora', lora_parameters=adapters) == pytest.approx(
        expected, rel=1e-9
    )


def test_adapters_are_counted_as_they_are():
    decoder = Decoder(PLAIN, rngs=nnx.Rngs(0))
    add_lora(decoder, LORA, seed=0)
    actual = sum(x.size for x in jax.tree.leaves(nnx.state(decoder, LoraParam)))
    assert lora_parameter_count(PLAIN, LORA.rank, LORA.targets) == actual
    # Worked by hand: 3 layers, rank 3, (20 + 24) for the query, (20 + 12) for the value, (23 + 20) for down.
    assert actual == 3 * 3 * (44 + 32 + 43)
    with pytest.raises(UserError, match='matches no linear'):
        lora_parameter_count(PLAIN, 3, 'nothing')


@pytest.mark.parametrize('lora', [None, LoraSettings(), LORA])
def test_flops_of_a_text_are_those_of_the_program_forward_and_backward_apart(lora):
    adapted = lora if lora is not None and lora.enabled else None
    forward, backward = text_flops(PLAIN, LENGTH, lora)
    assert forward == pytest.approx(LENGTH * traced_flops(PLAIN, 'none', adapted))
    both = traced_flops(PLAIN, 'lora' if adapted else 'full', adapted)
    assert forward + backward == pytest.approx(LENGTH * both)


@pytest.mark.parametrize('architecture', [PLAIN, WINDOWED], ids=['plain', 'windowed'])
@pytest.mark.parametrize(('prompt', 'fed'), [(1, 0), (9, 0), (7, 4), (1, 8)])
def test_flops_of_generation_token_by_token(architecture, prompt, fed):
    hidden, heads = 20, 4 * 6
    linears = hidden * heads * 2 + hidden * 2 * 6 * 2 + 3 * hidden * 23
    expected = 0
    for position in range(prompt + fed):
        for layer in range(3):
            windowed = architecture.sliding_window is not None and architecture.windowed[layer]
            keys = min(position + 1, architecture.sliding_window) if windowed else position + 1
            expected += 2 * linears + 2 * 2 * heads * keys
        if position >= prompt - 1:
            expected += 2 * hidden * 37
    assert generation_flops(architecture, prompt, fed) == pytest.approx(expected, rel=1e-12)


def test_flops_of_llama_8b_by_hand():
    llama = Architecture(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131_072,
    )
    assert llama.parameter_count() == 8_030_261_248
    # All parameters but the embedding look-up and the norms; 32 layers x 2 products x 4096 x 4096.5 keys.
    matrices = 8_030_261_248 - 128_256 * 4096 - 65 * 4096
    forward = 2 * matrices + 2 * 32 * 2 * 4096 * 4096.5
    assert flops_per_token(llama, 8192) == pytest.approx(forward, rel=1e-12)
    assert flops_per_token(llama, 8192, backward='full') == pytest.approx(3 * forward, rel=1e-12)


@hypothesis.given(length=st.integers(1, 60), window=st.none() | st.integers(1, 70))
def test_mean_keys_equals_counting(length, window):
    seen = sum(0 <= query - key < (window or length) for query, key in itertools.product(range(length), repeat=2))
    assert mean_keys(length, window) == pytest.approx(seen / length, rel=1e-12)
