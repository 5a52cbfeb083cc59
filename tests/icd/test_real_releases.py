"""The real releases against the official order file, the wheel's own code list, and cases worked by hand."""

import csv
import subprocess
import sys
import unicodedata
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ccl_jax.errors import UserError
from ccl_jax.icd import release as release_module
from ccl_jax.icd.codes import is_well_formed, normalize_code
from ccl_jax.icd.release import Release

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'icd10cm'


@pytest.fixture(scope='module')
def fy2021() -> Release:
    path = DATA / '2021' / 'icd10cm_tabular_2021.xml'
    if not path.is_file():
        pytest.skip(f'no ICD-10-CM 2021 release at {path}')
    return Release.from_tabular(path)


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


@pytest.mark.parametrize('year', ['2021', 'embedded'])
def test_tree_is_consistent(year, request):
    release = request.getfixturevalue('fy2021') if year == '2021' else Release.embedded()
    below = defaultdict(list)
    for code in release.codes():
        parent = release.parent(code)
        assert normalize_code(code) == code
        assert is_well_formed(code)
        assert (parent is None) == (len(code) == 3)
        if parent is not None:
            below[parent].append(code)
            assert release.nearest_common_ancestor([code, parent]) == parent == release.ancestors(code)[0]
            assert (release.chapter(code), release.block(code)) == (release.chapter(parent), release.block(parent))
            # FY2021 lists one code below another that it does not begin with.
            assert code.startswith(parent) or (code, parent) == ('H54.512A', 'H54.511')
    for code in release.codes():
        assert list(release.children(code)) == below[code]
        assert release.billable(code) == (code not in below or not below[code])
        assert release.status(code) == ('header' if below[code] else 'billable')


def test_embedded_chapters_and_blocks_against_a_table_of_categories():
    folder = DATA / '2026'
    if not folder.is_dir():
        pytest.skip(f'no ICD-10-CM 2026 release at {folder}')
    release = Release.embedded()
    tables = {}
    for name in ('chapters', 'sections', 'categories'):
        with open(folder / f'icd10cm-{name}-April-1-2026.csv', encoding='utf-8-sig', newline='') as file:
            tables[name] = list(csv.DictReader(file))
    chapters = {row['chapter']: row['description'] for row in tables['chapters']}
    blocks = {row['section_range']: row['description'] for row in tables['sections']}
    categories = {row['ICD10-CM-CODE']: row for row in tables['categories']}
    assert set(categories) == {code for code in release.codes() if len(code) == 3}
    for code, row in categories.items():
        assert release.title(code) == ' '.join(row['description'].split())
        assert release.chapter(code) == ' '.join(chapters[row['chapter']].split())
        assert release.block(code) == ' '.join(blocks[row['section']].split())


def test_embedded_seventh_characters_against_the_definitions_in_the_file():
    """Every 7-character code that the file does not list has one, and the file defines it so in its category."""
    release = Release.embedded()
    folder = Path(next(iter(find_spec('simple_icd_10_cm').submodule_search_locations)), 'data')
    listed, defined = set(), set()
    for section in ElementTree.parse(next(folder.glob('*tabular*.xml'))).iter('section'):
        for category in section.iterfind('diag'):
            listed |= {name.text for name in category.iter('name')}
            for extension in category.iter('extension'):
                meaning = ' '.join(extension.text.split())
                defined.add((category.findtext('name'), extension.get('char'), meaning))
    complete = [code for code in release.billable_codes() if len(code) == 8]
    assert len(complete) > 40_000
    for code in complete:
        found = release.seventh_character(code)
        assert code in listed if found is None else (code[:3], *found) in defined or code in listed
    assert release.seventh_character('S72.001B') == ('B', 'initial encounter for open fracture type I or II')
    assert release.seventh_character('C44.1021') is None
    assert not any(release.seventh_character(code) for code in release.codes() if len(code) < 8)


@pytest.mark.parametrize(
    ('codes', 'conflicts'),
    [
        # Type 1 and type 2 diabetes exclude each other.
        (['E10.9', 'E11.9'], [('E10.9', 'E11.9', 'E10'), ('E11.9', 'E10.9', 'E11')]),
        # Angina with coronary disease has a code of its own (I25.11-); I25 has no such note.
        (['I25.10', 'I20.9'], [('I20.9', 'I25.10', 'I20')]),
        # Through the chapter: pregnancy, and its supervision while normal.
        (['O80', 'Z34.90'], [('O80', 'Z34.90', 'chapter 15'), ('Z34.90', 'O80', 'Z34')]),
        # Through the block: a pedestrian accident, and a mere bump.
        (['V03.00XA', 'W51.XXXA'], [('V03.00XA', 'W51.XXXA', 'block V00-V09')]),
        # Through a range of blocks.
        (['V43.52XA', 'Y03.0XXA'], [('V43.52XA', 'Y03.0XXA', 'block V00-V99')]),
        (['I10', 'O10.011'], [('I10', 'O10.011', 'I10')]),
        # Under a condition on the code: neuralgic amyotrophy, with diabetes that has it (.44) or not.
        (['G54.5', 'E11.44'], [('G54.5', 'E11.44', 'G54.5')]),
        (['G54.5', 'E11.9'], []),
        # An Excludes2 note is none.
        (['J18.9', 'J69.0'], []),
        (['I10', 'I63.9', 'E78.5', 'J44.9'], []),
    ],
)
def test_excludes1_conflicts_of_the_embedded_release(codes, conflicts):
    found = Release.embedded().excludes1_conflicts(codes)
    assert [(conflict.code, conflict.other, conflict.where) for conflict in found] == conflicts


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


def test_fy2021_against_the_order_file(fy2021):
    """The official order file lists every code, header or billable, with its full title in ASCII."""
    order, billable, titles = [], set(), {}
    for line in (DATA / '2021' / 'icd10cm-order-Jan-2021.txt').read_text(encoding='utf-8').splitlines():
        bare = line[6:13].strip()
        code = f'{bare[:3]}.{bare[3:]}' if len(bare) > 3 else bare
        order.append(code)
        titles[code] = line[77:]
        if line[14] == '1':
            billable.add(code)
    assert len(billable) == 72_621
    assert set(fy2021.billable_codes()) == billable
    assert list(fy2021.codes()) == order
    different = [code for code in order if _ascii(fy2021.title(code)) != _ascii(titles[code])]
    assert different == []


def _ascii(title: str) -> str:
    decomposed = unicodedata.normalize('NFKD', ' '.join(title.split()))
    return ''.join(c for c in decomposed if not unicodedata.combining(c))
