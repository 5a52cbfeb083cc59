"""Records and normal forms of codes: hand-worked cases and properties."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import SYSTEMS, normalize_code
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
    same_words,
    slice_evidence,
    span_from_json,
    span_to_json,
    write_jsonl,
)


@pytest.mark.parametrize(
    ('code', 'system', 'normal'),
    [
        ('i10', 'ICD-10-CM', 'I10'),
        ('i10.', 'ICD-10-CM', 'I10'),
        (' i109. ', 'ICD-10-CM', 'I10.9'),
        ('u071', 'ICD-10-CM', 'U07.1'),
        ('w19.xxx', 'ICD-10-CM', 'W19.XXX'),
        ('S52521A', 'ICD-10-CM', 'S52.521A'),
        ('c7a.00', 'ICD-10-CM', 'C7A.00'),
        ('0389', 'ICD-9-CM', '038.9'),
        ('401', 'ICD-9-CM', '401'),
        ('v1083', 'ICD-9-CM', 'V10.83'),
        ('e8490', 'ICD-9-CM', 'E849.0'),
        ('E849', 'ICD-9-CM', 'E849'),
        ('0066', 'ICD-9-PCS', '00.66'),
        ('3893', 'ICD-9-PCS', '38.93'),
        ('bw03zzz', 'ICD-10-PCS', 'BW03ZZZ'),
        ('99213', 'CPT', '99213'),
        (' . ', 'ICD-10-CM', ''),
    ],
)
def test_normal_forms(code, system, normal):
    assert normalize_code(code, system) == normal


def test_unknown_system():
    with pytest.raises(ValueError, match="unknown code system 'ICD-11'"):
        normalize_code('1A00', 'ICD-11')


@given(st.text(), st.sampled_from(SYSTEMS))
def test_a_normal_form_is_its_own_normal_form(code, system):
    normal = normalize_code(code, system)
    assert normalize_code(normal, system) == normal


@given(st.text(string.ascii_letters + string.digits, min_size=1, max_size=8), st.sampled_from(SYSTEMS), st.data())
def test_case_dots_and_spaces_do_not_matter(bare, system, data):
    noise = st.text(' .\t', max_size=2)
    noisy = ''.join(data.draw(noise) + data.draw(st.sampled_from((c.lower(), c.upper()))) for c in bare)
    normal = normalize_code(noisy, system)
    assert normal == normalize_code(bare, system)
    assert normal.replace('.', '') == bare.upper()


@given(st.text(), st.text(' .,;-()\n_', max_size=5), st.integers(0, 100))
def test_white_space_and_punctuation_are_insignificant(text, noise, position):
    position = min(position, len(text))
    assert same_words(text[:position] + noise + text[position:], text)


def test_words_are_significant():
    assert not same_words('no fever', 'fever')
    assert not same_words('fiebre', 'Fiebre')
    assert not same_words('type 1', 'type 2')


# Strings without lone surrogates, which UTF-8 cannot hold.
_texts = st.text(st.characters(exclude_categories=['Cs']), min_size=1).filter(str.strip)
_codes = st.text(string.ascii_letters + string.digits, min_size=3, max_size=7).map(normalize_code)


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
            evidence.append(Evidence(parts, slice_evidence(text, parts)))
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


def test_defaults_of_a_document():
    document = document_from_json({'doc_id': 'a', 'text': 'Cough', 'group_id': None, 'codes': None, 'language': None})
    assert document == Document('a', 'Cough', group_id='a', language='en', source='jsonl')
    assert document_from_json({'doc_id': 'a', 'text': 'Cough', 'group_id': ''}).group_id == 'a'


def test_a_code_listed_twice_is_one_annotation():
    cough = {'code': 'r05', 'evidence': [{'parts': [[0, 5]]}]}
    other = {'code': 'R05', 'evidence': [{'parts': [[6, 11]]}, {'parts': [[0, 5]]}]}
    document = document_from_json({'doc_id': 'a', 'text': 'Cough cough', 'codes': [cough, {'code': 'I10'}, other]})
    evidence = (Evidence(((0, 5),), 'Cough'), Evidence(((6, 11),), 'cough'))
    assert document.annotations == (Annotation('R05', evidence=evidence), Annotation('I10'))


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'doc_id': ' '}, '"doc_id" is empty'),
        ({'text': None}, '"text" is missing'),
        ({'text': 5}, '"text" must be a string'),
        ({'text': 'Cough \ud83d'}, '"text" holds half of a surrogate pair at character 6'),
        ({'codes': {}}, '"codes" must be a list'),
        ({'codes': ['R05']}, r'codes\[0\] is not an object'),
        ({'codes': [{'code': '.'}]}, r'codes\[0\]: "code" is empty'),
        ({'codes': [{'code': 'R05', 'system': 'ICD-11'}]}, r'codes\[0\]: "system" must be one of ICD-10-CM'),
    ],
)
def test_bad_documents(changes, reason):
    with pytest.raises(RecordError, match=f'^{reason}'):
        document_from_json({'doc_id': 'a', 'text': 'Cough and fever', **changes})


@pytest.mark.parametrize(
    ('evidence', 'reason'),
    [
        ('Cough', 'is not an object'),
        ({'text': 'Cough'}, '"parts" is missing'),
        ({'parts': []}, '"parts" is empty'),
        ({'parts': [[0]]}, r'a part must be \[begin, end\] in whole numbers'),
        ({'parts': [[0, 5.0]]}, r'a part must be \[begin, end\]'),
        ({'parts': [[False, True]]}, r'a part must be \[begin, end\]'),
        ({'parts': [[5, 5]]}, r'part \[5, 5\] is empty or negative'),
        ({'parts': [[-5, 5]]}, r'part \[-5, 5\] is empty or negative'),
        ({'parts': [[0, 16]]}, r'part \[0, 16\] ends outside the text of 15 characters'),
        ({'parts': [[0, 5]], 'text': 'Fever'}, r'"text" differs from the document at \[\(0, 5\)\]$'),
    ],
)
def test_bad_evidence(evidence, reason):
    codes = [{'code': 'R05', 'evidence': [evidence]}]
    with pytest.raises(RecordError, match=reason):
        document_from_json({'doc_id': 'a', 'text': 'Cough and fever', 'codes': codes})


@pytest.mark.parametrize('score', ['high', True, float('nan'), float('-inf'), 10**400, [1]])
def test_bad_scores(score):
    with pytest.raises(RecordError, match='"score" must be a finite number'):
        prediction_from_json({'doc_id': 'a', 'codes': [{'code': 'R05', 'score': score}]})


@pytest.mark.parametrize(
    ('line', 'reason'),
    [
        (b'{"a": ', 'is not JSON'),
        (b'7', 'is not a JSON object'),
        (b'{"a": "\xff"}', 'is not UTF-8 text'),
        (b'[' * 200_000, 'is not usable JSON'),
        (b'{"a": 1' + b'0' * 5000 + b'}', 'is not usable JSON'),
    ],
)
def test_bad_lines(tmp_path, line, reason):
    path = tmp_path / 'records.jsonl'
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n' + line + b'\r\n{"a": 2}')
    with pytest.raises(UserError, match=rf'records\.jsonl line 3 {reason}.*; write one JSON object a line'):
        list(read_jsonl(path))
    bad = []
    assert list(read_jsonl(path, on_bad_line=lambda *arguments: bad.append(arguments))) == [
        (1, {'a': 1}),
        (4, {'a': 2}),
    ]
    assert [number for number, _ in bad] == [3]
    assert bad[0][1].startswith(reason)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'records.jsonl'
    write_jsonl(path, [{'a': 1}])

    def broken():
        yield {'a': 2}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_jsonl(path, broken())
    assert list(read_jsonl(path)) == [(1, {'a': 1})]
