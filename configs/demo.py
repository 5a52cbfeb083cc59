"""The whole path on a laptop, with synthetic notes and a decoder made on the spot.

    ccl-jax train --config configs/demo.py --workdir runs/demo

Hardware: 2 CPU cores. The README has the measured time and scores.
`configs/demo.py:small` has fewer codes, shorter notes and a decoder of 158,528 parameters, for sweeps
(configs/ablations): it learns some, in about 40 s of processor time.
`configs/demo.py:ci` is the same path in miniature; its scores say nothing.

What happens: notes are written from the embedded ICD-10-CM release (`sources.synthetic_notes`);
a tokenizer and a decoder of about a million parameters are made and trained on
unlabelled text (`base`, the stand-in for pretraining: it teaches the words and forms of notes);
then the documents and the spans are trained in one stage, and the test notes are evaluated.
"""

from ccl_jax.config import default_config


def get_config(variant=''):
    config = default_config()
    config.eval.split = 'test'
    config.sources.synthetic_notes.train = 3000
    config.sources.synthetic_notes.dev = 200
    config.sources.synthetic_notes.brief = 0.35
    # Own wordings of S1 codes in the test notes must not be spans: only what the release prints.
    config.expansion.forms = ('printed', 'natural')
    config.base.enabled = True
    config.base.vocab_size = 2500
    config.base.texts = 1500
    config.base.rope_theta = 1000.0
    config.tasks.output_format = 'pairs'
    # Short lists of spans teach the model to copy; behind an unrelated text they look like the document task,
    # without which a model this small does not carry what spans teach over to documents.
    config.tasks.span_shapes = {'single': 0.05, 'list': 0.8, 'in_context': 0.15}
    config.tasks.span_repeats = 14

    config.base.data.buckets = (64, 128, 192)
    config.base.data.tokens_per_step = 2048
    config.base.data.steps = 80
    config.data.buckets = (64, 96, 128, 192, 288)
    config.data.tokens_per_step = 1536
    config.data.epochs = 3.5
    for part in (config, config.base):
        part.optimizer.name = 'muon'
        part.optimizer.learning_rate = 5e-3
        part.optimizer.warmup_steps = 20
        part.optimizer.schedule = 'linear'
        part.train.checkpoint_every = 200
        part.train.log_every = 50

    if variant == 'small':
        config.sources.synthetic_notes.train = 800
        config.sources.synthetic_notes.dev = 8
        config.sources.synthetic_notes.test = 60
        config.sources.synthetic_notes.codes_s0 = 16
        config.sources.synthetic_notes.codes_s1 = 8
        config.sources.synthetic_notes.codes_s2 = 4
        config.sources.synthetic_notes.min_codes = 2
        config.sources.synthetic_notes.max_codes = 4
        config.sources.synthetic_notes.fillers = 0
        config.base.vocab_size = 1000
        config.base.texts = 400
        config.base.hidden_size = 64
        config.base.intermediate_size = 160
        config.base.num_hidden_layers = 2
        config.tasks.span_shapes = {'single': 0.0, 'list': 0.5, 'in_context': 0.5}
        config.tasks.span_repeats = 8
        config.tasks.context_characters = 300
        # One row length is one program to compile, which would else take most of the time.
        config.base.data.buckets = (192,)
        config.base.data.steps = 20
        config.data.buckets = (192,)
        config.data.steps = 220
        config.data.mix.document = 0.6
        config.data.mix.span = 0.4
        for part in (config, config.base):
            part.optimizer.learning_rate = 1e-2
            part.optimizer.warmup_steps = 10
        config.eval.max_new_tokens = 64
        config.eval.batch_rows = 60
        config.eval.bootstrap_samples = 200
    elif variant == 'ci':
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
        config.optimizer.warmup_steps = 2
        config.data.steps = 24
        config.train.checkpoint_every = 10
        config.eval.max_new_tokens = 48
        config.eval.batch_rows = 16
        config.eval.bootstrap_samples = 200
    elif variant:
        raise ValueError(f'configs/demo.py has no variant "{variant}"; it has ci and small')
    return config
