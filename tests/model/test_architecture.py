import copy
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture, LinearRopeScaling, Llama3RopeScaling
from ccl_jax.studies.bench_parity import CASES

# The config.json of published checkpoints (huggingface.co/meta-llama/Llama-3.1-8B, mistralai/Mistral-7B-v0.1 and -v0.3,
# Qwen/Qwen2.5-7B and Qwen3-8B, google/gemma-2-9b, gemma-3-1b-pt, gemma-3-4b-pt), the fields that matter here.
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


MISTRAL_7B_01 = {
    'architectures': ['MistralForCausalLM'],
    'hidden_act': 'silu',
    'hidden_size': 4096,
    'intermediate_size': 14336,
    'max_position_embeddings': 32768,
    'model_type': 'mistral',
    'num_attention_heads': 32,
    'num_hidden_layers': 32,
    'num_key_value_heads': 8,
    'rms_norm_eps': 1e-05,
    'rope_theta': 10000.0,
    'sliding_window': 4096,
    'tie_word_embeddings': False,
    'vocab_size': 32000,
}
MISTRAL_7B_03 = {**MISTRAL_7B_01, 'rope_theta': 1000000.0, 'sliding_window': None, 'vocab_size': 32768}
QWEN_25_7B = {
    'architectures': ['Qwen2ForCausalLM'],
    'attention_dropout': 0.0,
    'hidden_act': 'silu',
    'hidden_size': 3584,
    'intermediate_size': 18944,
    'max_position_embeddings': 131072,
    'max_window_layers': 28,
    'model_type': 'qwen2',
    'num_attention_heads': 28,
    'num_hidden_layers': 28,
    'num_key_value_heads': 4,
    'rms_norm_eps': 1e-06,
    'rope_theta': 1000000.0,
    'sliding_window': 131072,
    'tie_word_embeddings': False,
    'use_mrope': False,
    'use_sliding_window': False,
    'vocab_size': 152064,
}
QWEN_3_8B = {
    'architectures': ['Qwen3ForCausalLM'],
    'attention_bias': False,
    'attention_dropout': 0.0,
    'head_dim': 128,
    'hidden_act': 'silu',
    'hidden_size': 4096,
    'intermediate_size': 12288,
    'max_position_embeddings': 40960,
    'max_window_layers': 36,
    'model_type': 'qwen3',
    'num_attention_heads': 32,
    'num_hidden_layers': 36,
    'num_key_value_heads': 8,
    'rms_norm_eps': 1e-06,
    'rope_scaling': None,
    'rope_theta': 1000000,
    'sliding_window': None,
    'tie_word_embeddings': False,
    'use_sliding_window': False,
    'vocab_size': 151936,
}
GEMMA_2_9B = {
    'architectures': ['Gemma2ForCausalLM'],
    'attention_bias': False,
    'attention_dropout': 0.0,
    'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
    'head_dim': 256,
    'hidden_act': 'gelu_pytorch_tanh',
    'hidden_activation': 'gelu_pytorch_tanh',
    'hidden_size': 3584,
    'intermediate_size': 14336,
    'max_position_embeddings': 8192,
    'model_type': 'gemma2',
    'num_attention_heads': 16,
    'num_hidden_layers': 42,
    'num_key_value_heads': 8,
    'query_pre_attn_scalar': 256,
    'rms_norm_eps': 1e-06,
    'rope_theta': 10000.0,
    'sliding_window': 4096,
    'sliding_window_size': 4096,
    'vocab_size': 256000,
}
GEMMA_3_1B = {
    'architectures': ['Gemma3ForCausalLM'],
    'attention_bias': False,
    'attention_dropout': 0.0,
    'attn_logit_softcapping': None,
    'final_logit_softcapping': None,
    'head_dim': 256,
    'hidden_activation': 'gelu_pytorch_tanh',
    'hidden_size': 1152,
    'intermediate_size': 6912,
    'max_position_embeddings': 32768,
    'model_type': 'gemma3_text',
    'num_attention_heads': 4,
    'num_hidden_layers': 26,
    'num_key_value_heads': 1,
    'query_pre_attn_scalar': 256,
    'rms_norm_eps': 1e-06,
    'rope_local_base_freq': 10000,
    'rope_scaling': None,
    'rope_theta': 1000000,
    'sliding_window': 512,
    'sliding_window_pattern': 6,
    'vocab_size': 262144,
}
# The config of the 4b, and of MedGemma 4b, leaves out what transformers' class has as its default.
GEMMA_3_4B = {
    'architectures': ['Gemma3ForConditionalGeneration'],
    'boi_token_index': 255999,
    'eoi_token_index': 256000,
    'image_token_index': 262144,
    'mm_tokens_per_image': 256,
    'model_type': 'gemma3',
    'text_config': {
        'hidden_size': 2560,
        'intermediate_size': 10240,
        'model_type': 'gemma3_text',
        'num_hidden_layers': 34,
        'rope_scaling': {'factor': 8.0, 'rope_type': 'linear'},
        'sliding_window': 1024,
    },
    'vision_config': {'hidden_size': 1152, 'model_type': 'siglip_vision_model'},
}
PUBLISHED = {
    'Llama 3.1 8B': LLAMA_31_8B,
    'Mistral 7B v0.1': MISTRAL_7B_01,
    'Mistral 7B v0.3': MISTRAL_7B_03,
    'Qwen2.5 7B': QWEN_25_7B,
    'Qwen3 8B': QWEN_3_8B,
    'Gemma 2 9B': GEMMA_2_9B,
    'Gemma 3 1B': GEMMA_3_1B,
    'Gemma 3 4B': GEMMA_3_4B,
}
CONFIGS = {**PUBLISHED, **{name: case.config for name, case in CASES.items()}}


@pytest.mark.parametrize(
    ('config', 'count'),
    [
        # The numbers of parameters that the checkpoints' safetensors hold.
        (LLAMA_31_8B, 8_030_261_248),
        (
            {
                **LLAMA_31_8B,
                'hidden_size': 2048,
                'intermediate_size': 8192,
                'num_hidden_layers': 16,
                'head_dim': 64,
                'tie_word_embeddings': True,
            },
            1_235_814_400,
        ),
        (MISTRAL_7B_01, 7_241_732_096),
        (MISTRAL_7B_03, 7_248_023_552),
        (QWEN_25_7B, 7_615_616_512),
        (QWEN_3_8B, 8_190_735_360),
        (GEMMA_2_9B, 9_241_705_984),
        (GEMMA_3_1B, 999_885_952),
        # Without the vision tower (416,866,032) and the projector (2,950,272).
        (GEMMA_3_4B, 4_300_079_472 - 416_866_032 - 2_950_272),
    ],
)
def test_the_published_parameter_counts(config, count):
    assert Architecture.from_hf(config).parameter_count() == count


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


def test_both_spellings_of_gemma_3():
    old = {**GEMMA_3_1B, 'rope_scaling': {'rope_type': 'linear', 'factor': 8.0}, 'rope_local_base_freq': 77.0}
    new = {
        **GEMMA_3_1B,
        'rope_parameters': {
            'full_attention': {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1000000},
            'sliding_attention': {'rope_type': 'default', 'rope_theta': 77.0},
        },
        'layer_types': (['sliding_attention'] * 5 + ['full_attention']) * 4 + ['sliding_attention'] * 2,
    }
    for name in ('rope_scaling', 'rope_theta', 'rope_local_base_freq', 'sliding_window_pattern'):
        del new[name]
    architecture = Architecture.from_hf(new)
    assert architecture == Architecture.from_hf(old)
    assert architecture.rope_scaling == LinearRopeScaling(8.0)
    assert (architecture.rope_theta, architecture.local_rope_theta) == (1000000, 77.0)
    assert architecture.layer_pattern == (True,) * 5 + (False,)


def windows(config, **changes):
    architecture = Architecture.from_hf({**config, 'num_hidden_layers': 4, **changes})
    return architecture.sliding_window, ''.join('.w'[kind] for kind in architecture.windowed)


def test_which_layers_have_a_window():
    mixed = ['full_attention', 'sliding_attention', 'sliding_attention', 'full_attention']
    assert windows(LLAMA_31_8B) == (None, '')
    assert windows(MISTRAL_7B_01) == (4096, 'wwww')
    assert windows(MISTRAL_7B_03) == (None, '')
    assert windows(QWEN_25_7B) == (None, '')
    qwen = {**QWEN_25_7B, 'use_sliding_window': True, 'sliding_window': 9}
    assert windows(qwen) == (None, '')
    assert windows(qwen, max_window_layers=1) == (9, '.www')
    assert windows(qwen, layer_types=mixed) == (9, '.ww.')
    assert windows(GEMMA_2_9B) == (4096, 'w.w.')
    assert windows(GEMMA_2_9B, layer_types=mixed) == (4096, '.ww.')
    assert windows(GEMMA_3_1B) == (512, 'wwww')
    assert windows(GEMMA_3_1B, sliding_window_pattern=2) == (512, 'w.w.')
    assert windows(GEMMA_3_1B, layer_types=mixed) == (512, '.ww.')


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_the_layer_pattern_is_the_shortest_period(windowed):
    window = 4 if any(windowed) else None
    architecture = dataclasses.replace(
        Architecture.from_hf(LLAMA_31_8B),
        num_hidden_layers=len(windowed),
        windowed=tuple(windowed),
        sliding_window=window,
    )
    pattern = list(architecture.layer_pattern)
    assert (pattern * len(windowed))[: len(windowed)] == windowed
    for shorter in range(1, len(pattern)):
        assert (windowed[:shorter] * len(windowed))[: len(windowed)] != windowed


@pytest.mark.parametrize('name', CONFIGS)
def test_written_configs_read_back_the_same(name):
    architecture = Architecture.from_hf(CONFIGS[name])
    assert Architecture.from_hf(architecture.to_hf()) == architecture


@pytest.mark.parametrize('name', CONFIGS)
def test_transformers_reads_the_same_architecture(name):
    transformers = pytest.importorskip('transformers')
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    architecture = Architecture.from_hf(CONFIGS[name])
    config = transformers.AutoConfig.for_model(**architecture.to_hf())
    assert Architecture.from_hf(config.to_dict()) == architecture
    assert config.architectures == [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
    source = transformers.AutoConfig.for_model(**copy.deepcopy(dict(CONFIGS[name])))
    assert Architecture.from_hf(source.to_dict()) == architecture
    source = source.get_text_config().to_dict()
    for field in ('rope_parameters', 'layer_types', 'hidden_act', 'hidden_activation', 'query_pre_attn_scalar'):
        assert config.to_dict().get(field) == source.get(field, config.to_dict().get(field)), field


@pytest.mark.parametrize('model_type', ['llama', 'mistral', 'qwen2', 'qwen3', 'gemma2', 'gemma3_text'])
def test_fields_that_are_left_out_have_the_defaults_of_transformers(model_type):
    transformers = pytest.importorskip('transformers')
    sizes = {'vocab_size': 32000, 'hidden_size': 4096, 'intermediate_size': 11008, 'num_hidden_layers': 32}
    bare = {'model_type': model_type, **sizes, 'num_attention_heads': 32}
    assert Architecture.from_hf(bare) == Architecture.from_hf(transformers.AutoConfig.for_model(**bare).to_dict())
    if model_type == 'gemma3_text':
        default = transformers.AutoConfig.for_model(model_type)
        assert Architecture.from_hf({'model_type': model_type}) == Architecture.from_hf(default.to_dict())


@pytest.mark.parametrize(
    ('model_type', 'change', 'named'),
    [
        ('llama', {'qk_norm': True}, 'qk_norm'),
        ('llama', {'windowed': (True,) * 32, 'sliding_window': 8}, 'sliding_window'),
        ('llama', {'query_scale': 0.3}, 'query_scale'),
        ('mistral', {'windowed': (True, False) * 16, 'sliding_window': 8}, 'windowed'),
        ('qwen2', {}, 'qkv_bias'),
        ('gemma2', {}, 'post_norms'),
        ('gpt2', {}, 'gpt2'),
    ],
)
def test_features_that_no_config_of_the_type_says_are_not_written(model_type, change, named):
    architecture = dataclasses.replace(Architecture.from_hf(LLAMA_31_8B), model_type=model_type, **change)
    with pytest.raises(UserError, match=named):
        architecture.to_hf()


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        ({'model_type': 'gpt2'}, 'gpt2'),
        ({'model_type': 'mistral'}, 'MistralForCausalLM'),
        ({'model_type': None}, 'model_type'),
        ({'architectures': ['LlamaForSequenceClassification']}, 'LlamaForSequenceClassification'),
        ({'attention_bias': True}, 'attention_bias'),
        ({'mlp_bias': True}, 'mlp_bias'),
        ({'attention_dropout': 0.1}, 'attention_dropout'),
        ({'hidden_act': 'gelu'}, 'hidden_act'),
        ({'partial_rotary_factor': 0.5}, 'partial_rotary_factor'),
        ({'quantization_config': {'quant_method': 'fp8'}}, 'quantization_config'),
        ({'rope_scaling': {'type': 'dynamic', 'factor': 2.0}}, 'dynamic'),
        ({'rope_scaling': {'type': 'linear'}}, 'factor'),
        ({'layer_types': ['sliding_attention'] * 32}, 'layer_types'),
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
        ({'num_key_value_heads': 0}, 'num_key_value_heads'),
        ({'num_attention_heads': 24}, 'head_dim'),
        ({'head_dim': 7}, 'head_dim'),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change, named):
    with pytest.raises(UserError, match=named):
        Architecture.from_hf({**LLAMA_31_8B, **change})


@pytest.mark.parametrize(
    ('config', 'change', 'named'),
    [
        (MISTRAL_7B_01, {'model_type': 'mixtral'}, 'mixtral'),
        (MISTRAL_7B_01, {'layer_types': ['full_attention', 'sliding_attention'] * 16}, 'layer_types'),
        (MISTRAL_7B_01, {'sliding_window': 0}, 'sliding_window'),
        (QWEN_25_7B, {'layer_types': ['full_attention', 'sliding_attention'] * 14}, 'sliding_window'),
        (QWEN_25_7B, {'rope_scaling': {'type': 'yarn', 'factor': 4.0}}, 'yarn'),
        (QWEN_25_7B, {'rope_parameters': {'full_attention': {'rope_theta': 1.0}}}, 'each layer type'),
        (QWEN_3_8B, {'model_type': 'qwen3_moe', 'architectures': ['Qwen3MoeForCausalLM']}, 'qwen3_moe'),
        (QWEN_3_8B, {'attention_bias': True}, 'attention_bias'),
        (GEMMA_2_9B, {'hidden_activation': 'relu'}, 'relu'),
        (GEMMA_2_9B, {'layer_types': ['chunked_attention'] * 42}, 'chunked_attention'),
        (GEMMA_2_9B, {'layer_types': ['full_attention'] * 41}, '41 layers of 42'),
        (GEMMA_2_9B, {'query_pre_attn_scalar': 2.5}, 'query_pre_attn_scalar'),
        (GEMMA_2_9B, {'final_logit_softcapping': -1.0}, 'final_softcap'),
        (GEMMA_2_9B, {'sliding_window': None}, 'sliding_window'),
        (GEMMA_2_9B, {'use_bidirectional_attention': True}, 'use_bidirectional_attention'),
        (GEMMA_3_1B, {'attn_logit_softcapping': 50.0}, 'attn_logit_softcapping'),
        (GEMMA_3_1B, {'rope_parameters': {'rope_type': 'default', 'rope_theta': 1.0}}, 'rope_parameters'),
        (
            GEMMA_3_1B,
            {'rope_parameters': {'sliding_attention': {'rope_type': 'linear', 'factor': 2.0}}},
            'layers with a window',
        ),
        (GEMMA_3_4B, {'architectures': ['Gemma3ForSequenceClassification']}, 'Gemma3ForSequenceClassification'),
        (GEMMA_3_4B, {'text_config': None}, 'text_config'),
        (GEMMA_3_4B, {'text_config': {'model_type': 'gemma2'}}, 'gemma2'),
        (GEMMA_3_4B, {'text_config': {'final_logit_softcapping': 3.0}}, 'final_logit_softcapping'),
        (GEMMA_3_4B, {'tie_word_embeddings': False}, 'tie_word_embeddings'),
        (GEMMA_3_4B, {'quantization_config': {'quant_method': 'fp8'}}, 'quantization_config'),
    ],
)
def test_what_other_families_do_not_support_is_refused_by_name(config, change, named):
    with pytest.raises(UserError, match=named):
        Architecture.from_hf({**config, **change})
