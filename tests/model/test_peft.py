"""Adapter folders: what `peft` reads and writes, and what is refused."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.hf import load_decoder, save_decoder
from ccl_jax.model.lora import add_lora, split_trained
from ccl_jax.model.peft import CONFIG_FILE, WEIGHTS_FILE, load_adapter, save_adapter
from ccl_jax.model.settings import LoraSettings

SIZES = {
    'vocab_size': 37,
    'hidden_size': 20,
    'intermediate_size': 23,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'head_dim': 6,
    'max_position_embeddings': 128,
    'initializer_range': 0.2,
    'tie_word_embeddings': False,
}
# Class of config, fields, layers: enough that layers with and without a window are adapted.
CONFIGS = {
    'llama': ('LlamaConfig', {}, 2),
    'mistral': ('MistralConfig', {'sliding_window': 5}, 2),
    'qwen2': ('Qwen2Config', {}, 2),
    'qwen3': ('Qwen3Config', {}, 2),
    'gemma2': ('Gemma2Config', {'sliding_window': 5, 'query_pre_attn_scalar': 7, 'tie_word_embeddings': True}, 3),
    'gemma3': ('Gemma3TextConfig', {'sliding_window': 5, 'query_pre_attn_scalar': 7, 'tie_word_embeddings': True}, 7),
}
ARCHITECTURE = Architecture(**SIZES, num_hidden_layers=2)
SETTINGS = LoraSettings(rank=3, alpha=5.0, dropout=0.25, targets='query|value|down')
TOKENS = np.random.default_rng(0).integers(0, SIZES['vocab_size'], (2, 17)).astype(np.int32)


def config_of(name):
    transformers = pytest.importorskip('transformers')
    cls, fields, layers = CONFIGS[name]
    sizes = {**SIZES, **fields, 'num_hidden_layers': layers}
    if name == 'qwen2':  # Has no head_dim.
        sizes.update(hidden_size=24)
        del sizes['head_dim']
    return getattr(transformers, cls)(**sizes, attn_implementation='eager')


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """Returns the folder of a random model of transformers, by architecture; made once."""
    torch = pytest.importorskip('torch')
    from transformers import AutoModelForCausalLM

    folders = {}

    def make(name):
        if name not in folders:
            torch.manual_seed(0)
            folders[name] = tmp_path_factory.mktemp('base') / name
            AutoModelForCausalLM.from_config(config_of(name)).save_pretrained(folders[name])
        return folders[name]

    return make


def trained(decoder, settings=SETTINGS):
    """Adapters with a B that is not 0."""
    add_lora(decoder, settings, seed=1)
    for number, adapter in enumerate(decoder.layers.adapters.values()):
        adapter.b[...] = 0.3 * jax.random.normal(jax.random.key(number), adapter.b.shape)
    return decoder


def random_decoder():
    return Decoder(ARCHITECTURE, rngs=nnx.Rngs(0))


def logits(decoder):
    @jax.jit
    def run(state):
        decoder = nnx.merge(graphdef, state)
        positions = np.broadcast_to(np.arange(TOKENS.shape[1], dtype=np.int32), TOKENS.shape)
        return decoder.logits(decoder(TOKENS, positions, np.ones_like(TOKENS)))

    graphdef, state = nnx.split(decoder)
    return np.asarray(run(state))


def torch_logits(model):
    import torch

    with torch.no_grad():
        return model(torch.tensor(TOKENS, dtype=torch.long)).logits.float().numpy()


def torch_base(folder, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation='eager', **options)


@pytest.mark.parametrize('name', CONFIGS)
def test_peft_reads_our_adapter_and_gives_our_logits(base, tmp_path, name):
    peft = pytest.importorskip('peft')
    folder = base(name)
    decoder = trained(load_decoder(folder), LoraSettings(rank=3, alpha=5.0))
    ours = logits(decoder)
    save_adapter(decoder, tmp_path / 'adapter', base=folder)
    model = torch_base(folder)
    before = torch_logits(model)
    theirs = torch_logits(peft.PeftModel.from_pretrained(model, tmp_path / 'adapter').eval())
    assert np.abs(theirs - before).max() > 0.05
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize('name', ['llama', 'gemma3'])
@pytest.mark.parametrize('options', [{}, {'use_rslora': True}], ids=['plain', 'rslora'])
def test_an_adapter_made_by_peft_is_read(base, tmp_path, name, options):
    peft = pytest.importorskip('peft')
    targets = ['q_proj', 'o_proj', 'gate_proj', 'down_proj']
    # Without the initialisation B is random, too.
    config = peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False, task_type='CAUSAL_LM', **options
    )
    model = peft.get_peft_model(torch_base(base(name)), config).eval()
    model.save_pretrained(tmp_path / 'theirs')
    decoder = load_decoder(base(name))
    load_adapter(decoder, tmp_path / 'theirs')
    np.testing.assert_allclose(logits(decoder), torch_logits(model), atol=1e-4)
    # And back: the same names, shapes and numbers that peft wrote.
    save_adapter(decoder, tmp_path / 'ours', base=base(name))
    theirs, ours = (load_file(tmp_path / folder / WEIGHTS_FILE) for folder in ('theirs', 'ours'))
    assert ours.keys() == theirs.keys()
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert sorted(json.loads((tmp_path / 'ours' / CONFIG_FILE).read_text())['target_modules']) == sorted(targets)


def test_gradients_of_the_adapters_equal_those_of_torch(base, tmp_path):
    peft, torch = pytest.importorskip('peft'), pytest.importorskip('torch')
    decoder = trained(load_decoder(base('llama')))
    save_adapter(decoder, tmp_path / 'adapter', base=base('llama'))
    model = peft.PeftModel.from_pretrained(torch_base(base('llama')), tmp_path / 'adapter', is_trainable=True)
    model.eval()
    tokens = torch.tensor(TOKENS, dtype=torch.long)
    model(tokens, labels=tokens).loss.backward()
    theirs = {name: x.grad.numpy() for name, x in model.named_parameters() if x.requires_grad}

    graphdef, adapters, frozen = split_trained(decoder)

    @jax.jit
    @jax.grad
    def gradient(adapters):
        decoder = nnx.merge(graphdef, adapters, frozen)
        positions = np.broadcast_to(np.arange(TOKENS.shape[1], dtype=np.int32), TOKENS.shape)
        scores = jax.nn.log_softmax(decoder.logits(decoder(TOKENS, positions, np.ones_like(TOKENS))))[:, :-1]
        return -jnp.mean(jnp.take_along_axis(scores, TOKENS[:, 1:, None], axis=2))

    ours = gradient(nnx.to_pure_dict(adapters))['layers']['adapters']
    modules = {'query': 'self_attn.q_proj', 'value': 'self_attn.v_proj', 'down': 'mlp.down_proj'}
    assert len(theirs) == 2 * 2 * len(modules)
    for name, module in modules.items():
        for factor in ('a', 'b'):
            for layer in range(2):
                path = f'base_model.model.model.layers.{layer}.{module}.lora_{factor.upper()}.default.weight'
                expected = theirs[path].T
                error = np.linalg.norm(ours[name][factor][layer] - expected) / np.linalg.norm(expected)
                assert error < 1e-3, path


def test_an_adapter_of_a_model_with_images_names_its_language_model(tmp_path):
    """Gemma 3 and MedGemma: the adapter is for the checkpoint that the user has, vision tower and all."""
    peft, torch = pytest.importorskip('peft'), pytest.importorskip('torch')
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {
        'hidden_size': 8,
        'intermediate_size': 9,
        'num_hidden_layers': 1,
        'num_attention_heads': 2,
        'image_size': 8,
        'patch_size': 4,
    }
    text = {**config_of('gemma3').to_dict(), 'num_hidden_layers': 2, 'layer_types': None}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, attn_implementation='eager')
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / 'base')
    decoder = trained(load_decoder(tmp_path / 'base'), LoraSettings(rank=2, targets='query|up'))
    save_adapter(decoder, tmp_path / 'adapter', base=tmp_path / 'base')
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / 'adapter').eval()
    named = {name for name, _ in adapted.named_parameters() if 'lora_' in name}
    assert len(named) == 2 * 2 * 2
    assert all('.language_model.' in name for name in named)
    np.testing.assert_allclose(logits(decoder), torch_logits(adapted), atol=1e-4)
    # An adapter that peft writes for such a model is read, too.
    adapted.save_pretrained(tmp_path / 'theirs')
    again = load_decoder(tmp_path / 'base')
    load_adapter(again, tmp_path / 'theirs')
    np.testing.assert_array_equal(logits(again), logits(decoder))


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """(base, adapter) of a random decoder, without torch."""
    directory = tmp_path_factory.mktemp('written')
    decoder = trained(random_decoder())
    save_decoder(decoder, directory / 'base')
    save_adapter(decoder, directory / 'adapter', base=directory / 'base')
    return directory / 'base', directory / 'adapter'


def test_the_files_are_those_of_the_format(folders):
    base, adapter = folders
    assert sorted(path.name for path in adapter.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    config = json.loads((adapter / CONFIG_FILE).read_text())
    assert (config['peft_type'], config['task_type'], config['bias']) == ('LORA', 'CAUSAL_LM', 'none')
    assert (config['r'], config['lora_alpha'], config['lora_dropout']) == (3, 5, 0.25)
    assert config['target_modules'] == ['q_proj', 'v_proj', 'down_proj']
    assert config['base_model_name_or_path'] == str(base)
    tensors = load_file(adapter / WEIGHTS_FILE)
    shapes = {
        'self_attn.q_proj': ((3, 20), (24, 3)),
        'self_attn.v_proj': ((3, 20), (12, 3)),
        'mlp.down_proj': ((3, 23), (20, 3)),
    }
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        f'base_model.model.model.layers.{layer}.{module}.lora_{letter}.weight': shape
        for layer in range(2)
        for module, pair in shapes.items()
        for letter, shape in zip('AB', pair, strict=True)
    }
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}


def test_what_was_written_comes_back(folders):
    base, adapter = folders
    decoder, expected = load_decoder(base), trained(random_decoder())
    load_adapter(decoder, adapter)
    assert nnx.graphdef(decoder) == nnx.graphdef(expected)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(decoder), nnx.state(expected))


def test_a_folder_in_use_is_left_alone_and_a_leftover_is_not(folders, tmp_path):
    base, adapter = folders
    with pytest.raises(UserError, match='exists already'):
        save_adapter(trained(random_decoder()), adapter, base=base)
    leftover = tmp_path / 'new.partial'
    leftover.mkdir()
    (leftover / 'adapter_model.bin').write_text('half')
    save_adapter(trained(random_decoder()), tmp_path / 'new', base=base)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['new']
    assert sorted(path.name for path in (tmp_path / 'new').iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


def damaged(folders, tmp_path, *, config=None, change=None):
    """A copy of the adapter with other fields in its config or other tensors."""
    folder = tmp_path / 'damaged'
    folder.mkdir()
    fields = json.loads((folders[1] / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**fields, **(config or {})}))
    tensors = load_file(folders[1] / WEIGHTS_FILE)
    save_file(change(tensors) if change else tensors, folder / WEIGHTS_FILE)
    return folder


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({'peft_type': 'IA3'}, "peft_type 'IA3'"),
        ({'use_dora': True, 'bias': 'all'}, 'use_dora, bias is not supported'),
        ({'rank_pattern': {'q_proj': 8}}, 'rank_pattern'),
        ({'modules_to_save': ['lm_head']}, 'modules_to_save'),
        ({'init_lora_weights': 'pissa_niter_4'}, 'init_lora_weights'),
        ({'r': None}, 'no usable r'),
    ],
)
def test_a_config_that_says_more_is_refused(folders, tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        load_adapter(random_decoder(), damaged(folders, tmp_path, config=config))


def test_tensors_that_do_not_fit_are_refused_all_at_once(folders, tmp_path):
    start = 'base_model.model.model.layers'

    def change(tensors):
        del tensors[f'{start}.1.self_attn.q_proj.lora_B.weight']
        tensors[f'{start}.0.mlp.down_proj.lora_A.weight'] = np.zeros((3, 22), np.float32)
        tensors[f'{start}.2.mlp.down_proj.lora_A.weight'] = np.zeros((3, 23), np.float32)
        tensors['base_model.model.lm_head.lora_A.weight'] = np.zeros((3, 20), np.float32)
        return tensors

    with pytest.raises(UserError) as error:
        load_adapter(random_decoder(), damaged(folders, tmp_path, change=change))
    for problem in (
        'layers.1.self_attn.q_proj.lora_B.weight is missing',
        'layers.0.mlp.down_proj.lora_A.weight has shape [3, 22] instead of [3, 23]',
        'layers.2.mlp.down_proj.lora_A.weight is unexpected',
        'lm_head.lora_A.weight is unexpected',
    ):
        assert problem in str(error.value)


def test_files_that_are_missing_or_cut_off_are_refused(folders, tmp_path):
    folder = damaged(folders, tmp_path)
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[: math.floor(0.8 * len(content))])
    with pytest.raises(UserError, match='cannot read'):
        load_adapter(random_decoder(), folder)
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(UserError, match='only adapters in safetensors'):
        load_adapter(random_decoder(), folder)
    (folder / CONFIG_FILE).write_text('{')
    with pytest.raises(UserError, match=CONFIG_FILE):
        load_adapter(random_decoder(), folder)
