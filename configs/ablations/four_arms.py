"""The four arms that take the method apart, with the same steps and the same spans in their strata.

    A  documents -> codes ("standard SFT")
    B  documents -> evidence + codes
    C  spans only
    D  documents and spans mixed (the method)

    ccl-jax sweep --config configs/ablations/four_arms.py:demo --workdir runs/four_arms
    ccl-jax sweep --config configs/ablations/four_arms.py:codiesp --workdir runs/four_arms_codiesp \
        --config.sources.codiesp.path=DIR --config.model.path=HF_DIR

Variants:
    demo     4 arms x 3 seeds of configs/demo.py:small. Hardware: 2 CPU cores; not measured.
    codiesp  the same from a pretrained checkpoint. Hardware: what the checkpoint needs to be trained. Not measured.

D - B is the effect of the spans, B - A that of the evidence, and C shows what spans teach by themselves. At
equal steps all arms process as many positions; the table's cost ratios say how equal their costs came out. The
effect of transfer is (D - B) on S1 minus (D - B) on S2.
"""

from ccl_jax.studies.sweep_config import sweep_config

VARIANTS = ('demo', 'codiesp')
# Spans are made in all arms, so that the strata are the same, and not trained in A and B.
DOCUMENTS, SPANS, BOTH = ({'document': d, 'span': s} for d, s in ((1.0, 0.0), (0.0, 1.0), (0.6, 0.4)))


def get_config(variant='demo'):
    if variant not in VARIANTS:
        raise ValueError(f'four_arms.py has no variant "{variant}"; it has {", ".join(VARIANTS)}')
    return sweep_config(
        {'demo': 'configs/demo.py:small', 'codiesp': 'configs/codiesp.py'}[variant],
        overrides={'demo': {}, 'codiesp': {'data.steps': 200}}[variant],
        arms={
            'A': {'tasks.evidence': False, 'data.mix': DOCUMENTS},
            'B': {'data.mix': DOCUMENTS},
            'C': {'data.mix': SPANS},
            'D': {'data.mix': BOTH},
        },
        reference='B',
        metrics=('micro_f1', 'macro_f1_gold', 'S0.micro_f1', 'S1.micro_f1', 'S2.micro_f1', 'evidence_span_exact_f1'),
    )
