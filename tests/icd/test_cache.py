"""The cache of parsed releases: the same answers, and no damaged, foreign or outdated file is believed."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.icd.cache import cached_table
from ccl_jax.icd.table import ReleaseTable

ROOT = Path(__file__).resolve().parents[2]


def make_table() -> ReleaseTable:
    table = ReleaseTable('ICD-10-CM 1999', ['A00', 'A00.0'], ['M\u00e9ni\u00e8re\u2019s', 'Mild'], [-1, 0])
    table.notes['excludes1']['A00'] = ['not this (B20)']
    table.index_terms['index'] = {'A00.0': ['mild one']}
    table.left_out_terms['index'] = 3
    return table


class Builder:
    """Counts how often the table had to be built."""

    def __init__(self):
        self.calls = 0

    def __call__(self) -> ReleaseTable:
        self.calls += 1
        return make_table()


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / 'tabular.xml'
    path.write_bytes(b'<a/>')
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    path = tmp_path / 'cache' / 'of mine'
    monkeypatch.setenv('CCL_JAX_CACHE', str(path))
    return path


def test_built_once(source, folder):
    build = Builder()
    assert cached_table([source], build) == make_table()
    assert cached_table([source], build) == make_table()
    assert build.calls == 1
    assert len(list(folder.iterdir())) == 1


def test_other_content_name_or_files_are_another_table(source, folder):
    build = Builder()
    cached_table([source], build)
    source.write_bytes(b'<b/>')
    cached_table([source], build)
    cached_table([source.rename(source.with_name('other.xml'))], build)
    cached_table([source.with_name('other.xml')] * 2, build)
    assert build.calls == 4
    assert len(list(folder.iterdir())) == 4


def test_oldest_tables_go(source, folder):
    for number in range(20):
        source.write_bytes(b'%d' % number)
        cached_table([source], make_table)
    assert len(list(folder.iterdir())) == 16
    build = Builder()
    cached_table([source], build)
    assert build.calls == 0


def test_off(source, folder, monkeypatch):
    monkeypatch.setenv('CCL_JAX_CACHE', 'off')
    monkeypatch.setattr('platformdirs.user_cache_dir', lambda name: str(folder))
    build = Builder()
    assert cached_table([source], build) == cached_table([source], build) == make_table()
    assert build.calls == 2
    assert not folder.exists()


def test_user_cache_directory(source, folder, monkeypatch):
    monkeypatch.delenv('CCL_JAX_CACHE')
    monkeypatch.setattr('platformdirs.user_cache_dir', lambda name: str(folder / name))
    cached_table([source], make_table)
    assert len(list((folder / 'ccl_jax').iterdir())) == 1


def test_folder_that_cannot_be_written(source, tmp_path, monkeypatch):
    (tmp_path / 'file').write_bytes(b'')
    monkeypatch.setenv('CCL_JAX_CACHE', str(tmp_path / 'file'))
    assert cached_table([source], make_table) == make_table()


def test_write_that_fails_leaves_nothing_behind(source, folder, monkeypatch):
    def fail(self, target):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'replace', fail)
    assert cached_table([source], make_table) == make_table()
    assert list(folder.iterdir()) == []


def test_source_that_cannot_be_read(source, folder):
    with pytest.raises(UserError, match=r'cannot read .*none\.xml: No such file'):
        cached_table([source.with_name('none.xml')], make_table)


@pytest.mark.parametrize('content', [b'', b'\n', b'{}', b'0' * 64 + b'\n{}', b'\xff\xfe\x00', b'\x80\x04K\x01.'])
def test_foreign_file_is_replaced(source, folder, content):
    build = Builder()
    cached_table([source], build)
    (file,) = folder.iterdir()
    file.write_bytes(content)
    assert cached_table([source], build) == make_table()
    assert cached_table([source], build) == make_table()
    assert build.calls == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_torn_or_changed_file_is_replaced(source, folder, data):
    cached_table([source], make_table)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        file.write_bytes(whole[:position])
    else:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(flipped)
    build = Builder()
    assert cached_table([source], build) == make_table()
    assert build.calls == 1
    assert file.read_bytes() == whole


def test_checksum_of_other_columns_is_not_enough(source, folder):
    """As when a developer changes the columns: the file is whole, but not one of this version."""
    cached_table([source], make_table)
    (file,) = folder.iterdir()
    columns = json.dumps({'name': 'x', 'codes': []}).encode()
    file.write_bytes(hashlib.sha256(columns).hexdigest().encode() + b'\n' + columns)
    assert cached_table([source], make_table) == make_table()


def test_two_processes_at_once(source, folder):
    """Each waits inside `build` until the other is there too, so both miss the cache and both write it."""
    program = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_cache import make_table
from ccl_jax.icd.cache import cached_table
here, there = (Path({str(source.parent)!r}, name) for name in sys.argv[1:])
def build():
    here.touch()
    while not there.exists():
        time.sleep(0.001)
    return make_table()
assert cached_table([Path({str(source)!r})], build) == make_table()
"""
    processes = [
        subprocess.Popen([sys.executable, '-c', program, *names], cwd=ROOT) for names in (('a', 'b'), ('b', 'a'))
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert len(list(folder.iterdir())) == 1
    build = Builder()
    assert cached_table([source], build) == make_table()
    assert build.calls == 0
