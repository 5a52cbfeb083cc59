"""The report of a reader: what it counts, shows and writes."""

import json

from ccl_jax.records import Annotation, Document, Evidence
from ccl_jax.sources.report import SourceReport


def _report() -> SourceReport:
    report = SourceReport('codiesp', 'dev')
    evidence = (Evidence(((0, 3),), 'tos'), Evidence(((0, 3), (8, 14)), 'tos fiebre'))
    report.add(Document('a', 'tos con fiebre', (Annotation('R05', evidence=evidence), Annotation('R50.9'))))
    report.add(Document('b', 'tos', (Annotation('R05'), Annotation('786.2', 'ICD-9-CM'))))
    report.add(Document('c', 'nada'))
    report.reject('d', 'text is empty')
    report.reject('e', 'bad record', 'file line 3')
    report.reject('f', 'bad record', 'file line 9')
    return report


def test_counts():
    assert _report().to_json() == {
        'source': 'codiesp',
        'split': 'dev',
        'documents': 3,
        'spans': 0,
        'unannotated': 1,
        'annotations': 4,
        'distinct_codes': 3,
        'evidences': 2,
        'discontinuous': 1,
        'mismatches': 0,
        'rejected': {'bad record': 2, 'text is empty': 1},
    }
    assert json.loads(json.dumps(_report().to_json())) == _report().to_json()


def test_rejections_of_one_reason_are_counted_alike_and_written_singly(tmp_path):
    assert _report().write_rejected(tmp_path / 'workdir' / 'rejected.jsonl') == 3
    lines = (tmp_path / 'workdir' / 'rejected.jsonl').read_text(encoding='utf-8').splitlines()
    assert [json.loads(line) for line in lines] == [
        {'record_id': 'd', 'reason': 'text is empty', 'detail': ''},
        {'record_id': 'e', 'reason': 'bad record', 'detail': 'file line 3'},
        {'record_id': 'f', 'reason': 'bad record', 'detail': 'file line 9'},
    ]


def test_table():
    rows = [line.rsplit(maxsplit=1) for line in _report().table().splitlines()[1:]]
    assert _report().table().splitlines()[0] == 'codiesp dev'
    assert [[label.strip(), count] for label, count in rows] == [
        ['documents', '3'],
        ['documents without codes', '1'],
        ['codes (one per document)', '4'],
        ['distinct codes', '3'],
        ['pieces of evidence', '2'],
        ['of them discontinuous', '1'],
        ['rejected: bad record', '2'],
        ['rejected: text is empty', '1'],
    ]
    assert SourceReport('empty').table().split() == ['empty', 'documents', '0']
