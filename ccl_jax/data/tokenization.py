"""Text to token ids: a tokenizer folder, prompts, targets, and the token that ends a turn.

Any Hugging Face tokenizer folder can be used; `train_tokenizer` makes one where
none can be had. Prompt and target are tokenised separately, so that the same
prompt has the same ids in training and in decoding.
"""

import functools
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ccl_jax.errors import UserError

BEGIN_OF_TEXT = '<|begin_of_text|>'
END_OF_TEXT = '<|end_of_text|>'
END_OF_TURN = '<|eot_id|>'
SPECIAL_TOKENS = (BEGIN_OF_TEXT, END_OF_TEXT, END_OF_TURN)

# A chat template that inserts today's date gets this one: ids must not depend on the day.
CHAT_DATE = '26 Jul 2024'

# Pieces that byte-pair merges never cross: a word with the space before it, at most three digits, punctuation with the
# space before it, line ends, other white space (all but its last character, so that a space joins the next word).
_PIECES = (
    r' ?[\p{L}\p{M}]+'
    r'|\p{N}{1,3}'
    r'| ?[^\s\p{L}\p{M}\p{N}]+'
    r'|[\r\n]+'
    r'|[^\S\r\n]+(?!\S)'
    r'|[^\S\r\n]+'
)
_SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a Hugging Face folder; nothing is fetched and no code of the folder runs.

    Raises:
        UserError: the folder does not exist or holds no readable tokenizer.
    """
    if not Path(folder).is_dir():
        raise UserError(f'there is no tokenizer folder {folder}; give the folder that holds tokenizer.json')
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises bare Exception for a torn tokenizer.json
        raise UserError(
            f'{folder} holds no readable tokenizer ({type(error).__name__}); '
            'give a folder with tokenizer.json and tokenizer_config.json'
        ) from error


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str | Path) -> PreTrainedTokenizerBase:
    """Trains a byte-level BPE on `texts`, saves it as a tokenizer folder and returns it.

    Digits stay in groups of at most three, so codes are spelt in pieces and an
    unseen code can be written. Every string can be encoded and decoded back.
    The same texts in the same order give the same folder.

    Args:
        texts: the training texts.
        vocab_size: number of ids, the 256 bytes and the special tokens included;
            fewer come out where the texts hold too few pairs.
        folder: made where it is missing; a tokenizer in it is replaced.

    Raises:
        UserError: `vocab_size` does not hold the bytes and the special tokens.
    """
    if vocab_size < _SMALLEST_VOCABULARY:
        raise UserError(f'vocab_size is {vocab_size}; it must be at least {_SMALLEST_VOCABULARY}')
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior='isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f'{BEGIN_OF_TEXT} $A',
        pair=f'{BEGIN_OF_TEXT} $A {BEGIN_OF_TEXT}:1 $B:1',
        special_tokens=[(BEGIN_OF_TEXT, tokenizer.token_to_id(BEGIN_OF_TEXT))],
    )
    _save(tokenizer, Path(folder))
    return load_tokenizer(folder)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, date_string: str = CHAT_DATE) -> list[int]:
    """Returns the ids of a prompt: one BOS where the tokenizer writes one, then the text.

    With a chat template the prompt is a user's message followed by the head of
    the assistant's. Special tokens that the text itself spells are read as text.

    Args:
        date_string: the date for templates that print one.

    Raises:
        UserError: the chat template does not accept a user's message.
    """
    if not tokenizer.chat_template:
        return beginning(tokenizer) + _encode_text(tokenizer, prompt)
    rendered = _render(tokenizer, [('user', _defuse(tokenizer, prompt))], True, date_string)
    ids = tokenizer.encode(rendered, add_special_tokens=False)
    begin = beginning(tokenizer)
    return ids if ids[: len(begin)] == begin else begin + ids


def encode_target(tokenizer: PreTrainedTokenizerBase, target: str) -> list[int]:
    """Returns the ids of a target: no BOS, the end-of-turn token last. Raises UserError as `end_of_turn_id`."""
    return [*_encode_text(tokenizer, target), end_of_turn_id(tokenizer)]


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the id that ends an answer.

    With a chat template that is the first special token after an assistant's
    message, else the tokenizer's EOS.

    Raises:
        UserError: there is neither.
    """
    end = _template_end(tokenizer, tokenizer.chat_template) if tokenizer.chat_template else None
    if end is None:
        end = tokenizer.eos_token_id
    if end is None:
        raise UserError('the tokenizer has no token that ends an answer; set eos_token in its tokenizer_config.json')
    return end


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns [BOS] where the tokenizer starts every text with it, else [] (as Qwen's and GPT-2's do not)."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer.encode('a')[:1] == [bos] else []


def _save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the two files of a tokenizer folder, each in one move; other files of the folder stay."""
    config = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'bos_token': BEGIN_OF_TEXT,
        'eos_token': END_OF_TURN,
        'clean_up_tokenization_spaces': False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ('tokenizer_config.json', json.dumps(config, indent=2) + '\n'),
        ('tokenizer.json', tokenizer.to_str(pretty=True)),
    ):
        partial = folder / f'{name}.partial'
        partial.write_text(text, encoding='utf-8')
        partial.replace(folder / name)


def _encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Returns the ids of plain text: nothing in it is read as a special token."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def _defuse(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Breaks special tokens that `text` spells by a space: a rendered template is read with its special tokens."""
    for token in _special_tokens(tokenizer).values():
        text = text.replace(token, f'{token[0]} {token[1:]}')
    return text


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: list[tuple[str, str]], generate: bool, date_string: str
) -> str:
    """Renders (role, content) messages by the chat template."""
    try:
        rendered = tokenizer.apply_chat_template(
            [{'role': role, 'content': content} for role, content in messages],
            tokenize=False,
            add_generation_prompt=generate,
            date_string=date_string,
        )
    except ImportError:  # Jinja is not installed: that is not the template's fault
        raise
    except Exception as error:  # Jinja's own errors and whatever the template's expressions raise
        # Not chained: such an error may quote the message, and with it clinical text.
        raise UserError(
            f"the tokenizer's chat template refuses a plain user's message ({type(error).__name__}); "
            'mend or remove chat_template in the tokenizer folder'
        ) from None
    return str(rendered)


@functools.lru_cache(maxsize=8)
def _template_end(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> int | None:
    """Returns the first special token after an assistant's message, or None; keyed by the template: it can be set."""
    marker = 'answer-marker'
    rendered = _render(tokenizer, [('user', 'question'), ('assistant', marker)], False, CHAT_DATE)
    tail = tokenizer.encode(rendered.rpartition(marker)[2], add_special_tokens=False)
    special = _special_tokens(tokenizer)
    return next((token for token in tail if token in special), None)
