"""Small tokenizers of both kinds; their tokens span words, lines and the borders of quotes and codes."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END = '<end>'


def byte_level(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE that merges across everything, line ends too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def sentence_piece(texts: Iterable[str], vocab_size: int, fallback: bool = True) -> PreTrainedTokenizerBase:
    """BPE as SentencePiece writes it: a space before the text, '▁' for spaces, bytes of unknown characters."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(' ', '▁')
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False))
    merges = _merges(trained)
    tokens = [END, '<unk>', *(f'<0x{byte:02X}>' for byte in range(256) if fallback), *trained.get_vocab()]
    tokenizer = Tokenizer(
        models.BPE({token: i for i, token in enumerate(tokens)}, merges, byte_fallback=fallback, unk_token='<unk>')
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(' ', 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token='<unk>')


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())['model']['merges']
    return [tuple(merge.split(' ')) if isinstance(merge, str) else tuple(merge) for merge in merges]
