"""CodiEsp v4: the open corpus with clinical text, ICD-10-CM codes and evidence. Train -> dev.

    ccl-jax train --config configs/codiesp.py:tiny --config.sources.codiesp.path=DIR --workdir runs/codiesp_tiny
    ccl-jax train --config configs/codiesp.py --config.sources.codiesp.path=DIR \
        --config.model.path=HF_DIR --workdir runs/codiesp

Spanish text with its annotated evidence; gold spans are the English terms of the
categories that occur in training; two fifths of the codes outside the training
documents are held out of every span (stratum S2).

`tiny` makes a small decoder from the corpus and runs on 2 CPU cores in a few minutes: it
exercises the path, and loses to the baselines. The plain variant starts from a pretrained
checkpoint of the Llama family and trains all its weights; it has not been run yet.
"""

from ccl_jax.config import default_config


def get_config(variant=''):
    config = default_config()
    config.sources.name = 'codiesp'
    config.sources.codiesp.language = 'es'
    config.expansion.scope = 'categories'
    config.expansion.held_out_share = 0.4
    config.tasks.span_shapes = {'single': 0.5, 'list': 0.25, 'in_context': 0.25}
    config.eval.split = 'dev'
    config.eval.max_new_tokens = 512
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
        config.base.vocab_size = 4096
        config.base.texts = 500
        config.data.mix.document = 0.6
        config.data.mix.span = 0.4
        config.base.data.buckets = (512, 1024)
        config.base.data.tokens_per_step = 4096
        config.base.data.steps = 60
        config.base.optimizer.name = 'muon'
        config.base.optimizer.learning_rate = 3e-3
        config.base.optimizer.warmup_steps = 10
        config.data.buckets = (256, 512, 1024, 2048)
        config.data.tokens_per_step = 4096
        config.data.steps = 140
        config.optimizer.name = 'muon'
        config.optimizer.learning_rate = 3e-3
        config.optimizer.warmup_steps = 10
        config.eval.max_new_tokens = 160
        config.base.train.checkpoint_every = 50
        config.train.checkpoint_every = 50
    elif variant:
        raise ValueError(f'configs/codiesp.py has no variant "{variant}"; it has tiny')
    return config
