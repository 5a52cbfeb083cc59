"""Tokenised examples on disk: a TFDS data set in ArrayRecord files, with a columnar index beside it.

A store is a folder:

    dataset_info.json, features.json, ccl_examples-train.array_record-*   the TFDS data set, split `train`
    index.npz        lengths, task ids and target starts (int32 [examples]) and example ids (UTF-8 bytes)
    metadata.json    counts, fingerprint, sizes of the files, and the caller's metadata

Anybody reads it with `tfds.builder_from_directory(folder).as_data_source('train')`;
a batch is planned from the index alone. TensorFlow is not needed.
"""

import array
import dataclasses
import functools
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2
from transformers import PreTrainedTokenizerBase

from ccl_jax.data.tokenization import beginning, encode_prompt, encode_target
from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS, TaskExample

SPLIT = 'train'
_NAME = 'ccl_examples'
_FORMAT = 1
_EXAMPLES_PER_SHARD = 200_000
_EXAMPLES_PER_WRITE = 4_096


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizedExample:
    """One training example as token ids.

    Attributes:
        tokens: int32 [length], prompt then target.
        target_start: index of the first target token, at least 1: a token is
            predicted from the one before it, so length - target_start tokens carry loss.
    """

    example_id: str
    task: str
    tokens: np.ndarray
    target_start: int


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
        metadata: whatever the caller wants to find again, as JSON.

    Raises:
        UserError: there are no examples, an example id occurs twice, or
            `directory` holds something else than a store.
        ValueError: an example has no target token or an unknown task.
    """
    directory = Path(directory)
    is_store = (directory / 'metadata.json').is_file()
    if directory.exists() and not is_store and not (directory.is_dir() and not any(directory.iterdir())):
        raise UserError(f'{directory} exists and is no example store; choose another folder or remove this one')
    partial = directory.with_name(directory.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        index = _Index()
        _write_records(examples, partial, index)
        if not index.lengths:
            raise UserError('there are no examples to write; check the sources and the filters')
        np.savez(partial / 'index.npz', allow_pickle=False, **index.columns())
        record = {
            'format': _FORMAT,
            'tasks': list(TASKS),
            'examples': len(index.lengths),
            'tokens': sum(index.lengths),
            'fingerprint': index.fingerprint.hexdigest(),
            'files': {path.name: path.stat().st_size for path in sorted(partial.iterdir())},
            'metadata': metadata,
        }
        (partial / 'metadata.json').write_text(json.dumps(record, indent=2) + '\n', encoding='utf-8')
        _replace(directory, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ExampleStore.open(directory)


class ExampleStore:
    """A store opened for reading; safe to use from several threads and to send to another process.

    Attributes:
        lengths: int32 [examples], tokens of each example.
        task_ids: int32 [examples], index in `TASKS`.
        target_starts: int32 [examples], index of the first target token.
        fingerprint: SHA-256 of ids, tasks, tokens and target starts, in order.
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
        self._example_ids = index['example_ids']

    @classmethod
    def open(cls, directory: str | Path) -> 'ExampleStore':
        """Opens a store.

        Raises:
            UserError: there is none, a file of it is missing, cut short or does
                not belong to it, or another version wrote it.
        """
        directory = Path(directory)
        record = _read_record(directory)
        index = _read_index(directory)
        counts = {record['examples'], *(len(column) for column in index.values())}
        if len(counts) != 1:
            raise _damaged(directory, 'index.npz does not belong to it')
        store = cls(directory, record, index)
        if len(store._records) != len(store):
            raise _damaged(directory, 'its records and its index differ in number')
        return store

    def __len__(self) -> int:
        return len(self.lengths)

    @functools.cached_property
    def example_ids(self) -> np.ndarray:
        """The ids as strings, [examples]."""
        return np.char.decode(self._example_ids, 'utf-8')

    def read(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Returns the tokens (int32 [length]) of many examples at once, in the order asked for.

        Raises:
            UserError: a record is damaged.
            IndexError: an index is not in [0, examples).
        """
        keys = [int(index) for index in indices]
        if keys and not (min(keys) >= 0 and max(keys) < len(self)):
            raise IndexError(f'example indices must lie in [0, {len(self)})')
        try:
            tokens = [_parse_tokens(record) for record in self._records.__getitems__(keys)]
        except Exception as error:  # the reader and protobuf have no common type for bytes that do not fit
            raise _damaged(self.directory, f'a record cannot be read ({type(error).__name__})') from error
        if any(len(ids) != self.lengths[key] for key, ids in zip(keys, tokens, strict=True)):
            raise _damaged(self.directory, 'a record is not as long as its index says')
        return tokens

    @functools.cached_property
    def _records(self) -> Any:
        """The data source of undecoded records, opened once in every process."""
        try:
            builder = tfds.builder_from_directory(str(self.directory))
            return builder.as_data_source(SPLIT, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        except Exception as error:
            raise _damaged(self.directory, f'TFDS cannot open it ({type(error).__name__})') from error

    def __reduce__(self) -> tuple[Any, ...]:
        return ExampleStore.open, (self.directory,)


class _Index:
    """Columns and fingerprint of the examples seen so far."""

    def __init__(self) -> None:
        self.lengths = array.array('i')
        self.task_ids = array.array('i')
        self.target_starts = array.array('i')
        self.example_ids: dict[bytes, None] = {}
        self.fingerprint = hashlib.sha256()

    def add(self, example: TokenizedExample) -> None:
        length = len(example.tokens)
        if example.task not in TASKS or not 1 <= example.target_start < length:
            raise ValueError(f'example {example.example_id!r} has an unknown task or no target token')
        example_id = example.example_id.encode()
        if example_id in self.example_ids:
            raise UserError(f'the example id {example.example_id!r} occurs twice; ids must be unique in a store')
        self.example_ids[example_id] = None
        self.lengths.append(length)
        self.task_ids.append(TASKS.index(example.task))
        self.target_starts.append(example.target_start)
        header = json.dumps([example.example_id, example.task, length, example.target_start])
        self.fingerprint.update(header.encode())
        self.fingerprint.update(example.tokens.astype('<i4').tobytes())

    def columns(self) -> dict[str, np.ndarray]:
        return {
            'lengths': np.array(self.lengths, np.int32),
            'task_ids': np.array(self.task_ids, np.int32),
            'target_starts': np.array(self.target_starts, np.int32),
            'example_ids': np.array(list(self.example_ids), np.bytes_),
        }


def _write_records(examples: Iterable[TokenizedExample], folder: Path, index: _Index) -> None:
    """Streams the examples to a TFDS data set in `folder` and fills `index`.

    `SequentialWriter` and not `GeneratorBasedBuilder`: the latter holds up to a
    gigabyte in memory, and beyond that needs TensorFlow for its temporary files.
    """
    features = tfds.features.FeaturesDict(
        {
            'example_id': tfds.features.Text(),
            'task': tfds.features.Text(),
            'target_start': tfds.features.Scalar(dtype=np.int32),
            'tokens': tfds.features.Tensor(shape=(None,), dtype=np.int32),
        }
    )
    identity = tfds.core.DatasetIdentity(
        name=_NAME, version=tfds.core.Version('1.0.0'), data_dir=str(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity, description='Tokenised examples.', features=features, disable_shuffling=True
    )
    writer = tfds.core.SequentialWriter(info, _EXAMPLES_PER_SHARD, file_format='array_record')
    writer.initialize_splits([SPLIT])
    remaining = iter(examples)
    while batch := list(itertools.islice(remaining, _EXAMPLES_PER_WRITE)):
        for example in batch:
            index.add(example)
        writer.add_examples({SPLIT: [_as_features(example) for example in batch]})
    writer.close_all()


def _parse_tokens(record: bytes) -> np.ndarray:
    """Reads the one field that is not in the index; decoding all features through TFDS is several times slower."""
    example = tf_example_pb2.Example.FromString(record)
    return np.array(example.features.feature['tokens'].int64_list.value, np.int32)


def _as_features(example: TokenizedExample) -> dict[str, Any]:
    return {
        'example_id': example.example_id,
        'task': example.task,
        'target_start': example.target_start,
        'tokens': example.tokens.astype(np.int32, copy=False),
    }


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


def _read_index(directory: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(directory / 'index.npz') as index:
            return {name: index[name] for name in ('lengths', 'task_ids', 'target_starts', 'example_ids')}
    except Exception as error:  # zip, header and checksum errors have no common type
        raise _damaged(directory, f'index.npz cannot be read ({type(error).__name__})') from None


def _damaged(directory: Path, what: str) -> UserError:
    return UserError(f'the example store in {directory} is damaged: {what}; run prepare again')
