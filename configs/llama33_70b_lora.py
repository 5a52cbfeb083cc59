"""Llama 3.3 70B Instruct on a user's own documents and spans, by LoRA on every linear layer.

    ccl-jax train --config configs/llama33_70b_lora.py --config.model.path=HF_DIR \
        --config.sources.jsonl.train=train.jsonl --config.sources.jsonl.dev=dev.jsonl --workdir runs/llama33_70b

    ccl-jax export --workdir runs/llama33_70b --output adapter --form=adapter

The frozen weights are bfloat16 (141 GB over all devices of the mesh), the adapters and their moments float32
(207 million parameters, 2.5 GB).

Variants: gpu8 (one host of 8 GPUs of 80 GB), v5e_128, v5p_64, v6e_64 (TPU slices of so many chips).

What a chip of a slice needs of its HBM, without the code of the program (up to 0.3 GiB), and how many seconds a step
of 64 rows of 8,192 tokens takes at peak rates, at least if all overlaps and at most if nothing does (libtpu 0.0.42, jax
0.10.2; bounds, not measurements: no variant has been run):

    ccl-jax feasibility --config configs/llama33_70b_lora.py:v5e_128 --topology=v5e:8x16

    variant  topology     GiB     of  left  compute    HBM    ICI  at least  at most  tokens/s
    v5e_128  v5e:8x16   15.07  15.75   4 %    9.598  2.442  2.841     9.598   14.881    54,625
    v5p_64   v5p:4x4x4  32.08  95.74  66 %    8.047  1.264  0.907     8.047   10.218    65,152
    v6e_64   v6e:8x8    19.79  31.25  37 %    4.119  1.801  1.390     4.119    7.310   127,273
"""

from ccl_jax.config import default_config

# Devices that share a row (fsdp takes all others), micro-batches of a step, and what the backward pass computes again.
VARIANTS = {
    'gpu8': (1, 8, 'full'),
    'v5e_128': (2, 1, 'full'),
    'v5p_64': (1, 1, 'save_attention'),
    'v6e_64': (1, 1, 'full'),
}


def get_config(variant='v5p_64'):
    if variant not in VARIANTS:
        raise ValueError(f'configs/llama33_70b_lora.py has no variant "{variant}"; choose one of {", ".join(VARIANTS)}')
    config = default_config()
    config.sources.name = 'jsonl'
    config.expansion.scope = 'release'
    config.expansion.held_out_share = 0.0
    config.tasks.span_shapes = {'single': 1.0, 'list': 0.0, 'in_context': 0.0}
    config.model.path = 'Llama-3.3-70B-Instruct'
    config.model.param_dtype = 'bfloat16'
    config.model.compute_dtype = 'bfloat16'
    config.lora.rank = 16
    config.lora.alpha = 32.0
    config.data.buckets = (512, 1024, 2048, 4096, 8192)
    config.data.tokens_per_step = 524288
    config.data.row_multiple = 64
    config.data.epochs = 2.0
    config.optimizer.learning_rate = 5e-5
    config.optimizer.warmup_steps = 100
    config.train.tile_tokens = 1024
    config.mesh.tensor, config.train.accumulation, config.model.remat = VARIANTS[variant]
    if variant == 'gpu8':
        # The memory of cuDNN's attention grows with it.
        config.data.max_segments = 32
    config.eval.split = 'dev'
    config.eval.max_new_tokens = 1024
    return config
