"""Loss against model size and data size: five sizes of a decoder from scratch, three numbers of training documents.

    ccl-jax sweep --config configs/scaling/demo.py --workdir runs/scaling
    ccl-jax scaling --runs runs/scaling --plot scaling.png

Every run sees each of its documents once, with the learning rate decayed to its end, and the same stand-in for
pretraining, so that tokens and parameters are all that differs. The document task alone is trained: the
number of spans does not depend on that of documents. `eval.loss_every` measures the loss of the development
documents at the end, which is what the law is fitted to; the scores of such small models say nothing.

Hardware: 2 CPU cores; 5.1 minutes, with --parallel 2, beside other work (Python 3.11, jax 0.10.2, 2026-11-28).
results/demo.txt has what `scaling` printed.
"""

from ccl_jax.studies.sweep_config import sweep_config

# hidden_size, layers; heads of 16.
SIZES = {'16x1': (16, 1), '32x2': (32, 2), '48x2': (48, 2), '64x3': (64, 3), '96x3': (96, 3)}
DOCUMENTS = (200, 600, 1800)


def get_config(variant=''):
    if variant:
        raise ValueError(f'scaling/demo.py has no variant "{variant}"')
    return sweep_config(
        'configs/demo.py',
        arms={
            f'size={size},documents={documents}': {
                'base.hidden_size': hidden,
                'base.intermediate_size': 5 * hidden // 2,
                'base.num_hidden_layers': layers,
                'base.num_attention_heads': hidden // 16,
                'base.num_key_value_heads': hidden // 16,
                'sources.max_train_documents': documents,
            }
            for size, (hidden, layers) in SIZES.items()
            for documents in DOCUMENTS
        },
        overrides={
            'base.vocab_size': 1024,
            'base.texts': 200,
            'base.data.steps': 8,
            'base.optimizer.warmup_steps': 2,
            'optimizer.warmup_steps': 5,
            'base.data.buckets': (192,),
            # One row length: compilation would take longer than training.
            'data.buckets': (288,),
            'tasks.names': ('document',),
            'data.epochs': 1.0,
            'eval.split': 'dev',
            'eval.loss_every': 100_000,
            'eval.loss_documents': 200,
            'eval.max_documents': 8,
            'eval.max_new_tokens': 32,
            'eval.baselines': (),
            'eval.bootstrap_samples': 10,
        },
        seeds=(0,),
    )
