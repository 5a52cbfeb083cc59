"""The settings of the tasks; light to import, because every config holds them."""

import dataclasses
from collections.abc import Mapping

from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS
from ccl_jax.tasks.prompts import FORMATS, SHAPES, UNEVIDENCED

OVERLONG = ('truncate', 'windows', 'refuse')


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """Which tasks are trained and what their examples look like.

    Attributes:
        names: the tasks trained, of `TASKS`.
        output_format: 'blocks' or 'pairs'.
        evidence: whether answers quote evidence; without, they hold the codes alone (standard fine-tuning).
        unevidenced: what becomes of codes without evidence, see `document_example`.
        span_shapes: shape -> share of the span examples.
        spans_per_list: (least, most) spans of a `list` or `in_context` example.
        span_repeats: how many examples each span is in, grouped anew each time.
        context_characters: length of the unrelated text before an `in_context` list, at most.
        overlong: a document longer than the longest bucket is truncated (codes go
            with their evidence, counted), cut into overlapping windows, see
            `cut_into_windows`, or refused.
        window_overlap: characters that a window repeats of the one before, at most,
            in whole sentences; more where a piece of evidence would else be cut.
        processes: that make the examples, beside the main one; 0 for none. The
            examples do not depend on it.
    """

    names: tuple[str, ...] = ('document', 'span')
    output_format: str = 'pairs'
    evidence: bool = True
    unevidenced: str = 'keep'
    span_shapes: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {'single': 1.0, 'list': 0.0, 'in_context': 0.0}
    )
    spans_per_list: tuple[int, int] = (1, 5)
    span_repeats: int = 1
    context_characters: int = 400
    overlong: str = 'truncate'
    window_overlap: int = 400
    processes: int = 0

    def __post_init__(self) -> None:
        for name, value, choices in (
            ('output_format', self.output_format, FORMATS),
            ('unevidenced', self.unevidenced, UNEVIDENCED),
            ('overlong', self.overlong, OVERLONG),
            *(('names', name, TASKS) for name in self.names),
            *(('span_shapes', shape, SHAPES) for shape in self.span_shapes),
        ):
            if value not in choices:
                raise UserError(f'{name} has "{value}"; it must be one of {", ".join(choices)}')
        if not self.names:
            raise UserError(f'names is empty; name at least one task of {", ".join(TASKS)}')
        if min(self.span_shapes.values(), default=0) < 0 or not sum(self.span_shapes.values()) > 0:
            raise UserError('span_shapes must hold shares of 0 or more, and one of them above 0')
        if self.span_repeats < 1 or self.context_characters < 1:
            raise UserError('span_repeats and context_characters must be at least 1')
        if self.window_overlap < 0 or self.processes < 0:
            raise UserError('window_overlap and processes must be at least 0')
        if len(self.spans_per_list) != 2 or not 1 <= self.spans_per_list[0] <= self.spans_per_list[1]:
            raise UserError(f'spans_per_list is {self.spans_per_list}; give the least (at least 1) and the most')
