"""Properties of records: what goes out comes back, and offsets mean characters of the text."""

import json
import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ccl_jax.icd.codes import normalize_code
from ccl_jax.records import (
    TIERS,
    Annotation,
    Document,
    Evidence,
    PredictedCode,
    Prediction,
    RecordError,
    Span,
    document_from_json,
    document_to_json,
    prediction_from_json,
    prediction_to_json,
    read_jsonl,
    slice_evidence,
    span_from_json,
    span_to_json,
    write_jsonl,
)

# Strings without lone surrogates, which UTF-8 cannot hold.
_texts = st.text(st.characters(exclude_categories=['Cs']), min_size=1).filter(str.strip)
_codes = st.from_regex(r'[A-Z][0-9][0-9A-Z]([0-9A-Z]{1,4})?', fullmatch=True).map(normalize_code)


@st.composite
def _parts(draw, length):
    begin = draw(st.integers(0, length - 1))
    return begin, draw(st.integers(begin + 1, length))


@st.composite
def _documents(draw):
    text = draw(_texts)
    annotations = []
    for code in draw(st.lists(_codes, unique=True, max_size=4)):
        evidence = []
        for parts in draw(
            st.lists(st.lists(_parts(len(text)), min_size=1, max_size=3).map(tuple), max_size=3, unique=True)
        ):
            evidence.append(
                Evidence(parts, slice_evidence(text, parts), draw(st.sampled_from(['', 'silver: title of R05'])))
            )
        annotations.append(Annotation(code, evidence=tuple(evidence)))
    names = st.sampled_from(['', 'x', 'y'])
    return Document(draw(_texts), text, tuple(annotations), 'group', draw(names), draw(names), draw(names))


@given(_documents())
def test_documents_survive_json(document):
    assert document_from_json(json.loads(json.dumps(document_to_json(document)))) == document


@given(_texts, _texts, _codes, st.sampled_from(TIERS), st.text(string.printable))
def test_spans_survive_json(span_id, text, code, tier, provenance):
    span = Span(span_id, text, code, tier, provenance)
    assert span_from_json(json.loads(json.dumps(span_to_json(span)))) == span


@given(st.lists(st.tuples(_codes, st.none() | st.floats(allow_nan=False, allow_infinity=False), _texts), max_size=3))
def test_predictions_survive_json(items):
    codes = tuple(PredictedCode(code, score=score, evidence=(Evidence((), text),)) for code, score, text in items)
    prediction = Prediction('a', codes)
    assert prediction_from_json(json.loads(json.dumps(prediction_to_json(prediction)))) == prediction


@given(records=st.lists(st.dictionaries(_texts, _texts, max_size=3), max_size=4))
def test_jsonl_survives_any_text(tmp_path_factory, records):
    """Line separators inside strings (U+2028, U+0085) do not end a line."""
    path = tmp_path_factory.mktemp('jsonl') / 'records.jsonl'
    assert write_jsonl(path, records) == len(records)
    assert [record for _, record in read_jsonl(path)] == records
    assert [file.name for file in path.parent.iterdir()] == ['records.jsonl']


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_damaged_records_are_refused_and_nothing_else(data):
    """A record with one field replaced by anything is read or refused with a RecordError."""
    record = {
        'doc_id': 'a',
        'group_id': 'g',
        'text': 'Cough',
        'language': 'en',
        'split': 'dev',
        'span_id': 's',
        'tier': 'gold',
        'provenance': 'title',
        'code': 'R05',
        'codes': [
            {'code': 'R05', 'system': 'ICD-10-CM', 'score': 1.0, 'evidence': [{'parts': [[0, 5]], 'text': 'Cough'}]}
        ],
    }
    place = data.draw(st.sampled_from([record, record['codes'][0], record['codes'][0]['evidence'][0]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    for convert, back in (
        (document_from_json, document_to_json),
        (prediction_from_json, prediction_to_json),
        (span_from_json, span_to_json),
    ):
        try:
            converted = convert(record)
        except RecordError:
            continue
        json.dumps(back(converted), ensure_ascii=False, allow_nan=False).encode()


def _read(text: str, *quotes: dict) -> tuple[Evidence, ...]:
    """Sends a document with one code through JSON text, as a file would hold it."""
    record = {'doc_id': 'a', 'text': text, 'codes': [{'code': 'R05', 'evidence': list(quotes)}]}
    return document_from_json(json.loads(json.dumps(record))).annotations[0].evidence


@given(st.data())
def test_offsets_count_characters(data):
    """Not bytes and not UTF-16 units; the characters are picked one by one here."""
    text = data.draw(_texts)
    parts = data.draw(st.lists(_parts(len(text)), min_size=1, max_size=3))
    (evidence,) = _read(text, {'parts': [list(part) for part in parts]})
    characters = list(text)
    assert evidence.parts == tuple(parts)
    assert evidence.text == ' '.join(''.join(characters[i] for i in range(begin, end)) for begin, end in parts)


@given(_texts, st.integers(-3, 30), st.integers(-3, 30))
@example('\N{GRINNING FACE}', 0, 2)
def test_exactly_the_offsets_inside_the_text_are_accepted(text, begin, end):
    inside = begin >= 0 and end > begin and end <= len(text)
    if inside:
        assert len(_read(text, {'parts': [[begin, end]]})) == 1
    else:
        with pytest.raises(RecordError) as refused:
            _read(text, {'parts': [[begin, end]]})
        assert refused.value.reason == 'offsets outside the text'


@given(st.data(), st.text(st.characters(exclude_categories=['Cs']), max_size=20))
def test_offsets_move_with_the_text(data, before):
    text = data.draw(_texts)
    begin, end = data.draw(_parts(len(text)))
    (here,) = _read(text, {'parts': [[begin, end]]})
    (there,) = _read(before + text, {'parts': [[begin + len(before), end + len(before)]]})
    assert here.text == there.text


@given(st.data())
def test_a_quote_off_by_a_letter_is_noticed(data):
    """A reader that counted otherwise would be one letter off, and letters are compared."""
    text = data.draw(st.text(string.ascii_letters, min_size=3))
    begin, end = data.draw(_parts(len(text) - 1))
    assume(text[begin:end] != text[begin + 1 : end + 1])
    quote = {'parts': [[begin, end]], 'text': text[begin + 1 : end + 1]}
    with pytest.raises(RecordError, match='differs from the document'):
        _read(text, quote)
