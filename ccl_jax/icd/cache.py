"""Keeps parsed releases in files, so that a release is parsed once per machine and not once per process.

One file per release, in the user's cache directory or in the folder that the environment variable CCL_JAX_CACHE
names ('off': no cache). Its name comes from the content of the release's files and of the code that parsed them, so
neither an edited file nor a newer version of this package meets an old table. The first line holds a checksum of the
rest: whatever is torn, cut or changed is parsed again and written anew.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs

from ccl_jax.errors import UserError
from ccl_jax.icd.table import ReleaseTable

_VARIABLE = 'CCL_JAX_CACHE'
_OFF = 'off'
# Every version of this package and every set of files leaves a file of some 10 MB; the oldest go.
_KEPT = 16


def cached_table(paths: Sequence[Path], build: Callable[[], ReleaseTable]) -> ReleaseTable:
    """Returns the table that `build` makes of the files `paths`: from the cache, or built and put there.

    A cache that cannot be read or written only costs the time to build.

    Raises:
        UserError: one of `paths` cannot be read; and whatever `build` raises.
    """
    folder = _folder()
    if folder is None:
        return build()
    file = folder / f'icd-{_key(paths)}.json'
    table = _load(file)
    if table is None:
        table = build()
        _save(table, file)
    return table


def _folder() -> Path | None:
    setting = os.environ.get(_VARIABLE, '')
    if setting == _OFF:
        return None
    if setting:
        return Path(setting)
    return Path(platformdirs.user_cache_dir('ccl_jax'))


def _key(paths: Sequence[Path]) -> str:
    """Returns a hash of the names and contents of the files, and of the modules that read them."""
    key = hashlib.sha256()
    for path in (*sorted(Path(__file__).parent.glob('*.py')), *paths):
        try:
            with open(path, 'rb') as file:
                digest = hashlib.file_digest(file, 'sha256').hexdigest()
        except OSError as error:
            raise UserError(f'cannot read {path}: {error.strerror}') from None
        key.update(os.fsencode(f'{path.name} {digest}\n'))
    return key.hexdigest()[:32]


def _load(file: Path) -> ReleaseTable | None:
    try:
        content = file.read_bytes()
        checksum, _, columns = content.partition(b'\n')
        del content
        if hashlib.sha256(columns).hexdigest().encode() != checksum:
            return None
        return ReleaseTable(**json.loads(columns))
    except (OSError, ValueError, TypeError):
        return None


def _save(table: ReleaseTable, file: Path) -> None:
    columns = json.dumps({f.name: getattr(table, f.name) for f in dataclasses.fields(table)}).encode()
    # A name of its own and one rename: a reader, or a second writer, meets the whole file or none.
    unfinished = file.with_name(f'{file.name}.{os.urandom(8).hex()}.tmp')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_bytes(hashlib.sha256(columns).hexdigest().encode() + b'\n' + columns)
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
        for old in sorted(file.parent.glob('icd-*'), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        return
