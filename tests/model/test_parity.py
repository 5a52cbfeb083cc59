"""The decoder against transformers on torch, for every architecture, live."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import load_decoder
from ccl_jax.studies import bench_parity as module
from ccl_jax.studies.bench_parity import CASES, bench_parity, compare, random_reference, random_text

torch = pytest.importorskip('torch')


# What these show, others show as well.
SLOW = ('Llama 3', 'Llama 3.1, 3.3', 'Mistral 0.3', 'Qwen 2.5')


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_logits_logprobs_and_gradients_equal_transformers(name, tmp_path):
    config = CASES[name].config
    model = random_reference(config, seed=1)
    model.save_pretrained(tmp_path, max_shard_size='40KB')
    decoder = load_decoder(tmp_path)
    assert decoder.architecture == Architecture.from_hf(config)
    tokens = random_text(config, seed=1)
    assert tokens.shape == (1, 300)
    with torch.no_grad():
        assert model(torch.from_numpy(tokens).long()).logits.std() > 0.3  # So that 1e-4 means something.
    parity = compare(model, decoder, tokens)
    assert parity.logits < 1e-4
    assert parity.logprobs < 1e-4
    assert {name: gap for name, gap in parity.gradients.items() if not gap < 1e-3} == {}


@pytest.mark.parametrize('name', ['Qwen 3', 'Gemma 2'])
def test_bfloat16_is_no_further_from_float32_than_transformers(name, tmp_path):
    config = CASES[name].config
    model = random_reference(config, seed=2).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    tokens = random_text(config, seed=2)
    inputs = torch.from_numpy(tokens).long()
    with torch.no_grad():
        theirs = model(inputs).logits.float().numpy()
        exact = model.float()(inputs).logits.numpy()
    decoder = load_decoder(tmp_path, param_dtype=jnp.bfloat16, compute_dtype=jnp.bfloat16)
    positions = np.arange(tokens.shape[1], dtype=np.int32)[None]
    ours = jax.jit(lambda *rows: decoder.logits(decoder(*rows)))(tokens, positions, np.ones_like(tokens))
    assert np.abs(ours - exact).mean() < 1.2 * np.abs(theirs - exact).mean()


@pytest.mark.parametrize('name', ['Qwen 3', 'Gemma 2'])
def test_norms_and_embeddings_round_as_in_transformers(name, tmp_path):
    """In bfloat16, bit for bit: a norm rounds before or after its weight, the scale of embeddings is rounded."""
    config = CASES[name].config
    model = random_reference(config, seed=3).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    decoder = load_decoder(tmp_path, param_dtype=jnp.bfloat16, compute_dtype=jnp.bfloat16)
    tokens = random_text(config, seed=3)
    with torch.no_grad():
        embedded = model.model.embed_tokens(torch.from_numpy(tokens).long())
        normed = model.model.norm(embedded).float().numpy()
    ours = decoder._embed(tokens)
    np.testing.assert_array_equal(np.asarray(ours, np.float32), embedded.float().numpy())
    # The sum of squares runs in another order, which moves few numbers to the other side of a rounding.
    assert (np.asarray(decoder._normed(ours), np.float32) != normed).mean() < 0.01


def test_the_table_has_a_row_for_each_architecture(monkeypatch):
    monkeypatch.setattr(module, 'CASES', {name: CASES[name] for name in ('Mistral 0.3',)})
    table = bench_parity()
    rows = [line.split(' | ') for line in table.splitlines() if line.startswith('| ')][1:]
    assert [row[0] for row in rows] == ['| Mistral 0.3']
    for row in rows:
        logits, logprobs, gradients = (float(cell.strip(' |')) for cell in row[2:])
        assert 0 < logits < 1e-4
        assert 0 < logprobs < 1e-4
        assert 0 < gradients < 1e-3
