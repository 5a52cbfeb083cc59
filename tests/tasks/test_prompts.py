"""Prompts and targets against hand-written ones; truncation; spans."""

import pytest

from ccl_jax.records import Annotation, Document, Evidence, Span
from ccl_jax.tasks.parser import parse_answer
from ccl_jax.tasks.prompts import answer_items, document_example, span_example, window

TEXT = 'Known HTN. Type 2 diabetes, later pain in chest. HTN again.\n'


def _evidence(*words: str, start: int = 0) -> Evidence:
    parts = []
    for word in words:
        begin = TEXT.index(word, parts[-1][1] if parts else start)
        parts.append((begin, begin + len(word)))
    return Evidence(tuple(parts), ' '.join(words))


@pytest.fixture
def document() -> Document:
    return Document(
        'd1',
        TEXT,
        (
            Annotation('R07.9', evidence=(_evidence('pain', 'chest'),)),
            Annotation('I10', evidence=(_evidence('HTN', start=20), _evidence('HTN'))),
            Annotation('Z79.4'),
            Annotation('E11.9', evidence=(_evidence('Type 2 diabetes'),)),
            Annotation('0DTJ4ZZ', system='ICD-10-PCS'),
        ),
    )


def test_pairs_in_document_order_each_once_and_codes_without_evidence_last(document):
    example = document_example(document, 'pairs', 'keep')
    assert example.prompt == TEXT.rstrip() + '\n\n'
    assert example.target == (
        '## ICD Codes\n- HTN -> I10\n- Type 2 diabetes -> E11.9\n- pain ... chest -> R07.9\n- -> Z79.4'
    )


def test_blocks(document):
    assert document_example(document, 'blocks', 'keep').target == (
        '## Evidence\n- HTN\n- Type 2 diabetes\n- pain ... chest\n\n## ICD Codes\n- I10\n- E11.9\n- R07.9\n- Z79.4'
    )


@pytest.mark.parametrize(
    ('output_format', 'unevidenced', 'last'),
    [
        ('pairs', 'drop', '- pain ... chest -> R07.9'),
        ('pairs', 'codes_only', '- Z79.4'),
        ('blocks', 'drop', '- R07.9'),
        ('blocks', 'codes_only', '- Z79.4'),
    ],
)
def test_unevidenced(document, output_format, unevidenced, last):
    assert document_example(document, output_format, unevidenced).target.split('\n')[-1] == last


@pytest.mark.parametrize('output_format', ['blocks', 'pairs'])
def test_without_evidence_in_the_target_the_same_codes_in_the_same_order(document, output_format):
    with_it = document_example(document, 'blocks', 'keep').target.partition('## ICD Codes')
    without = document_example(document, output_format, 'keep', evidence=False)
    assert without.target == '## ICD Codes\n- I10\n- E11.9\n- R07.9\n- Z79.4' == ''.join(with_it[1:])
    assert without.prompt == document_example(document, output_format).prompt
    assert document_example(document, output_format, 'drop', evidence=False).target.endswith('- R07.9')
    assert [item.code for item in parse_answer(without.target).items] == ['I10', 'E11.9', 'R07.9', 'Z79.4']


def test_document_without_evidence_has_no_evidence_block_only_under_codes_only():
    bare = Document('d', 'text', (Annotation('I10'),))
    assert document_example(bare, 'blocks', 'codes_only').target == '## ICD Codes\n- I10'
    assert document_example(bare, 'blocks', 'keep').target == '## Evidence\n\n## ICD Codes\n- I10'


def test_line_breaks_in_evidence_do_not_break_the_line():
    text = 'acute\n  renal failure'
    document = Document('d', text, (Annotation('N17.9', evidence=(Evidence(((0, len(text)),), text),)),))
    assert answer_items(document)[0][0].quote == 'acute renal failure'


def test_window_takes_a_code_with_its_last_evidence_and_keeps_codes_that_had_none(document):
    cut = window(document, 0, TEXT.index(' HTN again'))
    assert {a.code for a in cut.annotations} == {'I10', 'E11.9', 'R07.9', 'Z79.4', '0DTJ4ZZ'}
    cut = window(document, TEXT.index('Type'), len(TEXT))
    kept = {a.code: a for a in cut.annotations}
    assert [cut.text[b:e] for evidence in kept['I10'].evidence for b, e in evidence.parts] == ['HTN']
    # Half of a discontinuous reference is no reference.
    assert 'R07.9' not in {a.code for a in window(document, 0, TEXT.index('chest')).annotations}


def test_span_shapes():
    spans = [
        Span('s1', 'high blood\npressure', 'I10', 'gold', 'title'),
        Span('s2', 'gout', 'M10.9', 'gold', 'title'),
        Span('s3', 'HTN', 'I10', 'gold', 'title'),
    ]
    single = span_example(spans[:1], 'single', 'pairs')
    assert (single.prompt, single.target) == ('## Evidence\n- high blood pressure\n\n', '## ICD Code\n- I10')
    listed = span_example(spans, 'list', 'pairs')
    assert listed.prompt == '## Evidence\n- high blood pressure\n- gout\n- HTN\n\n'
    assert listed.target == '## ICD Codes\n- high blood pressure -> I10\n- gout -> M10.9\n- HTN -> I10'
    assert span_example(spans, 'list', 'blocks').target == '## ICD Codes\n- I10\n- M10.9'
    behind = span_example(spans, 'in_context', 'pairs', context='An unrelated note. ')
    assert behind.prompt == 'An unrelated note.\n\n' + listed.prompt
    assert behind.target == listed.target
    bare = span_example(spans, 'list', 'pairs', evidence=False)
    assert (bare.prompt, bare.target) == (listed.prompt, '## ICD Codes\n- I10\n- M10.9')
    assert span_example(spans[:1], 'single', 'pairs', evidence=False) == single
