"""How the loss weighs examples: every target token alike, or every example alike.

    ccl-jax sweep --config configs/ablations/normalization.py:demo --workdir runs/normalization
    ccl-jax sweep --config configs/ablations/normalization.py:codiesp --workdir runs/normalization_codiesp \
        --config.sources.codiesp.path=DIR --config.model.path=HF_DIR

Variants:
    demo     2 arms x 3 seeds of configs/demo.py:small. Hardware: 2 CPU cores; not measured.
    codiesp  the same from a pretrained checkpoint. Hardware: what the checkpoint needs to be trained. Not measured.

By `example`, a document with many codes counts as much as one with a single code, and each of its tokens less.
"""

from ccl_jax.studies.sweep_config import sweep_config

VARIANTS = ('demo', 'codiesp')


def get_config(variant='demo'):
    if variant not in VARIANTS:
        raise ValueError(f'normalization.py has no variant "{variant}"; it has {", ".join(VARIANTS)}')
    mix = {'data.mix': {'document': 0.6, 'span': 0.4}}
    return sweep_config(
        {'demo': 'configs/demo.py:small', 'codiesp': 'configs/codiesp.py'}[variant],
        overrides={'demo': mix, 'codiesp': {**mix, 'data.steps': 200}}[variant],
        grid={'data.normalization': ('token', 'example')},
    )
