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


def test_all_mismatches_come_in_one_error(checkpoint):
    def change(tensors):
        del tensors['model.norm.weight']
        tensors['model.layers.1.mlp.up_proj.weight'] = np.zeros((16, 24), np.float32)
        tensors['model.layers.0.mlp.down_proj.weight'] = np.zeros((16, 24), np.int8)
        for layer in (0, 1):
            tensors[f'model.layers.{layer}.self_attn.q_proj.bias'] = np.zeros(16, np.float32)

    edit(checkpoint, change)
    with pytest.raises(UserError) as error:
        load_decoder(checkpoint)
    message = str(error.value)
    assert 'model.norm.weight is missing' in message
    assert 'model.layers.1.mlp.up_proj.weight has shape [16, 24] instead of [24, 16]' in message
    assert 'model.layers.0.mlp.down_proj.weight has type I8' in message
    assert 'model.layers.{0,1}.self_attn.q_proj.bias is unexpected' in message
    assert message.count('.weight') == 3


def test_a_missing_head_of_an_untied_model_is_named(checkpoint):
    edit(checkpoint, lambda tensors: tensors.pop('lm_head.weight'))
    with pytest.raises(UserError, match=r'lm_head\.weight is missing'):
        load_decoder(checkpoint)


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


def write_index(folder, weight_map):
    (folder / 'model.safetensors').rename(folder / 'part.safetensors')
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': weight_map}))


@pytest.mark.parametrize('outside', ['../part.safetensors', '/etc/part.safetensors', 'sub/part.safetensors'])
def test_an_index_that_points_outside_is_refused(checkpoint, outside):
    write_index(checkpoint, dict.fromkeys(load_file(checkpoint / 'model.safetensors'), outside))
    with pytest.raises(UserError, match='outside its folder'):
        load_decoder(checkpoint)


def test_a_tensor_that_the_index_does_not_know_is_refused(checkpoint):
    weight_map = dict.fromkeys(load_file(checkpoint / 'model.safetensors'), 'part.safetensors')
    del weight_map['model.norm.weight']
    write_index(checkpoint, weight_map)
    with pytest.raises(UserError, match=r'does not list model\.norm\.weight'):
        load_decoder(checkpoint)


def test_a_shard_that_is_not_there_is_refused(checkpoint):
    weight_map = dict.fromkeys(load_file(checkpoint / 'model.safetensors'), 'part.safetensors')
    write_index(checkpoint, {**weight_map, 'model.norm.weight': 'other.safetensors'})
    with pytest.raises(UserError, match=r'other\.safetensors'):
        load_decoder(checkpoint)


def test_an_unusable_index_is_refused(checkpoint):
    write_index(checkpoint, None)
    with pytest.raises(UserError, match='weight_map'):
        load_decoder(checkpoint)


def test_a_folder_without_safetensors_is_refused(checkpoint):
    (checkpoint / 'model.safetensors').rename(checkpoint / 'pytorch_model.bin')
    with pytest.raises(UserError, match='only safetensors'):
        load_decoder(checkpoint)


def test_a_truncated_file_is_refused(checkpoint):
    file = checkpoint / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r'model\.safetensors'):
        load_decoder(checkpoint)


@pytest.mark.parametrize('content', [None, 'no json', '[]', '{"model_type": "gpt2"}'])
def test_an_unusable_config_is_refused_with_its_path(checkpoint, content):
    (checkpoint / 'config.json').unlink()
    if content is not None:
        (checkpoint / 'config.json').write_text(content)
    with pytest.raises(UserError, match=r'config\.json'):
        load_decoder(checkpoint)
