"""Differences of titles and the edits that follow from them, worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.expansion.title_difference import (
    SCALES,
    Difference,
    difference,
    edit,
    readings,
    seventh_character_difference,
)


def differences(old_title, new_title):
    """Returns every small difference between two titles."""
    found = []
    for old in readings(old_title):
        for new in readings(new_title):
            if (old.scale, old.frame) == (new.scale, new.frame):
                found.append(difference(old, new))
    return [step for step in found if step is not None]


def edited(text, old_title, new_title):
    (step,) = differences(old_title, new_title)
    return edit(text, step)


@pytest.mark.parametrize(
    ('old_title', 'new_title', 'words'),
    [
        ('Contusion of right knee', 'Contusion of left knee', ['right -> left']),
        ('Contusion of unspecified knee', 'Contusion of left knee', ['unspecified knee -> left knee']),
        ('Contusion of left knee', 'Contusion of unspecified knee', ['left -> unspecified']),
        ('Otitis media, unspecified, right ear', 'Otitis media, unspecified, bilateral', []),
        ('Otitis media, right ear', 'Otitis media, unspecified ear', ['right -> unspecified']),
        ('Acute cystitis with hematuria', 'Acute cystitis without hematuria', ['with hematuria -> without hematuria']),
        ('Acute sinusitis', 'Chronic sinusitis', ['acute -> chronic']),
        ('Acute on chronic systolic heart failure', 'Chronic systolic heart failure', ['acute on chronic -> chronic']),
        ('Sprain of right thumb', 'Sprain of right index finger', ['thumb -> index finger']),
        ('Burn of second degree of hand', 'Burn of third degree of hand', ['second degree -> third degree']),
        # Two values differ, or none that is on a scale, or nothing at all.
        ('Acute sinusitis of right ear', 'Chronic sinusitis of left ear', []),
        ('Sepsis due to Pseudomonas', 'Sepsis due to Escherichia coli', []),
        ('Aneurysm of renal artery', 'Aneurysm of carotid artery', []),
        ('Contusion of right knee', 'Contusion of right knee', []),
        (
            'Laceration with foreign body with damage to nail',
            'Laceration without foreign body without damage to nail',
            [],
        ),
        ('Labor second trimester with birth second trimester', 'Labor second trimester with birth third trimester', []),
        # A stretch that ends its title has no word after it.
        ('Pain, with', 'Pain, without', []),
    ],
)
def test_differences_between_titles(old_title, new_title, words):
    assert [str(step) for step in differences(old_title, new_title)] == words


def test_one_of_two_withs():
    old, new = 'Bite with abscess without rash', 'Bite without abscess without rash'
    assert [str(step) for step in differences(old, new)] == ['with abscess -> without abscess']


def test_readings_of_different_frames_have_no_difference():
    (right, *_), (left, *_) = readings('Pain in right knee'), readings('Pain in left hip')
    with pytest.raises(ValueError, match='more than their value'):
        difference(right, left)


RIGHT_KNEE, LEFT_KNEE, BOTH_KNEES = 'Pain in right knee', 'Pain in left knee', 'Pain in bilateral knee'
ANY_KNEE = 'Pain in unspecified knee'


@pytest.mark.parametrize(
    ('text', 'changed'),
    [
        ('right knee pain', 'left knee pain'),
        ('Right knee pain, right calf pain', 'Left knee pain, left calf pain'),
        ('RIGHT KNEE PAIN', 'LEFT KNEE PAIN'),
        ('pain R knee', 'pain L knee'),
        ('Rt. knee swollen', 'Lt. knee swollen'),
        ('right-sided gonalgia', 'left-sided gonalgia'),
        ('RUQ pain', 'LUQ pain'),
        # Nothing to replace.
        ('knee pain', None),
        ('R/O knee fracture', None),
        ('bright spots', None),
        # Says both, or one seen from the other, or nothing but the side.
        ('right knee pain worse than left', None),
        ('right knee pain, L hip pain', None),
        ('right knee pain, both knees swollen', None),
        ('right knee pain, contralateral normal', None),
        ('right', None),
    ],
)
def test_right_to_left(text, changed):
    assert edited(text, RIGHT_KNEE, LEFT_KNEE) == changed


def test_litres_are_not_left():
    assert edited('knee effusion, 2 L drained', LEFT_KNEE, RIGHT_KNEE) is None
    assert edited('L knee effusion, 2 L drained', LEFT_KNEE, RIGHT_KNEE) == 'R knee effusion, 2 L drained'


@pytest.mark.parametrize(
    ('text', 'old_title', 'new_title', 'changed'),
    [
        ('right knee pain', RIGHT_KNEE, BOTH_KNEES, 'bilateral knee pain'),
        ('right-sided knee pain', RIGHT_KNEE, BOTH_KNEES, None),
        ('RUQ pain', RIGHT_KNEE, BOTH_KNEES, None),
        ('bilateral knee pain', BOTH_KNEES, LEFT_KNEE, 'left knee pain'),
        ('bilateral sore knees', BOTH_KNEES, LEFT_KNEE, None),
        ('left knee pain', LEFT_KNEE, ANY_KNEE, 'knee pain'),
        ('knee pain, left', LEFT_KNEE, ANY_KNEE, 'knee pain'),
        ('gonalgia on the left', LEFT_KNEE, ANY_KNEE, None),
        ('gonalgia, left knee', LEFT_KNEE, ANY_KNEE, None),
        ('knee pain of left knee', LEFT_KNEE, ANY_KNEE, None),
        ('knee pain', ANY_KNEE, LEFT_KNEE, 'left knee pain'),
        ('Knee pain', ANY_KNEE, LEFT_KNEE, 'Left knee pain'),
        ('swollen knee', ANY_KNEE, LEFT_KNEE, 'swollen left knee'),
        ('R knee pain', ANY_KNEE, LEFT_KNEE, None),
        ('knee pain, unspecified knee', ANY_KNEE, LEFT_KNEE, None),
        ('unspecified knee pain', ANY_KNEE, LEFT_KNEE, None),
        ('knee pain, knee swelling', ANY_KNEE, LEFT_KNEE, None),
        ('gonalgia', ANY_KNEE, LEFT_KNEE, None),
        ('below-knee pain', ANY_KNEE, LEFT_KNEE, None),
    ],
)
def test_both_sides_and_no_side(text, old_title, new_title, changed):
    assert edited(text, old_title, new_title) == changed


@pytest.mark.parametrize(
    ('text', 'old_title', 'new_title', 'changed'),
    [
        ('cystitis w/ hematuria', 'Cystitis with hematuria', 'Cystitis without hematuria', 'cystitis w/o hematuria'),
        ('cystitis, no hematuria', 'Cystitis without hematuria', 'Cystitis with hematuria', 'cystitis, with hematuria'),
        ('cystitis with pain', 'Cystitis with hematuria', 'Cystitis without hematuria', None),
        ('an acute sinus infection', 'Acute sinusitis', 'Chronic sinusitis', 'a chronic sinus infection'),
        ('acute on chronic sinusitis', 'Acute sinusitis', 'Chronic sinusitis', None),
        ('subacute sinusitis', 'Acute sinusitis', 'Chronic sinusitis', None),
        ('heel ulcer stage II', 'Ulcer of heel, stage 2', 'Ulcer of heel, stage 3', 'heel ulcer stage III'),
        ('2nd degree scald', 'Burn of second degree', 'Burn of third degree', '3rd degree scald'),
        ('second scald', 'Burn of second degree', 'Burn of third degree', None),
    ],
)
def test_other_scales(text, old_title, new_title, changed):
    assert edited(text, old_title, new_title) == changed


@pytest.mark.parametrize(
    ('text', 'changed'),
    [
        ('burn of hand, initial encounter', 'burn of hand, sequela'),
        ('initial encounter for burn of hand', None),
        ('burn of hand', None),
        ('initial encounter', None),
    ],
)
def test_a_seventh_character_stands_at_the_end(text, changed):
    assert edit(text, seventh_character_difference('initial encounter', 'sequela')) == changed


def test_bilateral_needs_a_noun_or_a_comma():
    step = seventh_character_difference('right eye', 'bilateral')
    assert edit('macular edema of right eye', step) is None
    assert edit('macular edema, right eye', step) == 'macular edema, bilateral'


def test_words_of_the_old_value_are_not_left_over():
    step = seventh_character_difference('initial encounter for closed fracture', 'initial encounter for open fracture')
    assert edit('closed break of arm, initial encounter for closed fracture', step) is None


NEUTRAL = st.lists(st.sampled_from(['pain', 'fièvre', '(old)', 'ab-cd', 'T3', 'über', 'x']), max_size=4)


@given(
    st.sampled_from([(scale, old, new) for scale in SCALES for old in range(2) for new in range(2) if old != new]),
    NEUTRAL,
    NEUTRAL,
)
def test_an_edit_replaces_the_value_and_nothing_else(choice, before, after):
    scale, old, new = choice
    step = Difference(scale, old, new, 'body' if scale.with_next else '')
    said, wanted = (f'{scale.values[value][0]} {step.anchor}'.strip() for value in (old, new))
    assert edit(' '.join(['here', *before, said, *after]), step) == ' '.join(['here', *before, wanted, *after])
    assert edit(' '.join([*before, wanted, *after]), step) is None
    assert edit(' '.join([*before, said, *after, wanted]), step) is None


@given(st.sampled_from(SCALES), st.text(max_size=60))
def test_any_text_can_be_edited_or_not(scale, text):
    result = edit(text, Difference(scale, 0, 1, 'body' if scale.with_next else ''))
    assert result is None or scale.values[0][0].split()[0][0].casefold() in text.casefold()
