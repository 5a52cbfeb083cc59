"""How large adapters have to be: the rank of LoRA, at the same scale alpha / rank, beside training all weights.

    ccl-jax sweep --config configs/ablations/lora_rank.py:demo --workdir runs/lora_rank
    ccl-jax sweep --config configs/ablations/lora_rank.py:codiesp --workdir runs/lora_rank_codiesp \
        --config.sources.codiesp.path=DIR --config.model.path=HF_DIR

Variants:
    demo     ranks 2, 8 and 32 and all weights x 3 seeds of configs/demo.py:small, whose base model knows nearly
             nothing: it shows the path, not what adapters can do. Hardware: 2 CPU cores; not measured.
    codiesp  ranks 4, 16 and 64 and all weights from a pretrained checkpoint. Hardware: what all its weights need to be
             trained. Not measured.

Adapters take a learning rate of about ten times that of all weights.
"""

from ccl_jax.studies.sweep_config import sweep_config

VARIANTS = ('demo', 'codiesp')
RANKS = {'demo': (2, 8, 32), 'codiesp': (4, 16, 64)}
RATES = {'demo': {}, 'codiesp': {'optimizer.learning_rate': 1e-4}}


def get_config(variant='demo'):
    if variant not in VARIANTS:
        raise ValueError(f'lora_rank.py has no variant "{variant}"; it has {", ".join(VARIANTS)}')
    mix = {'data.mix': {'document': 0.6, 'span': 0.4}}
    return sweep_config(
        {'demo': 'configs/demo.py:small', 'codiesp': 'configs/codiesp.py'}[variant],
        overrides={'demo': mix, 'codiesp': {**mix, 'data.steps': 200}}[variant],
        arms={
            'all-weights': {'lora.rank': 0},
            **{
                f'rank={rank}': {'lora.rank': rank, 'lora.alpha': 2.0 * rank, **RATES[variant]}
                for rank in RANKS[variant]
            },
        },
        reference='all-weights',
    )
