"""Normal forms and forms of codes, against hand-written cases, built spellings and the codes of real corpora."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.icd.codes import (
    CPT,
    ICD9CM,
    ICD9PCS,
    ICD10CM,
    ICD10PCS,
    SYSTEMS,
    is_well_formed,
    normalize_code,
    systems_of_form,
)

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data'

# Head and tail of the codes of each system: where a system prints a dot, it stands between them.
PARTS = {
    ICD10CM: [('[A-Z][0-9][0-9A-Z]', '[0-9A-Z]{0,4}'), ('[A-Z][A-Z][0-9]', '[0-9A-Z]{0,4}')],
    ICD9CM: [('[0-9]{3}', '[0-9]{0,2}'), ('V[0-9]{2}', '[0-9]{0,2}'), ('E[0-9]{3}', '[0-9]?')],
    ICD9PCS: [('[0-9]{2}', '[0-9]{0,2}')],
}
UNDOTTED = {ICD10PCS: '[0-9A-HJ-NP-Z]{1,7}', CPT: '[0-9]{4}[0-9A-Z]|[A-Z][0-9]{4}'}


@st.composite
def codes(draw) -> tuple[str, str, str]:
    """Draws (system, head, tail) of a code; the tail is '' where the system has no dot."""
    system = draw(st.sampled_from(SYSTEMS))
    if system in UNDOTTED:
        return system, draw(st.from_regex(UNDOTTED[system], fullmatch=True)), ''
    head, tail = draw(st.sampled_from(PARTS[system]))
    return system, draw(st.from_regex(head, fullmatch=True)), draw(st.from_regex(tail, fullmatch=True))


@st.composite
def spellings(draw) -> tuple[str, str, str]:
    """Draws (system, normal form, a spelling of it): any case, and blanks and dots anywhere."""
    system, head, tail = draw(codes())
    noise = st.text(alphabet=' .\t\n\r\xa0', max_size=2)
    spelling = draw(noise)
    for character in head + tail:
        spelling += draw(st.sampled_from([character, character.lower()])) + draw(noise)
    return system, f'{head}.{tail}' if tail else head, spelling


@given(spellings())
def test_any_spelling_gives_the_normal_form(case):
    system, normal_form, spelling = case
    assert normalize_code(spelling, system) == normal_form
    assert is_well_formed(normal_form, system)
    assert system in systems_of_form(normal_form)


@given(st.one_of(st.text(max_size=12), st.text(alphabet='eEvV019xX. ', max_size=12)), st.sampled_from(SYSTEMS))
def test_normal_form_of_anything_is_its_own(text, system):
    once = normalize_code(text, system)
    assert normalize_code(once, system) == once
    assert not once.endswith('.')
    assert once == ''.join(once.split())


@pytest.mark.parametrize(
    ('spelling', 'system', 'normal_form'),
    [
        ('u071', ICD10CM, 'U07.1'),
        ('U07.1', ICD10CM, 'U07.1'),
        ('I10', ICD10CM, 'I10'),
        ('i10.', ICD10CM, 'I10'),
        (' I10 . ', ICD10CM, 'I10'),
        ('w19xxxa', ICD10CM, 'W19.XXXA'),
        ('c7a00', ICD10CM, 'C7A.00'),
        ('e119', ICD10CM, 'E11.9'),
        ('e8859', ICD9CM, 'E885.9'),
        ('E885', ICD9CM, 'E885'),
        ('e885.', ICD9CM, 'E885'),
        ('v5867', ICD9CM, 'V58.67'),
        ('4019', ICD9CM, '401.9'),
        ('0389', ICD9CM, '038.9'),
        ('0389', ICD9PCS, '03.89'),
        ('3893', ICD9PCS, '38.93'),
        ('38.', ICD9PCS, '38'),
        ('02hv33z', ICD10PCS, '02HV33Z'),
        ('02H.V', ICD10PCS, '02HV'),
        ('99291', CPT, '99291'),
        ('j1100', CPT, 'J1100'),
        ('', ICD10CM, ''),
        (' . ', ICD9CM, ''),
    ],
)
def test_hand_worked_normal_forms(spelling, system, normal_form):
    assert normalize_code(spelling, system) == normal_form


@pytest.mark.parametrize(
    ('code', 'systems'),
    [
        ('U07.1', (ICD10CM,)),
        ('I10', (ICD10CM,)),
        ('C7A.00', (ICD10CM,)),
        ('W19.XXX', (ICD10CM,)),
        ('W19.XXXA', (ICD10CM,)),
        ('T81.4XX', (ICD10CM,)),
        ('M1A.XXX0', (ICD10CM,)),
        ('QA0.0101', (ICD10CM,)),
        ('401.9', (ICD9CM,)),
        ('E885.9', (ICD9CM,)),
        ('V58.67', (ICD10CM, ICD9CM)),
        ('38.93', (ICD9PCS,)),
        ('02HV33Z', (ICD10PCS,)),
        ('99291', (ICD10PCS, CPT)),
        ('J1100', (ICD10PCS, CPT)),
        # A dot in the wrong place, a trailing one, too long, lower case, no letter in front, other digits, nothing.
        ('I1.0', ()),
        ('I10.', ()),
        ('W19.XXXAB', ()),
        ('i10.9', ()),
        ('E885.99', ()),
        ('401.999', ()),
        ('02HV33ZZ', ()),
        ('02IV33O', ()),
        ('II', ()),
        ('I\u0661\u0660', ()),
        ('I10\n', ()),
        ('', ()),
    ],
)
def test_forms_of_codes(code, systems):
    assert systems_of_form(code) == systems


def test_unknown_system():
    for function in (normalize_code, is_well_formed):
        with pytest.raises(ValueError, match=r"unknown code system 'SNOMED'; known: ICD-10-CM, "):
            function('I10', 'SNOMED')


def test_codes_of_mdace_have_their_form():
    folder = DATA / 'mdace' / 'data'
    if not folder.is_dir():
        pytest.skip(f'no MDACE at {folder}')
    found = set()
    for path in folder.rglob('*.json'):
        for note in json.loads(path.read_text(encoding='utf-8'))['notes']:
            found |= {(annotation['code'], annotation['code_system']) for annotation in note['annotations']}
    assert {system for _, system in found} == set(SYSTEMS)
    assert [pair for pair in found if not is_well_formed(normalize_code(*pair), pair[1])] == []
    assert [pair for pair in found if normalize_code(*pair) != pair[0]] == []


def test_codes_of_codiesp_have_their_form():
    if not (DATA / 'codiesp').is_dir():
        pytest.skip(f'no CodiEsp at {DATA / "codiesp"}')
    for letter, system in (('D', ICD10CM), ('P', ICD10PCS)):
        for path in (DATA / 'codiesp').glob(f'*/*{letter}.tsv'):
            lower_case = {line.split('\t')[1] for line in path.read_text(encoding='utf-8').splitlines()}
            assert lower_case
            for code in lower_case:
                assert normalize_code(code, system) == code.upper()
                assert is_well_formed(code.upper(), system)
