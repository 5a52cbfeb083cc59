"""The releases against the official order file, the wheel's own code list, and a tabular list made by hand."""

import re
import subprocess
import sys
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import pytest

from ccl_jax.errors import UserError
from ccl_jax.icd import release as release_module
from ccl_jax.icd.codes import normalize_code
from ccl_jax.icd.release import Release

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'icd10cm' / '2021'

FABRICATED = """<?xml version="1.0" encoding="utf-8"?>
<ICD10CM.tabular>
  <version>1999</version>
  <chapter>
    <name>1</name><desc>Fabricated   diseases
      (A00-S09)</desc>
    <sectionIndex><sectionRef first="A00" last="A09" id="A00-A09">x</sectionRef></sectionIndex>
    <section id="A00-B99"><desc>A range of ranges (A00-B99)</desc></section>
    <section id="A00-A09">
      <desc>First block (A00-A09)</desc>
      <excludes1><note>a note of the block</note></excludes1>
      <diag><name>A00</name><desc>First
          category</desc>
        <inclusionTerm><note>Old name</note><note> Older  name </note></inclusionTerm>
        <includes><note>a form of it</note></includes>
        <excludes1><note>not this (B20)</note></excludes1>
        <excludes2><note>nor that (S06.-)</note></excludes2>
        <diag><name>A00.0</name><desc>Mild</desc></diag>
        <diag><name>A00.1</name><desc>Severe</desc></diag>
      </diag>
      <diag><name>A01</name><desc>Second category</desc></diag>
    </section>
    <section id="B20"><desc>Alone (B20)</desc>
      <diag><name>B20</name><desc>Alone in its block</desc></diag>
    </section>
    <section id="S00-S09"><desc>Injuries (S00-S09)</desc>
      <diag><name>S00</name><desc>Bruise</desc>
        <sevenChrNote><note>a 7th character</note></sevenChrNote>
        <sevenChrDef><extension char="A">initial encounter</extension><extension char="S">sequela</extension>
          <note>no extension</note></sevenChrDef>
        <diag><name>S00.0</name><desc>Bruise of scalp</desc>
          <diag><name>S00.01</name><desc>Large bruise of scalp</desc>
            <diag><name>S00.011</name><desc>Very large bruise of scalp</desc></diag>
            <diag><name>S00.012</name><desc>Listed</desc>
              <diag><name>S00.012X</name><desc>Listed to the end</desc></diag></diag>
          </diag></diag>
        <diag><name>S00.1</name><desc>Bruise of eyelid</desc>
          <sevenChrDef><extension char="9">of some kind</extension></sevenChrDef>
          <diag><name>S00.1X</name><desc>Bruise of eyelid, placeholder</desc></diag></diag>
      </diag>
      <diag><name>S06</name><desc>Brain injury</desc>
        <sevenChrDef><extension char="A">initial</extension><extension char="D">later</extension>
          <extension char="S">sequela</extension></sevenChrDef>
        <notes><note>7th characters D and S do not apply to codes in category S06 with 6th character 7 - death of one
          cause, or 8 - death of another.</note></notes>
        <diag><name>S06.1X7</name><desc>fatal</desc></diag>
        <diag><name>S06.1X8</name><desc>fatal otherwise</desc></diag>
        <diag><name>S06.1X9</name><desc>survived</desc></diag>
      </diag>
      <diag><name>S09</name><desc>Some injury</desc>
        <sevenChrDef><extension char="A">initial encounter</extension></sevenChrDef></diag>
    </section>
  </chapter>
</ICD10CM.tabular>
"""


@pytest.fixture
def fabricated(tmp_path) -> Release:
    path = tmp_path / 'tabular_1999.xml'
    path.write_text(FABRICATED, encoding='utf-8')
    return Release.from_tabular(path)


def test_seventh_characters_are_generated(fabricated):
    assert fabricated.name == 'ICD-10-CM 1999 (tabular_1999)'
    codes = """
        A00 A00.0 A00.1 A01 B20
        S00 S00.0 S00.01 S00.011 S00.011A S00.011S S00.012 S00.012X  # inherited by three levels, no eighth character
        S00.1 S00.1X S00.1XX9  # a nearer definition, and placeholders up to six characters
        S06 S06.1X7 S06.1X7A S06.1X8 S06.1X8A S06.1X9 S06.1X9A S06.1X9D S06.1X9S  # the rule that stands in prose
        S09 S09.XXXA
    """
    headers = {'A00', 'S00', 'S00.0', 'S00.01', 'S00.011', 'S00.012', 'S00.1', 'S00.1X', 'S09'}
    headers |= {'S06', 'S06.1X7', 'S06.1X8', 'S06.1X9'}
    assert list(fabricated.codes()) == re.sub('#.*', '', codes).split()
    assert {code for code in fabricated.codes() if not fabricated.billable(code)} == headers
    assert list(fabricated.billable_codes()) == [code for code in fabricated.codes() if code not in headers]
    assert fabricated.title('S00.011S') == 'Very large bruise of scalp, sequela'
    assert fabricated.title('S09.XXXA') == 'Some injury, initial encounter'


def test_tree_and_notes(fabricated):
    assert fabricated.title('A00') == 'First category'
    assert fabricated.chapter('S00.011A') == 'Fabricated diseases (A00-S09)'
    assert fabricated.block('S00.011A') == 'Injuries (S00-S09)'
    assert (fabricated.block('B20'), fabricated.title('B20')) == ('Alone (B20)', 'Alone in its block')
    assert fabricated.ancestors('S00.011A') == ('S00.011', 'S00.01', 'S00.0', 'S00')
    assert fabricated.parent('A00') is None
    assert fabricated.ancestors('A00') == ()
    assert fabricated.children('S09') == ('S09.XXXA',)
    assert fabricated.siblings('A00.0') == ('A00.1',)
    assert fabricated.siblings('A00') == ('A01',)
    assert fabricated.siblings('B20') == ()
    assert fabricated.siblings('S06.1X9D') == ('S06.1X9A', 'S06.1X9S')
    assert fabricated.inclusion_terms('A00') == ('Old name', 'Older name')
    assert fabricated.includes('A00') == ('a form of it',)
    assert fabricated.excludes1('A00') == ('not this (B20)',)
    assert fabricated.excludes2('A00') == ('nor that (S06.-)',)
    assert fabricated.excludes1('A00.0') == ()
    assert fabricated.terms('A00') == [
        ('First category', 'title'),
        ('Old name', 'inclusion_term'),
        ('Older name', 'inclusion_term'),
        ('a form of it', 'includes'),
    ]


def test_unknown_codes(fabricated):
    assert 'A00.0' in fabricated
    assert 'A000' not in fabricated
    assert 'A00-A09' not in fabricated
    for look_up in (fabricated.title, fabricated.billable, fabricated.siblings, fabricated.terms, fabricated.block):
        with pytest.raises(KeyError, match=r'Z99\.9 is not in ICD-10-CM 1999'):
            look_up('Z99.9')


@pytest.mark.parametrize(
    ('code', 'ancestor'),
    [
        ('S00.011A', 'S00.011A'),
        ('S00.011Q', 'S00.011'),
        ('S09.XXX', 'S09'),
        ('A00.17', 'A00.1'),
        ('A01.2', 'A01'),
        ('A99.2', None),
        ('A0', None),
        ('', None),
    ],
)
def test_nearest_living_ancestor(fabricated, code, ancestor):
    assert fabricated.nearest_living_ancestor(code) == ancestor


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'not well-formed XML'),
        ('PK\x03\x04', 'not well-formed XML'),
        (FABRICATED[:900], 'not well-formed XML'),
        ('<?xml version="1.0" encoding="klingon"?><a/>', 'not well-formed XML'),
        ('<ICD10CM.index><letter/></ICD10CM.index>', 'not a tabular list'),
        (FABRICATED.replace('<name>A01</name>', '<name>A00</name>'), 'lists A00 twice'),
        (FABRICATED.replace('<name>A01</name>', ''), 'without name or description'),
        (FABRICATED.replace('<desc>Mild</desc>', '<desc> </desc>'), 'without name or description below A00'),
    ],
)
def test_files_that_are_no_tabular_list(tmp_path, content, message):
    path = tmp_path / 'some.xml'
    path.write_text(content, encoding='utf-8')
    with pytest.raises(UserError, match=rf'some\.xml .*{message}.*; give the tabular XML'):
        Release.from_tabular(path)


def test_missing_tabular_list(tmp_path):
    for path in (tmp_path / 'none.xml', tmp_path):
        with pytest.raises(UserError, match=r'cannot read .*; give the tabular XML'):
            Release.from_tabular(path)


def test_embedded_release_against_the_code_list_of_the_wheel():
    release = Release.embedded()
    assert release is Release.embedded()
    assert len(release.billable_codes()) == 74_719
    folder = Path(next(iter(find_spec('simple_icd_10_cm').submodule_search_locations)), 'data')
    names = (folder / 'code-list-April-2026.txt').read_text(encoding='utf-8').split()
    listed = {normalize_code(name) for name in names if '-' not in name and not name.isdigit()}
    assert set(release.codes()) == listed
    assert release.title('W19.XXXA') == 'Unspecified fall, initial encounter'
    assert release.block('B20') == 'Human immunodeficiency virus [HIV] disease (B20)'


def test_embedded_tree_is_consistent():
    release = Release.embedded()
    for code in release.codes():
        parent = release.parent(code)
        assert normalize_code(code) == code
        assert (parent is None) == (len(code) == 3)
        if parent is not None:
            assert code in release.children(parent)
            assert code.startswith(parent)
            assert (release.chapter(code), release.block(code)) == (release.chapter(parent), release.block(parent))
        assert all(release.parent(child) == code for child in release.children(code))


def test_embedded_release_does_not_import_the_package():
    program = (
        'import sys; from ccl_jax.icd.release import Release; Release.embedded();'
        'assert not {"simple_icd_10_cm", "jax"} & set(sys.modules)'
    )
    subprocess.run([sys.executable, '-c', program], check=True, cwd=Path(__file__).resolve().parents[2])


def test_embedded_release_without_the_package(monkeypatch):
    monkeypatch.setattr(release_module.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='not installed; run "pip install simple-icd-10-cm"'):
        release_module._embedded.__wrapped__()


def test_fy2021_against_the_order_file():
    """The official order file lists every code, header or billable, with its full title in ASCII."""
    if not DATA.is_dir():
        pytest.skip(f'no ICD-10-CM 2021 release at {DATA}')
    release = Release.from_tabular(DATA / 'icd10cm_tabular_2021.xml')
    order, billable, titles = [], set(), {}
    for line in (DATA / 'icd10cm-order-Jan-2021.txt').read_text(encoding='utf-8').splitlines():
        bare = line[6:13].strip()
        code = f'{bare[:3]}.{bare[3:]}' if len(bare) > 3 else bare
        order.append(code)
        titles[code] = line[77:]
        if line[14] == '1':
            billable.add(code)
    assert len(billable) == 72_621
    assert set(release.billable_codes()) == billable
    assert list(release.codes()) == order
    different = [code for code in order if _ascii(release.title(code)) != _ascii(titles[code])]
    assert different == []


def _ascii(title: str) -> str:
    decomposed = unicodedata.normalize('NFKD', ' '.join(title.split()))
    return ''.join(c for c in decomposed if not unicodedata.combining(c))
