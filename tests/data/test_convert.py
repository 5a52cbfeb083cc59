"""From records to examples: every span as often as asked, nothing over the longest bucket, nothing lost uncounted."""

import dataclasses
from collections import Counter

import pytest

from ccl_jax.data import convert
from ccl_jax.data.convert import Converter, make_blocks, make_examples
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
    assert counts == {
        'documents': 2,
        'documents_truncated': 1,
        'codes_lost_by_cutting': 1,
        'evidence_lost_by_cutting': 2,
    }
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


def test_windows_fit_with_their_codes_and_hold_every_code_of_the_document(tokenizer):
    counts: Counter[str] = Counter()
    settings = TaskSettings(names=('document',), overlong='windows', window_overlap=40)
    *windows, whole = make_examples(settings, tokenizer, 200, 0, documents=[LONG, SHORT], counts=counts)
    assert len(windows) > 2
    assert all(len(example.tokens) <= 200 for example in windows)
    answers = [_text(tokenizer, example).partition('\n\n')[2] for example in windows]
    assert [('R05.9' in answer) for answer in answers] == [True] + [False] * (len(answers) - 1)
    assert sum('word3 -> I10' in answer for answer in answers) == 1
    assert 'word195 -> M10.9' in answers[-1]
    for example, answer in zip(windows, answers, strict=True):
        begin, end = example.extent
        assert example.example_id == f'document:long@{begin}'
        assert example.doc_id == 'long'
        assert _text(tokenizer, example).startswith(TEXT[begin:end] + '\n\n')
        for part in example.evidence:
            assert f'{TEXT[part.begin : part.end]} -> {part.code}' in answer
        assert len(example.evidence) == answer.count('word')
    assert (whole.example_id, whole.extent) == ('document:short', (0, len(SHORT.text)))
    assert +counts == {'documents': 2, 'documents_in_windows': 1, 'windows': len(windows)}
    hopeless = Document('many', 'a b', tuple(Annotation(f'A{i:02d}.0') for i in range(60)))
    with pytest.raises(UserError, match='many does not fit'):
        list(make_examples(settings, tokenizer, 100, 0, documents=[hopeless]))


def test_codes_that_no_window_can_hold_are_counted(tokenizer):
    apart = Evidence((*_evidence('word3').parts, *_evidence('word190').parts), 'word3 word190')
    document = Document('apart', TEXT, (Annotation('I10', evidence=(apart,)), Annotation('R05.9')))
    counts: Counter[str] = Counter()
    settings = TaskSettings(names=('document',), overlong='windows')
    examples = list(make_examples(settings, tokenizer, 200, 0, documents=[document], counts=counts))
    assert not any('I10' in _text(tokenizer, example) for example in examples)
    assert counts['codes_lost_by_cutting'] == counts['evidence_lost_by_cutting'] == 1
    # Without evidence nothing says which window a code belongs to: there is one window, as if truncated.
    bare = Document('bare', TEXT, (Annotation('R05.9'),))
    counts.clear()
    (example,) = make_examples(settings, tokenizer, 200, 0, documents=[bare], counts=counts)
    (truncated,) = make_examples(TaskSettings(names=('document',)), tokenizer, 200, 0, documents=[bare])
    assert example.tokens.tolist() == truncated.tokens.tolist()
    assert +counts == {'documents': 1, 'documents_truncated': 1}


def test_a_block_depends_on_itself_alone_and_spans_are_shuffled_within_theirs(tokenizer, monkeypatch):
    monkeypatch.setattr(convert, '_RECORDS_PER_BLOCK', {'document': 1, 'span': 10, 'lm': 2})
    settings = TaskSettings(names=TASKS, span_shapes={'list': 1.0}, spans_per_list=(2, 3))
    texts = [(f't{i}', 'text') for i in range(3)]
    blocks = list(make_blocks(settings, iter([SHORT, LONG]), iter(SPANS), iter(texts)))
    assert [(block.task, block.number, len(block.records)) for block in blocks] == [
        *(('document', i, 1) for i in range(2)),
        *(('span', i, 10) for i in range(3)),
        ('lm', 0, 2),
        ('lm', 1, 1),
    ]
    converter = Converter.make(settings, tokenizer, 512, 0)
    forward = [[e.example_id for e in converter.examples(block, Counter())] for block in blocks]
    backward = [[e.example_id for e in converter.examples(block, Counter())] for block in blocks[::-1]]
    assert forward == backward[::-1]
    for number in range(3):
        ids = [span_id for name in forward[2 + number] for span_id in name[len('span:list:') : -2].split('+')]
        own = [span.span_id for span in SPANS[10 * number : 10 * number + 10]]
        assert sorted(ids) == sorted(own)
        assert ids != own
    # Equal blocks at other places are shuffled otherwise.
    again = dataclasses.replace(blocks[3], records=blocks[2].records)
    assert [e.example_id for e in converter.examples(again, Counter())] != forward[2]


def test_contexts_are_a_fair_sample(tokenizer, monkeypatch):
    monkeypatch.setattr(convert, '_CONTEXT_DOCUMENTS', 3)
    settings = TaskSettings(names=('span',), span_shapes={'in_context': 1.0})
    documents = [dataclasses.replace(SHORT, doc_id=str(i)) for i in range(6)]
    drawn: Counter[str] = Counter()
    for seed in range(2000):
        contexts = Converter.make(settings, tokenizer, 512, seed, iter(documents)).contexts
        assert len({document.doc_id for document in contexts}) == 3
        drawn.update(document.doc_id for document in contexts)
    # 1,000 each are expected; the standard deviation is 22.
    assert all(abs(count - 1000) < 5 * 22.4 for count in drawn.values())
    with pytest.raises(UserError, match='needs documents'):
        Converter.make(settings, tokenizer, 512, 0)

    def unread():
        raise AssertionError
        yield

    assert Converter.make(TaskSettings(), tokenizer, 512, 0, unread()).contexts == []


@pytest.mark.parametrize('wrong', [{'window_overlap': -1}, {'processes': -1}, {'overlong': 'window'}])
def test_settings_out_of_range(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        TaskSettings(**wrong)
