"""The parser reads back what the prompts write, and survives anything else."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.icd.codes import is_well_formed, normalize_code
from ccl_jax.records import Annotation, Document, Evidence
from ccl_jax.tasks.parser import locate_quote, parse_answer, prediction_from_answer
from ccl_jax.tasks.prompts import Item, document_example

WORDS = st.lists(
    st.sampled_from(['pain', 'fever', 'HTN', 'cough', 'left', 'a-b', '3.5', 'renal', '->', '...']),
    min_size=1,
    max_size=4,
)


@st.composite
def documents(draw):
    """Documents whose evidence are word runs that stand apart, each with a code."""
    runs = draw(st.lists(WORDS.map(' '.join), min_size=1, max_size=6, unique=True))
    codes = draw(st.lists(st.sampled_from(['I10', 'E11.9', 'S32.010A', 'U07.1']), min_size=6, max_size=6))
    text, annotations = '', []
    for run, code in zip(runs, codes, strict=False):
        text += 'Then: '
        annotations.append(Annotation(code, evidence=(Evidence(((len(text), len(text) + len(run)),), run),)))
        text += run + ';\n'
    return Document('d', text, tuple(annotations))


@given(documents())
def test_pairs_round_trip(document):
    answer = parse_answer(document_example(document, 'pairs').target)
    wanted = [(a.evidence[0].text, a.code) for a in document.annotations]
    assert [(item.quote, item.code) for item in answer.items] == wanted
    assert answer.malformed == 0
    found = prediction_from_answer('d', document.text, answer)
    for predicted in found.codes:
        for evidence in predicted.evidence:
            assert ' '.join(document.text[b:e] for b, e in evidence.parts) == evidence.text


def test_blocks_link_quotes_and_codes_only_where_there_are_as_many():
    linked = parse_answer('## Evidence\n- gout\n- fever\n\n## ICD Codes\n- M10.9\n- R50.9')
    assert linked.items == (Item('gout', 'M10.9'), Item('fever', 'R50.9'))
    unlinked = parse_answer('## Evidence\n- gout\n- fever\n\n## ICD Codes\n- M10.9')
    assert unlinked.items == (Item('', 'M10.9'),)
    assert unlinked.quotes == ('gout', 'fever')


def test_malformed_lines_are_counted_and_codes_normalised():
    answer = parse_answer('## ICD Codes\n- gout -> m109\n- fever ->\nhello\n- x -> nonsense\n- -> i10\n\n-')
    assert answer.items == (Item('gout', 'M10.9'), Item('', 'I10'))
    assert answer.lines == (1, 5)
    assert answer.malformed == 4


FRAGMENTS = ['- ', '-', ' -> ', '->', '\n', '\n\n', '## Evidence', '## ICD Codes', '## ICD Code', ' ... ', '...', 'I10']
FRAGMENTS += [
    'e11.9',
    'E 11 9',
    'QA0.0141',
    'I٣0',
    'ßA1',
    'pain',
    'Pain',
    'in',
    ' ',
    '\t',
    '\r\n',
    '\u00a0',
    '\u2028',
    '\x1c',
    '.',
]
FRAGMENTS += ['e\u0301', 'İ', '\ud800', '\x00', '(', '\\', '[a-', '#', '_']
FRAGMENTED = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(''.join)


@given(st.text() | FRAGMENTED, st.text() | FRAGMENTED)
@settings(max_examples=300)
def test_any_text_is_accepted_and_counts_add_up(text, note):
    answer = parse_answer(text)
    lines = [line.strip() for line in text.split('\n')]
    headings = sum(line in ('## Evidence', '## ICD Codes', '## ICD Code') for line in lines)
    assert len(answer.items) + len(answer.quotes) + answer.malformed + headings == sum(map(bool, lines))
    assert len(answer.items) == len(answer.lines)
    assert all(lines[number].startswith('-') for number in answer.lines)
    assert list(answer.lines) == sorted(set(answer.lines))
    assert all(is_well_formed(item.code) and item.code == normalize_code(item.code) for item in answer.items)
    assert all(quote == quote.strip() != '' and '\n' not in quote for quote in answer.quotes)

    prediction = prediction_from_answer('d', note, answer, [float(i) for i in range(len(answer.items))])
    assert [code.code for code in prediction.codes] == list(dict.fromkeys(item.code for item in answer.items))
    for code in prediction.codes:
        mine = [(i, item.quote) for i, item in enumerate(answer.items) if item.code == code.code]
        assert code.score == max(i for i, _ in mine)
        assert len(code.evidence) == len(set(code.evidence)) <= sum(bool(quote) for _, quote in mine)
        assert bool(code.evidence) == any(quote for _, quote in mine)
        for evidence in code.evidence:
            if evidence.parts:
                assert evidence.text == ' '.join(note[begin:end] for begin, end in evidence.parts)
                assert all(0 <= begin < end <= len(note) for begin, end in evidence.parts)
            else:
                assert evidence.text in {quote for _, quote in mine}


@pytest.mark.parametrize('code', ['QA0', 'QA0.0141', 'C7A.00', 'U07.1'])
def test_codes_of_every_form_are_read(code):
    assert parse_answer(f'## ICD Codes\n- gout -> {code}\n- {code}').items == (Item('gout', code), Item('', code))


def test_digits_of_other_scripts_are_no_code():
    assert parse_answer('- I٣0').malformed == 1


def _places(text, quote):
    """All places whose words, white space folded, are `quote`; by trying every slice."""
    slices = [(begin, end) for begin in range(len(text)) for end in range(begin + 1, len(text) + 1)]
    return [
        (begin, end)
        for begin, end in slices
        if ' '.join(text[begin:end].split()) == quote and text[begin:end] == text[begin:end].strip()
    ]


@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=12).map(''.join), st.data())
@settings(max_examples=300)
def test_a_piece_of_the_text_is_found_as_such(text, data):
    folded = ' '.join(text.split())
    if not folded:
        return
    begin = data.draw(st.integers(0, len(folded) - 1))
    quote = folded[begin : data.draw(st.integers(begin + 1, len(folded)))].strip()
    start = data.draw(st.integers(0, len(text)))
    if not quote:
        return
    places = _places(text, quote)
    inside = re.compile(r'\w')
    bordered = [
        (b, e)
        for b, e in places
        if not (b and inside.match(text[b - 1])) and not (e < len(text) and inside.match(text[e]))
    ]
    candidates = bordered or places
    wanted = min((place for place in candidates if place[0] >= start), default=min(candidates))
    assert locate_quote(text, quote, start).parts == (wanted,)


@pytest.mark.parametrize(
    ('text', 'quote', 'start', 'parts'),
    [
        ('FAMILY history of MI', 'MI', 0, ((18, 20),)),  # not inside FAMILY
        ('gout, then gout', 'gout', 5, ((11, 15),)),  # after the item before
        ('gout, then fever', 'gout', 8, ((0, 4),)),  # else the first
        ('Acute\nrenal  failure', 'acute renal failure', 0, ((0, 20),)),  # folded
        ('pain in the left chest', 'pain ... chest', 0, ((0, 4), (17, 22))),  # several parts
        ('pain ... chest', 'pain ... chest', 0, ((0, 14),)),  # the separator verbatim
        ('Pain, chest. pain in the chest', 'pain ... chest', 0, ((13, 17), (25, 30))),  # in parts before folded case
        ('chest pain, chest', 'pain ... chest', 11, ((6, 10), (12, 17))),  # parts stay in order
        ('a\r\nb, xa b', 'a b', 0, ((0, 4),)),  # across a line end, at word borders
        ('no such words', 'gout', 0, ()),
        ('renal', 'ren', 0, ((0, 3),)),  # a piece of a word, if nothing else
    ],
)
def test_locate_quote(text, quote, start, parts):
    assert locate_quote(text, quote, start).parts == parts


@given(st.text(max_size=30), st.text(max_size=8), st.integers(0, 30))
def test_located_parts_lie_in_the_text(text, quote, start):
    located = locate_quote(text, quote, start)
    for begin, end in located.parts:
        assert 0 <= begin < end <= len(text)
    if quote.strip() and quote in text and quote == quote.strip():
        assert located.parts


def test_scores_take_the_best_line_of_a_code():
    answer = parse_answer('- gout -> M10.9\n- fever -> R50.9\n- gout again -> M10.9')
    prediction = prediction_from_answer('d', 'gout fever', answer, [-3.0, -1.0, -2.0])
    assert [(code.code, code.score) for code in prediction.codes] == [('M10.9', -2.0), ('R50.9', -1.0)]
    assert [evidence.parts for evidence in prediction.codes[0].evidence] == [((0, 4),), ()]
