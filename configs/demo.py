"""The whole path on a laptop, with synthetic notes and a decoder made on the spot.

    ccl-jax train --config configs/demo.py --workdir runs/demo

Hardware: 2 CPU cores, 4 GiB of memory. The README has the measured time and scores.
`configs/demo.py:ci` is the same path in miniature; its scores say nothing.

What happens: notes are written from the embedded ICD-10-CM release (`sources.synthetic_notes`);
a tokenizer and a decoder of under a million parameters are made and trained on
unlabelled text (`base`, the stand-in for pretraining: it teaches the model to quote);
then the documents and the spans are trained in one stage, and the test notes are evaluated.
"""

from ccl_jax.config import default_config


def get_config(variant=''):
    config = default_config()
    config.eval.split = 'test'
    config.sources.synthetic_notes.train = 4000
    config.base.enabled = True
    config.base.texts = 4500
    config.tasks.output_format = 'pairs'
    # A model this small transfers nothing from plain single spans; a list behind an unrelated text
    # looks like its document task.
    config.tasks.span_shapes = {'single': 0.1, 'list': 0.2, 'in_context': 0.7}
    config.tasks.span_repeats = 8

    config.base.data.buckets = (128, 256)
    config.base.data.tokens_per_step = 3072
    config.base.optimizer.learning_rate = 3e-3
    config.base.optimizer.warmup_steps = 20
    config.base.optimizer.schedule = 'constant'

    config.data.buckets = (192, 256, 384)
    config.data.tokens_per_step = 3072
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 10
    config.optimizer.schedule = 'linear'

    for part in (config, config.base):
        part.train.checkpoint_every = 100
    if variant == 'ci':
        config.sources.synthetic_notes.train = 120
        config.sources.synthetic_notes.dev = 8
        config.sources.synthetic_notes.test = 16
        config.base.texts = 120
        config.base.hidden_size = 64
        config.base.intermediate_size = 160
        config.base.num_hidden_layers = 2
        config.tasks.span_repeats = 1
        config.base.data.steps = 12
        config.base.optimizer.warmup_steps = 2
        config.data.steps = 24
        config.train.checkpoint_every = 10
        config.eval.max_new_tokens = 48
        config.eval.batch_rows = 16
        config.eval.bootstrap_samples = 200
    elif variant:
        raise ValueError(f'configs/demo.py has no variant "{variant}"; it has ci')
    return config
