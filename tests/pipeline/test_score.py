"""`score` against transformers on torch where that is, else against the decoder called on one text at a time."""

import importlib.util
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.data.tokenization import load_tokenizer, train_tokenizer
from ccl_jax.decoding.likelihood import likelihoods
from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import init_decoder, load_decoder, save_decoder
from ccl_jax.pipeline.score import Text, score
from ccl_jax.training.mesh import batch_sharding, make_mesh
from tests.pipeline.conftest import ccl_jax, ccl_jax_process
from tests.pipeline.test_bad_input import assert_refused

POSITIONS = 320
CORPUS = [
    'The patient has type 2 diabetes mellitus.',
    'Chest pain; no fever. Denies cough.',
    'Hypertension, stable.',
] * 5
RECORDS = [
    {'text': 'The patient has chest pain.', 'id': 7},
    {'prompt': 'The patient has ', 'target': 'type 2 diabetes'},
    {'text': 'x'},
    {'text': ' '.join(CORPUS)},
    {'prompt': 'Hyper', 'target': 'tension'},
    {'prompt': '', 'target': 'stable, no cough'},
    {'text': 'Ünïcode und <|eot_id|> tokens\n'},
    {'prompt': CORPUS[1] * 3 + '\n', 'target': 'Denies'},
]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp('score')
    tokenizer = train_tokenizer(CORPUS, 300, folder / 'tokenizer')
    architecture = Architecture(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=POSITIONS,
        initializer_range=0.4,
    )
    save_decoder(init_decoder(architecture, seed=0), folder / 'model', tokenizer=tokenizer)
    return folder / 'model'


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp('texts') / 'texts.jsonl'
    path.write_text('\n'.join(map(json.dumps, RECORDS)) + '\n')
    return path


@pytest.fixture(scope='module')
def scored(model, texts):
    done = ccl_jax('score', f'--model={model}', f'--texts={texts}')
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ids_of(model, record) -> tuple[list[int], int]:
    """Token ids of a record, and how many are the prompt's."""
    tokenizer = load_tokenizer(model)
    if 'text' in record:
        return tokenizer(record['text'])['input_ids'], 0
    prompt = tokenizer(record['prompt'])['input_ids']
    return prompt + tokenizer(record['target'], add_special_tokens=False)['input_ids'], len(prompt)


def torch_logits(model, ids) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation='eager')
    with torch.no_grad():
        return reference(torch.tensor([ids])).logits[0].numpy()


def our_logits(decoder, ids) -> jax.Array:
    tokens = jnp.asarray(ids)[None]
    return decoder.logits(decoder(tokens, jnp.arange(len(ids))[None], jnp.ones_like(tokens)))[0]


def expected(logits, ids, prompt_tokens) -> dict:
    logits = np.asarray(logits, np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    token_logprobs = [None, *(float(logprobs[t - 1, ids[t]]) for t in range(1, len(ids)))][prompt_tokens:]
    return {'token_logprobs': token_logprobs, 'next_token': int(logits[-1].argmax())}


@pytest.mark.parametrize('index', range(len(RECORDS)))
def test_equals_the_model_called_on_each_text_alone(model, scored, index):
    ids, prompt_tokens = ids_of(model, RECORDS[index])
    has_torch = importlib.util.find_spec('torch')
    logits = torch_logits(model, ids) if has_torch else our_logits(load_decoder(model), ids)
    wanted, found = expected(logits, ids, prompt_tokens), scored[index]
    assert set(found) == {'total_logprob', 'token_logprobs', 'next_token'}
    assert [number is None for number in found['token_logprobs']] == [n is None for n in wanted['token_logprobs']]
    numbers = [number for number in found['token_logprobs'] if number is not None]
    np.testing.assert_allclose(numbers, [n for n in wanted['token_logprobs'] if n is not None], atol=1e-4)
    assert found['total_logprob'] == pytest.approx(sum(numbers), abs=1e-9)
    assert found['next_token'] == wanted['next_token']


def test_only_whole_texts_have_a_token_without_probability(scored):
    assert [line['token_logprobs'][0] is None for line in scored] == ['text' in record for record in RECORDS]
    # One special token from the tokenizer, then one byte.
    assert len(scored[2]['token_logprobs']) == 2


def test_a_target_is_tokenised_by_itself(model, scored):
    assert len(scored[1]['token_logprobs']) == len(load_tokenizer(model)('type 2 diabetes')['input_ids']) - 1


def test_prompt_and_target_add_up_to_the_text(model):
    parts = ('The patient has', ' chest pain.')
    whole, target = score(model, [Text('a', ''.join(parts)), Text('b', parts[1], parts[0])])
    assert whole['token_logprobs'][-len(target['token_logprobs']) :] == pytest.approx(
        target['token_logprobs'], abs=1e-5
    )
    assert whole['next_token'] == target['next_token']


def test_standard_input_equals_a_file(model, texts, scored):
    done = ccl_jax('score', f'--model={model}', '--texts', '-', stdin=texts.read_text())
    assert [json.loads(line) for line in done.stdout.splitlines()] == scored


def test_bfloat16_is_near(model, texts, scored):
    done = ccl_jax('score', f'--model={model}', f'--texts={texts}', '--dtype=bfloat16')
    rounded = [json.loads(line) for line in done.stdout.splitlines()]
    for exact, line in zip(scored, rounded, strict=True):
        left, right = (np.array([n or 0 for n in x['token_logprobs']]) for x in (exact, line))
        assert 0 < np.abs(left - right).max() < 0.5


@pytest.mark.parametrize('tensor', [pytest.param(1, marks=pytest.mark.slow), 2])
def test_eight_devices_equal_one(model, texts, scored, tensor):
    done = ccl_jax_process(
        'score',
        f'--model={model}',
        f'--texts={texts}',
        f'--tensor={tensor}',
        XLA_FLAGS=f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8',
    )
    assert done.returncode == 0, done.stderr
    for one, eight in zip(scored, map(json.loads, done.stdout.splitlines()), strict=True):
        assert eight['next_token'] == one['next_token']
        assert eight['total_logprob'] == pytest.approx(one['total_logprob'], abs=1e-4)


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('{"text": ""}', ['line 2', 'empty']),
        ('{"prompt": "a", "target": ""}', ['line 2', 'target', 'empty']),
        ('{"text": "SECRET"', ['line 2', 'JSON']),
        ('["SECRET"]', ['line 2', 'object']),
        ('{"text": 5}', ['line 2', 'string']),
        ('{"prompt": "SECRET"}', ['line 2', '"target"']),
        ('{"text": "SECRET", "prompt": "a", "target": "b"}', ['line 2', '"target"']),
        (json.dumps({'text': 'SECRET words ' * 200}), ['line 2', f'{POSITIONS} positions']),
    ],
)
def test_a_bad_line_is_one_sentence_and_nothing_is_scored(model, tmp_path, line, words):
    path = tmp_path / 'texts.jsonl'
    path.write_text('{"text": "fine"}\n' + line + '\n')
    done = ccl_jax('score', f'--model={model}', f'--texts={path}')
    assert_refused(done, *words)
    assert done.stdout == ''
    assert 'SECRET' not in done.stderr


def test_bad_flags(model, texts, tmp_path):
    (tmp_path / 'empty.jsonl').write_text('\n')
    given = {'model': str(model), 'texts': str(texts)}
    for change, word in [
        ({'model': ''}, '--model'),
        ({'texts': ''}, '--texts'),
        ({'model': str(tmp_path)}, 'config.json'),
        ({'texts': str(tmp_path / 'none.jsonl')}, 'none.jsonl'),
        ({'texts': str(tmp_path / 'empty.jsonl')}, 'no text'),
        ({'dtype': 'float64'}, 'float64'),
        ({'tensor': '3'}, 'tensor=3'),
    ]:
        assert_refused(ccl_jax('score', *(f'--{name}={value}' for name, value in {**given, **change}.items())), word)
    assert_refused(ccl_jax('score', f'--model={model}', f'--texts={texts}', 'stray'), 'stray')


def test_a_model_of_nans_is_refused(model, tmp_path):
    decoder = load_decoder(model)
    decoder.final_norm.set_value(decoder.final_norm[...] * jnp.nan)
    save_decoder(decoder, tmp_path / 'broken', tokenizer=load_tokenizer(model))
    with pytest.raises(UserError, match=r'place of it.*finite'):
        list(score(tmp_path / 'broken', [Text('place of it', 'some words')]))


def test_results_come_in_order_with_few_shapes(model, monkeypatch):
    """More texts than wait at a time, of all lengths, in batches of several rows."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr('ccl_jax.decoding.likelihood._WINDOW', 8)
    monkeypatch.setattr('ccl_jax.decoding.likelihood._DEVICE_TOKENS', 512)
    decoder = load_decoder(model)
    lengths = rng.permutation([1, 2, 128, 129, 300] * 4)
    texts = [rng.integers(0, 200, length, dtype=np.int32) for length in lengths]
    shapes = set()
    monkeypatch.setattr(jax, 'device_get', lambda x, get=jax.device_get: shapes.add(x[0].shape) or get(x))
    found = list(likelihoods(decoder, texts, batch_sharding(make_mesh())))
    assert all(rows & (rows - 1) == 0 and length in (128, 256, 512) for rows, length in shapes)
    logits_of = jax.jit(lambda tokens: our_logits(decoder, tokens))
    for text, likelihood in zip(texts, found, strict=True):
        wanted = expected(logits_of(text), text, 0)
        assert likelihood.next_token == wanted['next_token']
        assert len(likelihood.logprobs) == len(text) - 1
        total = math.fsum(n for n in wanted['token_logprobs'] if n is not None)
        assert math.fsum(likelihood.logprobs) == pytest.approx(total, abs=2e-3)
