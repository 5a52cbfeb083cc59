"""How many annotated documents are needed, with spans and without: do spans replace most of them?

    ccl-jax sweep --config configs/ablations/documents.py:demo --workdir runs/documents
    ccl-jax sweep --config configs/ablations/documents.py:codiesp --workdir runs/documents_codiesp \
        --config.sources.codiesp.path=DIR --config.model.path=HF_DIR

Variants:
    demo     50, 200 and 800 documents, spans off and on, x 3 seeds of configs/demo.py:small. Hardware: 2 CPU cores; not
             measured.
    codiesp  50, 100, 250 and 500 documents from a pretrained checkpoint. Hardware: what the checkpoint needs to be
             trained. Not measured.

A smaller set of documents lies within every larger one. The steps are the same, so fewer documents are
repeated more often. The strata follow the documents of the arm: with fewer, codes move from S0 to S1. So compare
micro_f1 and macro_f1_gold.

In the demo, each run makes its tokenizer and base model from its own documents and spans, so these differ a little too.
"""

from ccl_jax.studies.sweep_config import sweep_config

VARIANTS = ('demo', 'codiesp')
DOCUMENTS = {'demo': (50, 200, 800), 'codiesp': (50, 100, 250, 500)}


def get_config(variant='demo'):
    if variant not in VARIANTS:
        raise ValueError(f'documents.py has no variant "{variant}"; it has {", ".join(VARIANTS)}')
    mix = {'data.mix.document': 0.6}
    return sweep_config(
        {'demo': 'configs/demo.py:small', 'codiesp': 'configs/codiesp.py'}[variant],
        overrides={'demo': mix, 'codiesp': {**mix, 'data.steps': 200}}[variant],
        grid={'sources.max_train_documents': DOCUMENTS[variant], 'data.mix.span': (0.0, 0.4)},
        axis='sources.max_train_documents',
        metrics=('micro_f1', 'macro_f1_gold', 'evidence_span_exact_f1'),
    )
