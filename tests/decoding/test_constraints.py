"""Random answers under constraints are well-formed, with listed codes and verbatim quotes; targets are accepted."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ccl_jax.data.tokenization import encode_target, end_of_turn_id, train_tokenizer
from ccl_jax.decoding.constraints import AnswerConstraints
from ccl_jax.decoding.vocabulary import Vocabulary, make_trie
from ccl_jax.errors import UserError
from ccl_jax.icd.codes import is_well_formed
from ccl_jax.records import Annotation, Document, Evidence, Span
from ccl_jax.tasks.parser import locate_quote, parse_answer, prediction_from_answer
from ccl_jax.tasks.prompts import PART_SEPARATOR, UNEVIDENCED, document_example, span_example
from tests.decoding.test_constraints_exact import weird_texts
from tests.decoding.tokenizers_for_tests import byte_level, sentence_piece

CODES = ('I10', 'E11.9', 'E11.65', 'S32.010A', 'QA0.0141', 'U07.1')
NOTE = (
    'Known HTN.\r\nType 2\u00a0diabetes, later\n\npain in chest ... neumonía – 漢字. HbA1c 7.5% -> raised.\n'
    '- on insulin\n'
)
SAMPLES = [NOTE, '## Evidence\n- pain\n\n## ICD Codes\n- I10', '## ICD Codes\n- Type 2 diabetes -> E11.9\n- -> I10'] * 3


@pytest.fixture(scope='module')
def tokenizers(tmp_path_factory):
    return {
        'own': train_tokenizer(SAMPLES, 420, tmp_path_factory.mktemp('own') / 'tokenizer'),
        'byte_level': byte_level(SAMPLES, 420),
        'sentence_piece': sentence_piece(SAMPLES, 200),
    }


def make(tokenizer, output_format='pairs', codes=CODES, evidence=True, format=True, max_new_tokens=80, **further):
    return AnswerConstraints(
        tokenizer,
        end_id=end_of_turn_id(tokenizer),
        output_format=output_format,
        codes=codes,
        evidence=evidence,
        format=format,
        max_new_tokens=max_new_tokens,
        **further,
    )


def walk(shared, constraint, seed, end=0.05):
    """Writes an answer by chance, the end token with probability `end` where another may come; its tokens."""
    choose = random.Random(seed)
    tokens = []
    while True:
        allowed = constraint.allowed()
        assert allowed.dtype == np.int32
        assert (np.diff(allowed) > 0).all()
        others = allowed[allowed != shared.end_id].tolist()
        assert others or shared.end_id in allowed
        may_end = shared.end_id in allowed and (not others or choose.random() < end)
        # Structure is rare among the tokens of free text: let it come often enough.
        structure = [token for token in others if set(shared.vocabulary.token_bytes[token]) & set(b'\n-')]
        if structure and choose.random() < 0.3:
            others = structure
        token = shared.end_id if may_end else choose.choice(others)
        constraint.advance(token)
        if token == shared.end_id:
            break
        tokens.append(token)
        assert len(tokens) < shared.max_new_tokens
    assert constraint.ended
    return tokens


def folded(text):
    return ' '.join(text.split())


def assert_verbatim(text, quote, evidence):
    """The parts stand in the text, one after the other, and spell the quote."""
    assert evidence.parts
    assert PART_SEPARATOR.join(folded(text[begin:end]) for begin, end in evidence.parts) == quote
    for (_, before), (after, _) in zip(evidence.parts, evidence.parts[1:], strict=False):
        assert before <= after


@pytest.mark.parametrize('kind', ['own', 'byte_level', 'sentence_piece'])
@pytest.mark.parametrize('output_format', ['pairs', 'blocks'])
@given(text=weird_texts(longest=30), seed=st.integers(0, 1 << 20), max_new_tokens=st.integers(36, 120))
@example(text=NOTE, seed=3, max_new_tokens=120)
@example(text='', seed=1, max_new_tokens=40)
@example(text='\ud800', seed=1, max_new_tokens=40)
@settings(max_examples=60, deadline=None)
def test_any_answer_parses_with_listed_codes_and_verbatim_quotes(
    tokenizers, kind, output_format, text, seed, max_new_tokens
):
    tokenizer = tokenizers[kind]
    shared = _shared(tokenizer, kind, output_format, max_new_tokens)
    tokens = walk(shared, shared.of_document(text), seed)
    written = shared.vocabulary.text(tokens)
    assert written.strip() == tokenizer.decode(tokens, clean_up_tokenization_spaces=False).strip()
    answer = parse_answer(written)
    assert answer.malformed == 0
    assert {item.code for item in answer.items} <= set(CODES)
    assert len(answer.items) + len(answer.quotes) == sum(line.startswith('- ') for line in written.split('\n'))
    for quote in answer.quotes:
        assert_verbatim(text, quote, locate_quote(text, quote))
    for code in prediction_from_answer('d', text, answer).codes:
        quotes = {item.quote for item in answer.items if item.code == code.code and item.quote}
        found = {PART_SEPARATOR.join(folded(text[b:e]) for b, e in evidence.parts) for evidence in code.evidence}
        assert found == quotes
        for evidence in code.evidence:
            assert_verbatim(text, PART_SEPARATOR.join(folded(text[b:e]) for b, e in evidence.parts), evidence)


_made = {}


def _shared(tokenizer, kind, output_format, max_new_tokens):
    """Constraints that differ in the budget alone share everything else; the exact test has them made anew."""
    key = kind, output_format
    if key not in _made:
        _made[key] = make(tokenizer, output_format)
    _made[key].max_new_tokens = max_new_tokens
    return _made[key]


@pytest.mark.parametrize('codes', [CODES, None])
@pytest.mark.parametrize('evidence', [True, False])
@pytest.mark.parametrize('format', [True, False])
@pytest.mark.parametrize('output_format', ['pairs', 'blocks'])
def test_switches(tokenizers, output_format, codes, evidence, format):
    shared = make(tokenizers['own'], output_format, codes, evidence, format, max_new_tokens=120)
    kinds_of_lines = set()
    for seed in range(40):
        written = shared.vocabulary.text(walk(shared, shared.of_document(NOTE), seed, end=0.01))
        answer = parse_answer(written)
        lines = [line.strip() for line in written.split('\n')]
        items = [line for line in lines if line.startswith('-')]
        assert len(answer.items) + len(answer.quotes) == len(items)
        for item in answer.items:
            assert item.code in CODES if codes else is_well_formed(item.code)
        if evidence:
            for quote in {item.quote for item in answer.items if item.quote} | set(answer.quotes):
                assert_verbatim(NOTE, quote, locate_quote(NOTE, quote))
        free = [line for line in lines if line and not line.startswith(('-', '##'))]
        assert answer.malformed == len(free)
        kinds_of_lines |= {'free'} if free else set()
        kinds_of_lines |= {'item'} if items else set()
        if format:
            headings = [line for line in lines if line.startswith('## ')]
            assert headings in (['## ICD Codes'], ['## Evidence', '## ICD Codes'][: len(headings)])
            assert not free
    assert kinds_of_lines == ({'item'} if format else {'item', 'free'})


@st.composite
def annotated_documents(draw):
    """Documents of words, with evidence of whole words in one or two parts, and codes without evidence."""
    words = draw(st.lists(st.sampled_from([*NOTE.split(), '->', '...', '-', '#', 'I10']), min_size=1, max_size=25))
    text, places = '', []
    for word in words:
        places.append((len(text), len(text) + len(word)))
        text += word + draw(st.sampled_from([' ', '\n', '\r\n', '  ', '\u00a0']))
    annotations = []
    for code in draw(st.lists(st.sampled_from(CODES), max_size=5, unique=True)):
        evidence = []
        for _ in range(draw(st.integers(0, 2))):
            first = draw(st.integers(0, len(words) - 1))
            last = draw(st.integers(first, min(first + 3, len(words) - 1)))
            parts = [(places[first][0], places[last][1])]
            # A part that others follow cannot end with the word '...': the parser would take it for the separator.
            if last + 2 < len(words) and words[last] != '...' and draw(st.booleans()):
                parts.append(places[draw(st.integers(last + 2, len(words) - 1))])
            evidence.append(Evidence(tuple(parts), ' '.join(text[b:e] for b, e in parts)))
        annotations.append(Annotation(code, evidence=tuple(evidence)))
    return Document('d', text, tuple(annotations))


@pytest.mark.parametrize('kind', ['own', 'byte_level', 'sentence_piece'])
@given(document=annotated_documents())
@settings(max_examples=60, deadline=None)
def test_what_training_writes_is_accepted(tokenizers, kind, document):
    for output_format in ('pairs', 'blocks'):
        shared = _shared(tokenizers[kind], kind, output_format, 2000)
        for unevidenced in UNEVIDENCED:
            target = encode_target(tokenizers[kind], document_example(document, output_format, unevidenced).target)
            constraint = shared.of_document(document.text)
            for token in target:
                assert token in constraint.allowed()
                constraint.advance(token)
            assert constraint.ended


@pytest.mark.parametrize('kind', ['own', 'byte_level', 'sentence_piece'])
def test_spans(tokenizers, kind):
    shared = make(tokenizers[kind])
    target = span_example([Span('s', 'HTN', 'S32.010A', 'gold', '')], 'single', 'pairs').target
    constraint = shared.of_span()
    for token in encode_target(tokenizers[kind], target):
        assert token in constraint.allowed()
        constraint.advance(token)
    written = {shared.vocabulary.text(walk(shared, shared.of_span(), seed)).strip() for seed in range(300)}
    assert written == {f'## ICD Code\n- {code}' for code in CODES}


def test_quotes_have_a_longest_length(tokenizers):
    shared = make(tokenizers['own'], longest_quote=7, max_new_tokens=200)
    quotes = set()
    for seed in range(60):
        written = shared.vocabulary.text(walk(shared, shared.of_document(NOTE), seed, end=0))
        quotes |= {item.quote for item in parse_answer(written).items}
    assert {len(quote.encode()) for quote in quotes} == {0, 1, 2, 3, 4, 5, 6, 7}
    assert 'diabetes' not in quotes


def test_long_documents_give_the_same_as_short_ones(tokenizers):
    """Many positions go through arrays; they must allow what a few allow."""
    shared = make(tokenizers['own'])
    short, long = shared.of_document(NOTE), shared.of_document(NOTE * 300)
    choose = random.Random(0)
    for _ in range(60):
        allowed = short.allowed()
        assert set(allowed) <= set(long.allowed())
        token = choose.choice(allowed[allowed != shared.end_id].tolist() or [shared.end_id])
        short.advance(token)
        long.advance(token)
        if short.ended:
            break
    # Behind the first words of a line both know the same ways on, as the note repeats itself.
    once, twice = shared.of_document(NOTE * 2), shared.of_document(NOTE * 300)
    for token in encode_target(tokenizers['own'], '## ICD Codes\n- pain in chest -> I10\n- HbA1c')[:-1]:
        assert once.allowed().tolist() == twice.allowed().tolist()
        once.advance(token)
        twice.advance(token)


def test_the_trie_holds_every_token_once():
    words = [b'', b'a', b'ab', b'\xff', b'\xff\xff', b'b', b'a', b'abc', b'\x00']
    found = []
    stack = [(make_trie(words), b'')]
    while stack:
        node, prefix = stack.pop()
        assert node.depth == len(prefix)
        found += [(token, prefix) for token in node.tokens]
        stack += [(child, prefix + bytes([byte])) for byte, child in node.children.items()]
    assert sorted(found) == [(token, word) for token, word in enumerate(words) if word]


def test_bytes_of_tokens_spell_what_was_encoded(tokenizers):
    for kind, tokenizer in tokenizers.items():
        vocabulary = Vocabulary(tokenizer, end_of_turn_id(tokenizer))
        for text in (NOTE, '𝛼 \t\x00 ▁', 'a\n\n  b'):
            written = vocabulary.text(encode_target(tokenizer, text)[:-1])
            # SentencePiece cannot tell its own '▁' from a space.
            wanted = ' ' + text.replace('▁', ' ') if kind == 'sentence_piece' else text
            assert written == wanted


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'codes': ()}, 'list of codes'),
        ({'max_new_tokens': 10}, 'max_new_tokens is 10'),
    ],
)
def test_bad_settings(tokenizers, change, message):
    with pytest.raises(UserError, match=message):
        make(tokenizers['own'], **change)


def test_tokenizers_that_cannot_write_every_text_are_refused(tokenizers):
    with pytest.raises(UserError, match='unknown for this kind of tokenizer'):
        Vocabulary(SimpleNamespace(), 0)
    with pytest.raises(UserError, match='no token for'):
        Vocabulary(sentence_piece(SAMPLES, 200, fallback=False), 0)
