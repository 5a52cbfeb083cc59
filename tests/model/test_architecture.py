import dataclasses

import pytest

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture, Llama3RopeScaling

# https://huggingface.co/meta-llama/Llama-3.1-8B/blob/main/config.json, the fields that matter here.
LLAMA_31_8B = {
    'architectures': ['LlamaForCausalLM'],
    'attention_bias': False,
    'attention_dropout': 0.0,
    'bos_token_id': 128000,
    'eos_token_id': 128001,
    'hidden_act': 'silu',
    'hidden_size': 4096,
    'initializer_range': 0.02,
    'intermediate_size': 14336,
    'max_position_embeddings': 131072,
    'mlp_bias': False,
    'model_type': 'llama',
    'num_attention_heads': 32,
    'num_hidden_layers': 32,
    'num_key_value_heads': 8,
    'pretraining_tp': 1,
    'rms_norm_eps': 1e-05,
    'rope_scaling': {
        'factor': 8.0,
        'high_freq_factor': 4.0,
        'low_freq_factor': 1.0,
        'original_max_position_embeddings': 8192,
        'rope_type': 'llama3',
    },
    'rope_theta': 500000.0,
    'tie_word_embeddings': False,
    'torch_dtype': 'bfloat16',
    'transformers_version': '4.43.0.dev0',
    'use_cache': True,
    'vocab_size': 128256,
}


def test_the_published_parameter_counts():
    # The model cards give 8.03 B and 1.24 B; the exact numbers are those of the checkpoints' safetensors indices.
    assert Architecture.from_hf(LLAMA_31_8B).parameter_count() == 8_030_261_248
    llama_32_1b = {
        **LLAMA_31_8B,
        'hidden_size': 2048,
        'intermediate_size': 8192,
        'num_hidden_layers': 16,
        'head_dim': 64,
        'tie_word_embeddings': True,
    }
    assert Architecture.from_hf(llama_32_1b).parameter_count() == 1_235_814_400


def test_both_spellings_of_rotary_parameters_say_the_same():
    config = dict(LLAMA_31_8B)
    new = {**config, 'rope_parameters': {**config.pop('rope_scaling'), 'rope_theta': config.pop('rope_theta')}}
    del new['rope_scaling'], new['rope_theta']
    architecture = Architecture.from_hf(new)
    assert architecture == Architecture.from_hf(LLAMA_31_8B)
    assert architecture.rope_theta == 500000.0
    assert architecture.rope_scaling == Llama3RopeScaling(8.0, 1.0, 4.0, 8192)
    default = Architecture.from_hf({**new, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 7.0}})
    assert (default.rope_theta, default.rope_scaling) == (7.0, None)


def test_written_configs_read_back_the_same():
    architecture = Architecture.from_hf({**LLAMA_31_8B, 'head_dim': 96})
    assert Architecture.from_hf(architecture.to_hf()) == architecture
    plain = dataclasses.replace(architecture, rope_scaling=None, tie_word_embeddings=True)
    assert Architecture.from_hf(plain.to_hf()) == plain


def test_transformers_reads_the_same_architecture():
    transformers = pytest.importorskip('transformers')
    architecture = Architecture.from_hf(LLAMA_31_8B)
    config = transformers.LlamaConfig(**architecture.to_hf())
    assert Architecture.from_hf(config.to_dict()) == architecture
    defaults = transformers.LlamaConfig()
    bare = {'model_type': 'llama', 'vocab_size': 32000, 'hidden_size': 4096, 'intermediate_size': 11008}
    bare |= {'num_hidden_layers': 32, 'num_attention_heads': 32}
    assert Architecture.from_hf(bare) == Architecture.from_hf(defaults.to_dict())


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        ({'model_type': 'mistral'}, 'mistral'),
        ({'model_type': None}, 'model_type'),
        ({'architectures': ['LlamaForSequenceClassification']}, 'LlamaForSequenceClassification'),
        ({'attention_bias': True}, 'attention_bias'),
        ({'mlp_bias': True}, 'mlp_bias'),
        ({'attention_dropout': 0.1}, 'attention_dropout'),
        ({'hidden_act': 'gelu'}, 'hidden_act'),
        ({'partial_rotary_factor': 0.5}, 'partial_rotary_factor'),
        ({'quantization_config': {'quant_method': 'fp8'}}, 'quantization_config'),
        ({'rope_scaling': {'type': 'linear', 'factor': 2.0}}, 'linear'),
        ({'rope_scaling': {'rope_type': 'yarn', 'factor': 2.0}}, 'yarn'),
        ({'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0}}, 'low_freq_factor'),
        ({'rope_scaling': {**LLAMA_31_8B['rope_scaling'], 'low_freq_factor': 4.0}}, 'high_freq_factor'),
        ({'rope_scaling': None, 'rope_parameters': {'partial_rotary_factor': 0.5}}, 'partial_rotary_factor'),
        ({'hidden_size': None}, 'hidden_size'),
        ({'num_hidden_layers': 0}, 'num_hidden_layers'),
        ({'vocab_size': '128256'}, 'vocab_size'),
        ({'rms_norm_eps': 0}, 'rms_norm_eps'),
        ({'rope_theta': float('nan')}, 'rope_theta'),
        ({'num_key_value_heads': 5}, 'num_key_value_heads'),
        ({'num_attention_heads': 24}, 'head_dim'),
        ({'head_dim': 7}, 'head_dim'),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change, named):
    with pytest.raises(UserError, match=named):
        Architecture.from_hf({**LLAMA_31_8B, **change})
