"""The one small decoder that every arm of the experiment starts from, made by language modelling on open text.

    ccl-jax pretrain --config configs/experiments/backbone.py:codiesp --config.sources.codiesp.path=DATA/codiesp \
        "--config.base.corpora=('DATA/medquad/medquad.jsonl.gz', 'DATA/pubmedqa/abstracts.jsonl.gz', \
        'DATA/aci_bench', 'DATA/mts_dialog')" --workdir runs/backbone
    ccl-jax train --config ARM --config.base.enabled=False --config.model.path=runs/backbone/base/hf --workdir runs/arm

Variants:
    codiesp    CodiEsp in English: its training texts, the terms of the release, the corpora given, and its
               background texts. With the four corpora 4.3 million words, one pass.
    codiesp_small
               the same text for 1.5 million parameters, for which codiesp.py:tuning asks what the size changes.
    synthetic  the notes of configs/demo.py. Corpora come before the made-up texts, so raise base.texts
               by the number of their texts where some are given.

A decoder of 4.0 million parameters: hidden size 256, 4 layers, a vocabulary of 8192. Hardware: a CPU core, on which the
752 steps of `codiesp` took 46 minutes (2,240 tokens a second; the last 50 steps had 3.20 nats a token), beside 80 s of
preparation on two (Python 3.11, jax 0.10.2, 2026-11-28). `codiesp_small` ended at 3.45, after 55 minutes of a core that
had other work half of the time.

No sentence holds a code or a term of a held-out code, and no text shares eight successive words with an evaluation
document (ccl_jax/pipeline/base_texts.py has the rules; data/report.json and standard error the counts).
Which codes are held out depends on expansion.seed and expansion.held_out_share, on the release and on the codes of
the training documents, not on `seed`: arms with other seeds agree with the backbone. An arm with fewer training
documents (sources.max_train_documents) would hold out more codes, whose terms the backbone has read; give it,
and better every arm, the list of the backbone: --config.expansion.held_out_file=runs/backbone/base/held_out.json.
The synthetic notes hold out codes by sources.synthetic_notes.seed and take no such file.
"""

from ccl_jax.config import default_config

# Hidden size, intermediate size, attention heads, key-value heads.
SIZES = {
    'codiesp': (256, 352, 4, 2),
    'codiesp_small': (128, 176, 2, 1),
    'synthetic': (256, 352, 4, 2),
}


def get_config(variant='codiesp'):
    if variant not in SIZES:
        raise ValueError(f'backbone.py has no variant "{variant}"; it has {", ".join(SIZES)}')
    config = default_config()
    if variant != 'synthetic':
        config.sources.name = 'codiesp'
        config.sources.codiesp.language = 'en'
        config.expansion.scope = 'release'
        config.expansion.held_out_share = 0.4
        # Here spans only show the tokenizer what codes look like.
        config.expansion.tiers = ('gold', 'document')
        config.eval.split = 'dev'
        config.base.texts = 0
        config.base.terms = True
    else:
        config.sources.name = 'synthetic_notes'
        config.sources.synthetic_notes.train = 3000
        config.sources.synthetic_notes.dev = 200
        config.sources.synthetic_notes.brief = 0.35
        config.expansion.forms = ('printed', 'natural')
        config.base.texts = 6000

    config.base.enabled = True
    config.base.vocab_size = 8192
    hidden_size, intermediate_size, heads, key_value_heads = SIZES[variant]
    config.base.hidden_size = hidden_size
    config.base.intermediate_size = intermediate_size
    config.base.num_hidden_layers = 4
    config.base.num_attention_heads = heads
    config.base.num_key_value_heads = key_value_heads
    config.base.max_position_embeddings = 4096
    config.base.data.buckets = (512,)
    config.base.data.tokens_per_step = 8192
    config.base.data.epochs = 1.0
    config.base.optimizer.name = 'muon'
    config.base.optimizer.learning_rate = 3e-3
    config.base.optimizer.warmup_steps = 50
    config.base.optimizer.schedule = 'linear'
    config.base.train.checkpoint_every = 100
    config.base.train.log_every = 20
    return config
