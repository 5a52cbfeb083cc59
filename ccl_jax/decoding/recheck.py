"""A second look: each quote of an answer is coded again by itself, in the span task.

Where an answer lists quotes and codes apart (`blocks`), that also says which quote belongs to which code.
"""

import dataclasses
from collections.abc import Mapping

from ccl_jax.records import Prediction
from ccl_jax.tasks.parser import Answer
from ccl_jax.tasks.prompts import Item


def quotes_of(answer: Answer) -> list[str]:
    """Returns the quotes of an answer to be looked at again: those of its items, or those that belong to no code."""
    return [item.quote for item in answer.items if item.quote] or list(answer.quotes)


def linked(answer: Answer, codes: Mapping[str, str | None]) -> Answer:
    """Gives quotes that belong to no code to the code that the span task gave them, where the answer has it.

    Args:
        codes: quote -> its code in the span task, None where there was none.

    Returns:
        The answer; what it links already stays as it is.
    """
    if not answer.quotes or any(item.quote for item in answer.items):
        return answer
    items: list[Item] = []
    lines: list[int] = []
    for item, line in zip(answer.items, answer.lines, strict=True):
        quotes = [quote for quote in dict.fromkeys(answer.quotes) if codes.get(quote) == item.code] or ['']
        items += [Item(quote, item.code) for quote in quotes]
        lines += [line] * len(quotes)
    return dataclasses.replace(answer, items=tuple(items), lines=tuple(lines))


def with_second_look(prediction: Prediction, answer: Answer, codes: Mapping[str, str | None]) -> Prediction:
    """Returns the prediction made from `answer` with what the span task gave for the quotes of each code."""
    looked: dict[str, dict[str, None]] = {}
    for item in answer.items:
        again = codes.get(item.quote)
        if again is not None:
            looked.setdefault(item.code, {})[again] = None
    return dataclasses.replace(
        prediction,
        codes=tuple(dataclasses.replace(code, rechecked=tuple(looked.get(code.code, ()))) for code in prediction.codes),
    )


def unlinked(answer: Answer) -> int:
    """How many quotes belong to no code."""
    quoted = {item.quote for item in answer.items}
    return sum(quote not in quoted for quote in answer.quotes)
