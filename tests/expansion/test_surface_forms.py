"""Surface forms against hand-made ones, and the table of abbreviations against the release and its own promises."""

import re
from pathlib import Path

import pytest

from ccl_jax.expansion.abbreviations import ABBREVIATIONS, abbreviated
from ccl_jax.expansion.surface_forms import british, joined_with_meaning, note_form, reworded, running_text
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release
from ccl_jax.icd.terms import natural_form

RELEASE_2026 = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'icd10cm' / '2026'
A_CODE = re.compile(r'[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?')


@pytest.mark.parametrize(
    ('term', 'form'),
    [
        ('Heart failure, unspecified', 'heart failure'),
        ('Sprain of other and unspecified finger', 'sprain of other finger'),
        ('Burn of unspecified degree of left ankle', 'burn of left ankle'),
        ('Calcific tendinitis, unspecified forearm', 'calcific tendinitis, forearm'),
        ('Otitis media, unspecified, unspecified ear', 'otitis media'),
        ('Leakage of implants and [grafts]', 'Leakage of implants and [grafts]'),
    ],
)
def test_note_form(term, form):
    assert note_form(term) == form


@pytest.mark.parametrize(
    ('natural', 'wordings'),
    [
        (
            'primary osteoarthritis, right knee',
            ['primary osteoarthritis of right knee', 'primary right knee osteoarthritis'],
        ),
        ('epithelial corneal dystrophy, bilateral', ['bilateral epithelial corneal dystrophy']),
        ('abrasion of left elbow', ['left elbow abrasion']),
        ('open wound of left breast', ['left breast open wound']),
        (
            'displaced fracture of shaft of left radius',
            ['displaced left radius shaft fracture'],
        ),
        ('pain in right knee', ['right knee pain']),
        (
            'unilateral inguinal hernia, without obstruction or gangrene, not specified as recurrent',
            ['unilateral inguinal hernia'],
        ),
        ('type 2 diabetes mellitus without complications', ['type 2 diabetes mellitus', 'type 2 diabetes']),
        ('poisoning by opium, assault', ['assault by poisoning with opium']),
        ('personal history of malignant neoplasm of breast', None),
        ('high risk pregnancy, first trimester', ['high risk pregnancy in first trimester']),
        ('malignant neoplasm of left female breast', ['cancer of left breast', 'left breast cancer']),
        ('secondary malignant neoplasm of liver', ['metastasis to liver', 'liver metastasis']),
        # What stands after 'without', or 'of', makes another disease here.
        ('migraine without aura', []),
        ('agoraphobia without panic disorder', []),
        ('carcinoma in situ of pharynx', []),
        ('absence of left foot', []),
        ('laceration of muscle and tendon of left thigh', []),
        ('cholera', []),
    ],
)
def test_reworded(natural, wordings):
    found = [text for text, _ in reworded(natural)]
    if wordings is None:
        assert found[0] == 'history of malignant neoplasm of breast'
    else:
        assert found == wordings


def test_rules_are_named_in_the_order_in_which_they_worked():
    assert reworded('primary osteoarthritis, right knee')[-1][1] == 'comma undone, site first'


@pytest.mark.parametrize(
    ('meaning', 'first', 'among'),
    [
        ('initial encounter', 'fracture of rib', 'fracture of rib, initial encounter'),
        ('initial encounter for closed fracture', 'closed fracture of rib', 'fracture of rib'),
        (
            'initial encounter for open fracture type I or II',
            'open fracture of rib, Gustilo type I',
            'open fracture of rib',
        ),
        ('subsequent encounter', 'fracture of rib, subsequent encounter', 'follow-up for fracture of rib'),
        (
            'subsequent encounter for fracture with nonunion',
            'nonunion of fracture of rib',
            'fracture of rib with nonunion',
        ),
        ('sequela', 'sequela of fracture of rib', 'late effect of fracture of rib'),
        ('bilateral', 'bilateral fracture of rib', 'bilateral fracture of rib'),
        ('with tophus (tophi)', 'fracture of rib with tophus', 'fracture of rib with tophus'),
        ('mild stage', 'mild fracture of rib', 'fracture of rib, mild stage'),
        ('not applicable or unspecified', 'fracture of rib', 'fracture of rib'),
        ('fetus 2', 'fracture of rib, fetus 2', 'fracture of rib, fetus 2'),
    ],
)
def test_joined_with_meaning(meaning, first, among):
    found = list(joined_with_meaning('fracture of rib', meaning))
    assert found[0] == first
    assert among in found


def test_an_open_fracture_of_the_third_type_is_none_of_no_type():
    found = list(
        joined_with_meaning('other fracture of rib', 'initial encounter for open fracture type IIIA, IIIB, or IIIC')
    )
    assert found[:3] == [f'other open fracture of rib, Gustilo type {each}' for each in ('IIIA', 'IIIB', 'IIIC')]
    assert 'other open fracture of rib' not in found


def test_what_is_no_fracture_is_not_called_an_open_one():
    found = list(joined_with_meaning('amputation of toe', 'initial encounter for open fracture'))
    assert found == ['amputation of toe, initial encounter for open fracture']


def test_running_text_keeps_the_capitals_of_names():
    assert running_text("Nondisplaced Rolando's fracture") == "nondisplaced Rolando's fracture"
    assert running_text('Miller Fisher syndrome') == 'Miller Fisher syndrome'
    assert running_text("Crohn's disease") == "Crohn's disease"


def test_british_spelling():
    assert (
        british('anemia with edema and hemorrhage of esophagus') == 'anaemia with oedema and haemorrhage of oesophagus'
    )
    assert british('asthma') == 'asthma'


@pytest.mark.parametrize(
    ('text', 'short'),
    [
        ('type 2 diabetes mellitus with foot ulcer', 'T2DM w/ foot ulcer'),
        ('Chronic obstructive pulmonary disease', 'COPD'),
        ('fracture of left femur', 'fx of L femur'),
        ('object accidentally left in body', 'object accidentally left in body'),
        ('non-ST elevation myocardial infarction', 'NSTEMI'),
        ('family history of hypertension', 'FHx of HTN'),
        ('left-sided colitis', 'left-sided colitis'),
        ('birthright', 'birthright'),
    ],
)
def test_abbreviated(text, short):
    assert abbreviated(text) == short


def test_the_table_holds_no_phrase_twice_and_no_ambiguous_abbreviation():
    words = [entry.words for entry in ABBREVIATIONS]
    assert len(set(words)) == len(words)
    assert all(text == text.lower() for text in words)
    ambiguous = {'MS', 'PE', 'RA', 'CP', 'CA', 'PT', 'AS', 'MR', 'CF', 'HA', 'PD', 'AD', 'UC', 'U', 'IU', 'MSO4'}
    assert ambiguous.isdisjoint(entry.short for entry in ABBREVIATIONS)
    meanings: dict[str, set[str]] = {}
    for entry in ABBREVIATIONS:
        meanings.setdefault(entry.short, set()).add(entry.words)
    assert {short for short, all_words in meanings.items() if len(all_words) > 1} == {'h/o'}


def test_what_is_said_to_be_printed_at_a_code_is_printed_there():
    if not RELEASE_2026.is_dir():
        pytest.skip('the 2026 release is not here')
    release = Release.open([RELEASE_2026])
    sourced = [entry for entry in ABBREVIATIONS if A_CODE.fullmatch(entry.source)]
    assert len(sourced) > 40
    for words, short, code in sourced:
        printed = [term.text for term in release.terms(code) if short in term.text]
        assert any(fold(words) in fold(form) for term in printed for form in (term, natural_form(term))), words
