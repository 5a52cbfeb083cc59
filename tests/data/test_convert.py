"""From records to examples: every span as often as asked, nothing over the longest bucket, nothing lost uncounted."""

from collections import Counter

import pytest

from ccl_jax.data.convert import make_examples
from ccl_jax.data.tokenization import train_tokenizer
from ccl_jax.errors import UserError
from ccl_jax.records import Annotation, Document, Evidence, Span
from ccl_jax.tasks import TASKS
from ccl_jax.tasks.settings import TaskSettings

WORDS = [f'word{i}' for i in range(200)]
TEXT = ' '.join(WORDS)


def _evidence(word: str) -> Evidence:
    begin = TEXT.index(word + ' ') if word != WORDS[-1] else TEXT.index(word)
    return Evidence(((begin, begin + len(word)),), word)


LONG = Document(
    'long',
    TEXT,
    (
        Annotation('I10', evidence=(_evidence('word3'), _evidence('word190'))),
        Annotation('M10.9', evidence=(_evidence('word195'),)),
        Annotation('R05.9'),
    ),
)
SHORT = Document('short', 'Has gout now.', (Annotation('M10.9', evidence=(Evidence(((4, 8),), 'gout'),)),))
SPANS = [Span(f's{i}', f'finding {i}', f'A{i:02d}.0', 'gold', 'title') for i in range(30)]


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    return train_tokenizer([TEXT, 'finding'], 600, tmp_path_factory.mktemp('tokenizer') / 'folder')


def _text(tokenizer, example) -> str:
    return tokenizer.decode(example.tokens[1:])


def test_every_span_is_in_as_many_examples_as_asked(tokenizer):
    settings = TaskSettings(
        names=('span',),
        span_shapes={'single': 1.0, 'list': 1.0, 'in_context': 1.0},
        spans_per_list=(2, 4),
        span_repeats=3,
        context_characters=60,
    )
    counts: Counter[str] = Counter()
    examples = list(make_examples(settings, tokenizer, 512, 0, documents=[SHORT], spans=SPANS, counts=counts))
    texts = [_text(tokenizer, example) for example in examples]
    for span in SPANS:
        assert sum(f'{span.code}<' in text or f'{span.code}\n' in text for text in texts) == 3
    assert len({example.example_id for example in examples}) == len(examples)
    kinds = ('span_examples_single', 'span_examples_list', 'span_examples_in_context')
    assert all(counts[kind] for kind in kinds)
    assert sum(counts[kind] for kind in kinds) == len(examples)
    assert {example.task for example in examples} == {'span'}
    again = make_examples(settings, tokenizer, 512, 0, documents=[SHORT], spans=SPANS)
    assert [example.example_id for example in again] == [example.example_id for example in examples]


def test_contexts_carry_none_of_the_codes(tokenizer):
    settings = TaskSettings(names=('span',), span_shapes={'in_context': 1.0}, spans_per_list=(1, 1))
    same_code = [Span('s', 'gout', 'M10.9', 'gold', 'title')]
    (example,) = make_examples(settings, tokenizer, 512, 0, documents=[SHORT], spans=same_code)
    assert 'Has' not in _text(tokenizer, example)


def test_a_long_document_is_cut_at_a_word_and_loses_the_codes_of_what_is_cut(tokenizer):
    counts: Counter[str] = Counter()
    settings = TaskSettings(names=('document',))
    cut, whole = make_examples(settings, tokenizer, 200, 0, documents=[LONG, SHORT], counts=counts)
    assert len(cut.tokens) <= 200
    text, _, answer = _text(tokenizer, cut).partition('\n\n')
    kept = text.split(' ')
    assert kept == WORDS[: len(kept)]
    assert 'word3 -> I10' in answer
    assert 'word190' not in answer
    assert 'M10.9' not in answer
    assert 'R05.9' in answer, 'a code without evidence stays'
    assert counts == {'documents': 2, 'documents_truncated': 1, 'codes_lost_by_truncation': 1}
    # It is the longest beginning: with the next word the example would be too long.
    longer = LONG.text[: len(' '.join(WORDS[: len(kept) + 1]))]
    assert len(tokenizer(longer)['input_ids']) + len(cut.tokens) - len(tokenizer(text)['input_ids']) > 200
    assert _text(tokenizer, whole).startswith('Has gout now.')


def test_overlong_documents_can_be_refused_and_hopeless_ones_always_are(tokenizer):
    with pytest.raises(UserError, match=r'long has \d+ tokens'):
        list(make_examples(TaskSettings(overlong='refuse'), tokenizer, 200, 0, documents=[LONG], spans=SPANS))
    many = Document('many', 'a b', tuple(Annotation(f'A{i:02d}.0') for i in range(60)))
    with pytest.raises(UserError, match='many does not fit'):
        list(make_examples(TaskSettings(names=('document',)), tokenizer, 100, 0, documents=[many]))


def test_long_lists_are_halved_and_what_cannot_fit_is_counted(tokenizer):
    settings = TaskSettings(names=('span',), span_shapes={'list': 1.0}, spans_per_list=(8, 8))
    huge = Span('huge', TEXT, 'Z99.0', 'gold', 'title')
    counts: Counter[str] = Counter()
    examples = list(make_examples(settings, tokenizer, 80, 0, spans=[*SPANS[:16], huge], counts=counts))
    assert all(len(example.tokens) <= 80 for example in examples)
    text = ' '.join(_text(tokenizer, example) for example in examples)
    assert all(span.code in text for span in SPANS[:16])
    assert counts['spans_left_out_too_long'] == 1


def test_texts_are_split_not_cut(tokenizer):
    counts: Counter[str] = Counter()
    settings = TaskSettings(names=('lm',))
    pieces = list(make_examples(settings, tokenizer, 50, 0, texts=[('t', TEXT)], counts=counts))
    assert counts == {'texts': 1, 'texts_split': 1}
    assert all(len(piece.tokens) <= 50 and piece.target_start == 1 for piece in pieces)
    assert {piece.tokens[0] for piece in pieces} == {tokenizer.bos_token_id}
    joined = [token for piece in pieces for token in piece.tokens[1:]]
    assert tokenizer.decode(joined[:-1]) == TEXT
    assert joined[-1] == tokenizer.eos_token_id


def test_only_the_tasks_named_are_made(tokenizer):
    for task in TASKS:
        made = make_examples(
            TaskSettings(names=(task,)), tokenizer, 512, 0, documents=[SHORT], spans=SPANS, texts=[('t', 'text')]
        )
        assert {example.task for example in made} == {task}
