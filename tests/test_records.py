"""Records and normal forms of codes: hand-worked cases."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import SYSTEMS, normalize_code
from ccl_jax.records import (
    Annotation,
    Document,
    Evidence,
    RecordError,
    document_from_json,
    document_to_json,
    prediction_from_json,
    read_jsonl,
    same_words,
    span_from_json,
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
        (
            {'codes': [{'code': '4019'}]},
            r'codes\[0\]: 401\.9 has not the form of ICD-10-CM \(it has that of ICD-9-CM\)$',
        ),
        (
            {'codes': [{'code': 'R05'}, {'code': 'I10', 'system': 'ICD-9-CM'}]},
            r'codes\[1\]: I10 has not the form of ICD-9-CM \(it has that of .*ICD-10-CM.*\)$',
        ),
        # What looks like no code may be words of the note, and is not quoted.
        ({'codes': [{'code': 'Cough'}]}, r'codes\[0\]: the code has not the form of ICD-10-CM$'),
        ({'codes': [{'code': 'R05 for 2 weeks'}]}, r'codes\[0\]: the code has not the form of ICD-10-CM$'),
        ({'codes': [{'code': 'R0512345'}]}, r'codes\[0\]: R05\.12345 has not the form of ICD-10-CM$'),
    ],
)
def test_bad_documents(changes, reason):
    with pytest.raises(RecordError, match=f'^{reason}'):
        document_from_json({'doc_id': 'a', 'text': 'Cough and fever', **changes})


def test_a_code_that_no_release_has_is_kept():
    codes = [{'code': 'w19.xxx'}, {'code': 'r99.99'}, {'code': 'bw20', 'system': 'ICD-10-PCS'}]
    assert document_from_json({'doc_id': 'a', 'text': 'Cough', 'codes': codes}).codes == {'W19.XXX', 'R99.99', 'BW20'}


def test_the_form_of_a_code_matters_in_spans_but_not_in_predictions():
    span = {'span_id': 's', 'text': 'cough', 'code': '786.2', 'tier': 'gold', 'provenance': 'title'}
    with pytest.raises(RecordError, match=r'^span: 786\.2 has not the form of ICD-10-CM'):
        span_from_json(span)
    assert span_from_json({**span, 'system': 'ICD-9-CM'}).code == '786.2'
    (code,) = prediction_from_json({'doc_id': 'a', 'codes': [{'code': 'nonsense'}]}).codes
    assert code.code == 'NON.SENSE'


def test_evidence_names_its_origin_only_where_it_has_one():
    quotes = [{'parts': [[0, 5]]}, {'parts': [[10, 15]], 'origin': 'silver: inclusion_term of R05'}]
    document = document_from_json(
        {'doc_id': 'a', 'text': 'Cough and fever', 'codes': [{'code': 'R05', 'evidence': quotes}]}
    )
    assert document.annotations[0].evidence == (
        Evidence(((0, 5),), 'Cough'),
        Evidence(((10, 15),), 'fever', 'silver: inclusion_term of R05'),
    )
    written = document_to_json(document)['codes'][0]['evidence']
    assert written == [{**quotes[0], 'text': 'Cough'}, {**quotes[1], 'text': 'fever'}]


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'text': None}, 'field is missing or of the wrong type'),
        ({'text': ''}, 'text is empty'),
        ({'codes': [{'code': '401.9'}]}, 'code has not the form of its system'),
        ({'codes': [{'code': 'R05', 'evidence': [{'parts': [[0, 16]]}]}]}, 'offsets outside the text'),
        (
            {'codes': [{'code': 'R05', 'evidence': [{'parts': [[0, 5]], 'text': 'Fever'}]}]},
            'evidence text differs from the document',
        ),
    ],
)
def test_kinds_of_faults(changes, reason):
    with pytest.raises(RecordError) as refused:
        document_from_json({'doc_id': 'a', 'text': 'Cough and fever', **changes})
    assert refused.value.reason == reason
    assert 'fever' not in str(refused.value).lower()


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
        ({'parts': [[0, 5]], 'origin': 3}, '"origin" must be a string'),
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
