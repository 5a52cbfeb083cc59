"""Phrases and misquotes in texts: hand-worked cases, and properties that hold for any words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.expansion.snapping import Phrase, TextWords, alike, find_phrase, snap
from ccl_jax.icd.folding import fold


def _phrases(text: str, phrase: str, floor: float = 90.0) -> list[str]:
    return [text[begin:end] for begin, end in find_phrase(TextWords(text), Phrase(phrase), floor)]


def _snapped(text: str, quote: str, floor: float = 88.0) -> str | None:
    place = snap(TextWords(text), quote, floor)
    return None if place is None else text[slice(*place)]


@pytest.mark.parametrize(
    ('text', 'phrase', 'found'),
    [
        ('Smoker with lung cancer.', 'cancer of lung', ['lung cancer']),
        ('Cancer of the left lung; lung cancer', 'lung cancer', ['Cancer of the left lung', 'lung cancer']),
        ('pain in the right knee', 'right knee pain', ['pain in the right knee']),
        ('fracture of the left distal femur', 'fracture of left femur', ['fracture of the left distal femur']),
        # Two words too many, a comma, a sentence, another condition.
        ('fracture of the left very distal femur', 'fracture of left femur', []),
        ('fracture, left femur', 'fracture of left femur', []),
        ('A fracture. Left femur.', 'fracture of left femur', []),
        ('chronic bronchitis and hypertension', 'chronic hypertension', []),
        # A word like 'with' keeps the order.
        ('neuropathy with diabetes', 'diabetes with neuropathy', []),
        ('diabetes with a neuropathy', 'diabetes with neuropathy', ['diabetes with a neuropathy']),
        # Plural and spelling, not other words.
        ('bone metastases', 'metastasis of bone', ['bone metastases']),
        ('hemangiomas', 'hemangioma', ['hemangiomas']),
        ('a bicornuate uterus', 'bicornate uterus', ['bicornuate uterus']),
        ('hypothyroidism', 'hyperthyroidism', []),
        ('ureteral stricture', 'urethral stricture', []),
        ('spondylolysis', 'spondylosis', []),
        ('eosinophilic', 'eosinophilia', []),
        ('type 1 diabetes', 'type 2 diabetes', []),
        ('falls', 'fall', []),
        # Abbreviations stand in capitals.
        ('an acute MI', 'acute MI', ['acute MI']),
        ('an acute mi', 'acute MI', []),
        # The same word twice needs two of them.
        ('one big toe', 'toe big toe', []),
        ('of the', 'of', []),
        ('and with', 'with', []),
    ],
)
def test_phrases(text, phrase, found):
    assert _phrases(text, phrase) == found


def test_a_floor_above_100_allows_no_misspelling():
    assert _phrases('hemangiomas of liver', 'liver hemangioma', 101) == []
    assert _phrases('hemangioma of liver', 'liver hemangioma', 101) == ['hemangioma of liver']


TEXT = 'He has a Ménière’s disease (left), chest pain radiating to the left arm; type 2 diabetes, no fever over 38.5.'


@pytest.mark.parametrize(
    ('quote', 'words'),
    [
        ('chest pain radiating to left arm', 'chest pain radiating to the left arm'),
        ('chest pain, radiatin to the left arm', 'chest pain radiating to the left arm'),
        ('MENIERES diseases', 'Ménière’s disease'),
        ('type 2 diabetis', 'type 2 diabetes'),
        ('type 1 diabetes', None),
        ('chest pain radiating to the right arm', None),
        ('chest pain radiating and the left arm', None),
        ('fever over 38.5', 'fever over 38.5'),
        ('fever over 39.5', None),
        ('pneumonia of the left lung', None),
        ('chest', None),
        ('', None),
        ('x' * 500, None),
    ],
)
def test_snap(quote, words):
    assert _snapped(TEXT, quote) == words


def test_words_in_another_order_are_whole():
    def found(text):
        return [text[begin:end] for begin, end in find_phrase(TextWords(text), Phrase('spinal stenosis'), 90.0)]

    assert found('A stenosis of the spinal canal was seen.') == []
    assert found('A spinal stenosis was seen.') == ['spinal stenosis']


@pytest.mark.parametrize(
    ('one', 'other', 'same'),
    [
        ('tendinitis', 'tendonitis', True),
        ('abscess', 'abscesses', True),
        ('fever', 'fevers', True),
        ('hyperemia', 'hypoemia', False),
        ('dysphagia', 'dysphasia', False),
        ('t11xx', 't12xx', False),
        ('pain', 'paint', False),
    ],
)
def test_alike(one, other, same):
    assert alike(one, other, 90.0) is same
    assert alike(other, one, 90.0) is same


_WORDS = st.lists(st.sampled_from(['fever', 'chronic', 'kidney', 'disease', 'left', 'cerebral', 'edema']), min_size=3)


@given(_WORDS, st.data())
def test_a_phrase_that_stands_there_is_found(words, data):
    first = data.draw(st.integers(0, len(words) - 2))
    phrase = ' '.join(words[first : data.draw(st.integers(first + 2, len(words)))])
    text = ' '.join(words)
    places = find_phrase(TextWords(text), Phrase(phrase), 90.0)
    assert places
    assert phrase in {text[begin:end] for begin, end in places}
    for begin, end in places:
        assert set(phrase.split()) <= set(text[begin:end].split())
    assert places == sorted(places)


@given(_WORDS, st.sampled_from([' ', '  ', '\n', ' - ']), st.data())
def test_a_slip_of_one_letter_snaps_to_the_words(words, separator, data):
    """A misspelled copy of some words snaps to words that read the same, wherever else they stand."""
    first = data.draw(st.integers(0, len(words) - 2))
    copied = words[first : data.draw(st.integers(first + 2, len(words)))]
    quote = f'{" ".join(copied)}s'
    text = separator.join(words)
    place = snap(TextWords(text), quote, 80.0)
    if len(quote) <= len(' '.join(words)) and copied[-1] != 'left':
        assert place is not None
        assert set(fold(text[slice(*place)]).split()) == set(copied)


@given(st.text(), st.text())
def test_any_text_can_be_searched(text, quote):
    words = TextWords(text)
    for begin, end in [*find_phrase(words, Phrase(quote), 90.0), snap(words, quote, 90.0) or (0, 0)]:
        assert 0 <= begin <= end <= len(text)
    assert words.line == ' '.join(word.folded for word in words.words)
    assert all(re.search(r'\w', text[word.begin : word.end]) for word in words.words)
