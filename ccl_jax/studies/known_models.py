"""Published models by name, so that a step can be compiled where their files are not, and a small one to measure.

Only what decides shapes and FLOPs, from the `config.json` of each repository on huggingface.co.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import read_architecture

# What is measured on a CPU: 5.2 million parameters.
SMALL_LLAMA = Architecture(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=32,
    max_position_embeddings=2048,
)

_LLAMA_31 = {
    'model_type': 'llama',
    'vocab_size': 128256,
    'max_position_embeddings': 131072,
    'num_key_value_heads': 8,
    'head_dim': 128,
    'rms_norm_eps': 1e-5,
    'rope_theta': 500000.0,
    'rope_scaling': {
        'rope_type': 'llama3',
        'factor': 8.0,
        'low_freq_factor': 1.0,
        'high_freq_factor': 4.0,
        'original_max_position_embeddings': 8192,
    },
    'tie_word_embeddings': False,
}
_LLAMA_31_8B = {
    **_LLAMA_31,
    'hidden_size': 4096,
    'intermediate_size': 14336,
    'num_hidden_layers': 32,
    'num_attention_heads': 32,
}
_LLAMA_33_70B = {
    **_LLAMA_31,
    'hidden_size': 8192,
    'intermediate_size': 28672,
    'num_hidden_layers': 80,
    'num_attention_heads': 64,
}
_QWEN_25_7B = {
    'model_type': 'qwen2',
    'vocab_size': 152064,
    'max_position_embeddings': 32768,
    'hidden_size': 3584,
    'intermediate_size': 18944,
    'num_hidden_layers': 28,
    'num_attention_heads': 28,
    'num_key_value_heads': 4,
    'rms_norm_eps': 1e-6,
    'rope_theta': 1000000.0,
    'use_sliding_window': False,
    'tie_word_embeddings': False,
}
MODELS: Mapping[str, Mapping[str, Any]] = {
    'Llama-3.1-8B': _LLAMA_31_8B,
    'Llama-3.1-8B-Instruct': _LLAMA_31_8B,
    'Llama-3.3-70B-Instruct': _LLAMA_33_70B,
    'Qwen2.5-7B': {**_QWEN_25_7B, 'max_position_embeddings': 131072},
    'Qwen2.5-7B-Instruct': _QWEN_25_7B,
}


def known_architecture(path: str) -> Architecture:
    """Returns the architecture in the folder `path`, or, where there is none, that of the model named like it.

    Raises:
        UserError: there is no such folder and no known model of that name.
    """
    if Path(path).is_dir():
        return read_architecture(path)
    name = Path(path).name
    if name not in MODELS:
        raise UserError(f'model.path is "{path}", which is no folder and no known model; known are {", ".join(MODELS)}')
    return Architecture.from_hf(MODELS[name])
