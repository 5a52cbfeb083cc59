"""Your own documents, as JSONL (the README has the schema).

    ccl-jax train --config configs/jsonl.py --config.sources.jsonl.train=train.jsonl \
        --config.sources.jsonl.test=test.jsonl --config.model.path=HF_DIR --workdir runs/mine
    ccl-jax train --config configs/jsonl.py:tiny --config.sources.jsonl.train=train.jsonl \
        --config.sources.jsonl.test=test.jsonl --workdir runs/mine_tiny

`tiny` makes a small decoder from the training text and runs on a laptop: it shows that the
files are right, not what the method can do. The plain variant starts from a pretrained
checkpoint of the Llama family and trains all its weights.
"""

from ccl_jax.config import default_config


def get_config(variant=''):
    config = default_config()
    config.sources.name = 'jsonl'
    config.expansion.scope = 'categories'
    # A model that is to be used should know every code; 0.4 sets codes aside to measure transfer.
    config.expansion.held_out_share = 0.0
    config.eval.split = 'test'
    config.data.buckets = (256, 512, 1024, 2048, 4096)
    config.data.tokens_per_step = 32768
    config.data.epochs = 3.0
    config.optimizer.learning_rate = 1e-5
    config.optimizer.warmup_steps = 50
    config.model.compute_dtype = 'bfloat16'
    config.model.remat = 'full'
    if variant == 'tiny':
        config.model.compute_dtype = 'float32'
        config.model.remat = 'none'
        config.base.enabled = True
        config.base.vocab_size = 2048
        config.base.data.buckets = (256, 512)
        config.base.data.tokens_per_step = 4096
        config.base.data.steps = 40
        config.base.optimizer.learning_rate = 3e-3
        config.data.buckets = (256, 512, 1024, 2048)
        config.data.tokens_per_step = 4096
        config.data.steps = 60
        config.optimizer.learning_rate = 2e-3
        config.optimizer.warmup_steps = 10
        config.eval.max_new_tokens = 160
    elif variant:
        raise ValueError(f'configs/jsonl.py has no variant "{variant}"; it has tiny')
    return config
