"""Which tensor of a Hugging Face checkpoint is which parameter of `Decoder`: one table a `model_type`, both ways."""

import dataclasses
import re
from collections.abc import Iterable, Mapping

# (tensor, parameter, whether one is the other's transpose). '{layer}' counts the layers, which the parameter
# stacks. Linear weights are [out, in] there and [in, out] here.
_Row = tuple[str, str, bool]

_ENDS: tuple[_Row, ...] = (
    ('model.embed_tokens.weight', 'embedding', False),
    ('model.norm.weight', 'final_norm', False),
    ('lm_head.weight', 'lm_head', True),
)
_PRODUCTS: tuple[_Row, ...] = (
    ('model.layers.{layer}.self_attn.q_proj.weight', 'layers/query', True),
    ('model.layers.{layer}.self_attn.k_proj.weight', 'layers/key', True),
    ('model.layers.{layer}.self_attn.v_proj.weight', 'layers/value', True),
    ('model.layers.{layer}.self_attn.o_proj.weight', 'layers/output', True),
    ('model.layers.{layer}.mlp.gate_proj.weight', 'layers/gate', True),
    ('model.layers.{layer}.mlp.up_proj.weight', 'layers/up', True),
    ('model.layers.{layer}.mlp.down_proj.weight', 'layers/down', True),
)
_TWO_NORMS: tuple[_Row, ...] = (
    ('model.layers.{layer}.input_layernorm.weight', 'layers/attention_norm', False),
    ('model.layers.{layer}.post_attention_layernorm.weight', 'layers/mlp_norm', False),
)
_FOUR_NORMS: tuple[_Row, ...] = (
    ('model.layers.{layer}.input_layernorm.weight', 'layers/attention_norm', False),
    ('model.layers.{layer}.post_attention_layernorm.weight', 'layers/attention_post_norm', False),
    ('model.layers.{layer}.pre_feedforward_layernorm.weight', 'layers/mlp_norm', False),
    ('model.layers.{layer}.post_feedforward_layernorm.weight', 'layers/mlp_post_norm', False),
)
_BIASES: tuple[_Row, ...] = (
    ('model.layers.{layer}.self_attn.q_proj.bias', 'layers/query_bias', False),
    ('model.layers.{layer}.self_attn.k_proj.bias', 'layers/key_bias', False),
    ('model.layers.{layer}.self_attn.v_proj.bias', 'layers/value_bias', False),
)
_HEAD_NORMS: tuple[_Row, ...] = (
    ('model.layers.{layer}.self_attn.q_norm.weight', 'layers/query_norm', False),
    ('model.layers.{layer}.self_attn.k_norm.weight', 'layers/key_norm', False),
)

TABLES: Mapping[str, tuple[_Row, ...]] = {
    'llama': _ENDS + _PRODUCTS + _TWO_NORMS,
    'mistral': _ENDS + _PRODUCTS + _TWO_NORMS,
    'qwen2': _ENDS + _PRODUCTS + _TWO_NORMS + _BIASES,
    'qwen3': _ENDS + _PRODUCTS + _TWO_NORMS + _HEAD_NORMS,
    'gemma2': _ENDS + _PRODUCTS + _FOUR_NORMS,
    'gemma3_text': _ENDS + _PRODUCTS + _FOUR_NORMS + _HEAD_NORMS,
}

# Checkpoints with images (Gemma 3, MedGemma) hold the decoder under one of two spellings, beside the vision tower.
_TEXT_PART = re.compile(r'^language_model\.(?=model\.|lm_head\.)|(?<=^model\.)language_model\.')
_VISION = re.compile(r'(model\.)?(vision_tower|multi_modal_projector)\..*')
# Written by some checkpoints although they follow from the config.
_REDUNDANT = re.compile(r'(.*\.)?rotary_emb\.inv_freq')
_REDUNDANT_IF_TIED = re.compile(r'lm_head\.weight')


@dataclasses.dataclass(frozen=True)
class Source:
    """A parameter and the tensors that it is made of: one, or one a layer.

    Attributes:
        path: of the parameter, e.g. 'layers/query'.
        shape: of the parameter, e.g. [L, D, N*H].
        names: of the tensors, in the order of the layers.
        stacked: the parameter's first axis counts the layers.
        transposed: a tensor is the transpose of a layer's part of the parameter.
    """

    path: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    stacked: bool
    transposed: bool

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of each tensor."""
        shape = self.shape[1:] if self.stacked else self.shape
        return shape[::-1] if self.transposed else shape


def sources_of(model_type: str, shapes: Mapping[str, tuple[int, ...]]) -> list[Source]:
    """Returns where each parameter comes from (or goes to), in the order of the table.

    Args:
        model_type: of the architecture.
        shapes: of every parameter of the decoder, by path.
    """
    table = TABLES[model_type]
    unknown = shapes.keys() - {path for _, path, _ in table}
    if unknown:
        raise AssertionError(f'the table of {model_type} has no row for {", ".join(sorted(unknown))}')
    sources = []
    for tensor, path, transposed in table:
        if path in shapes:
            shape, stacked = tuple(shapes[path]), '{layer}' in tensor
            names = tuple(tensor.format(layer=layer) for layer in range(shape[0] if stacked else 1))
            sources.append(Source(path, shape, names, stacked, transposed))
    return sources


def text_name(name: str) -> str:
    """Returns the name of a tensor as a checkpoint of text alone spells it."""
    return _TEXT_PART.sub('', name, count=1)


def skipped(names: Iterable[str], tied: bool) -> dict[str, list[str]]:
    """Returns the tensors that no parameter needs, by the reason.

    Args:
        names: of tensors without a parameter.
        tied: whether the embedding serves as the output's weights.
    """
    reasons: dict[str, list[str]] = {'vision': [], 'redundant': []}
    for name in names:
        if _VISION.fullmatch(name):
            reasons['vision'].append(name)
        elif _REDUNDANT.fullmatch(name) or (tied and _REDUNDANT_IF_TIED.fullmatch(text_name(name))):
            reasons['redundant'].append(name)
    return {reason: found for reason, found in reasons.items() if found}
