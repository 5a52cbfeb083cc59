"""The parser reads back what the prompts write, and survives anything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.text())
def test_any_text_is_accepted(text):
    answer = parse_answer(text)
    assert len(answer.items) == len(answer.lines)
    prediction = prediction_from_answer('d', 'some note', answer)
    assert len({code.code for code in prediction.codes}) == len(prediction.codes)


@pytest.mark.parametrize(
    ('text', 'quote', 'start', 'parts'),
    [
        ('FAMILY history of MI', 'MI', 0, ((18, 20),)),  # not inside FAMILY
        ('gout, then gout', 'gout', 5, ((11, 15),)),  # after the item before
        ('gout, then fever', 'gout', 8, ((0, 4),)),  # else the first
        ('Acute\nrenal  failure', 'acute renal failure', 0, ((0, 20),)),  # folded
        ('pain in the left chest', 'pain ... chest', 0, ((0, 4), (17, 22))),  # several parts
        ('pain ... chest', 'pain ... chest', 0, ((0, 14),)),  # the separator verbatim
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
