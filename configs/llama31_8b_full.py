"""Llama 3.1 8B Instruct on a user's own documents and spans, with all weights trained.

    ccl-jax train --config configs/llama31_8b_full.py --config.model.path=HF_DIR \
        --config.sources.jsonl.train=train.jsonl --config.sources.jsonl.dev=dev.jsonl --workdir runs/llama31_8b_full

    ccl-jax export --workdir runs/llama31_8b_full --output model

Weights, gradients and the two moments are float32 (128 GB over all devices of the mesh), the products bfloat16.

Variants: gpu8 (one host of 8 GPUs of 80 GB), v5e_64, v5p_16, v6e_16 (TPU slices of so many chips).

What a chip of a slice needs of its HBM, without the code of the program (up to 0.3 GiB), and how many seconds a step
of 64 rows of 8,192 tokens takes at peak rates, at least if all overlaps and at most if nothing does (libtpu 0.0.42, jax
0.10.2; bounds, not measurements: no variant has been run):

    ccl-jax feasibility --config configs/llama31_8b_full.py:v5e_64 --topology=v5e:8x8

    variant  topology     GiB     of  left  compute    HBM    ICI  at least  at most  tokens/s
    v5e_64   v5e:8x8    11.18  15.75  29 %    2.765  0.606  0.616     2.765    3.987   189,648
    v5p_16   v5p:2x2x4  63.18  95.74  34 %    3.750  0.750  0.371     3.750    4.871   139,827
    v6e_16   v6e:4x4    20.03  31.25  36 %    2.373  1.174  1.090     2.373    4.637   220,935
"""

from ccl_jax.config import default_config

# Devices that share a row (fsdp takes all others), micro-batches of a step, and what the backward pass computes again.
VARIANTS = {
    'gpu8': (1, 8, 'full'),
    'v5e_64': (1, 1, 'save_attention'),
    'v5p_16': (1, 2, 'dots'),
    'v6e_16': (1, 4, 'save_attention'),
}


def get_config(variant='v5e_64'):
    if variant not in VARIANTS:
        raise ValueError(f'configs/llama31_8b_full.py has no variant "{variant}"; choose one of {", ".join(VARIANTS)}')
    config = default_config()
    config.sources.name = 'jsonl'
    config.expansion.scope = 'release'
    config.expansion.held_out_share = 0.0
    config.tasks.span_shapes = {'single': 1.0, 'list': 0.0, 'in_context': 0.0}
    config.model.path = 'Llama-3.1-8B-Instruct'
    config.model.param_dtype = 'float32'
    config.model.compute_dtype = 'bfloat16'
    config.data.buckets = (512, 1024, 2048, 4096, 8192)
    config.data.tokens_per_step = 524288
    config.data.row_multiple = 64
    config.data.epochs = 2.0
    config.optimizer.learning_rate = 1e-5
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.1
    config.train.tile_tokens = 1024
    config.mesh.tensor, config.train.accumulation, config.model.remat = VARIANTS[variant]
    if variant == 'gpu8':
        # The memory of cuDNN's attention grows with it.
        config.data.max_segments = 32
    config.eval.split = 'dev'
    config.eval.max_new_tokens = 1024
    return config
