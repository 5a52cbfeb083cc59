"""The report of a reader: what it counts, shows and writes."""

import json

from ccl_jax.icd.release import Release
from ccl_jax.records import Annotation, Document, Evidence
from ccl_jax.sources.report import LENGTH_BINS, Rejection, RejectionLog, SourceReport


def _report() -> SourceReport:
    report = SourceReport('codiesp', 'dev')
    evidence = (Evidence(((0, 3),), 'tos'), Evidence(((0, 3), (8, 14)), 'tos fiebre'))
    annotations = (Annotation('R05', evidence=evidence), Annotation('R50.9'))
    report.add(Document('a', 'tos con fiebre', annotations, split='dev'))
    report.add(Document('b', 'tos ' * 64, (Annotation('R05'), Annotation('786.2', 'ICD-9-CM')), split='dev'))
    report.add(Document('c', 'nada', split='dev'))
    report.reject('d', 'text is empty')
    report.reject('e', 'bad record', 'file line 3')
    report.reject('f', 'bad record', 'file line 9')
    report.leave_out('another system', 7)
    return report


def test_counts():
    result = _report().to_json()
    expected = {
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
        'splits': {'dev': 3},
        'words': 3 + 64 + 1,
        'longest_document_words': 64,
        'left_out': {'another system': 7},
        'rejected': {'bad record': 2, 'text is empty': 1},
    }
    assert {name: result[name] for name in expected} == expected
    assert [row['documents'] for row in result['length_histogram']] == [2, 1] + [0] * (len(LENGTH_BINS) - 2)
    assert json.loads(json.dumps(result)) == result


def test_rejections_of_one_reason_are_counted_alike_and_written_singly(tmp_path):
    path = tmp_path / 'workdir' / 'rejected.jsonl'
    with RejectionLog(path) as log:
        first, second = SourceReport('one', log=log), SourceReport('two', log=log)
        first.reject('e', 'bad record', 'file line 3')
        second.reject('f', 'bad record')
        first.reject('g', 'text is empty')
    assert (log.count, first.rejected, first.rejections) == (3, {'bad record': 1, 'text is empty': 1}, [])
    assert [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()] == [
        {'record_id': 'e', 'reason': 'bad record', 'detail': 'file line 3', 'source': 'one'},
        {'record_id': 'f', 'reason': 'bad record', 'detail': '', 'source': 'two'},
        {'record_id': 'g', 'reason': 'text is empty', 'detail': '', 'source': 'one'},
    ]
    # What an earlier read refused does not stay behind, and nothing refused is no file.
    with RejectionLog(path):
        pass
    assert not path.exists()
    with RejectionLog(None) as log:
        SourceReport('nowhere to write', log=log).reject('e', 'bad record')
    assert log.count == 1
    assert _report().rejections[1] == Rejection('e', 'bad record', 'file line 3')


def test_codes_are_held_against_the_release():
    report = SourceReport('s')
    # R51 has children since FY2021; W19.XXX lacks its seventh character; Z99.99 and QQQ are nothing.
    codes = ('I10', 'R51', 'W19.XXX', 'Z99.99', 'Q0Q')
    report.add(Document('a', 'text', tuple(map(Annotation, codes))))
    report.add(Document('b', 'text', (Annotation('I10'), Annotation('401.9', 'ICD-9-CM'))))
    report.check_codes(Release.embedded())
    assert report.status_counts == {'billable': 1, 'header': 1, 'incomplete': 1, 'unknown': 2}
    assert report.not_in_release == {'W19.XXX': 'W19', 'Z99.99': 'Z99', 'Q0Q': None}
    report.check_codes(Release.embedded())
    assert sum(report.status_counts.values()) == 5


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
        ['words per document, mean', '23'],
        ['words per document, most', '64'],
        ['0 to 63 words', '2'],
        ['64 to 127 words', '1'],
        ['left out: another system', '7'],
        ['rejected: bad record', '2'],
        ['rejected: text is empty', '1'],
    ]
    assert SourceReport('empty').table().split() == ['empty', 'documents', '0']


def test_table_of_several_splits_and_of_found_evidence():
    report = SourceReport('mimic_iv')
    for split in ('train', 'train', 'test'):
        report.add(Document('a', 'text', split=split))
    report.silver_candidates, report.silver_pairs = 8, 3
    table = report.table()
    assert [line.split() for line in table.splitlines()[2:4]] == [
        ['of', 'them', 'in', 'test', '1'],
        ['of', 'them', 'in', 'train', '2'],
    ]
    assert '3 (37.5%)' in table
