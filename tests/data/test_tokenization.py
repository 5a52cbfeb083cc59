"""Tokenisation: against the tokenizers library, hand-written chat renderings, and round trips."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from ccl_jax.data import tokenization
from ccl_jax.data.examples import encode_example
from ccl_jax.errors import UserError
from ccl_jax.tasks import TaskExample

TEXTS = [
    f'Patient {i} has type {i % 7} diabetes: E11.{i % 100:02} and S72.001A.\n\n  See note\t{i}.' for i in range(300)
]
CHAT = (
    '{{ bos_token }}Date: {{ date_string }}\n'
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% if m['role'] == 'assistant' %}<|end_of_text|>"
    "{% else %}<|eot_id|>{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tokenizer') / 'tiny'
    tokenization.train_tokenizer(TEXTS, 400, folder)
    return folder


@pytest.fixture
def tokenizer(folder):
    return tokenization.load_tokenizer(folder)


@pytest.fixture
def chat_tokenizer(tokenizer):
    pytest.importorskip('jinja2')
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture
def without_bos(folder, tmp_path):
    """The same tokenizer without a post-processor: it has a BOS token and never writes it, as GPT-2's."""
    layout = json.loads((folder / 'tokenizer.json').read_text())
    layout['post_processor'] = None
    (tmp_path / 'tokenizer.json').write_text(json.dumps(layout))
    (tmp_path / 'tokenizer_config.json').write_text((folder / 'tokenizer_config.json').read_text())
    return tokenization.load_tokenizer(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(text=st.text())
def test_every_text_round_trips(tokenizer, text):
    ids = tokenization.encode_prompt(tokenizer, text)
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == text
    target = tokenization.encode_target(tokenizer, text)
    assert tokenizer.bos_token_id not in target
    assert target.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(target[:-1]) == text


def test_pieces_keep_digits_words_and_line_ends_apart(tokenizer):
    words = [tokenizer.decode([i]) for i in range(len(tokenizer)) if i not in tokenizer.added_tokens_decoder]
    assert len(words) == 400 - 3
    for word in words:
        assert sum(c.isdigit() for c in word) <= 3
        assert not (any(c.isdigit() for c in word) and any(not c.isdigit() for c in word))
        assert not ('\n' in word and word.strip('\r\n'))
    assert ' diabetes' in words
    pieces = [tokenizer.decode([i]) for i in tokenization.encode_target(tokenizer, 'S72.001A')[:-1]]
    assert pieces == ['S', '72', '.', '001', 'A']


def test_the_folder_is_the_librarys_own(folder, tokenizer):
    plain = Tokenizer.from_file(str(folder / 'tokenizer.json'))
    loaded = AutoTokenizer.from_pretrained(str(folder))
    for text in TEXTS[:20]:
        assert tokenization.encode_prompt(tokenizer, text) == plain.encode(text).ids == loaded(text).input_ids
    assert (loaded.bos_token, loaded.eos_token) == ('<|begin_of_text|>', '<|eot_id|>')
    assert loaded.chat_template is None


def test_training_is_deterministic_and_keeps_the_folder(tmp_path, folder):
    (tmp_path / 'tiny').mkdir()
    (tmp_path / 'tiny' / 'model.safetensors').write_text('x')
    for texts in (['something else'], iter(TEXTS)):
        tokenization.train_tokenizer(texts, 400, tmp_path / 'tiny')
    names = sorted(path.name for path in (tmp_path / 'tiny').iterdir())
    assert names == ['model.safetensors', 'tokenizer.json', 'tokenizer_config.json']
    for name in ('tokenizer.json', 'tokenizer_config.json'):
        assert (tmp_path / 'tiny' / name).read_bytes() == (folder / name).read_bytes()


def test_user_errors(tmp_path, folder):
    with pytest.raises(UserError, match='no tokenizer folder'):
        tokenization.load_tokenizer(tmp_path / 'absent')
    with pytest.raises(UserError, match='no readable tokenizer'):
        tokenization.load_tokenizer(tmp_path)
    torn = (folder / 'tokenizer.json').read_text()
    (tmp_path / 'tokenizer.json').write_text(torn[: len(torn) // 2])
    (tmp_path / 'tokenizer_config.json').write_text((folder / 'tokenizer_config.json').read_text())
    with pytest.raises(UserError, match='no readable tokenizer'):
        tokenization.load_tokenizer(tmp_path)
    with pytest.raises(UserError, match='at least 259'):
        tokenization.train_tokenizer(TEXTS, 258, tmp_path / 'small')


@pytest.mark.parametrize('date', [None, '01 Jan 2030'])
def test_chat_template_gives_the_rendering_with_one_bos(chat_tokenizer, date):
    written = f'<|begin_of_text|>Date: {date or "26 Jul 2024"}\n[user] Type 2 diabetes<|eot_id|>\n[assistant] '
    ids = tokenization.encode_prompt(chat_tokenizer, 'Type 2 diabetes', *([date] if date else []))
    assert ids == chat_tokenizer.encode(written, add_special_tokens=False)
    assert ids.count(chat_tokenizer.bos_token_id) == 1
    chat_tokenizer.chat_template = CHAT.replace('{{ bos_token }}', '')
    assert tokenization.encode_prompt(chat_tokenizer, 'Type 2 diabetes', *([date] if date else [])) == ids


def test_end_of_turn_without_a_chat_template_is_eos(tokenizer):
    assert tokenization.end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids('<|eot_id|>')
    tokenizer.eos_token = None
    with pytest.raises(UserError, match='eos_token'):
        tokenization.end_of_turn_id(tokenizer)


def test_end_of_turn_of_a_chat_template_follows_the_assistants_message(chat_tokenizer):
    end_of_text = chat_tokenizer.convert_tokens_to_ids('<|end_of_text|>')
    assert tokenization.end_of_turn_id(chat_tokenizer) == end_of_text != chat_tokenizer.eos_token_id
    assert tokenization.encode_target(chat_tokenizer, 'x')[-1] == end_of_text
    chat_tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert tokenization.end_of_turn_id(chat_tokenizer) == chat_tokenizer.eos_token_id


def test_special_tokens_spelt_in_a_text_stay_text(tokenizer):
    text = 'note <|eot_id|><|begin_of_text|> end'
    assert tokenization.encode_prompt(tokenizer, text).count(tokenizer.eos_token_id) == 0
    assert tokenization.encode_target(tokenizer, text).count(tokenizer.eos_token_id) == 1


def test_special_tokens_spelt_in_a_message_end_no_turn(chat_tokenizer):
    ids = tokenization.encode_prompt(chat_tokenizer, 'note <|eot_id|><|begin_of_text|> end')
    assert [ids.count(chat_tokenizer.bos_token_id), ids.count(chat_tokenizer.eos_token_id)] == [1, 1]


def test_a_template_that_fails_is_a_user_error_without_the_text(chat_tokenizer):
    chat_tokenizer.chat_template = "{{ raise_exception('no: ' + messages[0]['content']) }}"
    with pytest.raises(UserError, match='chat template') as caught:
        tokenization.encode_prompt(chat_tokenizer, 'secret words')
    assert 'secret' not in str(caught.value)
    assert caught.value.__cause__ is None


def test_encode_example_joins_prompt_and_target(tokenizer):
    example = encode_example(tokenizer, TaskExample('span:1', 'span', '## Evidence\nfever', ' R50.9'))
    prompt = tokenization.encode_prompt(tokenizer, '## Evidence\nfever')
    assert example.tokens.dtype == 'int32'
    assert example.tokens.tolist() == prompt + tokenization.encode_target(tokenizer, ' R50.9')
    assert (example.example_id, example.task, example.target_start) == ('span:1', 'span', len(prompt))


def test_encode_example_of_plain_text_weighs_all_but_the_first_token(tokenizer, without_bos):
    text = 'Fever is common.'
    ids = tokenizer.encode(text, add_special_tokens=False)
    example = encode_example(tokenizer, TaskExample('lm:1', 'lm', '', text))
    assert example.tokens.tolist() == [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    assert example.target_start == 1
    assert tokenization.encode_prompt(without_bos, text) == ids
    example = encode_example(without_bos, TaskExample('lm:1', 'lm', '', text))
    assert example.tokens.tolist() == [*ids, tokenizer.eos_token_id]
    assert example.target_start == 1


def test_plain_text_is_no_conversation(chat_tokenizer):
    ids = chat_tokenizer.encode('Fever.', add_special_tokens=False)
    example = encode_example(chat_tokenizer, TaskExample('lm:1', 'lm', '', 'Fever.'))
    end = chat_tokenizer.convert_tokens_to_ids('<|end_of_text|>')
    assert example.tokens.tolist() == [chat_tokenizer.bos_token_id, *ids, end]
