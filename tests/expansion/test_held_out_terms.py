"""Terms of held-out codes by hand, and against a search of every term in every text."""

import random

import pytest

from ccl_jax.expansion.category_texts import category_texts
from ccl_jax.expansion.gold import gold_spans
from ccl_jax.expansion.held_out_terms import HeldOutTerms
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release

EMBEDDED = Release.embedded()
# Depression, dementia, hernias, whooping cough, pneumonia; headers among them.
CATEGORIES = ('F32', 'F03', 'K42', 'A37', 'J18')
CODES = [code for code in EMBEDDED.codes() if code[:3] in CATEGORIES]


def finds(terms: HeldOutTerms, text: str) -> bool:
    return terms.in_words(fold(text).split())


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        # 'Whooping cough due to Bordetella parapertussis without pneumonia', A37.10.
        ('A case of WHOOPING cough due to Bordetella parapertussis, without pneumonia.', True),
        ('Whooping cough due to Bordetella parapertussis with pneumonia', False),
        ('Whooping cough due to Bordetella parapertussis', False),
        ('coded as A37.10 today', True),
        ('coded as a3710', True),
        ('coded as A37.1', False),
        ('coded as A37.101', False),
        ('', False),
    ],
)
def test_a_code_by_hand(text, found):
    terms = HeldOutTerms(EMBEDDED, ['A37.10'], ['A37.10', 'A37.11'], forms=('printed', 'natural'))
    assert finds(terms, text) is found


def test_a_term_of_a_code_that_is_not_held_out_does_not_count():
    # J18 and J18.9 are both 'Pneumonia, unspecified organism'.
    assert 'pneumonia' in {fold(span.text) for span in gold_spans(EMBEDDED, ['J18.9'])}
    assert finds(HeldOutTerms(EMBEDDED, ['J18.9'], EMBEDDED.billable_codes()), 'had pneumonia')
    assert not finds(HeldOutTerms(EMBEDDED, ['J18.9'], ['J18']), 'had pneumonia')
    assert finds(HeldOutTerms(EMBEDDED, ['J18', 'J18.9'], ['J18']), 'had pneumonia')


def test_short_single_words_do_not_count_and_further_wordings_do():
    terms = HeldOutTerms(EMBEDDED, ['W19'], (), own_terms={'W19': ['fall', 'slipped', 'fell ill'], 'I10': ['tension']})
    assert [finds(terms, text) for text in ('a fall', 'slipped', 'fell', 'fell ill', 'tension')] == [
        *(False, True, False, True, False)
    ]


def test_nothing_is_found_where_nothing_is_held_out():
    terms = HeldOutTerms(EMBEDDED, (), EMBEDDED.billable_codes())
    assert (len(terms), finds(terms, 'Pneumonia, J18.9')) == (0, False)


def test_against_a_search_of_every_term():
    rng = random.Random(0)
    held_out = frozenset(code for code in CODES if rng.random() < 0.4)
    taught = [code for code in CODES if EMBEDDED.billable(code)]
    wordings = {code: {fold(span.text) for span in gold_spans(EMBEDDED, [code])} for code in CODES}
    shared = set().union(*(wordings[code] for code in taught if code not in held_out))
    wanted = {
        wording
        for code in held_out
        for wording in wordings[code] - shared
        if len(wording.split()) >= 2 or len(wording) >= 5
    }
    wanted |= {fold(text) for code in held_out for text in (code, code.replace('.', ''))}
    terms = HeldOutTerms(EMBEDDED, held_out, taught)
    assert len(terms) == len(wanted)

    pieces = sorted({word for words in wordings.values() for text in words for word in text.split()})
    phrases = sorted(set().union(*wordings.values()))
    seen = []
    for _ in range(3000):
        kind = rng.choice(('words', 'phrase', 'cut phrase'))
        words = rng.choices(pieces, k=rng.randrange(12))
        if kind != 'words':
            phrase = rng.choice(phrases).split()
            words[3:3] = phrase[rng.randrange(2) :] if kind == 'cut phrase' else phrase
        text = f' {" ".join(words)} '
        seen.append(any(f' {term} ' in text for term in wanted))
        assert terms.in_words(words) is seen[-1], text
    assert 500 < sum(seen) < 2500


def test_texts_of_categories_have_terms_and_no_codes():
    texts = dict(category_texts(EMBEDDED, ['F32.A', 'J18.0', 'J18.9']))
    assert texts['category:F32'] == 'Depressive episode:\n- depression\n- depressive disorder'
    lines = texts['category:J18'].splitlines()
    assert lines[0] == 'Pneumonia, unspecified organism:'
    assert lines[1:] == ['- bronchopneumonia', '- pneumonia']
