"""Tokenised examples on disk: a TFDS data set in ArrayRecord files, with a columnar index beside it.

A store is a folder:

    dataset_info.json, features.json, ccl_examples-train.array_record-*   the TFDS data set, split `train`
    lengths.npy, task_ids.npy, target_starts.npy   the index, int32 [examples], mapped and not read into memory
    metadata.json    counts, fingerprint, sizes of the files, and the caller's metadata

Anybody reads it with `tfds.builder_from_directory(folder).as_data_source('train')`;
a batch is planned from the index alone. TensorFlow is not needed.
"""

import functools
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from ccl_jax.data.shards import (
    COLUMNS,
    Shard,
    TokenizedExample,
    merge_columns,
    open_records,
    parse_example,
    parse_tokens,
    write_dataset_info,
    write_shard,
)
from ccl_jax.data.tokenization import beginning, encode_prompt, encode_target
from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS, TaskExample

_FORMAT = 2
_EXAMPLES_PER_SHARD = 200_000
# How many ids are compared at once: 8 bytes each.
_IDS_AT_ONCE = 4_000_000

_Parsed = TypeVar('_Parsed')


def encode_example(tokenizer: PreTrainedTokenizerBase, example: TaskExample) -> TokenizedExample:
    """Tokenises prompt and target separately and joins them: one BOS, the end-of-turn token last.

    The text of an `lm` example is its target; every token but the first is predicted.

    Raises:
        UserError: the tokenizer has no token that ends an answer, or its chat template fails.
    """
    prompt = beginning(tokenizer) if example.task == 'lm' else encode_prompt(tokenizer, example.prompt)
    tokens = np.array(prompt + encode_target(tokenizer, example.target), np.int32)
    return TokenizedExample(example.example_id, example.task, tokens, max(1, len(prompt)))


def write_examples(
    examples: Iterable[TokenizedExample], directory: str | Path, metadata: dict[str, Any]
) -> 'ExampleStore':
    """Writes a store and opens it; a store that is already there is replaced.

    Everything is written to a folder beside `directory` that is renamed at the
    end, so an interrupted write leaves no store, or the former one.

    Args:
        metadata: whatever the caller wants to find again, as JSON; written last.

    Raises:
        UserError: there are no examples, an example id occurs twice, or
            `directory` holds something else than a store.
        ValueError: an example has no target token or an unknown task.
    """
    directory = Path(directory)
    check_replaceable(directory)
    partial = directory.with_name(directory.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        shards = [write_shard(batch, partial, number) for number, batch in enumerate(_batched(iter(examples)))]
        return seal_store(partial, shards, directory, metadata)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_replaceable(directory: Path) -> None:
    """Raises UserError if `directory` holds something else than a store."""
    is_store = (directory / 'metadata.json').is_file()
    if directory.exists() and not is_store and not (directory.is_dir() and not any(directory.iterdir())):
        raise UserError(f'{directory} exists and is no example store; choose another folder or remove this one')


def seal_store(partial: Path, shards: Sequence[Shard], directory: Path, metadata: dict[str, Any]) -> 'ExampleStore':
    """Makes the shards 0 to n - 1 in `partial` a store, moves it to `directory` and opens it.

    Files named shard-* served the building alone and are removed.

    Raises:
        UserError: there are no examples, or an example id occurs twice.
    """
    if not any(shard.examples for shard in shards):
        raise UserError('there are no examples to write; check the sources and the filters')
    # There if a former attempt to seal was killed.
    (partial / 'metadata.json').unlink(missing_ok=True)
    write_dataset_info(partial, shards)
    _check_unique(partial, merge_columns(partial, shards))
    needless = sorted(partial.glob('shard-*'))
    record = {
        'format': _FORMAT,
        'tasks': list(TASKS),
        'examples': sum(shard.examples for shard in shards),
        'tokens': sum(shard.tokens for shard in shards),
        'fingerprint': hashlib.sha256('\n'.join(shard.fingerprint for shard in shards).encode()).hexdigest(),
        'index': {f'{name}.npy': sha256_of(partial / f'{name}.npy') for name in COLUMNS},
        'files': {path.name: path.stat().st_size for path in sorted({*partial.iterdir()} - {*needless})},
        'metadata': metadata,
    }
    (partial / 'metadata.json').write_text(json.dumps(record, indent=2) + '\n', encoding='utf-8')
    for path in needless:
        path.unlink()
    _replace(directory, partial)
    return ExampleStore.open(directory)


def sha256_of(path: Path) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


class ExampleStore:
    """A store opened for reading; safe to use from several threads and to send to another process.

    Attributes:
        lengths: int32 [examples], tokens of each example.
        task_ids: int32 [examples], index in `TASKS`.
        target_starts: int32 [examples], index of the first target token.
        fingerprint: SHA-256 of all fields of all examples, in order.
        metadata: what the writer gave.
    """

    def __init__(self, directory: Path, record: dict[str, Any], index: dict[str, np.ndarray]):
        """Use `open` or `write_examples`."""
        self.directory = directory
        self.lengths = index['lengths']
        self.task_ids = index['task_ids']
        self.target_starts = index['target_starts']
        self.fingerprint: str = record['fingerprint']
        self.metadata: dict[str, Any] = record['metadata']

    @classmethod
    def open(cls, directory: str | Path) -> 'ExampleStore':
        """Opens a store.

        Raises:
            UserError: there is none, a file of it is missing, cut short or does
                not belong to it, or another version wrote it.
        """
        directory = Path(directory)
        record = _read_record(directory)
        index = {name: _read_column(directory, name, record) for name in COLUMNS}
        store = cls(directory, record, index)
        if len(store._records) != len(store):
            raise _damaged(directory, 'its records and its index differ in number')
        return store

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Returns the tokens (int32 [length]) of many examples at once, in the order asked for.

        Raises:
            UserError: a record is damaged.
            IndexError: an index is not in [0, examples).
        """
        tokens = self._parsed(indices, parse_tokens)
        if any(len(ids) != self.lengths[index] for index, ids in zip(indices, tokens, strict=True)):
            raise _damaged(self.directory, 'a record is not as long as its index says')
        return tokens

    def examples(self, indices: Sequence[int] | np.ndarray) -> list[TokenizedExample]:
        """Returns whole examples, ids and evidence included; slower than `read`. Raises as `read`."""
        return self._parsed(indices, parse_example)

    def _parsed(self, indices: Sequence[int] | np.ndarray, parse: Callable[[bytes], _Parsed]) -> list[_Parsed]:
        keys = [int(index) for index in indices]
        if keys and not (min(keys) >= 0 and max(keys) < len(self)):
            raise IndexError(f'example indices must lie in [0, {len(self)})')
        try:
            return [parse(record) for record in self._records.__getitems__(keys)]
        except Exception as error:  # the reader and protobuf have no common type for bytes that do not fit
            raise _damaged(self.directory, f'a record cannot be read ({type(error).__name__})') from error

    @functools.cached_property
    def _records(self) -> Any:
        """The data source of undecoded records, opened once in every process."""
        try:
            return open_records(self.directory)
        except Exception as error:
            raise _damaged(self.directory, f'TFDS cannot open it ({type(error).__name__})') from error

    def __reduce__(self) -> tuple[Any, ...]:
        return ExampleStore.open, (self.directory,)


def _batched(examples: Iterator[TokenizedExample]) -> Iterator[Iterator[TokenizedExample]]:
    """Yields the examples in runs of a shard, as iterators that must be used up one after the other."""
    for first in examples:
        yield itertools.chain([first], itertools.islice(examples, _EXAMPLES_PER_SHARD - 1))


def _check_unique(partial: Path, hashes_file: Path) -> None:
    """Raises UserError if an example id occurs twice; removes the hashes.

    The hashes are compared a share at a time, and only equal ones make the ids be read.
    """
    hashes = np.load(hashes_file, mmap_mode='r')
    shares = -(-len(hashes) // _IDS_AT_ONCE)
    records = functools.cache(open_records)
    for share in range(shares):
        pieces = range(0, len(hashes), _IDS_AT_ONCE)
        mine = np.concatenate(
            [begin + np.flatnonzero(hashes[begin : begin + _IDS_AT_ONCE] % shares == share) for begin in pieces]
        )
        order = mine[np.argsort(hashes[mine], kind='stable')]
        same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        seen: set[str] = set()
        for index in np.union1d(order[same], order[same + 1]):
            example_id = parse_example(records(partial)[int(index)]).example_id
            if example_id in seen:
                raise UserError(f'the example id {example_id!r} occurs twice; ids must be unique in a store')
            seen.add(example_id)
    hashes_file.unlink()


def _replace(directory: Path, partial: Path) -> None:
    """Renames `partial` to `directory`; a folder that is there is set aside first and removed after."""
    former = directory.with_name(directory.name + '.former')
    shutil.rmtree(former, ignore_errors=True)
    if directory.exists():
        directory.rename(former)
    partial.rename(directory)
    shutil.rmtree(former, ignore_errors=True)


def _read_record(directory: Path) -> dict[str, Any]:
    """Reads metadata.json and checks that the files it names are there in full size."""
    path = directory / 'metadata.json'
    if not path.is_file():
        raise UserError(f'there is no example store in {directory}; run prepare first')
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
        layout, tasks, files = record['format'], record['tasks'], record['files'].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(directory, 'metadata.json cannot be read') from None
    if layout != _FORMAT or tasks != list(TASKS):
        raise UserError(f'the example store in {directory} was written by another version; run prepare again')
    for name, size in files:
        file = directory / name
        if not file.is_file():
            raise _damaged(directory, f'{name} is missing')
        if file.stat().st_size != size:
            raise _damaged(directory, f'{name} has {file.stat().st_size} bytes instead of {size}')
    return record


def _read_column(directory: Path, name: str, record: dict[str, Any]) -> np.ndarray:
    """Maps a column of the index to memory after a check of its content."""
    path = directory / f'{name}.npy'
    if sha256_of(path) != record['index'].get(path.name):
        raise _damaged(directory, f'{path.name} is not what was written')
    # As a plain array: slices of np.memmap are slow.
    return np.asarray(np.load(path, mmap_mode='r'))


def _damaged(directory: Path, what: str) -> UserError:
    return UserError(f'the example store in {directory} is damaged: {what}; run prepare again')
