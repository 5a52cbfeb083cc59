"""Whether a model's answer is the JSON that was asked for."""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

# Many models wrap JSON in a Markdown fence where the server does not constrain them.
_FENCE = re.compile(r'\s*```(?:json)?\s*\n(.*)\n\s*```\s*', re.DOTALL)


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises jsonschema.SchemaError for what is no JSON Schema (2020-12); the schema is code, not input."""
    Draft202012Validator.check_schema(schema)


def read_json(text: str, schema: Mapping[str, Any]) -> tuple[str | None, str]:
    """Returns (the JSON text, '') where it satisfies the schema, else (None, what is wrong).

    What is wrong is told to the model; it may quote the answer, so it goes into no log.
    """
    fenced = _FENCE.fullmatch(text)
    bare = fenced.group(1) if fenced else text
    try:
        value = json.loads(bare, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        return None, f'it is not JSON: {error.msg} at line {error.lineno}, column {error.colno}'
    except (ValueError, RecursionError):
        return None, 'it is not JSON'
    worst = best_match(_validator(json.dumps(schema, sort_keys=True)).iter_errors(value))
    return (bare, '') if worst is None else (None, _problem(worst))


@functools.lru_cache(maxsize=8)
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema))


def _problem(error: ValidationError) -> str:
    message = error.message if len(error.message) <= 300 else f'it breaks the rule "{error.validator}"'
    return f'{error.json_path}: {message}'


def _refuse_constant(name: str) -> None:
    raise ValueError(f'{name} is not JSON')
