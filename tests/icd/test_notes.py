"""The codes that notes name, in wordings that real releases use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.icd.notes import CodeRange, code_references


def names(note: str, code: str) -> bool:
    return any(reference.contains(code) for reference in code_references(note))


@pytest.mark.parametrize(
    ('note', 'inside', 'outside'),
    [
        ('human immunodeficiency virus (B20)', 'B20', 'B21 B2'),
        ('brain injury (S06.-)', 'S06 S06.0X0A S06.9', 'S05.9 S07 S0'),
        ('heart disease (I12.-, I13.-)', 'I12.9 I13.0', 'I11 I14'),
        ('hypertensive disease (O10-O11, O13-O16)', 'O10.011 O11 O13 O14.02 O16.9', 'O09 O12.00 O17'),
        ('diabetes mellitus (E08-E13)', 'E08 E09.9 E13.9', 'E07.9 E14 E1'),
        ('several (I63.3-I70.5)', 'I63.3 I65 I70.52', 'I63 I70 I70.6'),
        ('disease (J44.0-J44.9)', 'J44.0 J44.9 J44.81', 'J44 J43.9 J45'),
        ('anything of pregnancy (O00-O9A)', 'O99.9 O9A.119', 'P00 N99'),
        ('carcinoid (C7A.0-, D3A)', 'C7A.012 D3A.00', 'C7A.1 D36'),
        ('overweight (of newborn) (P08.1) and mother (in pregnancy) (O26.0-)', 'P08.1 O26.03', 'P08.2 O26.1'),
        ('cognitive deficits (I69.01-I69.11-, I69.81- I69.91-)', 'I69.01 I69.05 I69.118 I69.91', 'I69.12 I69.0 I69.92'),
        ('atherosclerosis (I70.2--I70.7-)', 'I70.2 I70.55 I70.799', 'I70.1 I70.8'),
        ('apnea (P28.3- - P28.4-)', 'P28.30 P28.49', 'P28.5'),
        ('drug dependence (F10.- -F19.-)', 'F10.10 F15.2 F19.99', 'F09 F20'),
        ('rheumatoid arthritis (M05.00 to M05.8A)', 'M05.00 M05.59 M05.8A', 'M05.9'),
        ('nine (K50.014, K50.914,)', 'K50.014 K50.914', 'K50.114'),
        ('injury (S00 - S09)', 'S00.01XA S09', 'S10'),
        ('infections (J00-J06; J20-J22)', 'J06.9 J20', 'J18.9'),
        # Conditions: on what follows the dot, on a position, on the end.
        ('neuralgic amyotrophy (E08-E13 with .44)', 'E11.44 E08.44', 'E11.9 E11.4 E14.44'),
        ('angiopathy (E08-E13 with .51-.52)', 'E11.51 E10.52', 'E11.59 E11.5'),
        ('skin disorders (E08-E13 with .62-)', 'E11.620 E11.62', 'E11.61'),
        ('dementia (F10-F19, with .17, .27, .97)', 'F10.27 F19.97', 'F10.20'),
        ('psychoactive drug use (F11-F19 with .15. .25, .95)', 'F11.150 F11.25 F12.959', 'F11.20'),
        ('skateboarder (V01-V09 with 5th character 2)', 'V01.02XA V09.02', 'V01.00XA V01.13 V10.02'),
        ('open skull fracture (S02.- with 7th character B)', 'S02.0XXB', 'S02.0XXA S02 S02.0'),
        ('open fracture (S42.- with 7th character B or C)', 'S42.001B S42.001C', 'S42.001A'),
        ('amnestic syndrome (F10-F19 with 5th character .6)', 'F10.96 F13.26', 'F10.69'),
        ('hallucinations (F11-F19 with fifth to sixth characters 51)', 'F11.151', 'F11.150 F11.15 F11.51'),
        ('adverse effect (T36-T50 with fifth or sixth character 5)', 'T36.95XA T38.0X5A T38.815', 'T38.0X1A T36.91XA'),
        (
            'poisoning (T36-T65 with fifth or sixth character 1-4 or 6)',
            'T36.91XA T38.0X4 T38.0X6D',
            'T38.815A T36.95XA',
        ),
        ('whooping cough with pneumonia (A37 with fifth-character 1)', 'A37.01 A37.91', 'A37.10'),
        ('fluency disorder (I69. with final characters -23)', 'I69.323 I69.023', 'I69.32 I69.322 I69.230'),
        ('hyperosmolarity (E08, E11 with final characters .00 or .01)', 'E08.00 E11.01', 'E11.10 E11.9'),
        ('underdosing (T36-T50 with final character 6)', 'T38.0X6A T36.96XA T38.816', 'T38.0X5A T36.95XA'),
        # No brackets around the codes, or only one of them.
        ('conditions classified to Q67.0-Q67.4', 'Q67.0 Q67.3', 'Q67.5'),
        ('injury to visual cortex S04.04-', 'S04.041A', 'S04.03'),
        ('acquired absence of knee joint (Z89.52-', 'Z89.529', 'Z89.51'),
        ('injuries in subcategories S06.1- to S06.6-, and S06.81- to S06.89-', 'S06.1X0 S06.5 S06.82', 'S06.0 S06.7'),
        # Words in brackets or with digits that are no codes.
        ('any condition in I51.4-I51.9 due to hypertension (I11.-)', 'I11.0', 'I51.5'),
        ('nephritis (with C3 glomerulopathy) with dense deposit disease (N00.6)', 'N00.6', 'C3'),
        ('glucose-6-phosphate dehydrogenase (G6PD) deficiency (D75.A)', 'D75.A', 'G6P'),
        ('anemia unresponsive to vitamin B12', '', 'B12'),
    ],
)
def test_codes_of_real_notes(note, inside, outside):
    assert [code for code in inside.split() if not names(note, code)] == []
    assert [code for code in outside.split() if names(note, code)] == []


@pytest.mark.parametrize(
    'note',
    [
        '',
        'pneumonia (lobar)',
        'myocarditis (in):',
        'code (Chapter 20) to identify external cause',
        # What cannot be checked on the code is not asserted of it.
        'open fracture of elbow (S52.- with open fracture 7th character)',
        'poisoning (T51-T65 with fifth or sixth character to indicate intent)',
        'diabetic acidosis - see categories E08-E10, E11, E13 with ketoacidosis',
        'hand (S60-S69 with 7th character A-C)',
    ],
)
def test_notes_that_name_no_code(note):
    assert code_references(note) == ()


def test_order_of_references():
    assert code_references('a (B20) b (O10.0-O11, S06.-)') == (
        CodeRange('B20', 'B20'),
        CodeRange('O100', 'O11'),
        CodeRange('S06', 'S06'),
    )


code_texts = st.from_regex(r'[A-Z][0-9][0-9A-Z](\.[0-9A-Z]{1,4})?', fullmatch=True)


@given(code_texts, code_texts)
def test_a_bracketed_code_names_itself_and_all_below(code, other):
    assert names(f'something ({code})', other) == other.replace('.', '').startswith(code.replace('.', ''))


@given(st.text(alphabet='(B20-.,) with51orchaesA\n', max_size=40), code_texts)
def test_any_note_is_read(note, code):
    assert names(note, code) in (True, False)
