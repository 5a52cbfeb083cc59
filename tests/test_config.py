"""The config tree: unknown keys, types, and the settings that come out of it."""

import importlib.util
from pathlib import Path

import pytest

from ccl_jax.config import check_config, default_config, nearest_key
from ccl_jax.errors import UserError

CONFIGS = sorted(Path(__file__).parent.parent.glob('configs/*.py'))


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def _tree(**changes):
    tree = default_config().to_dict()
    tree['base']['enabled'] = True
    for path, value in changes.items():
        section = tree
        *sections, key = path.split('__')
        for name in sections:
            section = section[name]
        section[key] = value
    return tree


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_config_passes_the_check(path):
    get_config = _load(path)
    variants = {'demo': ['', 'ci', 'small'], 'codiesp': ['', 'tiny'], 'jsonl': ['', 'tiny']}.get(path.stem, [''])
    for variant in variants:
        tree = get_config(*filter(None, [variant]))
        if not tree.model.path:
            tree.model.path = 'somewhere'
        assert check_config(tree).tree['seed'] == 0
    with pytest.raises(ValueError, match='variant'):
        get_config('nonsense')


def test_the_saved_tree_gives_the_same_settings():
    config = check_config(_tree(data__mix={'document': 1, 'span': 2}))
    again = check_config(config.tree)
    assert again == config
    assert again.training.plan.mix == {'document': 1.0, 'span': 2.0, 'lm': 0.0}


def test_steps_take_the_place_of_epochs():
    assert check_config(_tree(data__steps=7)).training.plan.steps == 7
    assert check_config(_tree(data__epochs=2)).training.plan.epochs == 2.0


@pytest.mark.parametrize(
    ('unknown', 'nearest'),
    [
        ('train.step', 'data.steps'),
        ('optimizer.learning_rat', 'optimizer.learning_rate'),
        ('data.bukets', 'data.buckets'),
        ('sources.codiesp.pth', 'sources.codiesp.path'),
        ('sede', 'seed'),
    ],
)
def test_nearest_key(unknown, nearest):
    assert nearest_key(unknown) == nearest


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'optimizer__learning_rat': 1.0}, 'optimizer.learning_rate'),
        ({'bass': {}}, 'unknown config key "bass"'),
        ({'data__steps': 'ten'}, 'data.steps'),
        ({'data__steps': True}, 'data.steps'),
        ({'data__buckets': ('a',)}, 'data.buckets'),
        ({'data': 3}, 'section'),
        ({'optimizer__learning_rate': float('nan')}, 'finite'),
        ({'tasks__output_format': 'xml'}, 'output_format'),
        ({'tasks__spans_per_list': (3, 1)}, 'spans_per_list'),
        ({'tasks__names': ()}, 'names'),
        ({'sources__name': 'mimic'}, 'mimic_iii, mimic_iv, jsonl'),
        ({'model__compute_dtype': 'float8'}, 'compute_dtype'),
        ({'eval__max_new_tokens': 0, 'eval__constrain': ()}, 'max_new_tokens'),
        ({'eval__max_new_tokens': 15}, 'set constrain to'),
        ({'eval__constrain': ('codes', 'style')}, 'codes, evidence, format'),
        ({'eval__overlong': 'refuse'}, 'windows, truncate'),
        ({'eval__baselines': ('lookup', 'knn')}, 'lookup_terms, tfidf, majority'),
        ({'expansion__tiers': ('bronze',)}, 'bronze'),
        ({'base__enabled': False}, 'model.path'),
        ({'sources__synthetic_notes__min_codes': 9}, 'max_codes'),
        ({'sources__synthetic_notes__share_s1': 1.5}, 'share_s1'),
        ({'sources__synthetic_notes__test': -1}, 'at least 0'),
        ({'expansion__max_gold_spans': -1}, 'max_gold_spans'),
        ({'tasks__span_repeats': 0}, 'span_repeats'),
        ({'data__threads': -1}, 'threads'),
        ({'data__tokens_per_step': 0}, 'tokens_per_step'),
        ({'optimizer__name': 'sgd'}, 'sgd'),
    ],
)
def test_mistakes_are_one_sentence_with_the_mend(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        check_config(_tree(**changes))
    assert '\n' not in str(caught.value)
