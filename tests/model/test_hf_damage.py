"""What is wrong with a checkpoint is said in one sentence that lists all of it, before any weight is read."""

import json
import logging
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import check_checkpoint, init_decoder, load_decoder, save_decoder

ARCHITECTURE = Architecture(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=64,
)
SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'


@pytest.fixture(scope='module')
def decoder():
    return init_decoder(ARCHITECTURE, seed=0)


@pytest.fixture
def checkpoint(decoder, tmp_path):
    save_decoder(decoder, tmp_path / 'model')
    return tmp_path / 'model'


@pytest.fixture
def shards(decoder, tmp_path):
    """A folder of at least four files and its index."""
    save_decoder(decoder, tmp_path / 'model', max_shard_bytes=5000)
    weight_map = json.loads((tmp_path / 'model' / INDEX).read_text())['weight_map']
    assert len(set(weight_map.values())) > 3
    return tmp_path / 'model', weight_map


def edit(file, change):
    """Applies `change` to the dict of tensors of a file."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={'format': 'pt'})


def write_index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({'weight_map': weight_map}))


def message_of(folder):
    """The message, which loading and checking have in common."""
    with pytest.raises(UserError) as error:
        load_decoder(folder)
    with pytest.raises(UserError, match=re.escape(str(error.value))):
        check_checkpoint(folder)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_all_mismatches_come_in_one_error(checkpoint):
    def change(tensors):
        del tensors['model.norm.weight']
        tensors['model.layers.1.mlp.up_proj.weight'] = np.zeros((16, 24), np.float32)
        tensors['model.layers.0.mlp.down_proj.weight'] = np.zeros((16, 24), np.int8)
        for layer in (0, 1):
            tensors[f'model.layers.{layer}.self_attn.q_proj.bias'] = np.zeros(16, np.float32)

    edit(checkpoint / SINGLE, change)
    message = message_of(checkpoint)
    assert 'model.norm.weight is missing' in message
    assert 'model.layers.1.mlp.up_proj.weight has shape [16, 24] instead of [24, 16]' in message
    assert 'model.layers.0.mlp.down_proj.weight has type I8' in message
    assert 'model.layers.{0,1}.self_attn.q_proj.bias is unexpected' in message
    assert message.count('.weight') == 3


def test_broken_files_and_wrong_tensors_come_in_one_error(shards):
    folder, weight_map = shards
    files = sorted(set(weight_map.values()))
    (folder / files[0]).unlink()
    (folder / files[1]).write_bytes((folder / files[1]).read_bytes()[:-1])
    outside = next(name for name, file in weight_map.items() if file == files[2])
    pickled = next(name for name, file in weight_map.items() if file == files[2] and name != outside)
    write_index(folder, {**weight_map, outside: f'../{files[2]}', pickled: 'pytorch_model-00003.bin'})
    wrong, missing = [name for name, file in weight_map.items() if file == files[3]][:2]

    def change(tensors):
        tensors[wrong] = np.zeros((7, 5), np.float16)
        del tensors[missing]
        tensors['model.layers.0.mlp.experts.weight'] = np.zeros(3, np.float32)

    edit(folder / files[3], change)
    message = message_of(folder)
    assert f'{files[0]} cannot be read (No such file' in message
    assert f'{files[1]} cannot be read' in message
    assert f'points outside its folder (../{files[2]})' in message
    assert 'pytorch_model-00003.bin is a pickle' in message
    assert f'{wrong} has shape [7, 5]' in message
    assert f'{missing} is missing' in message
    assert 'model.layers.0.mlp.experts.weight' in message
    # What the broken files should hold is not reported again, one by one.
    assert message.count('is missing') == 1


def test_a_missing_head_of_an_untied_model_is_named(checkpoint):
    edit(checkpoint / SINGLE, lambda tensors: tensors.pop('lm_head.weight'))
    assert 'lm_head.weight is missing' in message_of(checkpoint)


@pytest.mark.parametrize('outside', ['../part.safetensors', '/etc/part.safetensors', 'sub/part.safetensors', '..', ''])
def test_an_index_that_points_outside_is_refused(checkpoint, outside):
    names = load_file(checkpoint / SINGLE)
    (checkpoint / SINGLE).rename(checkpoint.parent / 'part.safetensors')
    write_index(checkpoint, dict.fromkeys(names, outside))
    assert f'points outside its folder ({outside})' in message_of(checkpoint)


def test_a_link_to_a_file_outside_is_followed(checkpoint):
    """The cache of huggingface_hub is made of links; what an index says is another matter."""
    (checkpoint / SINGLE).rename(checkpoint.parent / 'blob')
    (checkpoint / SINGLE).symlink_to('../blob')
    check_checkpoint(checkpoint)


def test_a_tensor_that_the_index_does_not_know_is_refused(checkpoint):
    weight_map = dict.fromkeys(load_file(checkpoint / SINGLE), 'part.safetensors')
    (checkpoint / SINGLE).rename(checkpoint / 'part.safetensors')
    del weight_map['model.norm.weight']
    write_index(checkpoint, weight_map)
    assert 'the index does not list model.norm.weight of part.safetensors' in message_of(checkpoint)


@pytest.mark.parametrize('content', ['', '[]', '{}', '{"weight_map": null}', '{"weight_map": {"a": 1}}'])
def test_an_unusable_index_is_refused(checkpoint, content):
    (checkpoint / SINGLE).unlink()
    (checkpoint / INDEX).write_text(content)
    assert INDEX in message_of(checkpoint)


@pytest.mark.parametrize('file', ['pytorch_model.bin', 'consolidated.00.pth', 'model.pt'])
def test_pickles_are_refused(checkpoint, file):
    (checkpoint / SINGLE).rename(checkpoint / file)
    message = message_of(checkpoint)
    assert 'only safetensors are read' in message
    assert 'safe_serialization' in message


@pytest.mark.parametrize('kept', [0, 4, 100, -1, -100])
def test_a_truncated_file_is_refused(checkpoint, kept):
    file = checkpoint / SINGLE
    file.write_bytes(file.read_bytes()[:kept])
    assert 'model.safetensors cannot be read' in message_of(checkpoint)


def test_bytes_after_the_last_tensor_are_refused(checkpoint):
    with (checkpoint / SINGLE).open('ab') as file:
        file.write(bytes(8))
    assert 'model.safetensors cannot be read' in message_of(checkpoint)


def test_a_tensor_under_both_spellings_is_refused(checkpoint):
    def change(tensors):
        tensors['language_model.model.norm.weight'] = tensors['model.norm.weight']

    edit(checkpoint / SINGLE, change)
    assert 'model.norm.weight is there twice' in message_of(checkpoint)


def test_no_weight_is_read_of_a_damaged_checkpoint(checkpoint, monkeypatch, caplog):
    edit(checkpoint / SINGLE, lambda tensors: tensors.pop('lm_head.weight'))
    monkeypatch.setattr('ccl_jax.model.hf.read_parameters', lambda *_: pytest.fail('read'))
    with caplog.at_level(logging.INFO):
        message_of(checkpoint)
    assert 'bytes of weights' not in caplog.text


@pytest.mark.parametrize('content', [None, 'no json', '[]', '{"model_type": "gpt2"}'])
def test_an_unusable_config_is_refused_with_its_path(checkpoint, content):
    (checkpoint / 'config.json').unlink()
    if content is not None:
        (checkpoint / 'config.json').write_text(content)
    with pytest.raises(UserError, match=r'config\.json'):
        load_decoder(checkpoint)
