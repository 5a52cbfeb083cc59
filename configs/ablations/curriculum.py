"""Whether the order matters: the same share of spans on the whole, spread evenly, first, or last.

    ccl-jax sweep --config configs/ablations/curriculum.py:demo --workdir runs/curriculum
    ccl-jax sweep --config configs/ablations/curriculum.py:codiesp --workdir runs/curriculum_codiesp \
        --config.sources.codiesp.path=DIR --config.model.path=HF_DIR

Variants:
    demo     3 arms x 3 seeds of configs/demo.py:small. Hardware: 2 CPU cores; not measured.
    codiesp  the same from a pretrained checkpoint. Hardware: what the checkpoint needs to be trained. Not measured.

The shares go in a straight line from `data.mix` to `data.mix_end`; in every arm their mean is one half.
"""

from ccl_jax.studies.sweep_config import sweep_config

VARIANTS = ('demo', 'codiesp')


def get_config(variant='demo'):
    if variant not in VARIANTS:
        raise ValueError(f'curriculum.py has no variant "{variant}"; it has {", ".join(VARIANTS)}')
    return sweep_config(
        {'demo': 'configs/demo.py:small', 'codiesp': 'configs/codiesp.py'}[variant],
        overrides={'demo': {}, 'codiesp': {'data.steps': 200}}[variant],
        arms={
            name: {
                'data.mix': {'document': 1 - begin, 'span': begin},
                'data.mix_end': {'document': 1 - end, 'span': end},
            }
            for name, begin, end in (('even', 0.5, 0.5), ('spans-first', 0.9, 0.1), ('documents-first', 0.1, 0.9))
        },
        reference='even',
    )
