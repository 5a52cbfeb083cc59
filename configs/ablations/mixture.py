"""How much of the training should be spans: the share of the span task in the target tokens, at equal steps.

    ccl-jax sweep --config configs/ablations/mixture.py:demo --workdir runs/mixture
    ccl-jax sweep --config configs/ablations/mixture.py:codiesp --workdir runs/mixture_codiesp \
        --config.sources.codiesp.path=DIR --config.model.path=HF_DIR

Variants:
    demo     4 shares x 3 seeds of configs/demo.py:small, from documents alone to mostly spans. Hardware: 2 CPU
             cores; 5.8 minutes, with --parallel 2, beside other work (Python 3.11, jax 0.10.2, 2026-11-28).
             results/mixture_demo.md has the table.
    codiesp  5 shares x 3 seeds from a pretrained checkpoint. Hardware: what the checkpoint needs to be trained. Not
             measured.

What to look at: S1.micro_f1, the codes that only spans carry, should rise from the share 0, where nothing teaches
them; S0.micro_f1 falls where too few documents are left.
"""

from ccl_jax.studies.sweep_config import sweep_config

VARIANTS = ('demo', 'codiesp')
SHARES = {'demo': (0.0, 0.25, 0.5, 0.75), 'codiesp': (0.0, 0.2, 0.4, 0.6, 0.8)}


def get_config(variant='demo'):
    if variant not in VARIANTS:
        raise ValueError(f'mixture.py has no variant "{variant}"; it has {", ".join(VARIANTS)}')
    return sweep_config(
        {'demo': 'configs/demo.py:small', 'codiesp': 'configs/codiesp.py'}[variant],
        overrides={'demo': {}, 'codiesp': {'data.steps': 200}}[variant],
        arms={f'spans={share}': {'data.mix': {'document': 1 - share, 'span': share}} for share in SHARES[variant]},
        axis='data.mix.span',
    )
