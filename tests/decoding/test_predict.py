"""Scores of items and the cutting of long notes, with a stand-in for the model."""

import dataclasses
from types import SimpleNamespace
from unittest import mock

import pytest

from ccl_jax.data.tokenization import encode_prompt, encode_target, train_tokenizer
from ccl_jax.decoding import predict
from ccl_jax.decoding.generate import Generation
from ccl_jax.decoding.settings import DecodingSettings
from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.records import Document, slice_evidence
from ccl_jax.tasks.prompts import document_prompt, span_prompt

ANSWER = '## ICD Codes\n- gout -> M10.9\nnonsense\n- -> I10'
BLOCKS = '## Evidence\n- gout\n- high blood pressure\n- unknown\n\n## ICD Codes\n- M10.9\n- I10'
TINY = Architecture(
    vocab_size=400,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=256,
)


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    return train_tokenizer([ANSWER, 'Has gout now.'], 400, tmp_path_factory.mktemp('tokenizer') / 'folder')


def _settings(**changes):
    changed = {'buckets': (64,), 'constrain': (), 'overlong': 'truncate', **changes}
    return DecodingSettings(output_format='pairs', max_new_tokens=64, batch_rows=2, **changed)


def _answering(tokenizer, answer_to, settings, documents, ended=True, codes=()):
    """Predicts with a model that answers each prompt by `answer_to(prompt)`."""
    prompts_seen = []

    def generate(decoder, prompts, **_):
        prompts_seen.extend(prompts)
        generations = []
        for prompt in prompts:
            tokens = encode_target(tokenizer, answer_to(tokenizer.decode(prompt[1:])))[:-1]
            generations.append(
                Generation(tuple(tokens), tuple(-float(2**-position) for position in range(len(tokens))), ended)
            )
        return generations

    with mock.patch.object(predict, 'generate', generate):
        predictions, report = predict.predict_documents(
            SimpleNamespace(architecture=TINY), tokenizer, documents, settings, codes=codes
        )
    return predictions, report, prompts_seen


def _predict(tokenizer, documents, buckets=(64,), ended=True):
    settings = _settings(buckets=buckets)
    predictions, report, prompts = _answering(tokenizer, lambda prompt: ANSWER, settings, documents, ended)
    tokens = encode_target(tokenizer, ANSWER)[:-1]
    return predictions, report, prompts, tokens, [-float(2**-position) for position in range(len(tokens))]


def test_an_item_scores_the_log_probability_of_its_line(tokenizer):
    (prediction,), report, _, tokens, logprobs = _predict(tokenizer, [Document('d', 'Has gout now.')])
    lines = [0.0]
    for token, logprob in zip(tokens, logprobs, strict=True):
        lines[-1] += logprob
        if '\n' in tokenizer.decode([token]):
            lines.append(0.0)
    assert len(lines) == 4
    assert {code.code: code.score for code in prediction.codes} == {
        'M10.9': pytest.approx(lines[1]),
        'I10': pytest.approx(lines[3]),
    }
    assert prediction.codes[0].evidence[0].parts == ((4, 8),)
    assert (report.malformed_lines, report.unfinished, report.truncated) == (1, 0, 0)


def test_a_long_note_is_cut_at_a_word_and_counted(tokenizer):
    text = 'Has gout now. ' * 50
    _, report, (prompt,), _, _ = _predict(tokenizer, [Document('d', text)], ended=False)
    assert len(prompt) <= 64
    assert (report.truncated, report.unfinished) == (1, 1)
    kept = tokenizer.decode(prompt[1:]).rstrip('\n')
    assert text.startswith(kept)
    assert text[len(kept)] == ' '
    longer = text[: text.index(' ', len(kept) + 1)]
    assert len(encode_prompt(tokenizer, document_prompt(longer))) > 64
    assert '1 cut' in report.sentence()


def test_a_long_note_is_decoded_in_windows_and_its_evidence_moved_back(tokenizer):
    sentences = [f'Sentence number {i} says nothing.' for i in range(12)]
    sentences[2] = 'Has gout now.'
    sentences[9] = 'Has gout now, and HTN.'
    text = ' '.join(sentences)

    def answer(prompt):
        lines = [f'- {word} -> {code}' for word, code in (('HTN', 'I10'), ('gout', 'M10.9')) if word in prompt]
        return '\n'.join(['## ICD Codes', *lines])

    settings = _settings(overlong='windows', window_overlap=40)
    (prediction,), report, prompts = _answering(tokenizer, answer, settings, [Document('d', text)])
    assert report.windowed == 1
    assert report.windows == len(prompts) > 2
    assert all(len(prompt) <= 64 for prompt in prompts)
    # Every word of the note is in a window.
    assert all(any(sentence in tokenizer.decode(prompt) for prompt in prompts) for sentence in sentences)
    found = {code.code: [evidence.parts for evidence in code.evidence] for code in prediction.codes}
    first, second = text.index('gout'), text.rindex('gout')
    htn = text.index('HTN')
    assert found == {'M10.9': [((first, first + 4),), ((second, second + 4),)], 'I10': [((htn, htn + 3),)]}


def test_a_word_without_end_is_cut_and_a_bucket_that_holds_nothing_is_refused(tokenizer):
    settings = _settings(overlong='windows')
    _, report, prompts = _answering(tokenizer, lambda prompt: '## ICD Codes', settings, [Document('d', 'xq' * 500)])
    assert report.windows == len(prompts) > 10
    with pytest.raises(UserError, match='longer buckets'):
        _answering(tokenizer, str, _settings(overlong='windows', buckets=(4,)), [Document('d', 'xq' * 500)])
    with pytest.raises(UserError, match='lower max_new_tokens'):
        predict.predict_documents(
            SimpleNamespace(architecture=dataclasses.replace(TINY, max_position_embeddings=64)),
            tokenizer,
            [Document('d', 'x')],
            _settings(),
        )


def test_a_second_look_links_quotes_to_codes_and_says_where_it_disagrees(tokenizer):
    text = 'Has gout and high blood pressure. Cause unknown.'
    spans = {'gout': 'M10.9', 'high blood pressure': 'I10', 'unknown': 'R69'}

    def answer(prompt):
        for quote, code in spans.items():
            if prompt == span_prompt([quote]):
                return f'## ICD Code\n- {code}'
        return BLOCKS

    settings = dataclasses.replace(_settings(recheck=True), output_format='blocks')
    (prediction,), report, _ = _answering(tokenizer, answer, settings, [Document('d', text)])
    evidence = {code.code: [slice_evidence(text, e.parts) for e in code.evidence] for code in prediction.codes}
    assert evidence == {'M10.9': ['gout'], 'I10': ['high blood pressure']}
    assert (report.rechecked, report.unlinked_quotes) == (3, 1)
    assert [code.agreement for code in prediction.codes] == [True, True]

    def pairs(prompt):
        return '## ICD Code\n- I11.9' if prompt.startswith('## Evidence') else '## ICD Codes\n- gout -> M10.9\n- -> I10'

    (prediction,), _, _ = _answering(tokenizer, pairs, _settings(recheck=True), [Document('d', text)])
    assert [(code.code, code.rechecked, code.agreement) for code in prediction.codes] == [
        ('M10.9', ('I11.9',), False),
        ('I10', (), None),
    ]
