"""Scores of items and the cutting of long notes, with a stand-in for the model."""

import types
from unittest import mock

import pytest

from ccl_jax.data.tokenization import encode_prompt, encode_target, train_tokenizer
from ccl_jax.decoding import predict
from ccl_jax.decoding.generate import Generation
from ccl_jax.model.architecture import Architecture
from ccl_jax.records import Document
from ccl_jax.tasks.prompts import document_prompt

# What is asked of a decoder beside generating, which the tests do themselves: the sizes, for the FLOPs.
SIZES = {'vocab_size': 300, 'hidden_size': 8, 'intermediate_size': 16, 'num_hidden_layers': 1, 'head_dim': 4}
DECODER = types.SimpleNamespace(
    architecture=Architecture(**SIZES, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512)
)

ANSWER = '## ICD Codes\n- gout -> M10.9\nnonsense\n- -> I10'


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    return train_tokenizer([ANSWER, 'Has gout now.'], 400, tmp_path_factory.mktemp('tokenizer') / 'folder')


def _predict(tokenizer, documents, buckets=(64,), ended=True):
    tokens = encode_target(tokenizer, ANSWER)[:-1]
    logprobs = [-float(2**-position) for position in range(len(tokens))]
    prompts_seen = []

    def generate(decoder, prompts, **_):
        prompts_seen.extend(prompts)
        return [Generation(tuple(tokens), tuple(logprobs), ended)] * len(prompts)

    with mock.patch.object(predict, 'generate', generate):
        predictions, report = predict.predict_documents(
            DECODER, tokenizer, documents, buckets=buckets, max_new_tokens=64, batch_rows=2
        )
    return predictions, report, prompts_seen, tokens, logprobs


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
