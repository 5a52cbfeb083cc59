"""The example store: read back by itself and by TFDS, and what happens to interrupted and damaged ones."""

import json
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ccl_jax.data import examples as module
from ccl_jax.data import shards
from ccl_jax.data.examples import ExampleStore, TokenizedExample, write_examples
from ccl_jax.data.shards import EvidencePart
from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS


def some_examples(count=20, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        tokens = rng.integers(0, 128_000, rng.integers(2, 40)).astype(np.int32)
        yield TokenizedExample(f'span:{i}:ñ', TASKS[i % 3], tokens, int(rng.integers(1, len(tokens))))


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(module, '_EXAMPLES_PER_SHARD', 7)
    monkeypatch.setattr(module, '_IDS_AT_ONCE', 3)


def test_what_is_written_is_read(tmp_path, small_shards):
    expected = list(some_examples())
    store = write_examples(some_examples(), tmp_path / 'a' / 'store', {'source': 'made', 'n': [1]})
    assert len(list(store.directory.glob('*array_record*'))) == 3
    assert len(store) == 20
    assert [example.example_id for example in store.examples(range(20))] == [e.example_id for e in expected]
    assert [TASKS[t] for t in store.task_ids] == [e.task for e in expected]
    assert store.lengths.tolist() == [len(e.tokens) for e in expected]
    assert store.target_starts.tolist() == [e.target_start for e in expected]
    assert store.metadata == {'source': 'made', 'n': [1]}
    order = [19, 0, 6, 7, 0, 13, 14]
    for index, tokens in zip(order, store.read(np.array(order)), strict=True):
        assert tokens.dtype == np.int32
        assert tokens.tolist() == expected[index].tokens.tolist()
    assert store.read([]) == []
    for name in ('lengths', 'task_ids', 'target_starts'):
        assert np.load(store.directory / f'{name}.npy', mmap_mode='r').tolist() == getattr(store, name).tolist()
        assert getattr(store, name).dtype == np.int32
    for bad in (-1, 20):
        with pytest.raises(IndexError):
            store.read([0, bad])
    copy = pickle.loads(pickle.dumps(store))
    assert copy.read([3])[0].tolist() == expected[3].tokens.tolist()
    assert 'tensorflow' not in sys.modules


def test_documents_keep_their_evidence(tmp_path):
    tokens = np.arange(5, dtype=np.int32)
    evidence = (EvidencePart('I10', 0, 3, 6), EvidencePart('I10', 1, 50, 60), EvidencePart('I10', 1, 70, 72))
    written = [
        TokenizedExample('document:ñ', 'document', tokens, 2, 'ñ', (0, 80), evidence),
        TokenizedExample('document:b', 'document', tokens, 2, 'b', (7, 9)),
        TokenizedExample('span:s', 'span', tokens, 2),
    ]
    store = write_examples(written, tmp_path / 'store', {})
    for example, expected in zip(store.examples([2, 0, 1]), (written[2], written[0], written[1]), strict=True):
        assert example.tokens.tolist() == expected.tokens.tolist()
        for field in ('example_id', 'task', 'target_start', 'doc_id', 'extent', 'evidence'):
            assert getattr(example, field) == getattr(expected, field)
    # As anybody reads it, who has TFDS alone.
    record = tfds.builder_from_directory(str(tmp_path / 'store')).as_data_source('train')[0]
    assert record['doc_id'].decode() == 'ñ'
    assert record['extent'].tolist() == [0, 80]
    quotes = record['evidence']
    assert [code.decode() for code in quotes['code']] == ['I10'] * 3
    assert [list(map(int, quotes[name])) for name in ('quote', 'begin', 'end')] == [[0, 1, 1], [3, 50, 70], [6, 60, 72]]


def test_tfds_reads_the_store(tmp_path, small_shards):
    write_examples(some_examples(), tmp_path / 'store', {})
    source = tfds.builder_from_directory(str(tmp_path / 'store')).as_data_source('train')
    assert len(source) == 20
    for record, example in zip(source, some_examples(), strict=True):
        assert record['example_id'].decode() == example.example_id
        assert record['task'].decode() == example.task
        assert record['target_start'] == example.target_start
        assert record['tokens'].dtype == np.int32
        assert record['tokens'].tolist() == example.tokens.tolist()


def test_fingerprint_covers_every_field_and_the_order(tmp_path):
    def fingerprint(examples):
        return write_examples(examples, tmp_path / 'store', {}).fingerprint

    tokens = np.array([1, 2, 3, 4], np.int32)
    base = [TokenizedExample('a', 'span', tokens, 2), TokenizedExample('b', 'lm', tokens[:3], 1)]
    variants = [
        base,
        base[::-1],
        base[:1],
        [TokenizedExample('c', 'span', tokens, 2), base[1]],
        [TokenizedExample('a', 'document', tokens, 2), base[1]],
        [TokenizedExample('a', 'span', tokens[::-1], 2), base[1]],
        [TokenizedExample('a', 'span', tokens, 3), base[1]],
        [TokenizedExample('a', 'span', tokens[:3], 2), TokenizedExample('b', 'lm', tokens, 1)],
        [TokenizedExample('a', 'span', tokens, 2, 'd'), base[1]],
        [TokenizedExample('a', 'span', tokens, 2, '', (0, 1)), base[1]],
        [TokenizedExample('a', 'span', tokens, 2, evidence=(EvidencePart('A00', 0, 1, 2),)), base[1]],
    ]
    assert len({fingerprint(variant) for variant in variants}) == len(variants)
    assert fingerprint(iter(base)) == fingerprint(base)


def test_interrupted_write_leaves_nothing_or_the_former_store(tmp_path, small_shards):
    def interrupted():
        yield from some_examples(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_examples(interrupted(), tmp_path / 'store', {})
    assert list(tmp_path.iterdir()) == []
    former = write_examples(some_examples(5), tmp_path / 'store', {}).fingerprint
    with pytest.raises(KeyboardInterrupt):
        write_examples(interrupted(), tmp_path / 'store', {})
    assert ExampleStore.open(tmp_path / 'store').fingerprint == former


def test_a_new_write_clears_what_a_killed_one_left(tmp_path):
    (tmp_path / 'store.partial').mkdir()
    (tmp_path / 'store.partial' / 'ccl_examples-train.array_record-00007').write_text('half')
    (tmp_path / 'store.former').mkdir()
    write_examples(some_examples(8), tmp_path / 'store', {})
    store = write_examples(some_examples(9, seed=1), tmp_path / 'store', {})
    assert len(store) == 9
    assert [p.name for p in tmp_path.iterdir()] == ['store']
    assert not (store.directory / 'ccl_examples-train.array_record-00007').exists()


def test_a_folder_that_is_no_store_is_left_alone(tmp_path):
    (tmp_path / 'thesis.txt').write_text('mine')
    for directory in (tmp_path, tmp_path / 'thesis.txt'):
        with pytest.raises(UserError, match='no example store'):
            write_examples(some_examples(), directory, {})
    assert (tmp_path / 'thesis.txt').read_text() == 'mine'
    (tmp_path / 'empty').mkdir()
    assert len(write_examples(some_examples(), tmp_path / 'empty', {})) == 20


def test_an_id_that_occurs_twice_is_found_among_many_and_an_equal_hash_is_no_equal_id(
    tmp_path, small_shards, monkeypatch
):
    some = list(some_examples(20))
    again = TokenizedExample(some[2].example_id, 'lm', some[0].tokens, 1)
    with pytest.raises(UserError, match="'span:2:ñ' occurs twice"):
        write_examples([*some, again], tmp_path / 'store', {})
    # All ids share a hash: each is compared with the others.
    monkeypatch.setattr(shards, '_id_hash', lambda example_id: 7)
    assert len(write_examples(some, tmp_path / 'store', {})) == 20
    with pytest.raises(UserError, match="'span:2:ñ' occurs twice"):
        write_examples([*some, again], tmp_path / 'store', {})


def test_examples_that_cannot_be_written(tmp_path):
    tokens = np.arange(3, dtype=np.int32)
    with pytest.raises(UserError, match='no examples'):
        write_examples([], tmp_path / 'store', {})
    with pytest.raises(UserError, match="'x' occurs twice"):
        write_examples([TokenizedExample('x', 'span', tokens, 1)] * 2, tmp_path / 'store', {})
    for task, start in (('span', 0), ('span', 3), ('nonsense', 1)):
        with pytest.raises(ValueError, match="'x' has"):
            write_examples([TokenizedExample('x', task, tokens, start)], tmp_path / 'store', {})
    assert list(tmp_path.iterdir()) == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def garble(path):
    path.write_bytes(b'\x00' * path.stat().st_size)


@pytest.mark.parametrize(
    ('name', 'damage', 'message'),
    [
        ('metadata.json', lambda path: path.unlink(), 'run prepare first'),
        ('metadata.json', cut, 'metadata.json cannot be read'),
        ('metadata.json', lambda path: path.write_text('[]'), 'metadata.json cannot be read'),
        ('lengths.npy', lambda path: path.unlink(), 'lengths.npy is missing'),
        ('task_ids.npy', cut, 'instead of'),
        ('target_starts.npy', garble, 'target_starts.npy is not what was written'),
        ('dataset_info.json', garble, 'TFDS cannot open it'),
        ('ccl_examples-train.array_record-00000', cut, 'instead of'),
        ('ccl_examples-train.array_record-00000', lambda path: path.unlink(), 'is missing'),
    ],
)
def test_damaged_store_is_refused(tmp_path, name, damage, message):
    write_examples(some_examples(), tmp_path / 'store', {})
    damage(tmp_path / 'store' / name)
    with pytest.raises(UserError, match=message):
        ExampleStore.open(tmp_path / 'store')


def test_store_of_parts_that_do_not_belong_together_is_refused(tmp_path):
    def rewrite(change):
        path = tmp_path / 'store' / 'metadata.json'
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    def accept_sizes(record):
        record['files'] = {
            p.name: p.stat().st_size for p in (tmp_path / 'store').iterdir() if p.name in record['files']
        }

    write_examples(some_examples(21), tmp_path / 'other', {})
    for name, message in (('lengths.npy', 'lengths.npy is not what'), ('dataset_info.json', 'differ in number')):
        write_examples(some_examples(20), tmp_path / 'store', {})
        (tmp_path / 'store' / name).write_bytes((tmp_path / 'other' / name).read_bytes())
        rewrite(accept_sizes)
        with pytest.raises(UserError, match=message):
            ExampleStore.open(tmp_path / 'store')
    write_examples(some_examples(20), tmp_path / 'store', {})
    rewrite(lambda record: record.update(tasks=['span', 'document', 'lm']))
    with pytest.raises(UserError, match='another version'):
        ExampleStore.open(tmp_path / 'store')


def test_damaged_records_are_refused_when_read(tmp_path):
    name = 'ccl_examples-train.array_record-00000'
    store = write_examples(some_examples(), tmp_path / 'store', {})
    garble(store.directory / name)
    with pytest.raises(UserError, match='damaged'):
        ExampleStore.open(store.directory).read(range(20))
    write_examples(some_examples(20, seed=1), tmp_path / 'other', {})
    (store.directory / name).write_bytes((tmp_path / 'other' / name).read_bytes())
    with pytest.raises(UserError, match='not as long as its index says'):
        store.read(range(20))
