"""Llama 3.1 8B Instruct on a user's own documents and spans.

    ccl-jax train --config configs/llama31_8b_lora.py --config.model.path=HF_DIR \
        --config.sources.jsonl.train=train.jsonl --config.sources.jsonl.dev=dev.jsonl --workdir runs/llama31_8b

Hardware: a TPU v5e-64 slice, or 8 GPUs of 80 GB. Not run yet: tests check its shapes alone.
LoRA is not built yet, so as it stands this config trains all weights; its name is that of what it becomes.
"""

from ccl_jax.config import default_config


def get_config(variant=''):
    if variant:
        raise ValueError(f'configs/llama31_8b_lora.py has no variant "{variant}"')
    config = default_config()
    config.sources.name = 'jsonl'
    config.expansion.scope = 'release'
    config.expansion.held_out_share = 0.0
    config.tasks.span_shapes = {'single': 1.0, 'list': 0.0, 'in_context': 0.0}
    config.model.path = 'Llama-3.1-8B-Instruct'
    config.model.compute_dtype = 'bfloat16'
    config.model.remat = True
    config.data.buckets = (512, 1024, 2048, 4096, 8192)
    config.data.tokens_per_step = 524288
    config.data.row_multiple = 64
    config.data.epochs = 2.0
    config.optimizer.learning_rate = 1e-5
    config.optimizer.warmup_steps = 100
    config.eval.split = 'dev'
    config.eval.max_new_tokens = 1024
    return config
