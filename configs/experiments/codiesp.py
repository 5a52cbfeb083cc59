"""The arms of the method on CodiEsp in English, train -> dev, from the backbone of backbone.py:codiesp.

    ccl-jax sweep --config configs/experiments/codiesp.py --workdir runs/codiesp \
        --config.sources.codiesp.path=DATA/codiesp
    ccl-jax sweep --config configs/experiments/codiesp.py --workdir runs/codiesp --gather --reuse  # from what is kept

The backbone is read from runs/backbone; --config.model.path and --config.expansion.held_out_file name another place.

Arms, with the same steps and so nearly the same cost:
    A  documents -> codes ("standard SFT")
    B  documents -> evidence + codes
    D  documents and spans mixed (the method)
    E  D with a fifth of the documents

The English texts come without offsets: evidence is silver, found by the terms of each code in training documents, for a
third of the codes; B, D and E leave out the others. Spans are of the April 2026 release, of the categories that
occur in training. Two fifths of the codes that no training document carries are held out of spans and of the
backbone's texts (S2).

`codiesp.py:tuning` is where the recipe comes from: a fifth of the training documents is set aside as the split `tune`
and scored, one seed an arm; dev is neither read nor scored. (The backbone has read these documents, without codes.)
Some of its arms start from the smaller backbone.py:codiesp_small; both have to lie in runs/backbone and
runs/backbone_small.

Hardware: 2 CPU cores, a run on each, 10 to 14 minutes a run.
"""

from ccl_jax.studies.sweep_config import METRICS, sweep_config

DOCUMENTS, BOTH = ({'document': d, 'span': s} for d, s in ((1.0, 0.0), (0.6, 0.4)))
TRAINING_DOCUMENTS = 500

RECIPE = {
    'sources.codiesp.path': 'data/codiesp',
    'sources.codiesp.language': 'en',
    'expansion.scope': 'categories',
    'expansion.held_out_share': 0.4,
    # The best shape on synthetic notes.
    'tasks.span_shapes': {'single': 0.0, 'list': 1.0, 'in_context': 0.0},
    'model.path': 'runs/backbone/base/hf',
    'expansion.held_out_file': 'runs/backbone/base/held_out.json',
    'model.compute_dtype': 'float32',
    'model.remat': 'none',
    'data.buckets': (512, 1024, 2048),
    'data.tokens_per_step': 2048,
    'data.row_multiple': 1,
    'data.steps': 300,
    'optimizer.name': 'muon',
    'optimizer.learning_rate': 2e-3,
    'optimizer.warmup_steps': 30,
    'optimizer.schedule': 'warmup_stable_decay',
    'optimizer.decay_fraction': 0.2,
    'train.checkpoint_every': 150,
    'eval.max_new_tokens': 256,
    'eval.score_every': 75,
    'eval.score_split': 'dev',
    'eval.score_documents': 50,
}
# Codes without evidence, two thirds of them, are learnt by A alone: B did better on `tune` without them.
STANDARD = {'data.mix': DOCUMENTS, 'tasks.evidence': False}
QUOTING = {'tasks.unevidenced': 'drop'}


def get_config(variant=''):
    if variant == 'tuning':
        return _tuning()
    if variant:
        raise ValueError(f'experiments/codiesp.py has no variant "{variant}"; it has tuning')
    return sweep_config(
        'configs/codiesp.py',
        arms={
            'A': STANDARD,
            'B': QUOTING | {'data.mix': DOCUMENTS},
            'D': QUOTING | {'data.mix': BOTH},
            'E': QUOTING | {'data.mix': BOTH, 'sources.max_train_documents': TRAINING_DOCUMENTS // 5},
        },
        overrides=RECIPE,
        reference='A',
        metrics=(*METRICS, 'S2.micro_f1', 'micro_precision', 'micro_recall'),
        contrasts={
            'spans: D - B': (('+', 'D', 'macro_f1_gold'), ('-', 'B', 'macro_f1_gold')),
            'transfer: (D - B) on S1 minus the same on S2': (
                ('+', 'D', 'S1.micro_f1'),
                ('-', 'B', 'S1.micro_f1'),
                ('-', 'D', 'S2.micro_f1'),
                ('+', 'B', 'S2.micro_f1'),
            ),
        },
        results='configs/experiments/results/codiesp',
    )


def _tuning():
    longer = STANDARD | {'data.steps': 160}
    small_steps = {
        'data.tokens_per_step': 2048,
        'data.row_multiple': 1,
        'data.steps': 400,
        'optimizer.warmup_steps': 40,
        'train.checkpoint_every': 200,
        'eval.score_every': 100,
    }
    both, training_spans = {'data.mix': BOTH}, {'expansion.tiers': ('document', 'silver')}
    a, b = STANDARD | small_steps, {'data.mix': DOCUMENTS} | QUOTING | small_steps
    categories = both | QUOTING | small_steps | {'expansion.scope': 'categories'}
    half = {'data.mix': {'document': 0.5, 'span': 0.5}, 'data.mix_by': 'tokens'}
    # No span of a code outside the training documents, so that each of the others is read more often.
    training_codes = {'expansion.held_out_share': 1.0, 'expansion.held_out_file': ''}
    small = {'model.path': 'runs/backbone_small/base/hf'}
    long = small | {'data.steps': 1600, 'train.checkpoint_every': 400, 'eval.score_every': 400}
    return sweep_config(
        'configs/codiesp.py',
        arms={
            'A': longer,
            'A-rate1e-3': longer | {'optimizer.learning_rate': 1e-3},
            'B': {'data.mix': DOCUMENTS},
            'B-drop': {'data.mix': DOCUMENTS} | QUOTING,
            'D': both,
            'D-drop': both | QUOTING,
            'A-small_steps': a,
            'B-small_steps': b,
            'D-small_steps': both | QUOTING | small_steps,
            'D-training_spans': both | QUOTING | small_steps | training_spans,
            'D-categories': categories,
            'D-half': categories | half,
            # From here against A-small_steps, B-small_steps and D-categories.
            'D-training_codes': categories | half | training_codes,
            'D-blocks': categories | {'tasks.output_format': 'blocks'},
            'D-example': categories | {'data.normalization': 'example'},
            'B-small_backbone': b | small,
            'D-small_backbone': categories | small,
            'A-long': a | long,
            'B-long': b | long,
            'D-long': categories | long,
        },
        overrides=RECIPE
        | {
            'expansion.scope': 'release',
            'data.tokens_per_step': 8192,
            'data.row_multiple': 4,
            'data.steps': 100,
            'optimizer.warmup_steps': 10,
            'train.checkpoint_every': 40,
            'eval.score_every': 20,
            'sources.tune_share': 0.2,
            'eval.split': 'tune',
            'eval.score_split': 'tune',
        },
        seeds=(0,),
        reference='A',
        metrics=(*METRICS, 'micro_precision', 'micro_recall'),
        contrasts={
            f'{metric}: {more} - {less}': (('+', more, metric), ('-', less, metric))
            for more, less in (
                ('D-training_spans', 'A-small_steps'),
                ('D-categories', 'B-small_steps'),
                ('D-small_backbone', 'B-small_backbone'),
                ('D-long', 'B-long'),
                ('D-long', 'A-long'),
            )
            for metric in ('micro_f1', 'macro_f1_gold')
        },
        results='configs/experiments/results/codiesp_tuning',
    )
