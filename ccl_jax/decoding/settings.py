"""How documents are decoded; light to import, because every config holds some of it."""

import dataclasses

from ccl_jax.errors import UserError

CONSTRAINTS = ('codes', 'evidence', 'format')
OVERLONG = ('windows', 'truncate')
# Headings alone, and in the worst case a token each byte: an answer that is held to a format must have this room.
LEAST_NEW_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class DecodingSettings:
    """How documents become predictions.

    Attributes:
        output_format: that of the training, 'blocks' or 'pairs'.
        buckets: prompt lengths that are compiled for.
        max_new_tokens: of an answer at most.
        batch_rows: prompts decoded at once.
        constrain: what an answer is held to, of `CONSTRAINTS`: `codes` that are listed, `evidence` that is
            verbatim in the document, the `format`; () for free text.
        overlong: a document longer than the longest bucket is decoded in overlapping 'windows', whose answers
            are merged, or its end is left out ('truncate'); both are counted.
        window_overlap: characters that a window repeats of the one before, at most.
        recheck: whether each quote is coded again by itself, in the span task.
    """

    output_format: str
    buckets: tuple[int, ...]
    max_new_tokens: int
    batch_rows: int
    constrain: tuple[str, ...] = CONSTRAINTS
    overlong: str = 'windows'
    window_overlap: int = 400
    recheck: bool = False


def check_choices(constrain: tuple[str, ...], overlong: str, max_new_tokens: int) -> None:
    """Raises UserError where a name is not one of the choices, or a constrained answer could not be closed."""
    if constrain and max_new_tokens < LEAST_NEW_TOKENS:
        raise UserError(
            f'max_new_tokens is {max_new_tokens}; a constrained answer needs at least {LEAST_NEW_TOKENS}: raise it, or '
            'set constrain to ()'
        )
    for field, values, choices in (('constrain', constrain, CONSTRAINTS), ('overlong', (overlong,), OVERLONG)):
        for value in values:
            if value not in choices:
                raise UserError(f'{field} has "{value}"; it must be one of {", ".join(choices)}')
