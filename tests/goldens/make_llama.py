"""Makes tests/goldens/llama from transformers, for machines without torch.

Command, from the root of the repository: python tests/goldens/make_llama.py
"""

from pathlib import Path

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parent / 'llama'


def main() -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
        rope_parameters={
            'rope_type': 'llama3',
            'rope_theta': 100.0,
            'factor': 4.0,
            'low_freq_factor': 1.0,
            'high_freq_factor': 4.0,
            'original_max_position_embeddings': 16,
        },
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(FOLDER)
    tokens = torch.randint(0, config.vocab_size, (2, 12))
    with torch.no_grad():
        logits = model(tokens).logits
        # Without a mask transformers would take token 0 for padding.
        mask = torch.ones_like(tokens)
        output = model.generate(tokens, attention_mask=mask, max_new_tokens=10, do_sample=False, pad_token_id=0)
        greedy = output[:, tokens.shape[1] :]
    np.savez(FOLDER / 'expected.npz', tokens=tokens.numpy(), logits=logits.numpy(), greedy=greedy.numpy())


if __name__ == '__main__':
    main()
