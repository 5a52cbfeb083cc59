"""JSONL files of documents, spans and predictions, good and bad."""

import json

import pytest

from ccl_jax.errors import UserError
from ccl_jax.records import Annotation, Evidence, PredictedCode, Prediction, Span
from ccl_jax.sources.jsonl import read_documents, read_predictions, read_spans
from ccl_jax.sources.report import Rejection, RejectionLog, SourceReport

GOOD = {
    'doc_id': 'a',
    'text': 'Cough, and fever.',
    'codes': [
        {'code': 'r05', 'evidence': [{'parts': [[0, 5]], 'text': 'Cough'}]},
        {'code': 'R509', 'evidence': [{'parts': [[0, 5], [11, 17]], 'text': 'cough fever'.replace('c', 'C', 1)}]},
    ],
}


def _write(path, *records) -> str:
    lines = (record if isinstance(record, bytes) else json.dumps(record).encode() for record in records)
    path.write_bytes(b'\n'.join(lines) + b'\n')
    return path


def _documents(path, **arguments):
    report = SourceReport('jsonl')
    return list(read_documents(path, report=report, **arguments)), report


def test_documents(tmp_path):
    path = _write(tmp_path / 'd.jsonl', GOOD, b'', {'doc_id': 'b', 'text': 'Nothing.', 'split': 'dev'})
    (first, second), report = _documents(path, split='train')
    assert (first.doc_id, first.group_id, first.split, first.source) == ('a', 'a', 'train', 'jsonl')
    assert first.annotations == (
        Annotation('R05', evidence=(Evidence(((0, 5),), 'Cough'),)),
        Annotation('R50.9', evidence=(Evidence(((0, 5), (11, 17)), 'Cough fever.'),)),
    )
    assert (second.doc_id, second.split, second.annotations) == ('b', 'dev', ())
    assert (report.documents, report.annotations, report.evidences, report.unannotated) == (2, 2, 2, 1)
    # 'Cough fever' against 'Cough fever.': tolerated and counted.
    assert (report.discontinuous, report.mismatches) == (1, 1)


FORM = {'doc_id': 'x', 'text': 'Fever', 'codes': [{'code': '780.60'}]}
WORDS = {'doc_id': 'x', 'text': 'Fever', 'codes': [{'code': 'Cough for 3 weeks'}]}
BAD = {
    'is not JSON': b'{"doc_id": "x", ',
    'is not a JSON object': b'[1, 2]',
    'is not UTF-8 text': b'{"doc_id": "x", "text": "\xff"}',
    '"text" is missing': {'doc_id': 'x'},
    '"text" is empty': {'doc_id': 'x', 'text': ' '},
    '"doc_id" must be a string': {'doc_id': 7, 'text': 'Fever'},
    'ends outside the text': {**GOOD, 'doc_id': 'x', 'text': 'Cough'},
    '"text" differs from the document': {**GOOD, 'doc_id': 'x', 'text': 'Fever, and cough.'},
    'the same doc_id as line 1': GOOD,
    'codes[0]: 780.60 has not the form of ICD-10-CM (it has that of ICD-9-CM)': FORM,
    'codes[0]: the code has not the form of ICD-10-CM': WORDS,
}


@pytest.mark.parametrize('reason', BAD)
def test_bad_records_are_refused_or_skipped(tmp_path, reason):
    last = {'doc_id': 'z', 'text': 'Fever'}
    path = _write(tmp_path / 'd.jsonl', GOOD, BAD[reason], last)
    with pytest.raises(UserError) as refused:
        _documents(path)
    message = str(refused.value)
    assert message.startswith(f'{path} line 2')
    assert reason in message
    assert message.endswith('; mend the line or set sources.on_bad_record=skip')
    assert not {'Cough', 'Fever'} & set(message.replace(',', ' ').split())

    documents, report = _documents(path, on_bad_record='skip')
    assert [d.doc_id for d in documents] == ['a', 'z']
    assert report.rejected.total() == 1
    assert report.rejections[0].detail.startswith('d.jsonl line 2: ')
    assert reason in report.rejections[0].detail


def test_a_refused_record_is_named(tmp_path):
    path = _write(tmp_path / 'd.jsonl', {'doc_id': 'note-17', 'text': ''})
    with pytest.raises(UserError, match=r'd\.jsonl line 1 \(doc_id note-17\): "text" is empty; mend the line'):
        _documents(path)


def test_faults_are_counted_by_kind(tmp_path):
    path = _write(tmp_path / 'd.jsonl', GOOD, *BAD.values())
    _, report = _documents(path, on_bad_record='skip')
    assert report.rejected == {
        'line is not a JSON object': 3,
        'field is missing or of the wrong type': 2,
        'text is empty': 1,
        'offsets outside the text': 1,
        'evidence text differs from the document': 1,
        'doc_id occurs twice': 1,
        'code has not the form of its system': 2,
    }
    assert not {'Cough', 'Fever'} & set(str(report.rejections).replace(',', ' ').split())


@pytest.mark.parametrize('doc_id', ['Cough for two weeks. ' * 10, 'Cough\n', '\ud800'])
def test_an_id_that_is_no_name_is_not_quoted(tmp_path, doc_id):
    path = _write(tmp_path / 'd.jsonl', {'doc_id': doc_id, 'text': ''}, {'doc_id': 'z', 'text': 'Fever'})
    with pytest.raises(UserError, match=r'd\.jsonl line 1: '):
        _documents(path)
    _, report = _documents(path, on_bad_record='skip')
    assert [r.record_id for r in report.rejections] == ['line 1']
    with RejectionLog(tmp_path / 'rejected.jsonl') as log:
        list(read_documents(path, report=SourceReport('jsonl', log=log), on_bad_record='skip'))
    assert log.count == 1


@pytest.mark.parametrize('content', [b'', b'\n \n', b'\xef\xbb\xbf\n', b'{}\n'])
def test_a_file_without_usable_records(tmp_path, content):
    path = tmp_path / 'd.jsonl'
    path.write_bytes(content)
    for read in (read_documents, read_spans):
        with pytest.raises(UserError, match='holds no usable record; give a file'):
            list(read(path, report=SourceReport('jsonl'), on_bad_record='skip'))


def test_a_file_that_cannot_be_read(tmp_path):
    for path in (tmp_path / 'none.jsonl', tmp_path):
        with pytest.raises(UserError, match=r'cannot read .*; check the path'):
            _documents(path)


def test_on_bad_record_has_two_values(tmp_path):
    path = _write(tmp_path / 'd.jsonl', GOOD)
    with pytest.raises(UserError, match="on_bad_record is 'ignore'; take refuse or skip"):
        _documents(path, on_bad_record='ignore')


def test_spans(tmp_path):
    good = {'span_id': 's', 'text': 'high fever', 'code': 'r509', 'tier': 'gold', 'provenance': 'title'}
    path = _write(tmp_path / 's.jsonl', good, {**good, 'tier': 'bronze', 'span_id': 't'}, good)
    with pytest.raises(UserError, match=r'line 2 \(span_id t\): "tier" must be one of gold'):
        list(read_spans(path, report=SourceReport('jsonl')))
    report = SourceReport('jsonl')
    spans = list(read_spans(path, report=report, on_bad_record='skip'))
    assert spans == [Span('s', 'high fever', 'R50.9', 'gold', 'title')]
    assert (report.spans, report.annotations, report.documents) == (1, 1, 0)
    assert report.rejections[1] == Rejection('s', 'span_id occurs twice', 's.jsonl line 3: the same span_id as line 1')


def test_predictions(tmp_path):
    good = {'doc_id': 'a', 'codes': [{'code': 'r05', 'score': 2, 'evidence': [{'text': 'Cough'}]}, {'code': 'i10'}]}
    path = _write(tmp_path / 'p.jsonl', good, {'doc_id': 'b', 'codes': []})
    assert list(read_predictions(path)) == [
        Prediction('a', (PredictedCode('R05', score=2.0, evidence=(Evidence((), 'Cough'),)), PredictedCode('I10'))),
        Prediction('b', ()),
    ]
    path = _write(tmp_path / 'p.jsonl', good, good)
    with pytest.raises(UserError, match=r'line 2 \(doc_id a\): the same doc_id as line 1; mend the line$'):
        list(read_predictions(path))
