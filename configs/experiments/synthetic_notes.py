"""The arms of the method on synthetic notes, where it is known which code is in which stratum.

    ccl-jax sweep --config configs/experiments/synthetic_notes.py --workdir runs/synthetic_notes
    ccl-jax sweep --config configs/experiments/synthetic_notes.py --workdir runs/synthetic_notes --reuse

Arms, with the same steps and so nearly the same cost:
    A             documents -> codes ("standard SFT")
    B             documents -> evidence + codes
    C             spans only
    D-single      documents and spans, each span an example of its own, as the paper's figure draws it
    D-list        the spans in short lists
    D-in_context  the lists behind an unrelated text, so that they look like the document task
    D-mixed       mostly lists, some in context, few single: the demo's shapes
    E             D-mixed with a fifth of the documents
    E-list        D-list with a fifth of the documents
    D-list-gold   D-list without the spans of the release: those of the training documents alone, so S1 is empty
    A-3x          A with three times the steps, to see what cost alone gives

D - B is the effect of spans, B - A that of evidence, and C shows what spans teach by themselves. Codes in notes: S0 are
carried by training documents, S1 by spans alone, S2 by neither. The transfer effect is (D - B) on S1 minus the
same on S2. No arm has the synthetic tier: edits of neighbours' spans (the generator `rules`) give no span for the codes
of these notes, and 10 for the others of their categories. Notes are drawn anew (seed 1): the demo's were looked at
while its recipe was made.

Each run makes its own base model, from texts without the held-out terms, the same for all arms of a seed.
The rate is constant after the warm-up up to the last fifth, so that scores on the way are of runs of that length too,
but for what the decay adds. Hardware: a CPU core a run, 5 to 6.5 minutes (A-3x: three times that).
"""

from ccl_jax.studies.sweep_config import METRICS, sweep_config

DOCUMENTS, SPANS, BOTH = ({'document': d, 'span': s} for d, s in ((1.0, 0.0), (0.0, 1.0), (0.6, 0.4)))
SHAPES = {
    'D-single': {'single': 1.0, 'list': 0.0, 'in_context': 0.0},
    'D-list': {'single': 0.0, 'list': 1.0, 'in_context': 0.0},
    'D-in_context': {'single': 0.0, 'list': 0.0, 'in_context': 1.0},
    'D-mixed': {'single': 0.05, 'list': 0.65, 'in_context': 0.3},
}
STEPS = 1000


def get_config(variant=''):
    if variant:
        raise ValueError(f'experiments/synthetic_notes.py has no variant "{variant}"')
    mixed, best = SHAPES['D-mixed'], {'data.mix': BOTH, 'tasks.span_shapes': SHAPES['D-list']}
    standard = {'data.mix': DOCUMENTS, 'tasks.evidence': False, 'tasks.span_shapes': mixed}
    return sweep_config(
        'configs/demo.py',
        arms={
            # Spans are made in all arms, so that the strata are the same, and not trained in A and B.
            'A': standard,
            'B': {'data.mix': DOCUMENTS, 'tasks.span_shapes': mixed},
            'C': {'data.mix': SPANS, 'tasks.span_shapes': mixed},
            **{arm: {'data.mix': BOTH, 'tasks.span_shapes': shapes} for arm, shapes in SHAPES.items()},
            'E': {'data.mix': BOTH, 'tasks.span_shapes': mixed, 'sources.max_train_documents': 600},
            # Made when the arms above were known.
            'E-list': best | {'sources.max_train_documents': 600},
            'D-list-gold': best | {'expansion.tiers': ('document',)},
            'A-3x': standard | {'data.steps': 3 * STEPS, 'eval.score_every': 3 * STEPS // 8},
        },
        overrides={
            'sources.synthetic_notes.seed': 1,
            'optimizer.schedule': 'warmup_stable_decay',
            'optimizer.decay_fraction': 0.2,
            'data.steps': STEPS,
            'data.buckets': (96, 192, 288),
            'eval.score_every': STEPS // 8,
            'eval.score_split': 'test',
        },
        reference='A',
        metrics=(*METRICS, 'S2.micro_f1'),
        contrasts={f'spans: {arm} - B': (('+', arm, 'macro_f1_gold'), ('-', 'B', 'macro_f1_gold')) for arm in SHAPES}
        | {
            f'transfer of {arm}: ({arm} - B) on S1 minus the same on S2': (
                ('+', arm, 'S1.micro_f1'),
                ('-', 'B', 'S1.micro_f1'),
                ('-', arm, 'S2.micro_f1'),
                ('+', 'B', 'S2.micro_f1'),
            )
            for arm in SHAPES
        },
        results='configs/experiments/results/synthetic_notes',
    )
