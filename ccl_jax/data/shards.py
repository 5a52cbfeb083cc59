"""The files of a store of examples: what a record holds, a shard of records, and what makes shards a TFDS data set."""

import array
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from ccl_jax.tasks import TASKS

COLUMNS = ('lengths', 'task_ids', 'target_starts')
_SPLIT = 'train'
_NAME = 'ccl_examples'
_FILE_TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}'


@dataclasses.dataclass(frozen=True)
class EvidencePart:
    """Words of a document that support a code.

    Attributes:
        quote: number of the quote among those of its code; the parts of a
            discontinuous one share it.
        begin, end: offsets in the text of the whole document, end exclusive.
    """

    code: str
    quote: int
    begin: int
    end: int


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizedExample:
    """One training example as token ids.

    Attributes:
        tokens: int32 [length], prompt then target.
        target_start: index of the first target token, at least 1: a token is
            predicted from the one before it, so length - target_start tokens carry loss.
        doc_id: the document or text that it is made of; '' for spans.
        extent: (begin, end) of the piece of the document's text that is in the prompt.
        evidence: of the codes in the target, as far as it lies in the extent.
    """

    example_id: str
    task: str
    tokens: np.ndarray
    target_start: int
    doc_id: str = ''
    extent: tuple[int, int] = (0, 0)
    evidence: tuple[EvidencePart, ...] = ()


@dataclasses.dataclass(frozen=True)
class Shard:
    """What one file of records holds.

    Attributes:
        record_bytes: of the records, without the file's own overhead.
        fingerprint: SHA-256 of all fields of the examples, in order.
    """

    number: int
    examples: int
    tokens: int
    record_bytes: int
    fingerprint: str


def shard_files(folder: Path, number: int) -> tuple[Path, Path]:
    """Returns the files that `write_shard` writes: the records, and their columns of the index."""
    return folder / f'{_NAME}-{_SPLIT}.array_record-{number:05d}', folder / f'shard-{number:05d}.npz'


def write_shard(examples: Iterable[TokenizedExample], folder: Path, number: int) -> Shard:
    """Streams examples (possibly none) to one file of records, with its columns of the index beside it.

    Raises:
        ValueError: an example has no target token or an unknown task.
    """
    records, columns = shard_files(folder, number)
    index, record_bytes = _Index(), 0
    # One record a group: any one is read without its neighbours.
    writer = ArrayRecordWriter(str(records), 'group_size:1')
    try:
        for example in examples:
            index.add(example)
            record = _serialize(example)
            record_bytes += len(record)
            writer.write(record)
    finally:
        writer.close()
    np.savez(columns, allow_pickle=False, **index.columns())
    return Shard(number, len(index.lengths), sum(index.lengths), record_bytes, index.fingerprint.hexdigest())


def write_dataset_info(partial: Path, shards: Sequence[Shard]) -> None:
    """Makes the files of the shards 0 to n - 1 in a folder a TFDS data set."""
    template = tfds.core.ShardedFileTemplate(
        dataset_name=_NAME, data_dir=partial, split=_SPLIT, filetype_suffix='array_record', template=_FILE_TEMPLATE
    )
    split = tfds.core.SplitInfo(
        name=_SPLIT,
        shard_lengths=[shard.examples for shard in shards],
        num_bytes=sum(shard.record_bytes for shard in shards),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=partial,
        features=_features(),
        split_infos=[split],
        filename_template=_FILE_TEMPLATE,
        check_data=False,
        description='Tokenised examples.',
        disable_shuffling=True,
    )


def open_records(directory: Path) -> Any:
    """Returns the TFDS data source of a folder, whose `__getitems__` gives undecoded records."""
    builder = tfds.builder_from_directory(str(directory))
    return builder.as_data_source(_SPLIT, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)


def merge_columns(partial: Path, shards: Sequence[Shard]) -> Path:
    """Writes the index of all shards, a shard in memory at a time; returns the file of the hashes of the ids."""
    count = sum(shard.examples for shard in shards)
    merged = {name: np.lib.format.open_memmap(partial / f'{name}.npy', 'w+', np.int32, (count,)) for name in COLUMNS}
    merged['id_hashes'] = np.lib.format.open_memmap(partial / 'id_hashes.npy', 'w+', np.uint64, (count,))
    begin = 0
    for shard in shards:
        with np.load(shard_files(partial, shard.number)[1]) as columns:
            for name, column in merged.items():
                column[begin : begin + shard.examples] = columns[name]
        begin += shard.examples
    for column in merged.values():
        column.flush()
    return partial / 'id_hashes.npy'


def parse_tokens(record: bytes) -> np.ndarray:
    """Reads the one field that is not in the index; decoding all features through TFDS is several times slower."""
    example = tf_example_pb2.Example.FromString(record)
    return np.array(example.features.feature['tokens'].int64_list.value, np.int32)


def parse_example(record: bytes) -> TokenizedExample:
    """Reads all fields through TFDS."""
    fields = _features().deserialize_example_np(record)
    quotes = fields['evidence']
    parts = zip(quotes['code'], quotes['quote'], quotes['begin'], quotes['end'], strict=True)
    return TokenizedExample(
        fields['example_id'].decode(),
        fields['task'].decode(),
        fields['tokens'],
        int(fields['target_start']),
        fields['doc_id'].decode(),
        (int(fields['extent'][0]), int(fields['extent'][1])),
        tuple(EvidencePart(code.decode(), int(quote), int(begin), int(end)) for code, quote, begin, end in parts),
    )


class _Index:
    """Columns and fingerprint of the examples seen so far."""

    def __init__(self) -> None:
        self.lengths = array.array('i')
        self.task_ids = array.array('i')
        self.target_starts = array.array('i')
        self.id_hashes = array.array('Q')
        self.fingerprint = hashlib.sha256()

    def add(self, example: TokenizedExample) -> None:
        length = len(example.tokens)
        if example.task not in TASKS or not 1 <= example.target_start < length:
            raise ValueError(f'example {example.example_id!r} has an unknown task or no target token')
        self.lengths.append(length)
        self.task_ids.append(TASKS.index(example.task))
        self.target_starts.append(example.target_start)
        self.id_hashes.append(_id_hash(example.example_id))
        header = [example.example_id, example.task, length, example.target_start, example.doc_id, *example.extent]
        header += [[part.code, part.quote, part.begin, part.end] for part in example.evidence]
        self.fingerprint.update(json.dumps(header).encode())
        self.fingerprint.update(example.tokens.astype('<i4').tobytes())

    def columns(self) -> dict[str, np.ndarray]:
        return {
            'lengths': np.array(self.lengths, np.int32),
            'task_ids': np.array(self.task_ids, np.int32),
            'target_starts': np.array(self.target_starts, np.int32),
            'id_hashes': np.array(self.id_hashes, np.uint64),
        }


def _id_hash(example_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(example_id.encode(), digest_size=8).digest(), 'little')


def _features() -> tfds.features.FeaturesDict:
    evidence = {'code': tfds.features.Text(), 'quote': np.int32, 'begin': np.int32, 'end': np.int32}
    return tfds.features.FeaturesDict(
        {
            'example_id': tfds.features.Text(),
            'task': tfds.features.Text(),
            'target_start': tfds.features.Scalar(dtype=np.int32),
            'tokens': tfds.features.Tensor(shape=(None,), dtype=np.int32),
            'doc_id': tfds.features.Text(),
            'extent': tfds.features.Tensor(shape=(2,), dtype=np.int32),
            'evidence': tfds.features.Sequence(evidence),
        }
    )


def _serialize(example: TokenizedExample) -> bytes:
    """Returns the record that TFDS reads by `_features`.

    Written directly, because TFDS takes seven to ten times as long, and leaves the order of
    the fields to chance: the same examples shall make the same file.
    """
    texts = {
        'example_id': [example.example_id],
        'task': [example.task],
        'doc_id': [example.doc_id],
        'evidence/code': [part.code for part in example.evidence],
    }
    numbers = {
        'target_start': [example.target_start],
        'tokens': example.tokens.tolist(),
        'extent': example.extent,
        'evidence/quote': [part.quote for part in example.evidence],
        'evidence/begin': [part.begin for part in example.evidence],
        'evidence/end': [part.end for part in example.evidence],
    }
    record = tf_example_pb2.Example()
    fields = record.features.feature
    for name, values in texts.items():
        fields[name].bytes_list.value.extend(value.encode() for value in values)
    for name, integers in numbers.items():
        fields[name].int64_list.value.extend(integers)
    return record.SerializeToString(deterministic=True)
