"""Releases out of files and folders: what is recognised, what belongs together, and what is refused."""

from pathlib import Path

import pytest

from ccl_jax.errors import UserError
from ccl_jax.icd.files import INDEX, ORDER, TABULAR, recognise
from ccl_jax.icd.release import Release, open_release

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'icd10cm'

TABULAR_LIST = """<?xml version="1.0" encoding="utf-8"?>
<ICD10CM.tabular><version>1999</version>
  <chapter><name>1</name><desc>Chapter</desc>
    <section id="W00-W19"><desc>Falls (W00-W19)</desc>
      <diag><name>W18</name><desc>Other fall</desc></diag>
      <diag><name>W19</name><desc>Unspecified fall</desc>
        <sevenChrDef><extension char="A">initial encounter</extension></sevenChrDef></diag>
    </section>
  </chapter>
</ICD10CM.tabular>
"""
EXTERNAL_CAUSES = """<?xml version="1.0" encoding="utf-8"?>
<ICD10CM.index><version>1999</version><title>ICD-10-CM EXTERNAL CAUSE of INJURIES INDEX</title>
  <letter><title>F</title>
    <mainTerm><title>Tumble</title><code>W19</code></mainTerm>
    <mainTerm><title>Avalanche</title><code>X36.1</code></mainTerm>
  </letter>
</ICD10CM.index>
"""


def order_line(order: int, bare: str, billable: bool, title: str) -> str:
    return f'{order:05} {bare:<7} {billable:d} {title:<60} {title}\r\n'


ORDER_FILE = (
    order_line(1, 'W18', True, 'Other fall')
    + order_line(2, 'W19', False, 'Unspecified fall')
    + order_line(3, 'W19XXXA', True, 'Unspecified fall, initial encounter')
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with a release, under names that tell nothing, and with files that are no part of one."""
    monkeypatch.setenv('CCL_JAX_CACHE', str(tmp_path / 'cache'))
    path = tmp_path / 'release'
    (path / 'subfolder').mkdir(parents=True)
    (path / '1.dat').write_text(TABULAR_LIST, encoding='utf-8')
    (path / '2.dat').write_text(EXTERNAL_CAUSES, encoding='utf-8')
    (path / '3.dat').write_text(ORDER_FILE, encoding='utf-8-sig')
    (path / 'read.me').write_text('A release.', encoding='utf-8')
    (path / 'other.xml').write_text('<letter/>', encoding='utf-8')
    (path / 'empty').write_bytes(b'')
    (path / 'photograph').write_bytes(bytes(range(256)))
    return path


def test_recognise(folder):
    kinds = {path.name: recognise(path) for path in folder.iterdir() if path.is_file()}
    assert {name: kind for name, kind in kinds.items() if kind} == {'1.dat': TABULAR, '2.dat': INDEX, '3.dat': ORDER}
    (folder / '4.dat').write_text(TABULAR_LIST.replace('utf-8', 'utf-16'), encoding='utf-16')
    assert recognise(folder / '4.dat') == TABULAR


@pytest.mark.parametrize('times', [1, 2])
def test_folder(folder, times):
    for _ in range(times):
        release = Release.open([folder])
    assert release.name == 'ICD-10-CM 1999 (1)'
    assert release.codes() == ('W18', 'W19', 'W19.XXXA')
    assert release.block('W18') == 'Falls (W00-W19)'
    terms = release.terms('W19')
    assert terms[0] == ('Unspecified fall', 'title')
    assert {term.origin for term in terms[1:]} == {'external_cause_index'}
    assert 'tumble' in {term.text.lower() for term in terms[1:]}
    assert set(release.left_out_terms) == {'external_cause_index'}


def test_files_and_settings(folder):
    assert Release.open([folder / '1.dat', str(folder / '1.dat')]).block('W18') == 'Falls (W00-W19)'
    assert Release.open([folder / '3.dat']).block('W18') == ''
    spec = f' {folder / "3.dat"}, {folder / "2.dat"},'
    release = open_release(spec)
    assert release.name == 'ICD-10-CM (3)'
    assert len(release.terms('W19')) > 1
    assert release.left_out_terms.total() > 0


def test_empty_setting_is_the_embedded_release():
    assert open_release('') is open_release(' ') is Release.embedded()


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['2.dat'], r'2\.dat: no tabular list and no order file of ICD-10-CM there; give the tabular XML'),
        (['subfolder'], r'subfolder: no tabular list and no order file'),
        (['none'], r'cannot read .*none: No such file or directory; give the tabular XML'),
        (['1.dat', 'read.me'], r'read\.me is neither a tabular list, an order file nor an index'),
        (['1.dat', 'other.xml'], r'other\.xml is neither'),
        (['1.dat', 'photograph'], r'photograph is neither'),
        (['empty'], r'empty is neither'),
    ],
)
def test_what_makes_no_release(folder, names, message):
    with pytest.raises(UserError, match=message):
        Release.open([folder / name for name in names])


def test_two_releases_in_one_folder(folder):
    (folder / '5.dat').write_text(TABULAR_LIST, encoding='utf-8')
    with pytest.raises(UserError, match=r'1\.dat and .*5\.dat are each a tabular list, and a release has one'):
        Release.open([folder])


def test_tabular_list_and_order_file_of_different_releases(folder):
    (folder / '3.dat').write_text(ORDER_FILE + order_line(4, 'W20', True, 'Thrown object'), encoding='utf-8')
    with pytest.raises(UserError, match=r'different releases: 2 and 3 billable codes, the first that differ are W20; '):
        Release.open([folder])


def test_damaged_file_in_a_folder(folder):
    (folder / '1.dat').write_text(TABULAR_LIST[:-40], encoding='utf-8')
    with pytest.raises(UserError, match=r'1\.dat is not well-formed XML'):
        Release.open([folder])
    # And what was refused is not kept.
    assert not list((folder.parent / 'cache').glob('*'))


def test_real_folders(tmp_path, monkeypatch):
    if not DATA.is_dir():
        pytest.skip(f'no ICD-10-CM releases at {DATA}')
    monkeypatch.setenv('CCL_JAX_CACHE', str(tmp_path))
    release = Release.open([DATA / '2021'])
    assert len(release.billable_codes()) == 72_621
    assert release.name == 'ICD-10-CM 2021 (icd10cm_tabular_2021)'
    cached = Release.open([DATA / '2021'])
    assert list(cached.term_table()) == list(release.term_table())
    assert [cached.inherited_notes(code, 'excludes2') for code in cached.codes()] == [
        release.inherited_notes(code, 'excludes2') for code in release.codes()
    ]
    kinds = {path.name: recognise(path) for path in (DATA / '2026').iterdir()}
    assert sorted(kind for kind in kinds.values() if kind) == [INDEX, INDEX, INDEX, TABULAR]
