"""The tasks: what a prompt and its target look like, and how an answer is read back."""

import dataclasses

TASKS = ('document', 'span', 'lm')


@dataclasses.dataclass(frozen=True)
class TaskExample:
    """One training example as text.

    Attributes:
        example_id: unique in a data set, e.g. 'document:<doc_id>'.
        task: one of `TASKS`.
        prompt: text without loss; '' for `lm`.
        target: text with loss; the end-of-turn token is added when it is tokenised.
    """

    example_id: str
    task: str
    prompt: str
    target: str
