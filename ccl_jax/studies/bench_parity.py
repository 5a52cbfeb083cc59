"""How far the decoder is from transformers, for each architecture, on tiny random models in float32."""

import copy
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from ccl_jax.errors import UserError
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.hf import load_decoder, save_decoder
from ccl_jax.model.hf_tables import text_name

TEXT_TOKENS = 300
# No size divides another, heads are grouped, and the head dim is not the hidden size over the heads. Weights,
# norms, biases, soft-caps and windows are such that logits move by more than 0.01 if one is left out.
_SIZES = {
    'vocab_size': 37,
    'hidden_size': 20,
    'intermediate_size': 23,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'head_dim': 6,
    'max_position_embeddings': 512,
    'initializer_range': 0.3,
    'tie_word_embeddings': False,
    'bos_token_id': None,
    'eos_token_id': None,
    'pad_token_id': None,
}
_LLAMA3_ROPE = {
    'rope_type': 'llama3',
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 32,
}
_GEMMA3_ROPES = {
    'full_attention': {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1000.0},
    'sliding_attention': {'rope_type': 'default', 'rope_theta': 30.0},
}
_GEMMA3 = {
    **_SIZES,
    'model_type': 'gemma3_text',
    'num_hidden_layers': 10,
    'sliding_window_pattern': 3,
    'sliding_window': 9,
    'query_pre_attn_scalar': 10,
    'tie_word_embeddings': True,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A tiny model: what of the architecture it shows, and the content of its `config.json`."""

    features: str
    config: Mapping[str, Any]


CASES = {
    'Llama 3': Case('grouped heads', {**_SIZES, 'model_type': 'llama', 'rope_theta': 500.0}),
    'Llama 3.1, 3.3': Case(
        'rope scaling llama3',
        {**_SIZES, 'model_type': 'llama', 'rope_parameters': {'rope_theta': 500.0, **_LLAMA3_ROPE}},
    ),
    'Llama 3.2': Case(
        'rope scaling llama3, tied embeddings',
        {
            **_SIZES,
            'model_type': 'llama',
            'rope_theta': 500.0,
            'rope_scaling': _LLAMA3_ROPE,
            'tie_word_embeddings': True,
        },
    ),
    'Mistral 0.1': Case('window in all layers', {**_SIZES, 'model_type': 'mistral', 'sliding_window': 11}),
    'Mistral 0.3': Case('no window', {**_SIZES, 'model_type': 'mistral', 'sliding_window': None}),
    'Qwen 2.5': Case('bias of query, key and value', {**_SIZES, 'model_type': 'qwen2', 'tie_word_embeddings': True}),
    'Qwen 2.5, window': Case(
        'bias; window in the upper layers',
        {
            **_SIZES,
            'model_type': 'qwen2',
            'use_sliding_window': True,
            'sliding_window': 7,
            'max_window_layers': 1,
        },
    ),
    'Qwen 3': Case('norms of query and key', {**_SIZES, 'model_type': 'qwen3'}),
    'Gemma 2': Case(
        'soft-caps; window in every other layer; four norms, 1 + w; scaled embeddings',
        {
            **_SIZES,
            'model_type': 'gemma2',
            'num_hidden_layers': 5,
            'sliding_window': 9,
            'query_pre_attn_scalar': 10,
            'attn_logit_softcapping': 1.5,
            'final_logit_softcapping': 2.0,
            'tie_word_embeddings': True,
        },
    ),
    'Gemma 3': Case(
        'windows in all but every third layer, with a rope of their own; linear rope scaling; '
        'norms of query and key; four norms, 1 + w; scaled embeddings',
        {**_GEMMA3, 'rope_parameters': _GEMMA3_ROPES},
    ),
    'Gemma 3 with vision, MedGemma': Case(
        'the language model of the checkpoint, as Gemma 3; windows in five of six layers',
        {
            'model_type': 'gemma3',
            'text_config': {
                **_GEMMA3,
                'num_hidden_layers': 7,
                'sliding_window_pattern': 6,
                'rope_theta': 1000.0,
                'rope_local_base_freq': 30.0,
                'rope_scaling': {'rope_type': 'linear', 'factor': 8.0},
            },
            'vision_config': {
                'model_type': 'siglip_vision_model',
                'hidden_size': 8,
                'intermediate_size': 12,
                'num_hidden_layers': 1,
                'num_attention_heads': 2,
                'image_size': 16,
                'patch_size': 8,
            },
            'mm_tokens_per_image': 4,
            'image_token_index': 36,
            'boi_token_index': 34,
            'eoi_token_index': 35,
        },
    ),
}


@dataclasses.dataclass(frozen=True)
class Parity:
    """The largest differences between two models.

    Attributes:
        logits: absolute.
        logprobs: absolute, of the tokens of a text, each given all before it.
        gradients: by tensor, of the mean loss of the text: the largest absolute difference
            over the largest absolute value of the reference.
    """

    logits: float
    logprobs: float
    gradients: Mapping[str, float]


def bench_parity() -> str:
    """Compares every architecture with transformers on torch and returns a table as text.

    Models of 3 to 10 layers with random weights, norms and biases, and a random text of 300 tokens.

    Raises:
        UserError: torch is not installed.
    """
    lines = ['| architecture | features | logits | log-probabilities | gradients |', '|---|---|---|---|---|']
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            model = random_reference(case.config, seed=0)
            model.save_pretrained(folder)
            parity = compare(model, load_decoder(folder), random_text(case.config, seed=0))
        gradient = max(parity.gradients.values())
        lines.append(f'| {name} | {case.features} | {parity.logits:.1e} | {parity.logprobs:.1e} | {gradient:.1e} |')
    lines += [
        '',
        f'Largest differences from transformers in float32 over a random text of {TEXT_TOKENS} tokens: absolute '
        'for logits and log-probabilities; for gradients, of any parameter, relative to the largest of its tensor.',
    ]
    return '\n'.join(lines) + '\n'


def random_reference(config: Mapping[str, Any], *, seed: int) -> Any:
    """Returns transformers' model of a config, in float32, all parameters drawn at random.

    Linear weights and embeddings keep transformers' own draw; norms and biases, which would
    start as ones and zeros, are moved by a normal with a standard deviation of 0.3.

    Raises:
        UserError: torch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UserError('this needs torch, which is not installed; run pip install "ccl-jax[test]"') from None
    import transformers

    torch.manual_seed(seed)
    described = transformers.AutoConfig.for_model(**copy.deepcopy(dict(config)))  # It changes what it is given.
    kind = transformers.AutoModelForImageTextToText if 'text_config' in config else transformers.AutoModelForCausalLM
    model = kind.from_config(described, attn_implementation='eager', dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'norm' in name or name.endswith('.bias'):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def random_text(config: Mapping[str, Any], *, seed: int) -> np.ndarray:
    """Returns token ids [1, T], none of which stands for an image."""
    vocabulary = config.get('image_token_index', config.get('vocab_size'))
    return np.random.default_rng(seed).integers(0, vocabulary - 3, (1, TEXT_TOKENS)).astype(np.int32)


def compare(model: Any, decoder: Decoder, tokens: np.ndarray) -> Parity:
    """Returns the differences between transformers' `model` and `decoder` on `tokens` [B, T]."""
    expected_logits, expected_logprobs, expected = reference_values(model, tokens)
    logits, logprobs, gradients = values_and_gradients(decoder, tokens)
    if set(expected) != set(gradients):
        raise ValueError(f'tensors of one model alone: {sorted(set(expected) ^ set(gradients))}')
    return Parity(
        logits=float(np.abs(logits - expected_logits).max()),
        logprobs=float(np.abs(logprobs - expected_logprobs).max()),
        gradients={
            name: float(np.abs(gradients[name] - gradient).max() / np.abs(gradient).max())
            for name, gradient in expected.items()
        },
    )


def reference_values(model: Any, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Returns of transformers' `model` what `values_and_gradients` returns of a decoder."""
    import torch

    inputs = torch.from_numpy(tokens).long()
    model.zero_grad()
    logits = model(input_ids=inputs, use_cache=False).logits
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, inputs[:, 1:, None])[..., 0]
    (-logprobs.mean()).backward()
    # A vision part has no gradients.
    gradients = {
        text_name(name): parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return logits.detach().numpy(), logprobs.detach().numpy(), gradients


def values_and_gradients(decoder: Decoder, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Returns logits [B, T, V], the log-probability of each token but the first [B, T - 1], and gradients.

    The gradients are those of the mean of -log-probabilities, by the name of their Hugging Face tensor, in its layout.
    """
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    rows = (jnp.asarray(tokens), positions, jnp.ones_like(positions))
    graphdef, params = nnx.split(decoder)

    def loss(params: nnx.State) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        decoder = nnx.merge(graphdef, params)
        logits = decoder.logits(decoder(*rows))
        logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], axis=-1)[..., 0]
        return -logprobs.mean(), (logits, logprobs)

    gradients, (logits, logprobs) = jax.jit(jax.grad(loss, has_aux=True))(params)
    with tempfile.TemporaryDirectory() as folder:
        # The names and the layout of tensors are those of an export.
        save_decoder(nnx.merge(graphdef, gradients), Path(folder) / 'gradients')
        tensors = load_file(Path(folder) / 'gradients' / 'model.safetensors')
    return np.asarray(logits), np.asarray(logprobs), tensors
