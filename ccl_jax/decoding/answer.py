"""A model in a Hugging Face folder as `generate(prompts) -> answers`."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh

from ccl_jax.data.tokenization import encode_prompt, end_of_turn_id, load_tokenizer
from ccl_jax.decoding.generate import generate
from ccl_jax.model.hf import load_decoder
from ccl_jax.training.mesh import sharding_for


def load_generate(
    folder: str | Path,
    mesh: Mesh,
    *,
    param_dtype: str,
    compute_dtype: str,
    buckets: Sequence[int],
    max_new_tokens: int,
    batch_rows: int,
    usage: Counter[str] | None = None,
) -> Callable[[Sequence[str]], list[str | None]]:
    """Loads the model and returns a function that answers prompts, greedily, in their order.

    A prompt longer than the longest bucket, and an answer that runs into
    `max_new_tokens` without an end, give None.

    Args:
        usage: where `input_tokens` and `output_tokens` are added up.

    Raises:
        UserError: the folder is no checkpoint that can be read.
    """
    tokenizer = load_tokenizer(folder)
    decoder = load_decoder(
        folder,
        sharding_for=lambda path, shape: sharding_for(mesh, path, shape),
        param_dtype=jnp.dtype(param_dtype),
        compute_dtype=jnp.dtype(compute_dtype),
        mesh=mesh,
    )
    end = end_of_turn_id(tokenizer)

    def answers(prompts: Sequence[str]) -> list[str | None]:
        encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
        fitting = [number for number, ids in enumerate(encoded) if len(ids) <= max(buckets)]
        texts: list[str | None] = [None] * len(prompts)
        generations = generate(
            decoder,
            [encoded[number] for number in fitting],
            end_ids=(end,),
            max_new_tokens=max_new_tokens,
            buckets=buckets,
            batch_rows=batch_rows,
        )
        for number, generation in zip(fitting, generations, strict=True):
            if usage is not None:
                usage.update(input_tokens=len(encoded[number]), output_tokens=len(generation.tokens))
            if generation.ended:
                texts[number] = str(tokenizer.decode(list(generation.tokens), skip_special_tokens=True))
        return texts

    return answers
