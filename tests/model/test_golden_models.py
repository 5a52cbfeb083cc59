"""Parity with transformers on machines without torch: goldens/make_goldens.py wrote the expectation."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from ccl_jax.decoding.generate import generate
from ccl_jax.model.hf import load_decoder
from ccl_jax.studies.bench_parity import values_and_gradients

FOLDER = Path(__file__).parents[1] / 'goldens'
NAMES = ('llama', 'llama_tied', 'mistral', 'qwen2', 'qwen3', 'gemma2', 'gemma3')
RAGGED = (12, 1, 5, 10)


def digest(gradient):
    """As in make_goldens.py, which needs torch."""
    return [np.linalg.norm(gradient), np.sum(gradient.ravel() * np.cos(np.arange(gradient.size)))]


@pytest.mark.parametrize('name', NAMES)
def test_logits_and_gradients_equal_those_of_transformers(name):
    expected = np.load(FOLDER / name / 'expected.npz')
    tokens = expected['tokens'].astype(np.int32)
    logits, _, gradients = values_and_gradients(load_decoder(FOLDER / name), tokens)
    np.testing.assert_allclose(logits, expected['logits'], atol=1e-4)
    assert sorted(gradients) == sorted(expected['gradient_names'])
    for tensor, (norm, product) in zip(expected['gradient_names'], expected['gradients'], strict=True):
        np.testing.assert_allclose(digest(gradients[tensor]), (norm, product), rtol=0, atol=1e-3 * norm, err_msg=tensor)


@pytest.mark.parametrize('name', NAMES)
def test_greedy_tokens_equal_those_of_transformers(name):
    expected = np.load(FOLDER / name / 'expected.npz')
    decoder = load_decoder(FOLDER / name)
    window = decoder.architecture.sliding_window
    assert window is None or window < expected['tokens'].shape[1]
    generations = generate(
        decoder, expected['tokens'].tolist(), end_ids=(), max_new_tokens=10, buckets=(32,), batch_rows=2
    )
    assert [list(generation.tokens) for generation in generations] == expected['greedy'].tolist()


@pytest.mark.parametrize('name', NAMES)
def test_ragged_prompts_in_one_batch_are_continued_like_each_alone(name):
    """Fewer rows than prompts; one prompt and its answer cross the window."""
    expected = np.load(FOLDER / name / 'expected.npz')
    prompts = [expected['tokens'][0, :length].tolist() for length in RAGGED]
    generations = generate(
        load_decoder(FOLDER / name), prompts, end_ids=(), max_new_tokens=10, buckets=(8, 16), batch_rows=3
    )
    assert [list(generation.tokens) for generation in generations] == expected['ragged'].tolist()


CHANGES = {
    'rope_theta': 3000.0,
    'rope_scaling': None,
    'local_rope_theta': None,
    'hidden_act': None,
    'qkv_bias': False,
    'qk_norm': False,
    'post_norms': False,
    'norm_plus_one': False,
    'scale_embeddings': False,
    'query_scale': None,
    'attention_softcap': None,
    'final_softcap': None,
    'sliding_window': None,
    'windowed': None,
    'rms_norm_eps': 0.1,
}


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_every_feature_of_a_golden_shows(name):
    """Without one feature, or with a window longer by one, logits are far off: else parity would prove little."""
    expected = np.load(FOLDER / name / 'expected.npz')
    tokens = expected['tokens'].astype(np.int32)
    positions = np.tile(np.arange(tokens.shape[1], dtype=np.int32), (len(tokens), 1))
    decoder = load_decoder(FOLDER / name)
    architecture = decoder.architecture
    for field, value in CHANGES.items():
        if field == 'hidden_act':
            value = {'silu': 'gelu_pytorch_tanh', 'gelu_pytorch_tanh': 'silu'}[architecture.hidden_act]
        elif field == 'sliding_window' and architecture.sliding_window is not None:
            value = architecture.sliding_window + 1
        elif field == 'windowed':
            value = tuple(reversed(architecture.windowed))
        changed = dataclasses.replace(architecture, **{field: value})
        if changed == architecture or (field == 'windowed' and name == 'gemma2'):
            continue
        decoder.architecture = decoder.layers.architecture = changed
        logits = decoder.logits(decoder(tokens, positions, np.ones_like(tokens)))
        assert np.abs(logits - expected['logits']).max() > 0.01, field


def test_the_script_makes_these_goldens(monkeypatch):
    pytest.importorskip('torch')
    monkeypatch.syspath_prepend(FOLDER)
    import make_goldens

    monkeypatch.delitem(sys.modules, 'make_goldens')
    assert tuple(make_goldens.CONFIGS) == NAMES
    assert make_goldens.RAGGED == RAGGED
    for name, config in make_goldens.CONFIGS.items():
        written = load_decoder(FOLDER / name).architecture
        assert written == type(written).from_hf(config), name
