"""Windows against their promises: they fit, cover the text, end at sentences, and keep evidence and its words."""

import dataclasses
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.data.truncation import last_that_fits, longest_beginning, word_ends
from ccl_jax.data.windows import cut_into_windows, sentence_ends
from ccl_jax.records import Annotation, Document, Evidence
from ccl_jax.tasks.prompts import window


def sentences_of(text):
    ends = sentence_ends(text)
    return [text[begin:end].strip() for begin, end in zip([0, *ends], ends, strict=False)]


def test_sentence_ends_by_hand():
    assert sentences_of(
        'Seen by Dr. Smith, q.d. with food.  BP 120/80 (normal). Hepatitis C. Then\nthe line was wrapped.\n\n'
        'Medications:\n1. Aspirin 5 mg. Twice\n10. Iron\n- Zinc! Why?\nPLAN: none. él Índice.  \n'
    ) == [
        'Seen by Dr. Smith, q.d. with food.',
        'BP 120/80 (normal).',
        'Hepatitis C. Then\nthe line was wrapped.',
        'Medications:',
        '1. Aspirin 5 mg.',
        'Twice',
        '10. Iron',
        '- Zinc!',
        'Why?',
        'PLAN: none. él Índice.',
    ]
    assert sentence_ends('no end') == [6]


@given(st.lists(st.integers(0, 200), unique=True).map(sorted), st.integers(-1, 200))
def test_last_that_fits_equals_a_scan(ends, limit):
    expected = max((end for end in ends if end <= limit), default=None)
    assert last_that_fits(ends, lambda end: end <= limit) == expected


def test_the_search_does_not_try_what_is_much_too_long():
    text = 'word ' * 10_000
    tried = []
    assert longest_beginning(text, lambda end: tried.append(end) or end <= 103) == 99
    assert max(tried) <= 250
    assert word_ends('a bc\nd') == [1, 4]


def at(*words):
    begins = [TEXT.index(word) for word in words]
    return Evidence(
        tuple((begin, begin + len(word)) for begin, word in zip(begins, words, strict=True)), ' '.join(words)
    )


# Each sentence has 24 characters.
TEXT = 'One has gout, here, now. Two has asthma and more. Three has sepsis, again. Four is well, nearly so. '
DOCUMENT = Document(
    'd',
    TEXT,
    (
        Annotation('M10.9', evidence=(at('gout'),)),
        Annotation('J45.909', evidence=(at('asthma'),)),
        Annotation('A41.9', evidence=(at('sepsis'), at('asthma'), at('gout', 'sepsis'))),
        Annotation('R05.9'),
    ),
)


def cut(document, longest, overlap=0):
    """The windows of at most `longest` characters: (text, quotes of each code)."""
    windows = cut_into_windows(document, lambda part: len(part.text) <= longest, overlap)
    return windows and [(part.text, {a.code: len(a.evidence) for a in part.annotations}) for _, part in windows]


def test_windows_by_hand():
    assert cut(DOCUMENT, 50) == [
        (TEXT[:49], {'M10.9': 1, 'J45.909': 1, 'A41.9': 1, 'R05.9': 0}),
        (TEXT[50:99], {'A41.9': 1}),
    ]
    # An overlap takes whole sentences only; the discontinuous quote needs three.
    assert cut(DOCUMENT, 74, 23)[1] == (TEXT[75:99], {})
    assert cut(DOCUMENT, 74, 24)[1] == (TEXT[50:99], {'A41.9': 1})
    assert cut(DOCUMENT, 74, 48)[1] == (TEXT[50:99], {'A41.9': 1}), 'half a window at most'
    assert cut(DOCUMENT, 74)[0] == (TEXT[:74], {'M10.9': 1, 'J45.909': 1, 'A41.9': 3, 'R05.9': 0})
    assert cut(DOCUMENT, 200) == [(TEXT[:99], {'M10.9': 1, 'J45.909': 1, 'A41.9': 3, 'R05.9': 0})]


def test_a_quote_that_a_window_would_cut_begins_the_next_one():
    across = dataclasses.replace(DOCUMENT, annotations=(Annotation('I10', evidence=(at('more. Three'),)),))
    assert cut(across, 50) == [(TEXT[:49], {}), (TEXT[25:74], {'I10': 1}), (TEXT[75:99], {})]
    # Its sentence begins in the first half of the window, so the next one begins with the quote itself.
    assert cut(across, 29) == [
        (TEXT[:24], {}),
        (TEXT[25:49], {}),
        ('more. Three has sepsis,', {'I10': 1}),
        ('again.', {}),
        (TEXT[75:99], {}),
    ]


def test_within_a_long_sentence_words_are_the_edges():
    text = 'alpha beta gamma delta epsilon zeta eta theta. Iota kappa.'
    document = Document('d', text, (Annotation('I10', evidence=(Evidence(((0, 5),), 'alpha'),)),))
    assert [text for text, _ in cut(document, 17, 6)] == [
        'alpha beta gamma',
        'gamma delta',
        'delta epsilon',
        'zeta eta theta.',
        'Iota kappa.',
    ]


def test_without_evidence_there_is_one_window_and_none_where_nothing_fits():
    bare = dataclasses.replace(DOCUMENT, annotations=(Annotation('R05.9'), Annotation('I10')))
    assert cut(bare, 50) == [(TEXT[:49], {'R05.9': 0, 'I10': 0})]
    assert cut(DOCUMENT, 2) is None
    assert cut(Document('d', 'word ' + 'x' * 60, DOCUMENT.annotations[:1]), 50) is None


@st.composite
def documents(draw):
    words = draw(
        st.lists(st.sampled_from(['ab', 'Abc', 'abcd', 'Ab.', 'abc.', 'Abcde!\n', '\n\nABC:']), min_size=1, max_size=60)
    )
    text = ' '.join(words)
    positions = st.integers(0, len(text) - 1)
    parts = st.tuples(positions, st.integers(1, 12)).map(lambda pair: (pair[0], min(len(text), sum(pair))))
    quotes = st.lists(parts, min_size=1, max_size=2).map(lambda pair: Evidence(tuple(pair), ''))
    evidence = draw(st.lists(quotes, min_size=1, max_size=6))
    annotations = tuple(Annotation(f'A{i:02d}', evidence=(quote,)) for i, quote in enumerate(evidence))
    return Document('d', text, (*annotations, Annotation('Z99')))


@settings(deadline=None, max_examples=300)
@given(documents(), st.integers(14, 60), st.integers(0, 30), st.integers(0, 3))
def test_windows_keep_their_promises(document, longest, overlap, code_size):
    def fits(part):
        return len(part.text) + code_size * len(part.annotations) <= longest + 4 * code_size

    text = document.text
    windows = cut_into_windows(document, fits, overlap)
    ends, words = sentence_ends(text), [word.end() for word in re.finditer(r'\S+', text)]
    extents = [(begin, begin + len(part.text)) for begin, part in windows]
    covered = set()
    for number, ((begin, end), (_, part)) in enumerate(zip(extents, windows, strict=True)):
        assert fits(part)
        assert text[begin:end] == part.text
        covered.update(range(begin, end))
        reached = extents[number - 1][1] if number else 0
        assert end > reached
        assert begin > extents[number - 1][0] if number else begin == 0
        # The longest that can be.
        whole = document if not number else dataclasses.replace(document, annotations=document.annotations[:-1])
        fitting = [e for e in ends if e > reached and fits(window(whole, begin, e))]
        fitting = fitting or [e for e in words if e > reached and fits(window(whole, begin, e))]
        assert end == max(fitting)
        # Exactly what is whole in the window, at its words.
        kept = {a.code: a.evidence for a in part.annotations}
        assert ('Z99' in kept) == (number == 0)
        for annotation in document.annotations[:-1]:
            (quote,) = annotation.evidence
            inside = all(begin <= a and b <= end for a, b in quote.parts)
            assert (annotation.code in kept) == inside
            for a, b in quote.parts if inside else ():
                place = kept[annotation.code][0].parts[quote.parts.index((a, b))]
                assert part.text[slice(*place)] == text[a:b]
    assert all(text[i].isspace() for i in range(len(text)) if i not in covered)


@settings(deadline=None, max_examples=300)
@given(documents(), st.integers(14, 60), st.integers(0, 30))
def test_evidence_shorter_than_half_a_window_is_in_one(document, longest, overlap):
    windows = cut_into_windows(document, lambda part: len(part.text) <= longest, overlap)
    shortest = min((len(part.text) for _, part in windows[:-1]), default=0)
    kept = {annotation.code for _, part in windows for annotation in part.annotations}
    for annotation in document.annotations[:-1]:
        begin, end = min(a for a, _ in annotation.evidence[0].parts), max(b for _, b in annotation.evidence[0].parts)
        if not document.text[end - 1].isspace() and not document.text[begin].isspace() and end - begin < shortest / 2:
            assert annotation.code in kept
