"""How many spans a code needs: the cap per code, at equal steps, so that fewer spans are repeated more often.

    ccl-jax sweep --config configs/ablations/spans_per_code.py:demo --workdir runs/spans_per_code
    ccl-jax sweep --config configs/ablations/spans_per_code.py:codiesp --workdir runs/spans_per_code_codiesp \
        --config.sources.codiesp.path=DIR --config.model.path=HF_DIR

Variants:
    demo     caps 1, 2, 4 and 8 x 3 seeds of configs/demo.py:small. Hardware: 2 CPU cores; not measured.
    codiesp  the same from a pretrained checkpoint. Hardware: what the checkpoint needs to be trained. Not measured.

What to look at: unseen.micro_f1, the codes whose evidence no span holds word for word.

In the demo, each run makes its tokenizer and base model from its own documents and spans, so these differ a little too.
"""

from ccl_jax.studies.sweep_config import sweep_config

VARIANTS = ('demo', 'codiesp')


def get_config(variant='demo'):
    if variant not in VARIANTS:
        raise ValueError(f'spans_per_code.py has no variant "{variant}"; it has {", ".join(VARIANTS)}')
    mix = {'data.mix': {'document': 0.6, 'span': 0.4}}
    return sweep_config(
        {'demo': 'configs/demo.py:small', 'codiesp': 'configs/codiesp.py'}[variant],
        overrides={'demo': mix, 'codiesp': {**mix, 'data.steps': 200}}[variant],
        grid={'expansion.filters.max_per_code': (1, 2, 4, 8)},
        metrics=('micro_f1', 'macro_f1_gold', 'S1.micro_f1', 'seen.micro_f1', 'unseen.micro_f1'),
    )
