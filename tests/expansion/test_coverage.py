"""Coverage of a few spans, counted by hand on a release of six codes."""

import json

import pytest

from ccl_jax.expansion.coverage import chapter_label, coverage, format_coverage
from ccl_jax.icd.release import Release
from ccl_jax.records import Span

TABULAR = """<ICD10CM.tabular><version>1999</version>
<chapter><name>9</name><desc>Diseases of the circulatory system (I00-I99)</desc>
<section id="I00-I99"><desc>Heart (I00-I99)</desc>
  <diag><name>I10</name><desc>Hypertension</desc></diag>
  <diag><name>I50</name><desc>Heart failure</desc>
    <diag><name>I50.1</name><desc>Left heart failure</desc></diag>
    <diag><name>I50.9</name><desc>Heart failure, unspecified</desc></diag></diag>
</section></chapter>
<chapter><name>10</name><desc>Lung</desc>
<section id="J00-J99"><desc>Lung (J00-J99)</desc>
  <diag><name>J45</name><desc>Asthma</desc></diag>
  <diag><name>J46</name><desc>Held out</desc></diag>
</section></chapter></ICD10CM.tabular>
"""


def _span(code: str, tier: str, rank: int | None = None, system: str = 'ICD-10-CM') -> Span:
    return Span('s', 'words', code, tier, 'p', system, rank)


SPANS = [
    *(_span('I10', 'document') for _ in range(3)),
    _span('I10', 'gold', 1),
    _span('I10', 'gold', 7),
    _span('I50.9', 'gold'),
    _span('I50', 'silver'),
    _span('Z99.99', 'document'),
    _span('0SR9', 'document', system='ICD-10-PCS'),
]
FREQUENCY = {'I10': 21, 'I50.9': 20, 'I50.1': 2, 'Z99.99': 1, 'J46': 1}


@pytest.fixture(scope='module')
def release(tmp_path_factory) -> Release:
    path = tmp_path_factory.mktemp('release') / 'tabular.xml'
    path.write_text(TABULAR)
    return Release.from_tabular(path)


def test_by_hand(release):
    covered = coverage(SPANS, release, {'J46'}, FREQUENCY)
    assert json.loads(json.dumps(covered)) == covered
    assert covered['spans'] == {'gold': 3, 'document': 5, 'silver': 1}
    assert covered['codes'] == {'gold': 2, 'document': 2, 'silver': 1}
    assert covered['billable'] == {
        'codes': 5,
        'held_out': 1,
        'with_span': 2,
        'mean_spans': 6 / 4,
        'median_spans': 0.5,
        'spans': {'gold': 3, 'document': 3},
        'codes_of_tier': {'gold': 2, 'document': 1},
    }
    assert covered['without_span'] == ['I50.1', 'J45']
    assert (covered['headers_with_span'], covered['codes_not_in_release_with_span']) == (1, 1)
    assert covered['held_out_with_span'] == 0
    assert covered['round_trip'] == {'gold': {'found': 2, 'found_first': 1}}
    chapters = {row['chapter']: row for row in covered['chapters']}
    assert list(chapters) == ['Diseases of the circulatory system (I00-I99)', 'Lung']
    assert [chapters['Lung'][key] for key in ('codes', 'held_out', 'with_span', 'mean_spans')] == [2, 1, 0, 0.0]
    bins = {row['documents']: (row['codes'], row['held_out'], row['with_span']) for row in covered['frequency']}
    # 0: J45; 1: J46 and the retired Z99.99; 2-5: I50.1; 6-20: I50.9; >20: I10.
    assert bins == {'0': (1, 0, 0), '1': (2, 1, 1), '2-5': (1, 0, 0), '6-20': (1, 0, 1), '>20': (1, 0, 1)}


def test_a_held_out_code_with_a_span_is_told(release):
    covered = coverage([_span('J46', 'gold')], release, {'J46', 'I10'}, {})
    assert covered['held_out_with_span'] == 1
    assert covered['billable']['with_span'] == 0
    assert '1 held-out codes have spans' in format_coverage(covered)


def test_table(release):
    filters = {'given': {'gold': 1234, 'document': 6}, 'dropped': {'duplicate': {'gold': 1230}}, 'kept': {'gold': 4}}
    lines = format_coverage(coverage(SPANS, release, {'J46'}, FREQUENCY, filters=filters)).splitlines()
    cells = [line.split() for line in lines]
    assert ['gold', '3', '2', '66.7%', '33.3%'] in cells
    assert ['document', '5', '2', '0.0%', '0.0%'] in cells
    assert '2 of 4 billable codes that are not held out have a span (50.0%), 1.50 on average; 1 are held out.' in (
        ' '.join(lines)
    )
    assert ['2-5', '1', '0', '0', '0.0%', '0.00', '0', '0', '0'] in cells
    assert ['duplicate', '1,230', '0'] in cells
    assert any(line.startswith('I00-I99 Diseases of the circulatory system ') for line in lines)


def test_nothing_at_all(release):
    empty = coverage([], release, set(release.codes()), {})
    assert empty['billable']['mean_spans'] is None
    assert '0 of 0 billable codes' in format_coverage(empty)


def test_chapter_labels():
    assert chapter_label('Neoplasms (C00-D49)') == 'C00-D49 Neoplasms'
    assert chapter_label('no chapter') == 'no chapter'
    long = chapter_label('Diseases of the musculoskeletal system and connective tissue (M00-M99)')
    assert long == 'M00-M99 Diseases of the musculoskeletal ...'
