"""The index reader on files made by hand in the published schema, and on the published files."""

import contextlib
import functools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.icd.index import IndexTerm, parse_index, read_index_terms
from ccl_jax.icd.natural_order import Title
from ccl_jax.icd.release import Release
from ccl_jax.icd.search import search

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'icd10cm' / '2026'

MAIN_INDEX = """<?xml version="1.0" encoding="utf-8"?>
<ICD10CM.index>
  <version>1999</version>
  <title>ICD-10-CM INDEX TO DISEASES and INJURIES</title>
  <letter><title>A</title>
    <mainTerm><title>Attack, attacks</title>
      <term level="1"><title>heart</title><see>Infarct, myocardium</see></term>
      <term level="1"><title>cerebral</title><see>Infarct, brain</see></term>
      <term level="1"><title>loop</title><see>Attack, round</see></term>
      <term level="1"><title>round</title><see>Attack, loop</see></term>
      <term level="1"><title>panic</title><code>F41.0</code><seeAlso>Disorder, panic</seeAlso></term>
    </mainTerm></letter>
  <letter><title>I</title>
    <mainTerm><title>Infarct, infarction</title>
      <term level="1"><title>myocardium, myocardial<nemod>(acute) (with stated duration of 4 weeks)</nemod></title>
        <code>I21.9</code>
        <term level="2"><title>past</title><code>I25.2-</code></term>
      </term>
      <term level="1"><title>brain</title><code>-</code></term>
    </mainTerm>
    <mainTerm><title>Injury<nemod>(accidental(ly))</nemod> NOS</title><code>t14.90.</code>
      <term level="1"><title>common<nemod>(bile)</nemod> duct</title><code>S36.13</code></term>
    </mainTerm>
  </letter>
</ICD10CM.index>
"""

NEOPLASMS = """<ICD10CM.index><version>1999</version>
  <indexHeading><head col="1">Neoplasm</head><head col="2">Malignant Primary</head>
    <head col="3">Malignant Secondary</head>
    <head col="4">Ca in situ</head></indexHeading>
  <letter><title>N</title><mainTerm><title>Neoplasm, neoplastic</title><cell col="2">C80.1</cell>
    <term level="1"><title>lung</title><cell col="2">C34.9-</cell><cell col="3">C78.0-</cell>
      <cell col="4">-</cell></term>
    <term level="1"><title>pulmonary</title><see>Neoplasm, lung</see></term>
  </mainTerm></letter></ICD10CM.index>
"""


@pytest.fixture
def write(tmp_path):
    def _write(content: str) -> Path:
        path = tmp_path / 'index.xml'
        path.write_text(content, encoding='utf-8')
        return path

    return _write


def test_lines_of_a_main_index(write):
    index = parse_index(write(MAIN_INDEX))
    assert (index.version, index.kind) == ('1999', 'index')
    lines = {' > '.join(title.text for title in entry.path): entry for entry in index.entries}
    assert len(lines) == len(index.entries) == 12
    assert lines['Attack, attacks > heart'].code == 'I21.9'
    assert lines['Attack, attacks > heart'].see == 'Infarct, myocardium'
    # A reference to a line without a code, and two that go in a circle.
    assert [lines[f'Attack, attacks > {name}'].code for name in ('cerebral', 'loop', 'round')] == [None] * 3
    assert index.unresolved == 3
    panic = lines['Attack, attacks > panic']
    assert (panic.code, panic.see_also) == ('F41.0', 'Disorder, panic')
    assert lines['Infarct, infarction > myocardium, myocardial > past'].code == 'I25.2'
    assert lines['Infarct, infarction > brain'].code is None
    assert lines['Injury NOS'].code == 'T14.90'
    assert lines['Injury NOS'].path[0] == Title('Injury NOS', ('accidental(ly)',), len('Injury'))
    assert lines['Injury NOS > common duct'].path[1] == Title('common duct', ('bile',), len('common'))


def test_terms_of_a_main_index(write):
    terms = list(read_index_terms(write(MAIN_INDEX)))
    assert IndexTerm('I21.9', 'heart attack', 'index') in terms
    assert IndexTerm('I21.9', 'acute myocardial infarction', 'index') in terms
    assert IndexTerm('S36.13', 'common bile duct injury', 'index') in terms
    assert len({(term.code, term.text.casefold()) for term in terms}) == len(terms)


def test_heart_attack_is_found_through_the_main_index(tmp_path, write):
    tabular = tmp_path / 'tabular.xml'
    tabular.write_text(
        '<ICD10CM.tabular><version>1999</version><chapter><name>9</name><desc>C (I00-I99)</desc><section id="I20-I25">'
        '<desc>I (I20-I25)</desc><diag><name>I21</name><desc>Acute myocardial infarction</desc>'
        '<diag><name>I21.4</name><desc>NSTEMI</desc></diag>'
        '<diag><name>I21.9</name><desc>Acute myocardial infarction, unspecified</desc></diag></diag>'
        '</section></chapter></ICD10CM.tabular>',
        encoding='utf-8',
    )
    release = Release.open([tabular, write(MAIN_INDEX)])
    best = search(release, 'heart attack')[0]
    assert (best.code, best.term) == ('I21.9', ('heart attack', 'index'))
    assert release.left_out_terms['index'] > 0


def test_cells_of_a_table(write):
    index = parse_index(write(NEOPLASMS))
    assert index.kind == 'neoplasm_table'
    cells = (('Malignant Primary', 'C34.9'), ('Malignant Secondary', 'C78.0'))
    assert [entry.cells for entry in index.entries] == [(('Malignant Primary', 'C80.1'),), cells, cells]
    assert set(read_index_terms(write(NEOPLASMS))) >= {
        IndexTerm('C80.1', 'primary malignant neoplasm', 'neoplasm_table'),
        IndexTerm('C34.9', 'cancer of lung', 'neoplasm_table'),
        IndexTerm('C78.0', 'metastasis to lung', 'neoplasm_table'),
    }


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'not well-formed XML'),
        ('PK\x03\x04', 'not well-formed XML'),
        (MAIN_INDEX[:700], 'not well-formed XML'),
        ('<?xml version="1.0" encoding="klingon"?><a/>', 'not well-formed XML'),
        ('<ICD10CM.tabular><chapter/></ICD10CM.tabular>', 'not an index'),
    ],
)
def test_files_that_are_no_index(write, content, message):
    with pytest.raises(UserError, match=rf'index\.xml .*{message}.*; give an index XML'):
        list(read_index_terms(write(content)))


def test_missing_index(tmp_path):
    with pytest.raises(UserError, match=r'cannot read .*; give an index XML'):
        parse_index(tmp_path)


@given(st.data())
def test_any_damage_is_an_index_or_a_user_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp('fuzz') / 'index.xml'
    content = bytearray(MAIN_INDEX, 'utf-8')
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(content)))
        content[begin : begin + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=10))
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        list(read_index_terms(path))


def _published(name: str) -> Path:
    path = DATA / f'icd10cm-{name}-April-1-2026-XML.xml'
    if not path.exists():
        pytest.skip(f'no ICD-10-CM 2026 index at {path}')
    return path


@functools.cache
def _published_terms(path: Path) -> set[tuple[str, str]]:
    return {(term.code, term.text) for term in read_index_terms(path)}


@pytest.mark.parametrize(
    ('name', 'kind', 'tag'),
    [
        ('eindex', 'external_cause_index', 'code'),
        ('neoplasm', 'neoplasm_table', 'cell'),
        ('drug', 'drug_table', 'cell'),
    ],
)
def test_published_files(name, kind, tag):
    """Every line and code that a search for tags finds in the file is there, and what has a code comes from it."""
    path = _published(name)
    text = path.read_text(encoding='utf-8')
    index = parse_index(path)
    assert index.kind == kind
    assert len(index.entries) == len(re.findall('<(?:mainTerm|term)[ >]', text))
    own = [entry for entry in index.entries if not entry.see or entry.code or entry.cells]
    printed = [code for code in re.findall(rf'<{tag}[^>]*>([^<]*)</{tag}>', text) if code.strip('-')]
    codes = [code for entry in own for code in ([entry.code] if entry.code else [code for _, code in entry.cells])]
    referred = [entry for entry in index.entries if entry.see and (entry.code or entry.cells)]
    assert len(codes) - sum(len(entry.cells) or 1 for entry in referred) <= len(printed) <= len(codes)
    assert {code.rstrip('-').rstrip('.') for code in printed} == set(codes)
    terms = list(read_index_terms(path))
    assert {term.code for term in terms} <= set(codes)
    assert all(term.origin == kind for term in terms)
    assert len({(term.code, term.text) for term in terms}) == len(terms)


@pytest.mark.parametrize(
    ('name', 'code', 'text'),
    [
        ('neoplasm', 'C34.9', 'cancer of lung'),
        ('neoplasm', 'C79.51', 'metastasis to bone'),
        ('neoplasm', 'D05', 'carcinoma in situ of breast'),
        ('drug', 'T39.1X1', 'accidental poisoning by acetaminophen'),
        ('drug', 'T45.515', 'adverse effect of warfarin'),
        ('drug', 'T38.3X6', 'underdosing of insulin'),
        ('eindex', 'W11', 'fall from ladder'),
        ('eindex', 'W54.0', 'dog bite'),
        ('eindex', 'Y92.010', 'injured in kitchen of house'),
    ],
)
def test_terms_of_the_published_files(name, code, text):
    assert (code, text) in _published_terms(_published(name))
