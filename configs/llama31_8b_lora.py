"""Llama 3.1 8B Instruct on a user's own documents and spans, by LoRA on every linear layer.

    ccl-jax train --config configs/llama31_8b_lora.py --config.model.path=HF_DIR \
        --config.sources.jsonl.train=train.jsonl --config.sources.jsonl.dev=dev.jsonl --workdir runs/llama31_8b

    ccl-jax export --workdir runs/llama31_8b --output adapter --form=adapter

The frozen weights are bfloat16 (16 GB over all devices of the mesh), the adapters and their moments float32
(42 million parameters, 0.5 GB). The learning rate is ten times that of training all weights.

Variants: gpu8 (one host of 8 GPUs of 80 GB), v5e_16, v5p_16, v6e_16 (TPU slices of 16 chips).

What a chip of a slice needs of its HBM, without the code of the program (up to 0.3 GiB), and how many seconds a step
of 64 rows of 8,192 tokens takes at peak rates, at least if all overlaps and at most if nothing does (libtpu 0.0.42, jax
0.10.2; bounds, not measurements: no variant has been run):

    ccl-jax feasibility --config configs/llama31_8b_lora.py:v5e_16 --topology=v5e:4x4

    variant  topology     GiB     of  left  compute    HBM    ICI  at least  at most  tokens/s
    v5e_16   v5e:4x4     7.76  15.75  51 %    8.617  2.715  1.095     8.617   12.427    60,841
    v5p_16   v5p:2x2x4  46.53  95.74  51 %    2.696  0.928  0.365     2.696    3.990   194,470
    v6e_16   v6e:4x4    15.07  31.25  52 %    1.849  1.431  0.274     1.849    3.554   283,512
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
        raise ValueError(f'configs/llama31_8b_lora.py has no variant "{variant}"; choose one of {", ".join(VARIANTS)}')
    config = default_config()
    config.sources.name = 'jsonl'
    config.expansion.scope = 'release'
    config.expansion.held_out_share = 0.0
    config.tasks.span_shapes = {'single': 1.0, 'list': 0.0, 'in_context': 0.0}
    config.model.path = 'Llama-3.1-8B-Instruct'
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
