"""Which answers are the JSON that was asked for, by hand and over random schemas."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import SchemaError

from ccl_jax.expansion.endpoint.schema import check_schema, read_json
from tests.expansion.chat_server import instance
from tests.expansion.endpoint_helpers import QUOTES

PERSON = {
    'type': 'object',
    'properties': {'age': {'type': 'integer'}, 'side': {'enum': ['left', 'right', None]}},
    'required': ['age'],
    'additionalProperties': {'type': 'array', 'items': {'type': 'number'}, 'minItems': 1, 'maxItems': 2},
}


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('{"age": 3}', ''),
        ('{"age": 3.0, "side": null}', ''),
        ('{"age": 3, "more": [1, 2.5]}', ''),
        ('```json\n{"age": 3}\n```', ''),
        ('{"age": 3', 'it is not JSON'),
        ('Here it is: {"age": 3}', 'it is not JSON'),
        ('', 'it is not JSON'),
        ('[' * 100_000, 'it is not JSON'),
        ('{"age": NaN}', 'it is not JSON'),
        ('{"side": "left"}', "$: 'age' is a required property"),
        ('{"age": true}', "$.age: True is not of type 'integer'"),
        ('{"age": 3.5}', "$.age: 3.5 is not of type 'integer'"),
        ('{"age": "3"}', "$.age: '3' is not of type 'integer'"),
        ('{"age": 3, "side": "up"}', "$.side: 'up' is not one of"),
        ('{"age": 3, "side": 0}', '$.side: 0 is not one of'),
        ('{"age": 3, "more": []}', '$.more: []'),
        ('{"age": 3, "more": [1, 2, 3]}', '$.more: [1, 2, 3] is too long'),
        ('{"age": 3, "more": [1, false]}', "$.more[1]: False is not of type 'number'"),
        ('[3]', "$: [3] is not of type 'object'"),
        ('null', "$: None is not of type 'object'"),
    ],
)
def test_json_is_checked(text, problem):
    found, said = read_json(text, PERSON)
    assert said.startswith(problem)
    assert bool(said) == bool(problem)
    assert (found is None) == bool(problem)
    if found is not None:
        assert json.loads(found)['age'] == 3


def test_an_unexpected_property_is_named():
    assert read_json('{"quotes": [], "x": 1}', QUOTES) == (
        None,
        "$: Additional properties are not allowed ('x' was unexpected)",
    )


_SCHEMAS = st.recursive(
    st.sampled_from([{'type': kind} for kind in ('string', 'integer', 'number', 'boolean', 'null')]),
    lambda inner: (
        st.builds(lambda item, least: {'type': 'array', 'items': item, 'minItems': least}, inner, st.integers(0, 2))
        | st.dictionaries(st.sampled_from('abc'), inner).map(
            lambda parts: {'type': 'object', 'properties': parts, 'required': list(parts)}
        )
    ),
    max_leaves=6,
)


@given(_SCHEMAS)
def test_an_instance_of_a_schema_satisfies_it(schema):
    check_schema(schema)
    value = instance(schema, 'three words long')
    assert read_json(json.dumps(value), schema)[1] == ''
    # Of another type at the top it never does.
    assert read_json('"x"' if schema['type'] != 'string' else '3', schema)[0] is None
    if value and isinstance(value, dict):
        del value[next(iter(value))]
        assert 'required' in read_json(json.dumps(value), schema)[1]


def test_a_schema_that_is_none_is_refused():
    with pytest.raises(SchemaError):
        check_schema({'type': 'array', 'items': {'type': 'text'}})


def test_a_problem_is_told_in_a_few_words():
    assert len(read_json(json.dumps({'age': 'x' * 10_000}), PERSON)[1]) < 100
