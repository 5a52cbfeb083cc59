"""MIMIC-IV discharge summaries with ICD-10-CM codes, from your licensed copy. Train -> dev.

    ccl-jax prepare --config configs/mimic_iv.py --config.sources.mimic_iv.path=DIR --report_only
    ccl-jax train --config configs/mimic_iv.py --config.sources.mimic_iv.path=DIR \
        --config.model.path=HF_DIR --workdir runs/mimic_iv

DIR holds hosp/ and note/. Add `--config.sources.mimic_iv.split_file=mimiciv_icd10_split.feather`
for Edin's split (2023); without it patients are split here, by iterative stratification.
A document is an admission. MIMIC-IV has no evidence: the silver tier finds some of it by the
terms of the release, and two fifths of the codes outside the training documents are held out.

Hardware: 8 GPUs of 80 GB or a TPU slice. Not run on the licensed data: tests read tables of its shape.
"""

from ccl_jax.config import default_config


def get_config(variant=''):
    if variant:
        raise ValueError(f'configs/mimic_iv.py has no variant "{variant}"')
    config = default_config()
    config.sources.name = 'mimic_iv'
    config.expansion.scope = 'release'
    config.eval.split = 'dev'
    config.eval.max_new_tokens = 1024
    config.data.buckets = (512, 1024, 2048, 4096, 8192)
    config.data.tokens_per_step = 524288
    config.data.row_multiple = 64
    config.data.epochs = 2.0
    config.optimizer.learning_rate = 1e-5
    config.optimizer.warmup_steps = 100
    config.model.compute_dtype = 'bfloat16'
    config.model.remat = 'full'
    return config
