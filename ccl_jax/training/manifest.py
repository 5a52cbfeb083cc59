"""The manifest of a checkpoint: the SHA-256 of every file, written after all of them.

It marks a folder as complete, and finds what has changed in it since: Orbax notices a
truncated file but loads a flipped byte silently. Paths may be local or of an object
store (`gs://`), so only what `epath` offers for both is used.
"""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Iterator

from etils import epath

MANIFEST = 'manifest.json'
_BLOCK_BYTES = 16 * 2**20


def write_manifest(folder: epath.Path) -> None:
    """Reads every file in `folder` and writes its manifest; from then on the folder is complete."""
    content = json.dumps({'sha256': _checksums(folder)}, indent=1)
    partial = folder / (MANIFEST + '.partial')
    with partial.open('w') as out:
        out.write(content)
        if _is_local(folder):
            out.flush()
            os.fsync(out.fileno())
    partial.replace(folder / MANIFEST)


def is_complete(folder: epath.Path) -> bool:
    """Whether the folder has a manifest; what it lists may be damaged still."""
    return (folder / MANIFEST).exists()


def remove(folder: epath.Path) -> None:
    """Deletes a folder, its manifest first: a half-deleted checkpoint is none."""
    (folder / MANIFEST).unlink(missing_ok=True)
    folder.rmtree(missing_ok=True)


def damage_of(folder: epath.Path) -> str:
    """Reads every file in `folder` and returns what differs from the manifest, '' for nothing."""
    try:
        expected = json.loads((folder / MANIFEST).read_text())['sha256']
        found = _checksums(folder)
        bad = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f'{MANIFEST} is unreadable'
    except OSError as error:
        return f'a file cannot be read: {error.strerror or error}'
    if not bad:
        return ''
    what = 'is missing' if bad[0] not in found else 'differs' if bad[0] in expected else 'is not in the manifest'
    return f'{bad[0]} {what}' + (f', {len(bad) - 1} more' if bad[1:] else '')


def _checksums(folder: epath.Path) -> dict[str, str]:
    """Returns relative path -> SHA-256 of every file in `folder` but the manifest."""
    names = sorted(name for name in _files(folder) if not name.startswith(MANIFEST))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: _checksum(folder / name), names), strict=True))


def _checksum(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as data:
        while block := data.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _files(folder: epath.Path, prefix: str = '') -> Iterator[str]:
    """Yields the path, relative to the first folder, of every file below."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path, f'{prefix}{path.name}/')
        else:
            yield prefix + path.name


def _is_local(path: epath.Path) -> bool:
    return '://' not in os.fspath(path)
