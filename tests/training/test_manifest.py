"""Whatever happens to a file of a checkpoint, the manifest tells; and the layout of an object store suffices for it."""

import json
import shutil

import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.training import manifest
from ccl_jax.training.manifest import MANIFEST, damage_of, is_complete, remove, write_manifest

FILES = {'a': b'some bytes', 'd/b': b'\0' * 300, 'd/e/c': b'', 'f/g': bytes(range(256)) * 100}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A complete folder of files, some empty, some deep."""
    folder = tmp_path_factory.mktemp('manifest') / '7'
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    folder = epath.Path(folder)
    assert not is_complete(folder)
    write_manifest(folder)
    assert is_complete(folder)
    return folder


def test_an_untouched_folder_is_good(folder):
    assert damage_of(folder) == ''
    assert json.loads((folder / MANIFEST).read_text())['sha256'].keys() == FILES.keys()
    assert sorted(path.name for path in folder.iterdir()) == ['a', 'd', 'f', MANIFEST]


def test_checksums_are_those_of_sha256(folder):
    # sha256 of no bytes, as FIPS 180-4's test vectors have it.
    assert json.loads((folder / MANIFEST).read_text())['sha256']['d/e/c'] == (
        'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
    )


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from([*FILES, MANIFEST]), data=st.data())
def test_a_change_of_any_file_is_noticed(folder, tmp_path_factory, name, data):
    copy = epath.Path(shutil.copytree(folder, tmp_path_factory.mktemp('copy') / '7'))
    content = bytearray((folder / name).read_bytes())
    kind = data.draw(st.sampled_from(['flip', 'truncate', 'remove', 'append'] if content else ['remove', 'append']))
    at = data.draw(st.integers(0, max(0, len(content) - 1)))
    if kind == 'flip':
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == 'truncate':
        content = content[:at]
    elif kind == 'append':
        content += b'x'
    (copy / name).write_bytes(bytes(content))
    if kind == 'remove':
        (copy / name).unlink()
    expected = 'is missing' if kind == 'remove' and name != MANIFEST else ''
    # A flip in the manifest may change white space or the case of nothing at all.
    if name == MANIFEST and (copy / name).exists() and _same_checksums(copy, folder):
        assert damage_of(copy) == ''
    else:
        assert damage_of(copy)
        assert expected in damage_of(copy)


def _same_checksums(*folders):
    try:
        first, second = (json.loads((folder / MANIFEST).read_text())['sha256'] for folder in folders)
    except (ValueError, KeyError, TypeError):
        return False
    return first == second


def test_a_file_that_was_not_there_is_noticed(folder, tmp_path):
    copy = epath.Path(shutil.copytree(folder, tmp_path / '7'))
    (copy / 'd' / 'new').write_text('')
    assert damage_of(copy) == 'd/new is not in the manifest'


def test_a_file_of_several_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, '_BLOCK_BYTES', 1000)
    folder = epath.Path(tmp_path)
    content = np.random.default_rng(0).bytes(3500)
    (folder / 'a').write_bytes(content)
    write_manifest(folder)
    assert damage_of(folder) == ''
    (folder / 'a').write_bytes(content[:3000] + content[3000:3400] + b'\0' * 100)
    assert damage_of(folder) == 'a differs'


def test_removal_begins_with_the_manifest(folder, tmp_path, monkeypatch):
    copy = epath.Path(shutil.copytree(folder, tmp_path / '7'))

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(copy), 'rmtree', killed)
        with pytest.raises(KeyboardInterrupt):
            remove(copy)
    assert (copy / 'a').exists()
    assert not is_complete(copy)
    remove(copy)
    assert not copy.exists()
    remove(copy)
