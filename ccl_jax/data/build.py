"""A store of examples made of records: over processes, resumable, and only where its inputs changed.

The blocks of records become one shard each, in a folder beside the store. A shard is
whole once its note (JSON, written last) is there. The notes name the inputs, so a
build that was killed goes on where it stopped, and one of other inputs begins anew.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ccl_jax.data.convert import Block, Converter
from ccl_jax.data.examples import ExampleStore, check_replaceable, seal_store, sha256_of
from ccl_jax.data.shards import Shard, shard_files, write_shard
from ccl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Finished:
    """A shard that is whole, and what its making counted."""

    shard: Shard
    counts: Mapping[str, int]


def is_built(directory: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether `directory` holds an undamaged store of these inputs."""
    try:
        return ExampleStore.open(directory).metadata['inputs'] == inputs
    except (UserError, KeyError):
        return False


def build_store(
    blocks: Iterable[Block], converter: Converter, directory: Path, inputs: Mapping[str, Any], processes: int = 0
) -> ExampleStore:
    """Converts blocks to a store; one that is already there is replaced at the end.

    The store depends on the blocks and the converter, not on `processes`. Blocks
    are read as they are needed, two a process at most.

    Args:
        inputs: what decides blocks and converter, as JSON; kept in the store's metadata
            beside `counts`, which says how many examples were made, cut and left out.
        processes: that convert beside this one; 0 converts in this one.

    Raises:
        UserError: as `Converter.examples`, there are no examples, an example id occurs
            twice, a process was killed, or `directory` holds something else than a store.
    """
    check_replaceable(directory)
    partial = directory.with_name(directory.name + '.building')
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    if partial.exists() and _read_json(partial / 'shard-key.json') != key:
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    (partial / 'shard-key.json').write_text(json.dumps(key))
    shards: list[Shard] = []
    counts: Counter[str] = Counter()
    for finished in tqdm(_converted(blocks, converter, partial, processes), unit=' blocks', disable=None, leave=False):
        shards.append(finished.shard)
        counts.update(finished.counts)
    return seal_store(partial, shards, directory, {'inputs': inputs, 'counts': counts})


def _converted(blocks: Iterable[Block], converter: Converter, folder: Path, processes: int) -> Iterator[_Finished]:
    """Yields the shards of the blocks in order."""
    if not processes:
        for number, block in enumerate(blocks):
            yield _read_finished(folder, number) or _convert(converter, block, folder, number)
        return
    waiting: deque[_Finished | concurrent.futures.Future[_Finished]] = deque()
    # Spawned, because a fork of a process with threads (JAX has many) may hang.
    pool = concurrent.futures.ProcessPoolExecutor(
        processes, multiprocessing.get_context('spawn'), initializer=_start_process, initargs=(converter,)
    )
    try:
        for number, block in enumerate(blocks):
            finished = _read_finished(folder, number)
            waiting.append(finished or pool.submit(_convert_in_process, block, folder, number))
            if len(waiting) == 2 * processes:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    except BrokenProcessPool:
        raise UserError(
            'a process that tokenises was killed, perhaps for want of memory; '
            'run again to go on from what is finished, with a smaller tasks.processes'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _result(waiting: '_Finished | concurrent.futures.Future[_Finished]') -> _Finished:
    return waiting if isinstance(waiting, _Finished) else waiting.result()


def _convert(converter: Converter, block: Block, folder: Path, number: int) -> _Finished:
    """Makes the shard of a block, and its note last."""
    counts: Counter[str] = Counter()
    shard = write_shard(converter.examples(block, counts), folder, number)
    note = {
        'shard': dataclasses.asdict(shard),
        'counts': counts,
        'sha256': [sha256_of(path) for path in shard_files(folder, number)],
    }
    unfinished = _note(folder, number).with_suffix('.unfinished')
    unfinished.write_text(json.dumps(note))
    unfinished.replace(_note(folder, number))
    return _Finished(shard, counts)


def _read_finished(folder: Path, number: int) -> _Finished | None:
    """Returns the shard if a build before this one finished it and its files are as they were written."""
    note = _read_json(_note(folder, number))
    try:
        if note is None or note['sha256'] != [sha256_of(path) for path in shard_files(folder, number)]:
            return None
    except FileNotFoundError:
        return None
    return _Finished(Shard(**note['shard']), note['counts'])


def _note(folder: Path, number: int) -> Path:
    return folder / f'shard-{number:05d}.json'


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


_converter: Converter


def _start_process(converter: Converter) -> None:
    """Keeps the converter for all blocks of this process, and ends the process with the one that started it."""
    global _converter
    _converter = converter
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        # An orphan would wait for work for ever, or write among the files of the next build.
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _convert_in_process(block: Block, folder: Path, number: int) -> _Finished:
    return _convert(_converter, block, folder, number)
