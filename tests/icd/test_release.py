"""A release out of a tabular list made by hand, and out of damaged ones."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.icd.release import Release, Term

FABRICATED = """<?xml version="1.0" encoding="utf-8"?>
<ICD10CM.tabular>
  <version>1999</version>
  <chapter>
    <name>1</name><desc>Fabricated   diseases
      (A00-S09)</desc>
    <includes><note>diseases that we made</note></includes>
    <excludes1><note>fabricated injuries (S06.1X7-S06.1X8)</note></excludes1>
    <sectionIndex><sectionRef first="A00" last="A09" id="A00-A09">x</sectionRef></sectionIndex>
    <section id="A00-B99"><desc>A range of ranges (A00-B99)</desc>
      <excludes1><note>a note of the range (B20)</note></excludes1></section>
    <section id="S00-Z99"><desc>A range that holds no first block (S00-Z99)</desc>
      <codeAlso><note>a note of the other range</note></codeAlso></section>
    <section id="A00-A09">
      <desc>First block (A00-A09)</desc>
      <excludes1><note>a note of the block</note></excludes1>
      <diag><name>A00</name><desc>First
          category</desc>
        <inclusionTerm><note>Old name</note><note> Older  name </note></inclusionTerm>
        <includes><note>a form of it</note></includes>
        <excludes1><note>not this (B20)</note></excludes1>
        <excludes2><note>nor that (S06.-)</note></excludes2>
        <useAdditionalCode><note>code to identify it</note></useAdditionalCode>
        <codeFirst><note>its cause</note></codeFirst>
        <codeAlso><note>its stage</note></codeAlso>
        <diag><name>A00.0</name><desc>Mild</desc><excludes1><note>severe (A00.1)</note></excludes1></diag>
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
    assert fabricated.excludes1('A00.0') == ('severe (A00.1)',)
    assert fabricated.excludes1('A00.1') == ()
    assert fabricated.use_additional('A00') == ('code to identify it',)
    assert fabricated.code_first('A00') == ('its cause',)
    assert fabricated.code_also('A00') == ('its stage',)
    assert fabricated.use_additional('A00.0') == fabricated.code_first('A00.0') == fabricated.code_also('A00.0') == ()
    assert fabricated.terms('A00') == [
        ('First category', 'title'),
        ('Old name', 'inclusion_term'),
        ('Older name', 'inclusion_term'),
        ('a form of it', 'includes'),
    ]
    table = list(fabricated.term_table())
    assert table[:5] == [*(('A00', term) for term in fabricated.terms('A00')), ('A00.0', Term('Mild', 'title'))]
    assert len(table) == len(fabricated) + 3


def test_inherited_notes(fabricated):
    of_places = (
        ('block A00-A09', 'a note of the block'),
        ('block A00-B99', 'a note of the range (B20)'),
        ('chapter 1', 'fabricated injuries (S06.1X7-S06.1X8)'),
    )
    assert fabricated.inherited_notes('A00', 'excludes1') == of_places
    assert fabricated.inherited_notes('A00.1', 'excludes1') == (('A00', 'not this (B20)'), *of_places)
    assert fabricated.inherited_notes('B20', 'excludes1') == of_places[1:]
    assert fabricated.inherited_notes('S09.XXXA', 'excludes1') == of_places[2:]
    assert fabricated.inherited_notes('A00.1', 'includes') == (
        ('A00', 'a form of it'),
        ('chapter 1', 'diseases that we made'),
    )
    assert fabricated.inherited_notes('A00.1', 'code_first') == (('A00', 'its cause'),)
    assert fabricated.inherited_notes('A00.1', 'code_also') == (('A00', 'its stage'),)
    assert fabricated.inherited_notes('S09', 'code_also') == (('block S00-Z99', 'a note of the other range'),)
    with pytest.raises(ValueError, match="unknown kind of note 'title'; known: includes, excludes1"):
        fabricated.inherited_notes('A00', 'title')


def test_excludes1_conflicts(fabricated):
    assert fabricated.excludes1_conflicts([]) == fabricated.excludes1_conflicts(['A00.0', 'A00.0']) == []
    assert fabricated.excludes1_conflicts(['A00.1', 'S09.XXXA', 'A01']) == []
    assert fabricated.excludes1_conflicts(['A00.0', 'A00.1']) == [('A00.0', 'A00.1', 'A00.0', 'severe (A00.1)')]
    assert fabricated.excludes1_conflicts(['A00.1', 'B20']) == [
        ('A00.1', 'B20', 'A00', 'not this (B20)'),
        ('A00.1', 'B20', 'block A00-B99', 'a note of the range (B20)'),
    ]
    # A code that the release does not have is excluded by others, and excludes none.
    note = 'fabricated injuries (S06.1X7-S06.1X8)'
    assert fabricated.excludes1_conflicts(['S06.1X7Q', 'S00.1', 'S06.1X9A']) == [
        ('S00.1', 'S06.1X7Q', 'chapter 1', note),
        ('S06.1X9A', 'S06.1X7Q', 'chapter 1', note),
    ]


@pytest.mark.parametrize(
    ('code', 'status'),
    [
        ('A00.0', 'billable'),
        ('S00.011A', 'billable'),
        ('S00.011', 'header'),
        ('S09', 'header'),
        ('S09.X', 'incomplete'),
        ('S09.XXX', 'incomplete'),
        ('S00.1XX', 'incomplete'),
        ('S09.XXXB', 'unknown'),
        ('S09.XXXX', 'unknown'),
        ('S00.01X', 'unknown'),
        ('S00.2', 'unknown'),
        ('S06.1', 'unknown'),
        ('A00.X', 'unknown'),
        ('A02', 'unknown'),
        ('X', 'unknown'),
        ('', 'unknown'),
    ],
)
def test_status(fabricated, code, status):
    assert fabricated.status(code) == status


def test_seventh_character(fabricated):
    assert fabricated.seventh_character('S00.011A') == ('A', 'initial encounter')
    assert fabricated.seventh_character('S00.1XX9') == ('9', 'of some kind')
    assert fabricated.seventh_character('S00.012X') is None
    assert fabricated.seventh_character('S00.011') is None
    assert fabricated.seventh_character('A00') is None


def test_nearest_common_ancestor(fabricated):
    assert fabricated.nearest_common_ancestor([]) is None
    assert fabricated.nearest_common_ancestor(['S00.011A']) == 'S00.011A'
    assert fabricated.nearest_common_ancestor(['S00.011A', 'S00.011S']) == 'S00.011'
    assert fabricated.nearest_common_ancestor(['S00.011A', 'S00.01', 'S00.012X']) == 'S00.01'
    assert fabricated.nearest_common_ancestor(['S00.1', 'S00.011A']) == 'S00'
    assert fabricated.nearest_common_ancestor(['S00.1', 'S06.1X7']) is None


def test_unknown_codes(fabricated):
    assert 'A00.0' in fabricated
    assert 'A000' not in fabricated
    assert 'A00-A09' not in fabricated
    look_ups = [fabricated.title, fabricated.billable, fabricated.siblings, fabricated.terms, fabricated.block]
    look_ups += [fabricated.includes, fabricated.code_also, fabricated.seventh_character, fabricated.inclusion_terms]
    for look_up in look_ups:
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
        (FABRICATED.replace('<name>A00.0</name>', '<name>A01.0</name>'), r'has A01\.0 below A00, where it cannot be'),
        (FABRICATED.replace('<name>A00.0</name>', '<name>401.9</name>'), r'has 401\.9 below A00, where it cannot be'),
        (FABRICATED.replace('<name>A01</name>', '<name>A01.0</name>'), r'has A01\.0 below block A00-A09, where'),
    ],
)
def test_files_that_are_no_tabular_list(tmp_path, content, message):
    path = tmp_path / 'some.xml'
    path.write_text(content, encoding='utf-8')
    with pytest.raises(UserError, match=rf'some\.xml .*{message}.*; give the tabular XML'):
        Release.from_tabular(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.data())
def test_any_bytes_are_a_release_or_a_user_error(tmp_path, data):
    content = bytearray(FABRICATED.encode())
    begin = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, 40))
    words = st.sampled_from(FABRICATED.split()).map(str.encode)
    content[begin : begin + length] = data.draw(st.binary(max_size=40) | words)
    path = tmp_path / 'some.xml'
    path.write_bytes(data.draw(st.sampled_from([content, content[begin:], content[:begin]])))
    for read in (Release.from_tabular, lambda path: Release.open([path])):
        try:
            release = read(path)
        except UserError:
            continue
        assert release.codes()


def test_missing_tabular_list(tmp_path):
    for path in (tmp_path / 'none.xml', tmp_path):
        with pytest.raises(UserError, match=r'cannot read .*; give the tabular XML'):
            Release.from_tabular(path)
