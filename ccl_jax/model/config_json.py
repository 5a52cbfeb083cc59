"""The fields of a `config.json` in and out, one row of a table for each `model_type`.

Sources: the config classes of transformers 4.56 to 5, and where those leave something out, its model code.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ccl_jax.errors import UserError
from ccl_jax.model.rope import read_rope, read_two_ropes, write_rope

if TYPE_CHECKING:
    from ccl_jax.model.architecture import Architecture

# A model with a vision part has its language model's config inside.
_CONDITIONAL = 'gemma3'
_CONDITIONAL_CLASS = 'Gemma3ForConditionalGeneration'
_TEXT_TYPE = 'gemma3_text'
# Fields of the config that change the result, and the only value that the decoder implements.
_FIXED = {
    'attention_bias': False,
    'mlp_bias': False,
    'attention_dropout': 0,
    'partial_rotary_factor': 1,
    'quantization_config': None,
    'use_bidirectional_attention': False,
}
# Where null says something else than leaving the field out.
_NULLABLE = ('sliding_window', 'attn_logit_softcapping', 'final_logit_softcapping', 'num_key_value_heads', 'head_dim')
_KINDS = {'full_attention': False, 'sliding_attention': True}
_SIZES = (
    'vocab_size',
    'hidden_size',
    'intermediate_size',
    'num_hidden_layers',
    'num_attention_heads',
    'max_position_embeddings',
    'rms_norm_eps',
    'tie_word_embeddings',
    'initializer_range',
)
_COMMON_DEFAULTS = {'rms_norm_eps': 1e-6, 'initializer_range': 0.02}
# Bases of the layers without and with a window.
_GEMMA3_THETAS = (1_000_000.0, 10_000.0)
Fields = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Family:
    """How the configs of a `model_type` are spelt and what they imply.

    Attributes:
        model_class: of transformers, the one that predicts the next token.
        defaults: the values of fields that are left out.
        windowed: (config, layer) -> whether the layer has a window, where `layer_types` does not say.
        has_layer_types: whether `layer_types` may say so.
        features: fields of an `Architecture` that are True.
        is_gemma: spells activation, scale of the scores, and soft-caps as Gemma does.
        two_ropes: layers with a window have a rope of their own.
        extra: fields that are written as well.
    """

    model_class: str
    defaults: Fields
    windowed: Callable[[Fields, int], bool]
    has_layer_types: bool = True
    features: tuple[str, ...] = ()
    is_gemma: bool = False
    two_ropes: bool = False
    extra: Callable[['Architecture'], Fields] = lambda architecture: {}


_QWEN_DEFAULTS = {
    'hidden_act': 'silu',
    'max_position_embeddings': 32768,
    'num_key_value_heads': 32,
    'tie_word_embeddings': False,
    'use_sliding_window': False,
    'sliding_window': 4096,
    'max_window_layers': 28,
}
_GEMMA_DEFAULTS = {
    'hidden_activation': 'gelu_pytorch_tanh',
    'num_key_value_heads': 4,
    'head_dim': 256,
    'tie_word_embeddings': True,
    'query_pre_attn_scalar': 256,
    'sliding_window': 4096,
}


def _qwen_windowed(config: Fields, layer: int) -> bool:
    return bool(config['use_sliding_window']) and layer >= config['max_window_layers']


def _qwen_extra(architecture: 'Architecture') -> Fields:
    windowed = architecture.windowed
    return {
        'use_sliding_window': any(windowed),
        'max_window_layers': windowed.index(True) if any(windowed) else architecture.num_hidden_layers,
    }


_FAMILIES = {
    'llama': _Family(
        'LlamaForCausalLM',
        {'hidden_act': 'silu', 'max_position_embeddings': 2048, 'tie_word_embeddings': False},
        windowed=lambda config, layer: False,
        has_layer_types=False,
        extra=lambda architecture: {'attention_bias': False, 'mlp_bias': False},
    ),
    'mistral': _Family(
        'MistralForCausalLM',
        {
            'hidden_act': 'silu',
            'max_position_embeddings': 131072,
            'num_key_value_heads': 8,
            'tie_word_embeddings': False,
            'sliding_window': 4096,
        },
        windowed=lambda config, layer: config['sliding_window'] is not None,
        has_layer_types=False,
    ),
    'qwen2': _Family(
        'Qwen2ForCausalLM', _QWEN_DEFAULTS, windowed=_qwen_windowed, features=('qkv_bias',), extra=_qwen_extra
    ),
    'qwen3': _Family(
        'Qwen3ForCausalLM',
        {**_QWEN_DEFAULTS, 'head_dim': 128},
        windowed=_qwen_windowed,
        features=('qk_norm',),
        extra=lambda architecture: {'attention_bias': False, **_qwen_extra(architecture)},
    ),
    'gemma2': _Family(
        'Gemma2ForCausalLM',
        {
            **_GEMMA_DEFAULTS,
            'max_position_embeddings': 8192,
            'attn_logit_softcapping': 50.0,
            'final_logit_softcapping': 30.0,
        },
        windowed=lambda config, layer: layer % 2 == 0,
        features=('post_norms', 'norm_plus_one', 'scale_embeddings'),
        is_gemma=True,
        extra=lambda architecture: {'attention_bias': False},
    ),
    _TEXT_TYPE: _Family(
        'Gemma3ForCausalLM',
        {
            **_GEMMA_DEFAULTS,
            # The text config inside of a model with a vision part leaves out even sizes.
            'vocab_size': 262208,
            'hidden_size': 2304,
            'intermediate_size': 9216,
            'num_hidden_layers': 26,
            'num_attention_heads': 8,
            'max_position_embeddings': 131072,
            'sliding_window_pattern': 6,
        },
        windowed=lambda config, layer: (layer + 1) % config['sliding_window_pattern'] != 0,
        features=('qk_norm', 'post_norms', 'norm_plus_one', 'scale_embeddings'),
        is_gemma=True,
        two_ropes=True,
        # Releases of transformers before 4.53 know no `layer_types`.
        extra=lambda architecture: {
            'attention_bias': False,
            'sliding_window_pattern': len(architecture.layer_pattern),
        },
    ),
}


def read_config(config: Fields) -> dict[str, Any]:
    """Returns the fields of an `Architecture` from the content of a `config.json`.

    Raises:
        UserError: a field is missing, or asks for something that is not supported.
    """
    config = _language_model(config)
    model_type = config['model_type']
    family = _FAMILIES[model_type]
    given = {name: value for name, value in config.items() if value is not None or name in _NULLABLE}
    config = {**_COMMON_DEFAULTS, **family.defaults, **given}
    fields = {name: _required(config, name) for name in _SIZES}
    fields['tie_word_embeddings'] = bool(fields['tie_word_embeddings'])
    heads = fields['num_attention_heads']
    key_heads, head_dim = config.get('num_key_value_heads'), config.get('head_dim')
    fields['num_key_value_heads'] = heads if key_heads is None else key_heads
    fields['head_dim'] = _derived_head_dim(fields['hidden_size'], heads) if head_dim is None else head_dim
    fields['sliding_window'], fields['windowed'] = _windows(config, family, fields['num_hidden_layers'])
    if family.two_ropes:
        theta, scaling, fields['local_rope_theta'] = read_two_ropes(config, *_GEMMA3_THETAS)
    else:
        theta, scaling = read_rope(config)
    fields.update(rope_theta=theta, rope_scaling=scaling, model_type=model_type)
    fields.update(dict.fromkeys(family.features, True))
    fields['hidden_act'] = config['hidden_activation' if family.is_gemma else 'hidden_act']
    if family.is_gemma:
        fields['query_scale'] = _query_scale(config['query_pre_attn_scalar'])
        fields['final_softcap'] = config.get('final_logit_softcapping')
        fields['attention_softcap'] = config.get('attn_logit_softcapping')
        if family.two_ropes and fields['attention_softcap'] is not None:
            # The field exists and transformers ignores it.
            raise UserError(f'attn_logit_softcapping of a {model_type} is not supported; use a checkpoint without')
    return fields


def write_config(architecture: 'Architecture') -> dict[str, Any]:
    """Returns the fields of a `config.json` that describe an architecture, for transformers 4.56 and later.

    Raises:
        UserError: no config of this `model_type` says what the architecture is.
    """
    if architecture.model_type not in _FAMILIES:
        raise UserError(f'model_type {architecture.model_type!r} is not known; use one of {", ".join(_FAMILIES)}')
    family = _FAMILIES[architecture.model_type]
    config = {
        'architectures': [family.model_class],
        'model_type': architecture.model_type,
        **{name: getattr(architecture, name) for name in (*_SIZES, 'num_key_value_heads', 'head_dim')},
        **write_rope(architecture.rope_theta, architecture.rope_scaling),
        'hidden_act': architecture.hidden_act,
        'attention_dropout': 0.0,
        **family.extra(architecture),
    }
    if architecture.windowed or 'sliding_window' in family.defaults:
        config['sliding_window'] = architecture.sliding_window
    if family.has_layer_types:
        names = {windowed: name for name, windowed in _KINDS.items()}
        windowed = architecture.windowed or (False,) * architecture.num_hidden_layers
        config['layer_types'] = [names[kind] for kind in windowed]
    if family.two_ropes:
        config['rope_local_base_freq'] = architecture.local_rope_theta
    if family.is_gemma:
        config['hidden_activation'] = architecture.hidden_act
        config['query_pre_attn_scalar'] = round(architecture.score_scale**-2)
        config['attn_logit_softcapping'] = architecture.attention_softcap
        config['final_logit_softcapping'] = architecture.final_softcap
    _check_said(architecture, config)
    return config


def _check_said(architecture: 'Architecture', config: Fields) -> None:
    """Checks that reading `config` gives `architecture` back."""
    read = read_config(config)
    unsaid = []
    for field in dataclasses.fields(architecture):
        value, said = getattr(architecture, field.name), read.get(field.name, field.default)
        if field.name == 'query_scale':  # None is another spelling of the default.
            value, said = architecture.score_scale, said or architecture.head_dim**-0.5
        if field.name == 'windowed':
            value = value if any(value) else ()
        if value != said:
            unsaid.append(f'{field.name} {getattr(architecture, field.name)!r}')
    if unsaid:
        raise UserError(
            f'a config.json of model_type {architecture.model_type!r} cannot say {", ".join(unsaid)}; '
            'choose the features of one model_type'
        )


def _language_model(config: Fields) -> Fields:
    """Returns the config of the language model, which may lie inside, once all it asks for is supported."""
    model_type, classes = config.get('model_type'), config.get('architectures')
    model_class = _CONDITIONAL_CLASS
    _refuse_unsupported(config)
    if model_type == _CONDITIONAL:
        config = _text_config(config)
    elif model_type in _FAMILIES:
        model_class = _FAMILIES[model_type].model_class
    else:
        known = ', '.join([*_FAMILIES, _CONDITIONAL])
        raise UserError(f'model_type {model_type!r} is not supported; use a checkpoint of one of {known}')
    if classes is not None and list(classes) != [model_class]:
        raise UserError(f'architectures {classes} is not supported; use a checkpoint of {model_class}')
    return config


def _text_config(config: Fields) -> Fields:
    text = config.get('text_config')
    if not isinstance(text, Mapping):
        raise UserError(
            f'the config of a {_CONDITIONAL} lacks text_config; use the config.json of a complete checkpoint'
        )
    _refuse_unsupported(text)
    if text.get('model_type', _TEXT_TYPE) != _TEXT_TYPE:
        raise UserError(f'text_config of model_type {text["model_type"]!r} is not supported; use one of {_TEXT_TYPE!r}')
    tied = {True if part.get('tie_word_embeddings') is None else part['tie_word_embeddings'] for part in (config, text)}
    if len(tied) > 1:
        raise UserError('tie_word_embeddings differs between the config and its text_config; make them the same')
    if text.get('final_logit_softcapping') is not None:
        raise UserError(f'final_logit_softcapping of a {_CONDITIONAL} is not supported; use a checkpoint without')
    return {**text, 'model_type': _TEXT_TYPE}


def _refuse_unsupported(config: Fields) -> None:
    for name, supported in _FIXED.items():
        value = config.get(name)
        if value is not None and value != supported:
            # The content of a quantization_config is long and beside the point.
            shown = 'set' if isinstance(value, Mapping) else repr(value)
            wanted = 'absent' if supported is None else repr(supported)
            raise UserError(f'{name} is {shown}, which is not supported; use a checkpoint where it is {wanted}')


def _windows(config: Fields, family: _Family, layers: Any) -> tuple[int | None, tuple[bool, ...]]:
    """Returns the window and which layers have it; (None, ()) if none has."""
    if type(layers) is not int:
        raise UserError(f'num_hidden_layers is {layers!r}; it must be a whole number of at least 1')
    windowed = tuple(family.windowed(config, layer) for layer in range(layers))
    given = config.get('layer_types')
    if given is not None:
        unknown = sorted({str(kind) for kind in given} - set(_KINDS))
        if unknown:
            raise UserError(f'layer_types {", ".join(unknown)} is not supported; only {", ".join(_KINDS)} are')
        kinds = tuple(_KINDS[kind] for kind in given)
        if len(kinds) != layers:
            raise UserError(f'layer_types names {len(kinds)} layers of {layers}; give one for each')
        if not family.has_layer_types and kinds != windowed:
            raise UserError(f'layer_types is not a field of model_type {config["model_type"]!r}; take it out')
        windowed = kinds
    if not any(windowed):
        return None, ()
    window = config.get('sliding_window') if config.get('use_sliding_window', True) else None
    if window is None:
        raise UserError('layer_types has sliding_attention and the config no sliding_window in use; give both')
    return window, windowed


def _query_scale(scalar: Any) -> float:
    if type(scalar) is not int or scalar < 1:
        raise UserError(f'query_pre_attn_scalar is {scalar!r}; it must be a whole number of at least 1')
    return float(scalar**-0.5)


def _derived_head_dim(hidden_size: Any, heads: Any) -> int:
    if not (isinstance(hidden_size, int) and isinstance(heads, int) and heads > 0 and hidden_size % heads == 0):
        raise UserError(
            f'hidden_size ({hidden_size}) is not a multiple of num_attention_heads ({heads}); give head_dim'
        )
    return hidden_size // heads


def _required(config: Fields, name: str) -> Any:
    if config.get(name) is None:
        raise UserError(f'the model config lacks {name}; use the config.json of a complete checkpoint')
    return config[name]
