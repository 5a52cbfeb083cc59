"""How answers are written: two headed blocks as in the paper's figure, or pairs of evidence and code.

    ccl-jax sweep --config configs/ablations/output_format.py:demo --workdir runs/output_format
    ccl-jax sweep --config configs/ablations/output_format.py:codiesp --workdir runs/output_format_codiesp \
        --config.sources.codiesp.path=DIR --config.model.path=HF_DIR

Variants:
    demo     2 arms x 3 seeds of configs/demo.py:small. Hardware: 2 CPU cores; not measured.
    codiesp  the same from a pretrained checkpoint. Hardware: what the checkpoint needs to be trained. Not measured.

Evidence in blocks belongs to a code only where there are as many quotes as codes, so evidence scores of blocks
are lower bounds; compare the scores of codes.
"""

from ccl_jax.studies.sweep_config import sweep_config

VARIANTS = ('demo', 'codiesp')


def get_config(variant='demo'):
    if variant not in VARIANTS:
        raise ValueError(f'output_format.py has no variant "{variant}"; it has {", ".join(VARIANTS)}')
    mix = {'data.mix': {'document': 0.6, 'span': 0.4}}
    return sweep_config(
        {'demo': 'configs/demo.py:small', 'codiesp': 'configs/codiesp.py'}[variant],
        overrides={'demo': mix, 'codiesp': {**mix, 'data.steps': 200}}[variant],
        grid={'tasks.output_format': ('blocks', 'pairs')},
    )
