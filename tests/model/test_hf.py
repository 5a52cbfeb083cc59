"""Weights in and out of a folder, in one process and against transformers."""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import init_decoder, load_decoder, save_decoder
from ccl_jax.model.hf_tables import text_name
from ccl_jax.studies.bench_parity import CASES, random_reference, random_text

UNTIED = Architecture(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=64,
    initializer_range=0.3,
)
TIED = dataclasses.replace(UNTIED, tie_word_embeddings=True)
TOKENS = np.random.default_rng(0).integers(0, 40, (2, 10)).astype(np.int32)


def logits_of(decoder):
    positions = np.tile(np.arange(10, dtype=np.int32), (2, 1))
    return jax.jit(lambda *rows: decoder.logits(decoder(*rows)))(TOKENS, positions, np.ones_like(positions))


@pytest.fixture(scope='module')
def untied():
    return init_decoder(UNTIED, seed=0)


@pytest.fixture
def checkpoint(untied, tmp_path):
    save_decoder(untied, tmp_path / 'model')
    return tmp_path / 'model'


def edit(folder, change):
    """Applies `change` to the dict of tensors of a folder with one file."""
    tensors = load_file(folder / 'model.safetensors')
    change(tensors)
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})


def assert_same_parameters(left, right):
    jax.tree.map(np.testing.assert_array_equal, nnx.state(left), nnx.state(right))


@pytest.mark.parametrize('max_shard_bytes', [10**9, 5000])
@pytest.mark.parametrize('architecture', [UNTIED, TIED], ids=['untied', 'tied'])
def test_transformers_loads_what_was_saved(architecture, max_shard_bytes, tmp_path):
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    decoder = init_decoder(architecture, seed=1)
    folder = tmp_path / 'model'
    save_decoder(decoder, folder, bos_token_id=1, eos_token_id=(2, 3), max_shard_bytes=max_shard_bytes)
    assert (len(list(folder.glob('*.safetensors'))) > 1) == (max_shard_bytes == 5000)
    assert all(file.stat().st_size < max_shard_bytes + 2000 for file in folder.glob('*.safetensors'))
    model, info = transformers.LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    assert (model.config.bos_token_id, model.generation_config.eos_token_id) == (1, [2, 3])
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(TOKENS).long()).logits.numpy()
    np.testing.assert_allclose(logits_of(decoder), expected, atol=1e-4)
    assert_same_parameters(load_decoder(folder), decoder)


@pytest.mark.parametrize('tied', [False, True])
def test_several_shards_of_transformers_load(tied, tmp_path):
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**dataclasses.replace(UNTIED, tie_word_embeddings=tied).to_hf())
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path, max_shard_size='6KB')
    assert len(list(tmp_path.glob('*.safetensors'))) > 2
    with torch.no_grad():
        expected = model(torch.from_numpy(TOKENS).long()).logits.numpy()
    np.testing.assert_allclose(logits_of(load_decoder(tmp_path)), expected, atol=1e-4)


def test_bfloat16_is_kept_and_widened_exactly(tmp_path):
    decoder = init_decoder(UNTIED, seed=0, param_dtype=jnp.bfloat16)
    save_decoder(decoder, tmp_path / 'model')
    assert json.loads((tmp_path / 'model/config.json').read_text())['torch_dtype'] == 'bfloat16'
    assert_same_parameters(load_decoder(tmp_path / 'model', param_dtype=jnp.bfloat16), decoder)
    wide = load_decoder(tmp_path / 'model')
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.float32)), nnx.state(wide), nnx.state(decoder)
    )


def test_the_tokenizer_goes_into_the_folder(untied, tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder):
            (folder / 'tokenizer.json').write_text('{}')

    save_decoder(untied, tmp_path / 'model', tokenizer=Tokenizer())
    assert (tmp_path / 'model/tokenizer.json').exists()
    assert not (tmp_path / 'model.partial').exists()


def test_a_failed_save_leaves_no_folder(untied, tmp_path):
    class Broken:
        def save_pretrained(self, folder):
            raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        save_decoder(untied, tmp_path / 'model', tokenizer=Broken())
    assert not (tmp_path / 'model').exists()
    save_decoder(untied, tmp_path / 'model')
    assert_same_parameters(load_decoder(tmp_path / 'model'), untied)


def test_nothing_is_overwritten(untied, checkpoint):
    with pytest.raises(UserError, match='exists already'):
        save_decoder(untied, checkpoint)


def test_random_weights(untied):
    params = {'/'.join(path): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(untied))}
    for path, values in params.items():
        if 'norm' in path:
            assert (values == 1).all()
        else:
            # Within five standard errors of the mean 0 and the standard deviation 0.3.
            assert abs(values.mean()) < 5 * 0.3 / values.size**0.5, path
            assert abs(values.std() / 0.3 - 1) < 5 / (2 * values.size) ** 0.5, path
    assert not np.array_equal(params['layers/query'][0], params['layers/query'][1])
    assert not np.array_equal(params['layers/gate'], params['layers/up'])


@pytest.mark.parametrize('name', CASES)
def test_a_round_trip_keeps_every_tensor_and_every_logit_of_transformers(name, tmp_path, caplog):
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    config = CASES[name].config
    source = random_reference(config, seed=1)
    source.save_pretrained(tmp_path / 'source')
    with caplog.at_level(logging.INFO):
        decoder = load_decoder(tmp_path / 'source')
    save_decoder(decoder, tmp_path / 'exported')
    tensors = load_file(tmp_path / 'source/model.safetensors')
    exported = load_file(tmp_path / 'exported/model.safetensors')
    vision = [name for name in tensors if 'vision_tower' in name or 'multi_modal_projector' in name]
    expected = {text_name(name): array for name, array in tensors.items() if name not in vision}
    assert set(exported) == set(expected)
    for tensor, array in expected.items():
        np.testing.assert_array_equal(exported[tensor], array, err_msg=tensor, strict=True)
    assert bool(vision) == ('vision_config' in config)
    assert not vision or f'skipped {len(vision)} vision tensor(s)' in caplog.text
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / 'exported', attn_implementation='eager', output_loading_info=True
    )
    assert not any(info[kind] for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    assert model.dtype == torch.float32
    tokens = torch.from_numpy(random_text(config, seed=1)).long()
    with torch.no_grad():
        left, right = (m.eval()(input_ids=tokens, use_cache=False).logits.numpy() for m in (source, model))
    np.testing.assert_array_equal(left, right)
    assert_same_parameters(load_decoder(tmp_path / 'exported'), decoder)


@pytest.mark.parametrize('prefix', ['language_model.model.', 'model.language_model.'])
def test_both_spellings_of_a_checkpoint_with_images_load(prefix, tmp_path, caplog):
    architecture = dataclasses.replace(
        TIED,
        model_type='gemma3_text',
        hidden_act='gelu_pytorch_tanh',
        rms_norm_eps=1e-6,
        qk_norm=True,
        post_norms=True,
        norm_plus_one=True,
        scale_embeddings=True,
        query_scale=0.5,
        sliding_window=4,
        windowed=(True, False),
        local_rope_theta=100.0,
    )
    decoder = init_decoder(architecture, seed=0)
    folder = tmp_path / 'model'
    save_decoder(decoder, folder)
    config = json.loads((folder / 'config.json').read_text())
    vision = 'model.' if prefix.startswith('model.') else ''

    def change(tensors):
        for name in list(tensors):
            tensors[name.replace('model.', prefix, 1)] = tensors.pop(name)
        tensors[f'{vision}vision_tower.vision_model.post_layernorm.weight'] = np.zeros(3, np.float32)
        tensors[f'{vision}multi_modal_projector.mm_input_projection_weight'] = np.zeros((3, 16), np.float32)
        tensors['lm_head.weight' if vision else 'language_model.lm_head.weight'] = np.zeros((40, 16), np.float32)

    edit(folder, change)
    conditional = {'model_type': 'gemma3', 'architectures': ['Gemma3ForConditionalGeneration'], 'text_config': config}
    config.pop('architectures')
    (folder / 'config.json').write_text(json.dumps(conditional))
    with caplog.at_level(logging.INFO):
        loaded = load_decoder(folder)
    assert 'skipped 2 vision tensor(s)' in caplog.text
    assert 'skipped 1 redundant tensor(s)' in caplog.text
    assert loaded.architecture == architecture
    assert_same_parameters(loaded, decoder)


def test_redundant_tensors_are_skipped_and_counted(tmp_path, caplog):
    decoder = init_decoder(TIED, seed=0)
    save_decoder(decoder, tmp_path / 'model')

    def change(tensors):
        tensors['lm_head.weight'] = tensors['model.embed_tokens.weight']
        tensors['model.layers.0.self_attn.rotary_emb.inv_freq'] = np.zeros(2, np.float32)

    edit(tmp_path / 'model', change)
    with caplog.at_level(logging.INFO):
        loaded = load_decoder(tmp_path / 'model')
    assert 'skipped 2 redundant' in caplog.text
    assert_same_parameters(loaded, decoder)
