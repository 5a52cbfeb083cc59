"""Ranks against BM25 worked out term by term in plain Python, and against ranks worked by hand."""

import dataclasses
import math
import random
from collections import Counter
from xml.sax.saxutils import escape

import pytest

from ccl_jax.expansion.round_trip import RoundTrip
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release
from ccl_jax.records import Span


def _release(path, titles: dict[str, list[str]]) -> Release:
    """A release of categories: code -> title and inclusion terms."""
    diagnoses = ''.join(
        f'<diag><name>{code}</name><desc>{escape(title)}</desc>'
        + ''.join(f'<inclusionTerm><note>{escape(term)}</note></inclusionTerm>' for term in terms)
        + '</diag>'
        for code, (title, *terms) in titles.items()
    )
    path.write_text(
        '<ICD10CM.tabular><version>1999</version><chapter><name>1</name><desc>All (A00-Z99)</desc>'
        f'<section id="A00-Z99"><desc>All (A00-Z99)</desc>{diagnoses}</section></chapter></ICD10CM.tabular>'
    )
    return Release.from_tabular(path)


def _span(text: str, code: str) -> Span:
    return Span('s', text, code, 'gold', 'p')


Terms = list[tuple[str, list[str]]]


def _brute_force(terms: Terms, text: str, code: str) -> int | None:
    mean = sum(len(words) for _, words in terms) / len(terms)
    containing = Counter(word for _, words in terms for word in set(words))
    best: dict[str, float] = {}
    for owner, words in terms:
        score = 0.0
        for word in set(fold(text).split()):
            n, tf = containing[word], words.count(word)
            idf = math.log(1 + (len(terms) - n + 0.5) / (n + 0.5))
            score += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(words) / mean))
        best[owner] = max(best.get(owner, 0.0), score)
    if code not in best or best[code] <= 0:
        return None
    place = list(best).index(code)
    ahead = sum(
        score > best[code] + 1e-9 or (abs(score - best[code]) <= 1e-9 and i < place)
        for i, score in enumerate(best.values())
    )
    return ahead + 1


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('words', [4, 30, 400])
def test_ranks_as_by_brute_force(tmp_path, seed, words):
    """With 4 words all are common, with 400 hardly any; equal terms make ties."""
    source = random.Random(f'{seed}:{words}')
    # Frequencies as in language: the first words are in most of the terms.
    vocabulary = [f'w{i}' for i in range(words)]
    weights = [1 / (i + 1) for i in range(words)]

    def text() -> str:
        return ' '.join(source.choices(vocabulary, weights, k=source.randint(1, 7)))

    codes = [f'{letter}{number:02}' for letter in 'ABC' for number in range(20)]
    release = _release(tmp_path / 'r.xml', {code: [text() for _ in range(source.randint(1, 3))] for code in codes})
    own = [_span(term.text, code) for code, term in release.term_table()]
    others = [_span(f'{text()} unknown', source.choice(codes)) for _ in range(60)]
    index = RoundTrip(release)
    terms = [(code, fold(term.text).split()) for code, term in release.term_table()]
    ranks = [_brute_force(terms, span.text, span.code) for span in own + others]
    for k in (1, 5, 200):
        assert index.ranks(own + others, k) == [rank if rank and rank <= k else None for rank in ranks]


def test_ranks_by_hand(tmp_path):
    release = _release(
        tmp_path / 'r.xml',
        {
            'A00': ['Cholera'],
            'B00': ['Knee pain', 'Gonalgia'],
            'C00': ['Knee pain of the left side'],
            'D00': ['Knee pain'],
            'E00': ['(-)'],
        },
    )
    cases = {
        ('KNEE-pain!', 'B00'): 1,
        ('knee pain', 'D00'): 2,
        ('knee pain', 'C00'): 3,
        ('left knee pain', 'C00'): 1,
        ('gonalgia', 'B00'): 1,
        ('gonalgia', 'C00'): None,
        ('cholera', 'A00'): 1,
        ('cholera', 'Z99'): None,
        ('unheard of words', 'A00'): None,
        ('', 'A00'): None,
        ('cholera', 'E00'): None,
    }
    index = RoundTrip(release)
    spans = [_span(*case) for case in cases]
    assert index.ranks(spans, 3) == list(cases.values())
    assert index.ranks(spans, 2) == [rank if rank and rank <= 2 else None for rank in cases.values()]
    assert index.ranks([]) == []
    assert index.ranks([dataclasses.replace(_span('cholera', 'A00'), system='ICD-10-PCS')]) == [None]
    with pytest.raises(ValueError, match='k is 0'):
        index.ranks(spans, 0)


def test_a_span_s_rank_does_not_depend_on_the_others():
    release = Release.embedded()
    spans = [_span(term.text, code) for code, term in list(release.term_table())[::400]]
    index = RoundTrip(release)
    ranks = index.ranks(spans)
    assert index.ranks(spans[::-1]) == ranks[::-1]
    assert [index.ranks([span])[0] for span in spans[::10]] == ranks[::10]
    assert sum(rank == 1 for rank in ranks) > 0.8 * len(ranks)
