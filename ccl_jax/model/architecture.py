"""What a decoder looks like: the numbers of a Hugging Face `config.json`, checked.

Supported are Llama 3, Mistral, Qwen 2 and 3, Gemma 2, and the text part of Gemma 3. Whatever would
change the result and is not implemented is refused by name, never ignored.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.model.checks import check_numbers
from ccl_jax.model.config_json import read_config, write_config
from ccl_jax.model.rope import LinearRopeScaling, Llama3RopeScaling, RopeScaling

__all__ = ['ACTIVATIONS', 'Architecture', 'LinearRopeScaling', 'Llama3RopeScaling', 'RopeScaling']

ACTIVATIONS = ('silu', 'gelu_pytorch_tanh')


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The sizes and features of a decoder, under the names of `config.json` where that has one.

    Attributes:
        rope_theta, rope_scaling: rotary positions; in layers with a window too unless
            `local_rope_theta` is given, which is not scaled.
        model_type: of the `config.json`; it decides no more than how configs and weights are spelt.
        hidden_act: the activation of the feed-forward block's gate, one of `ACTIVATIONS`.
        qkv_bias: queries, keys and values have a bias.
        qk_norm: queries and keys are normed, head by head, before they are rotated.
        post_norms: the output of a block is normed before it is added.
        norm_plus_one: norms multiply by 1 + weight instead of weight.
        scale_embeddings: embeddings are multiplied by sqrt(hidden_size).
        query_scale: factor of the attention scores; None for head_dim ** -0.5.
        attention_softcap, final_softcap: soft-caps of attention scores and of logits.
        sliding_window: in a layer with a window a token sees itself and the `sliding_window - 1` before it.
        windowed: which layers have a window, one bool a layer; () if none has.

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
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    model_type: str = 'llama'
    hidden_act: str = 'silu'
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    norm_plus_one: bool = False
    scale_embeddings: bool = False
    query_scale: float | None = None
    attention_softcap: float | None = None
    final_softcap: float | None = None
    sliding_window: int | None = None
    windowed: tuple[bool, ...] = ()
    local_rope_theta: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f'num_attention_heads ({self.num_attention_heads}) must be a multiple of '
                f'num_key_value_heads ({self.num_key_value_heads})'
            )
        if self.head_dim % 2:
            raise UserError(f'head_dim is {self.head_dim}; rotary embeddings need an even number')
        if self.hidden_act not in ACTIVATIONS:
            known = ', '.join(ACTIVATIONS)
            raise UserError(f'hidden_act {self.hidden_act!r} is not supported; use a checkpoint with one of {known}')
        if self.windowed and len(self.windowed) != self.num_hidden_layers:
            raise UserError(
                f'windowed names {len(self.windowed)} layers of {self.num_hidden_layers}; give one for each'
            )
        if any(self.windowed) != (self.sliding_window is not None):
            raise UserError('sliding_window and layers with a window need each other; give both or neither')

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> 'Architecture':
        """Reads the content of a `config.json`, as any version of transformers from 4 on writes it.

        Fields that are absent get the defaults of transformers' config class. Of a model with a vision
        part, only the language model is read.

        Raises:
            UserError: a field is missing, or asks for something that is not supported.
        """
        return cls(**read_config(config))

    def to_hf(self) -> dict[str, Any]:
        """Returns the fields of a `config.json` that describe this architecture.

        Rotary parameters are spelt `rope_theta` and `rope_scaling`, which transformers 4 and 5 both read.

        Raises:
            UserError: no config of this `model_type` says these features.
        """
        return write_config(self)

    @property
    def score_scale(self) -> float:
        """The factor of the attention scores."""
        return self.head_dim**-0.5 if self.query_scale is None else self.query_scale

    @property
    def layer_pattern(self) -> tuple[bool, ...]:
        """The shortest period of `windowed`; layers after the last whole period begin it again."""
        windowed = self.windowed or (False,)
        return next(
            windowed[:period]
            for period in range(1, len(windowed) + 1)
            if all(kind == windowed[layer % period] for layer, kind in enumerate(windowed))
        )

    def parameter_count(self) -> int:
        """Returns the number of parameters; tied embeddings count once."""
        hidden, heads, key_heads = self.hidden_size, self.num_attention_heads, self.num_key_value_heads
        layer = 2 * hidden * self.head_dim * (heads + key_heads) + 3 * hidden * self.intermediate_size
        layer += (4 if self.post_norms else 2) * hidden
        layer += 2 * self.head_dim if self.qk_norm else 0
        layer += (heads + 2 * key_heads) * self.head_dim if self.qkv_bias else 0
        embeddings = self.vocab_size * hidden * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + hidden
