"""What the frozen records of this room check about their numbers."""

import dataclasses
from typing import Any

from ccl_jax.errors import UserError


def check_numbers(record: Any) -> None:
    """Checks that every int or float field of a dataclass is a number above 0, or None where it may be.

    Raises:
        UserError: one isn't.
    """
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if value is None and field.type in (int | None, float | None):
            continue
        if field.type in (int, int | None) and (type(value) is not int or value < 1):
            raise UserError(f'{field.name} is {value!r}; it must be a whole number of at least 1')
        if field.type in (float, float | None) and not (_is_number(value) and value > 0):
            raise UserError(f'{field.name} is {value!r}; it must be a number above 0')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
