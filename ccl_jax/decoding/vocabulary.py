"""The bytes that each token writes, and a trie over them.

Two kinds of tokenizer are known: byte-level BPE (GPT-2's alphabet of 256 printable
characters for the bytes: Llama 3, Qwen, Mistral's Tekken and our own) and
SentencePiece with byte fallback ('▁' for a space, '<0x0A>' for a byte: Gemma,
Llama 2, Mistral 0.1).
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from ccl_jax.errors import UserError

_FALLBACK_BYTE = re.compile(r'<0x([0-9A-Fa-f]{2})>')
_METASPACE = '▁'
_MEND = 'use a tokenizer.json of byte-level BPE or of SentencePiece with byte fallback, or switch constraints off'
# Every byte that UTF-8 can hold.
_UTF8_BYTES = (*range(0xC0), *range(0xC2, 0xF5))
_SAMPLES = (
    '## Evidence\n- acute pain\n- T 38.5, "HbA1c" 7%\n\n## ICD Codes\n- S32.010A\n- I10',
    '## ICD Codes\n- acute ... pain -> R52\n- -> Z79.4\n- neumonía – 漢字 𝛼 -> J18.9',
)


class TrieNode:
    """A node of a trie over the bytes of the vocabulary's tokens; its children are made when first asked for.

    A vocabulary of 128k tokens has some 400k nodes, of which decoding visits few.

    Attributes:
        depth: number of bytes from the root.
        tokens: ids of the tokens whose bytes end here.
    """

    __slots__ = ('_begin', '_children', '_end', '_ids', '_words', 'depth', 'tokens')

    def __init__(self, words: Sequence[bytes], ids: Sequence[int], begin: int, end: int, depth: int):
        """A node for words[begin:end], sorted, which share their first `depth` bytes; word i writes token ids[i]."""
        self.depth = depth
        first = begin
        while depth and first < end and len(words[first]) == depth:
            first += 1
        self.tokens = tuple(ids[begin:first])
        self._words, self._ids, self._begin, self._end = words, ids, first, end
        self._children: dict[int, TrieNode] | None = None

    @property
    def children(self) -> dict[int, 'TrieNode']:
        if self._children is None:
            children: dict[int, TrieNode] = {}
            begin, depth = self._begin, self.depth
            while begin < self._end:
                prefix = self._words[begin][: depth + 1]
                after = _successor(prefix)
                end = self._end if after is None else bisect_left(self._words, after, begin, self._end)
                children[prefix[-1]] = TrieNode(self._words, self._ids, begin, end, depth + 1)
                begin = end
            self._children = children
        return self._children


class Vocabulary:
    """The tokens that may be written as bytes; special tokens are not among them.

    Attributes:
        size: ids are below it.
        token_bytes: for each id the bytes it writes, b'' for special tokens.
        root: of the trie over them.
        writes_leading_space: whether the tokenizer puts a space before a text, as SentencePiece does.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_id: int):
        """Reads the bytes of all tokens and checks them against the tokenizer on sample texts.

        Args:
            end_id: the token that ends an answer; it writes nothing, even if the tokenizer does not call it special.

        Raises:
            UserError: the tokenizer is of an unknown kind, its tokens do not add up to the text that they encode,
                or a byte has no token of its own.
        """
        to_bytes = _byte_level if _is_byte_level(tokenizer) else _sentence_piece
        special = {end_id, *tokenizer.all_special_ids}
        special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        vocabulary = tokenizer.get_vocab()
        self.size = max(vocabulary.values()) + 1
        self.token_bytes = [b''] * self.size
        for token, i in vocabulary.items():
            if i not in special:
                self.token_bytes[i] = to_bytes(token)
        self._check_bytes()
        self.writes_leading_space = self._check_samples(tokenizer)
        self.root = make_trie(self.token_bytes)

    def bytes_of(self, tokens: Iterable[int]) -> bytes:
        return b''.join(self.token_bytes[token] for token in tokens)

    def text(self, tokens: Iterable[int]) -> str:
        """Returns exactly what the tokens write (a tokenizer's own `decode` may tidy spaces up); no special tokens."""
        return self.bytes_of(tokens).decode('utf-8', errors='replace')

    def _check_bytes(self) -> None:
        single = {word[0] for word in self.token_bytes if len(word) == 1}
        missing = [byte for byte in _UTF8_BYTES if byte not in single]
        if missing:
            raise UserError(
                f'the tokenizer has no token for {len(missing)} single bytes (the first is 0x{missing[0]:02X}), '
                f'so it cannot write every text; {_MEND}'
            )

    def _check_samples(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        leading = False
        for sample in _SAMPLES:
            ids = tokenizer.encode(sample, add_special_tokens=False, split_special_tokens=True)
            written, wanted = self.bytes_of(ids), sample.encode()
            if written not in (wanted, b' ' + wanted):
                raise UserError(f'the bytes of the tokens do not add up to the text that they encode; {_MEND}')
            leading |= written != wanted
        return leading


def make_trie(token_bytes: Sequence[bytes]) -> TrieNode:
    """Returns the root of the trie over token_bytes[i] for each token i; b'' is left out."""
    order = sorted((i for i, word in enumerate(token_bytes) if word), key=lambda i: token_bytes[i])
    return TrieNode([token_bytes[i] for i in order], order, 0, len(order), 0)


def _successor(prefix: bytes) -> bytes | None:
    """Returns the least string above all strings that begin with `prefix`, or None if there is none."""
    stripped = prefix.rstrip(b'\xff')
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's decoder is that of byte-level BPE; else it is that of SentencePiece.

    Raises:
        UserError: it is neither.
    """
    backend = getattr(tokenizer, 'backend_tokenizer', None)
    decoder = None if backend is None else backend.decoder
    kinds = set() if decoder is None else _kinds(json.loads(decoder.__getstate__()))
    if 'ByteLevel' in kinds:
        return True
    if 'ByteFallback' in kinds:
        return False
    raise UserError(f'the bytes of the tokens are unknown for this kind of tokenizer; {_MEND}')


def _kinds(decoder: dict) -> set[str]:
    return {decoder['type']}.union(*(_kinds(part) for part in decoder.get('decoders', ())))


def _alphabet() -> dict[str, int]:
    """Returns the byte that each character of GPT-2's alphabet stands for: printable Latin-1 for itself, the
    others in order from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:  # an added token is kept as plain text, as the decoder reads it
        return token.encode()


def _sentence_piece(token: str) -> bytes:
    fallback = _FALLBACK_BYTE.fullmatch(token)
    return bytes([int(fallback[1], 16)]) if fallback else token.replace(_METASPACE, ' ').encode()
