"""MDACE: MIMIC-III notes with codes and expert evidence, from its public offsets and your licensed notes. Train -> dev.

    ccl-jax prepare --config configs/mdace.py --config.sources.mdace.path=DIR \
        --config.sources.mdace.noteevents=NOTEEVENTS.csv --report_only
    ccl-jax train --config configs/mdace.py --config.sources.mdace.path=DIR \
        --config.sources.mdace.noteevents=NOTEEVENTS.csv --config.model.path=HF_DIR --workdir runs/mdace

DIR holds data/ and splits/. A document is a note; two fifths of the codes outside the training
documents are held out.

Hardware: one GPU of 80 GB or more. Not run on the licensed notes: tests read the published offsets into notes
that we made.
"""

from ccl_jax.config import default_config


def get_config(variant=''):
    if variant:
        raise ValueError(f'configs/mdace.py has no variant "{variant}"')
    config = default_config()
    config.sources.name = 'mdace'
    config.expansion.scope = 'categories'
    config.eval.split = 'dev'
    config.eval.max_new_tokens = 512
    config.data.buckets = (512, 1024, 2048, 4096, 8192)
    config.data.tokens_per_step = 65536
    config.data.epochs = 3.0
    config.optimizer.learning_rate = 1e-5
    config.optimizer.warmup_steps = 50
    config.model.compute_dtype = 'bfloat16'
    config.model.remat = 'full'
    return config
