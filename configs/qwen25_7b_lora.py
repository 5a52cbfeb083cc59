"""Qwen 2.5 7B Instruct on a user's own documents and spans, by LoRA on every linear layer.

    ccl-jax train --config configs/qwen25_7b_lora.py --config.model.path=HF_DIR \
        --config.sources.jsonl.train=train.jsonl --config.sources.jsonl.dev=dev.jsonl --workdir runs/qwen25_7b

    ccl-jax export --workdir runs/qwen25_7b --output adapter --form=adapter

The frozen weights are bfloat16 (15 GB over all devices of the mesh), the adapters and their moments float32
(40 million parameters, 0.5 GB).

Variants: gpu8 (one host of 8 GPUs of 80 GB), v5e_16, v5p_16, v6e_16 (TPU slices of 16 chips).

What a chip of a slice needs of its HBM, without the code of the program (up to 0.3 GiB), and how many seconds a step
of 64 rows of 8,192 tokens takes at peak rates, at least if all overlaps and at most if nothing does (libtpu 0.0.42, jax
0.10.2; bounds, not measurements: no variant has been run):

    ccl-jax feasibility --config configs/qwen25_7b_lora.py:v5e_16 --topology=v5e:4x4

    variant  topology     GiB     of  left  compute    HBM    ICI  at least  at most  tokens/s
    v5e_16   v5e:4x4     7.03  15.75  55 %    7.931  2.353  1.028     7.931   11.312    66,110
    v5p_16   v5p:2x2x4  47.05  95.74  51 %    2.466  0.883  0.343     2.466    3.692   212,583
    v6e_16   v6e:4x4    13.18  31.25  58 %    1.702  1.302  0.258     1.702    3.261   308,065
"""

from ccl_jax.config import default_config

# Devices that share a row (fsdp takes all others), micro-batches of a step, and what the backward pass computes again.
VARIANTS = {
    'gpu8': (1, 8, 'full'),
    'v5e_16': (1, 4, 'save_attention'),
    'v5p_16': (1, 4, 'dots'),
    'v6e_16': (1, 2, 'save_attention'),
}


def get_config(variant='v5e_16'):
    if variant not in VARIANTS:
        raise ValueError(f'configs/qwen25_7b_lora.py has no variant "{variant}"; choose one of {", ".join(VARIANTS)}')
    config = default_config()
    config.sources.name = 'jsonl'
    config.expansion.scope = 'release'
    config.expansion.held_out_share = 0.0
    config.tasks.span_shapes = {'single': 1.0, 'list': 0.0, 'in_context': 0.0}
    config.model.path = 'Qwen2.5-7B-Instruct'
    config.model.param_dtype = 'bfloat16'
    config.model.compute_dtype = 'bfloat16'
    config.lora.rank = 16
    config.lora.alpha = 32.0
    config.data.buckets = (512, 1024, 2048, 4096, 8192)
    config.data.tokens_per_step = 524288
    config.data.row_multiple = 64
    config.data.epochs = 2.0
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 100
    config.train.tile_tokens = 1024
    config.mesh.tensor, config.train.accumulation, config.model.remat = VARIANTS[variant]
    if variant == 'gpu8':
        # The memory of cuDNN's attention grows with it.
        config.data.max_segments = 32
    config.eval.split = 'dev'
    config.eval.max_new_tokens = 1024
    return config
