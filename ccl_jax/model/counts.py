"""How many parameters are trained and how many FLOPs a token costs: what the cost ledger reckons with.

FLOPs are those the mathematics needs, not those a program spends (arXiv 2204.02311, appendix B): 2 for each
multiply-add of a matrix product, and nothing for norms, rotations, softmax, activations and look-ups. What a
kernel computes and masks away, or recomputes in the backward pass, does not count. All parameters of an
`Architecture` are counted by its `parameter_count`.
"""

from typing import Literal

from ccl_jax.model.architecture import Architecture
from ccl_jax.model.settings import LoraSettings


def lora_parameter_count(architecture: Architecture, rank: int, targets: str) -> int:
    """Returns how many parameters adapters of `rank` have on the linears that the regex `targets` matches.

    Raises:
        UserError: the regex is none, or matches no linear.
    """
    shapes = linear_shapes(architecture)
    names = LoraSettings(rank=rank, targets=targets).names
    return architecture.num_hidden_layers * rank * sum(sum(shapes[name]) for name in names)


def flops_per_token(
    architecture: Architecture,
    row_length: int,
    *,
    backward: Literal['none', 'full', 'lora'] = 'none',
    lora_parameters: int = 0,
) -> float:
    """Returns the FLOPs of a token: the mean over the tokens of a text of `row_length` tokens.

    A token's query meets the keys up to its own, or up to a window of them, so half of the square of scores
    counts. The logits of every token count.

    Args:
        row_length: tokens of one segment; packed rows are as long as their segments here.
        backward: what is added to the forward pass. 'full' adds twice its FLOPs, since each product has
            a gradient for either factor. 'lora' adds no gradients of the frozen weights: those
            products count once more, attention and the adapters twice more.
        lora_parameters: of the adapters beside the linears, if there are any.
    """
    weights = architecture.num_hidden_layers * sum(
        rows * columns for rows, columns in linear_shapes(architecture).values()
    )
    weights += architecture.hidden_size * architecture.vocab_size
    query_size = architecture.num_attention_heads * architecture.head_dim
    windows = [architecture.sliding_window if windowed else None for windowed in architecture.windowed]
    windows += [None] * (architecture.num_hidden_layers - len(windows))
    # Per key that is seen: a product of query and key, and one of weight and value.
    attention = sum(2 * query_size * mean_keys(row_length, window) for window in windows)
    of_weights, of_others = {'none': (1, 1), 'full': (3, 3), 'lora': (2, 3)}[backward]
    return 2 * (of_weights * weights + of_others * (attention + lora_parameters))


def text_flops(architecture: Architecture, length: int, lora: LoraSettings | None = None) -> tuple[float, float]:
    """Returns the FLOPs of training on a text of `length` tokens, forward and backward.

    Args:
        lora: the adapters that are trained; None (or not enabled) where all weights are.
    """
    backward: Literal['full', 'lora'] = 'full'
    adapters = 0
    if lora is not None and lora.enabled:
        backward, adapters = 'lora', lora_parameter_count(architecture, lora.rank, lora.targets)
    forward = length * flops_per_token(architecture, length, lora_parameters=adapters)
    both = length * flops_per_token(architecture, length, backward=backward, lora_parameters=adapters)
    return forward, both - forward


def generation_flops(architecture: Architecture, prompt_tokens: int, fed_tokens: int) -> float:
    """Returns the FLOPs of continuing a prompt with a key/value cache.

    Every token is fed once; only the last one of the prompt and those after it need logits. Adapters count
    nothing, since they can be added into the weights.

    Args:
        fed_tokens: tokens of the answer that were fed in, to get the one after: all but the last that was chosen.
    """
    tokens = prompt_tokens + fed_tokens
    needless_logits = 2 * (prompt_tokens - 1) * architecture.hidden_size * architecture.vocab_size
    return tokens * flops_per_token(architecture, tokens) - needless_logits


def mean_keys(length: int, window: int | None = None) -> float:
    """Returns how many keys a query sees, the mean over a text of `length` tokens."""
    seen = length if window is None else min(window, length)
    # The first `seen` queries see 1, 2, ..., `seen` keys and all others `seen`.
    return (seen * (seen + 1) / 2 + (length - seen) * seen) / length


def linear_shapes(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """Returns (inputs, outputs) of each linear of a layer, by the decoder's names."""
    hidden, inner = architecture.hidden_size, architecture.intermediate_size
    query_size = architecture.num_attention_heads * architecture.head_dim
    key_size = architecture.num_key_value_heads * architecture.head_dim
    return {
        'query': (hidden, query_size),
        'key': (hidden, key_size),
        'value': (hidden, key_size),
        'output': (query_size, hidden),
        'gate': (hidden, inner),
        'up': (hidden, inner),
        'down': (inner, hidden),
    }
