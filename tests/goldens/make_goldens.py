"""Makes the folders beside this file from transformers, for machines without torch.

Each holds a tiny model of one architecture and `expected.npz`: tokens [2, T]; logits [2, T, V];
greedy [2, 10], the tokens that follow; ragged [4, 10], those that follow each of `RAGGED`, beginnings of the
first row, continued without padding; and of the gradient of the mean cross-entropy, by tensor,
its norm and its product with a fixed vector (see `digest`).

Command, from the root of the repository: python tests/goldens/make_goldens.py
"""

from pathlib import Path

import numpy as np
import torch

from ccl_jax.studies.bench_parity import CASES, random_reference, reference_values

FOLDER = Path(__file__).parent
LLAMA = {
    'model_type': 'llama',
    'vocab_size': 24,
    'hidden_size': 16,
    'intermediate_size': 20,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'max_position_embeddings': 64,
    'initializer_range': 0.4,
    'rope_parameters': {
        'rope_type': 'llama3',
        'rope_theta': 100.0,
        'factor': 4.0,
        'low_freq_factor': 1.0,
        'high_freq_factor': 4.0,
        'original_max_position_embeddings': 16,
    },
    'bos_token_id': None,
    'eos_token_id': None,
}
# The shortest prompt, and lengths below and above the windows.
RAGGED = (12, 1, 5, 10)
SMALL = {'max_position_embeddings': 64}
CONFIGS = {
    'llama': LLAMA,
    'llama_tied': {**CASES['Llama 3.2'].config, **SMALL},
    'mistral': {**CASES['Mistral 0.1'].config, **SMALL},
    'qwen2': {**CASES['Qwen 2.5, window'].config, **SMALL},
    'qwen3': {**CASES['Qwen 3'].config, **SMALL},
    'gemma2': {**CASES['Gemma 2'].config, **SMALL, 'num_hidden_layers': 3},
    'gemma3': {
        **CASES['Gemma 3'].config,
        **SMALL,
        'num_hidden_layers': 7,
        'hidden_size': 8,
        'intermediate_size': 11,
    },
}


def digest(gradient: np.ndarray) -> list[float]:
    """Returns two numbers that no other gradient is likely to have."""
    return [np.linalg.norm(gradient), np.sum(gradient.ravel() * np.cos(np.arange(gradient.size)))]


def greedy(model: torch.nn.Module, tokens: torch.Tensor) -> np.ndarray:
    """Returns the ten likeliest tokens, one after the other, after each row."""
    # Without a mask transformers would take token 0 for padding.
    mask = torch.ones_like(tokens)
    output = model.generate(tokens, attention_mask=mask, max_new_tokens=10, do_sample=False, pad_token_id=0)
    written: np.ndarray = output[:, tokens.shape[1] :].numpy()
    return written


def main() -> None:
    for name, config in CONFIGS.items():
        model = random_reference(config, seed=0)
        model.save_pretrained(FOLDER / name)
        length = 12 if name == 'llama' else 24
        tokens = torch.randint(0, config['vocab_size'], (2, length))
        logits, _, gradients = reference_values(model, tokens.numpy())
        np.savez_compressed(
            FOLDER / name / 'expected.npz',
            tokens=tokens.numpy(),
            logits=logits,
            greedy=greedy(model, tokens),
            ragged=np.concatenate([greedy(model, tokens[:1, :length]) for length in RAGGED]),
            gradient_names=np.array(list(gradients)),
            gradients=np.array([digest(gradient) for gradient in gradients.values()]),
        )


if __name__ == '__main__':
    main()
