"""Which tiers of spans help: none, each alone, and together, at equal steps.

    ccl-jax sweep --config configs/ablations/tiers.py:demo --workdir runs/tiers
    ccl-jax sweep --config configs/ablations/tiers.py:codiesp --workdir runs/tiers_codiesp \
        --config.sources.codiesp.path=DIR --config.model.path=HF_DIR

Variants:
    demo     5 arms x 3 seeds of configs/demo.py:small. Its notes have evidence for every code, so there is nothing for
             the silver tier. Hardware: 2 CPU cores; not measured.
    codiesp  6 arms x 3 seeds from a pretrained checkpoint, on the English translation, whose evidence is found by
             terms (silver). Hardware: what the checkpoint needs to be trained. Not measured.

The strata follow the spans of the arm: without the gold tier, the codes of S1 are S3. So compare micro_f1 and
macro_f1_gold between arms, and S1 only between arms with the same codes in their spans.

In the demo, each run makes its tokenizer and base model from its own documents and spans, so these differ a little too.
"""

from ccl_jax.studies.sweep_config import sweep_config

VARIANTS = ('demo', 'codiesp')
TIERS = {
    'demo': (('gold',), ('document',), ('gold', 'document'), ('gold', 'document', 'synthetic')),
    'codiesp': (
        ('gold',),
        ('document',),
        ('gold', 'document'),
        ('gold', 'document', 'silver'),
        ('gold', 'document', 'silver', 'synthetic'),
    ),
}
MIX = {'data.mix': {'document': 0.6, 'span': 0.4}}


def get_config(variant='demo'):
    if variant not in VARIANTS:
        raise ValueError(f'tiers.py has no variant "{variant}"; it has {", ".join(VARIANTS)}')
    return sweep_config(
        {'demo': 'configs/demo.py:small', 'codiesp': 'configs/codiesp.py'}[variant],
        overrides={'demo': {}, 'codiesp': {'sources.codiesp.language': 'en', 'data.steps': 200}}[variant],
        arms={
            'none': {'data.mix': {'document': 1.0, 'span': 0.0}},
            **{'+'.join(tiers): {'expansion.tiers': tiers, **MIX} for tiers in TIERS[variant]},
        },
        reference='none',
        metrics=('micro_f1', 'macro_f1_gold', 'seen.micro_f1', 'unseen.micro_f1', 'evidence_span_exact_f1'),
    )
