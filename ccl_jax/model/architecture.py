"""What a decoder looks like: the numbers of a Hugging Face `config.json`, checked.

Supported is the Llama family: `model_type` "llama", `LlamaForCausalLM`. Whatever would
change the result and is not implemented is refused by name, never ignored.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ccl_jax.errors import UserError

_MODEL_TYPE = 'llama'
_CLASS = 'LlamaForCausalLM'
# Fields of the config that change the result, and the only value that the decoder implements.
_FIXED = {
    'hidden_act': 'silu',
    'attention_bias': False,
    'mlp_bias': False,
    'attention_dropout': 0,
    'partial_rotary_factor': 1,
    'quantization_config': None,
}


@dataclasses.dataclass(frozen=True)
class Llama3RopeScaling:
    """How Llama 3.1 and later stretch the wavelengths of the rotary embedding.

    Wavelengths longer than `original_max_position_embeddings / low_freq_factor` are
    multiplied by `factor`, shorter than `.../ high_freq_factor` kept, those between blended.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        _check_numbers(self)
        if self.high_freq_factor <= self.low_freq_factor:
            raise UserError('rope_scaling: high_freq_factor must be larger than low_freq_factor')


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The sizes of a decoder, under the names of `config.json`.

    Raises:
        UserError: the numbers contradict each other.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: Llama3RopeScaling | None = None
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        _check_numbers(self)
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f'num_attention_heads ({self.num_attention_heads}) must be a multiple of '
                f'num_key_value_heads ({self.num_key_value_heads})'
            )
        if self.head_dim % 2:
            raise UserError(f'head_dim is {self.head_dim}; rotary embeddings need an even number')

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> 'Architecture':
        """Reads the content of a `config.json`, as any version of transformers from 4 on writes it.

        Fields that are absent get the defaults of transformers' `LlamaConfig`.

        Raises:
            UserError: a field is missing, or asks for something that is not supported.
        """
        _refuse_unsupported(config)
        heads = _required(config, 'num_attention_heads')
        head_dim = config.get('head_dim')
        if head_dim is None:
            head_dim = _derived_head_dim(_required(config, 'hidden_size'), heads)
        theta, scaling = _rope(config)
        return cls(
            vocab_size=_required(config, 'vocab_size'),
            hidden_size=_required(config, 'hidden_size'),
            intermediate_size=_required(config, 'intermediate_size'),
            num_hidden_layers=_required(config, 'num_hidden_layers'),
            num_attention_heads=heads,
            num_key_value_heads=_default(config, 'num_key_value_heads', heads),
            head_dim=head_dim,
            max_position_embeddings=_default(config, 'max_position_embeddings', 2048),
            rms_norm_eps=_default(config, 'rms_norm_eps', 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            tie_word_embeddings=bool(_default(config, 'tie_word_embeddings', False)),
            initializer_range=_default(config, 'initializer_range', 0.02),
        )

    def to_hf(self) -> dict[str, Any]:
        """Returns the fields of a `config.json` that describe this architecture.

        Rotary parameters are spelt `rope_theta` and `rope_scaling`, which transformers 4 and 5 both read.
        """
        config = dataclasses.asdict(self)
        if self.rope_scaling is not None:
            config['rope_scaling'] = {'rope_type': 'llama3', **dataclasses.asdict(self.rope_scaling)}
        return {
            'architectures': [_CLASS],
            'model_type': _MODEL_TYPE,
            **config,
            'hidden_act': 'silu',
            'attention_bias': False,
            'mlp_bias': False,
        }

    def parameter_count(self) -> int:
        """Returns the number of parameters; tied embeddings count once."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_attention_heads + self.num_key_value_heads)
        feed_forward = 3 * self.hidden_size * self.intermediate_size
        layer = attention + feed_forward + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + self.hidden_size


def _check_numbers(record: Architecture | Llama3RopeScaling) -> None:
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.type is int and (type(value) is not int or value < 1):
            raise UserError(f'{field.name} is {value!r}; it must be a whole number of at least 1')
        if field.type is float and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise UserError(f'{field.name} is {value!r}; it must be a number above 0')


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    model_type = config.get('model_type')
    if model_type != _MODEL_TYPE:
        raise UserError(f'model_type {model_type!r} is not supported; use a checkpoint of model_type {_MODEL_TYPE!r}')
    classes = config.get('architectures') or [_CLASS]
    if list(classes) != [_CLASS]:
        raise UserError(f'architectures {classes} is not supported; use a checkpoint of {_CLASS}')
    for name, supported in _FIXED.items():
        value = config.get(name)
        if value is not None and value != supported:
            # The content of a quantization_config is long and beside the point.
            shown = 'set' if isinstance(value, Mapping) else repr(value)
            wanted = 'absent' if supported is None else repr(supported)
            raise UserError(f'{name} is {shown}, which is not supported; use a checkpoint where it is {wanted}')


def _rope(config: Mapping[str, Any]) -> tuple[float, Llama3RopeScaling | None]:
    """Reads both spellings: `rope_theta` + `rope_scaling`, and transformers 5's `rope_parameters`."""
    # The order of precedence is that of transformers' `convert_rope_params_to_dict`.
    rope = config.get('rope_scaling') or config.get('rope_parameters') or {}
    theta = _default(rope, 'rope_theta', _default(config, 'rope_theta', 10_000.0))
    if _default(rope, 'partial_rotary_factor', 1) != 1:
        raise UserError('partial_rotary_factor is not supported; use a checkpoint that rotates whole heads')
    rope_type = rope.get('rope_type', rope.get('type', 'default'))
    if rope_type == 'default':
        return theta, None
    if rope_type != 'llama3':
        raise UserError(f"rope type {rope_type!r} is not supported; use a checkpoint with 'default' or 'llama3'")
    names = [field.name for field in dataclasses.fields(Llama3RopeScaling)]
    return theta, Llama3RopeScaling(**{name: _required(rope, name) for name in names})


def _derived_head_dim(hidden_size: Any, heads: Any) -> int:
    if not (isinstance(hidden_size, int) and isinstance(heads, int) and heads > 0 and hidden_size % heads == 0):
        raise UserError(
            f'hidden_size ({hidden_size}) is not a multiple of num_attention_heads ({heads}); give head_dim'
        )
    return hidden_size // heads


def _required(config: Mapping[str, Any], name: str) -> Any:
    if config.get(name) is None:
        raise UserError(f'the model config lacks {name}; use the config.json of a complete checkpoint')
    return config[name]


def _default(config: Mapping[str, Any], name: str, default: Any) -> Any:
    value = config.get(name)
    return default if value is None else value
