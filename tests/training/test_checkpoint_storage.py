"""Storage that fails, and storage that is no file system."""

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from etils import epath
from etils.epath import gpath
from etils.epath.backend import os_backend
from orbax.checkpoint._src.path import gcs_utils

from ccl_jax.errors import UserError
from ccl_jax.training import checkpoints
from ccl_jax.training.checkpoints import Checkpoints, restore_parameters
from ccl_jax.training.storage import refusal_of


def state_at(step, size=2**18):
    return {'params': {'layer': jax.random.normal(jax.random.key(step), (size,))}}


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def assert_good(directory, step):
    """The newest good checkpoint is that of `step`, and nothing lies about."""
    found, params = restore_parameters(directory, abstract(state_at(0)['params']))
    assert found == step
    np.testing.assert_array_equal(params['layer'], state_at(step)['params']['layer'])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB."""
    if (
        os.geteuid() != 0
        or subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', tmp_path], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip('no file system can be mounted here')
    yield tmp_path
    subprocess.run(['umount', tmp_path], check=True)


def fill(folder: Path) -> None:
    """Leaves no room."""
    with (folder / 'ballast').open('wb', buffering=0) as out, contextlib.suppress(OSError):
        while out.write(b'x' * 4096):
            pass
    assert shutil.disk_usage(folder).free == 0


# TensorStore calls back into an event loop that a failed save has closed.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_a_sentence_and_the_same_call_goes_on(small_disk, tmp_path_factory, capfd):
    uninterrupted = tmp_path_factory.mktemp('uninterrupted')
    tiny.fit_tiny(uninterrupted, shapes=tiny.SHAPES[:1])
    workdir = tmp_path_factory.mktemp('workdir')
    (workdir / 'checkpoints').symlink_to(small_disk)
    capfd.readouterr()

    def fill_at_six(step, batch):
        if step == 6:
            while not (small_disk / '4' / 'manifest.json').exists():
                time.sleep(0.01)
            fill(small_disk)
        return batch

    with pytest.raises(UserError, match=r'step 8 could not be written .*No space left on device.* at step 4 is good'):
        tiny.fit_tiny(workdir, shapes=tiny.SHAPES[:1], change=fill_at_six)
    assert 'Traceback' not in capfd.readouterr().err
    (small_disk / 'ballast').unlink()
    tiny.fit_tiny(workdir, shapes=tiny.SHAPES[:1])
    assert tiny.losses(workdir) == tiny.losses(uninterrupted)
    assert names(small_disk) == ['10', '8']


def test_a_write_that_the_kernel_refuses_leaves_the_one_before(tmp_path, capfd):
    """Where nothing can be mounted: the kernel refuses to write files beyond a limit."""
    with Checkpoints(tmp_path, keep=2, fingerprint={}) as saves:
        saves.save(1, state_at(1))
        saves.wait()
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, unlimited[1]))
        try:
            saves.save(2, state_at(2))
            with pytest.raises(UserError, match=r'step 2 could not be written .*File too large.* at step 1 is good'):
                saves.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert 'Traceback' not in capfd.readouterr().err
    assert_good(tmp_path, 1)
    with Checkpoints(tmp_path, keep=2, fingerprint={}) as saves:
        assert saves.newest() == 1
    assert names(tmp_path) == ['1']


def save(directory, steps):
    with Checkpoints(directory, keep=2, fingerprint={}) as saves:
        saves.newest()
        for step in steps:
            saves.save(step, state_at(step))


def refuse(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_room_for_all_but_the_manifest_is_not_enough(tmp_path, monkeypatch):
    save(tmp_path, [1, 2])
    monkeypatch.setattr(checkpoints, 'write_manifest', refuse)
    with pytest.raises(UserError, match=r'step 3 could not be written .*at step 2 is good'):
        save(tmp_path, [3])
    assert_good(tmp_path, 2)
    save(tmp_path, [])
    assert names(tmp_path) == ['1', '2']


def test_the_error_that_ended_the_run_is_the_one_that_is_raised(tmp_path, monkeypatch, caplog):
    def run():
        with Checkpoints(tmp_path, keep=2, fingerprint={}) as saves:
            saves.save(1, state_at(1))
            raise KeyError

    monkeypatch.setattr(checkpoints, 'write_manifest', refuse)
    with pytest.raises(KeyError):
        run()
    assert any('there is none before it' in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (OSError(errno.EACCES, 'Permission denied', 'x'), 'Permission denied'),
        (ValueError("RESOURCE_EXHAUSTED: Failed writing: No space [os_error_code='28']"), 'No space left on device'),
        (ValueError('UNAVAILABLE: the bucket does not answer'), 'UNAVAILABLE'),
        (ValueError('Expected a tree'), None),
        (TypeError('UNAVAILABLE'), None),
    ],
)
def test_what_is_the_storages_fault(error, reason):
    assert refusal_of(error) == reason


class Bucket(type(os_backend)):
    """An object store behind `gs://`, as far as `epath` can tell."""

    def __init__(self, root: Path):
        self.root = root

    def _local(self, path) -> str:
        name = os.fspath(path)
        assert name.startswith('gs://'), f'{name} left the store'
        return str(self.root / name.removeprefix('gs://'))

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name not in ('open', 'exists', 'isdir', 'listdir', 'makedirs', 'mkdir', 'rmtree', 'remove', 'stat'):
            return method
        return lambda path, *args, **options: method(self._local(path), *args, **options)

    def rename(self, path, dst):
        Path(self._local(path)).rename(self._local(dst))

    def replace(self, path, dst):
        Path(self._local(path)).replace(self._local(dst))

    def glob(self, path):
        found = os_backend.glob(self._local(path))
        return [f'gs://{Path(name).relative_to(self.root)}' for name in found]


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """`gs://` without a network: epath and TensorStore both write below a folder."""
    store = Bucket(tmp_path)
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, 'gs', store)
    monkeypatch.setattr(gpath, '_is_tf_installed', lambda: False)
    monkeypatch.setattr(
        gcs_utils,
        'get_kvstore_for_gcs',
        lambda path: {'driver': 'file', 'path': str(tmp_path / path.removeprefix('gs://'))},
    )
    monkeypatch.setattr(gcs_utils, 'is_hierarchical_namespace_enabled', lambda path: False)
    return store


def test_checkpoints_in_an_object_store(bucket, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    directory = 'gs://bucket/run/checkpoints'
    options = {'keep': 2, 'fingerprint': {'plan': 'p'}, 'keep_best': 1, 'best_metric': 'loss'}
    with Checkpoints(directory, **options) as saves:
        assert saves.newest() is None
        for step in (1, 2, 3, 4):
            saves.save(step, state_at(step), {'loss': step})
    folder = bucket.root / 'bucket' / 'run' / 'checkpoints'
    assert names(folder) == ['1', '3', '4']
    assert_good(directory, 4)
    # A flipped bit, and a save that was killed: without renames, it lies under its own name.
    data = max((path for path in (folder / '4').rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    shutil.copytree(folder / '3', folder / '5')
    (folder / '5' / 'manifest.json').unlink()
    with Checkpoints(directory, **options) as saves:
        assert saves.newest() == 3
        loaded = saves.load(3, abstract(state_at(0)))
    np.testing.assert_array_equal(loaded['params']['layer'], state_at(3)['params']['layer'])
    assert names(folder) == ['1', '3', '4.damaged']
    assert names(tmp_path) == ['bucket'], 'something was written outside the store'


def test_a_local_path_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Checkpoints('run/checkpoints', keep=2, fingerprint={}) as saves:
        saves.save(1, {'params': {'layer': jnp.zeros(3)}})
    assert (tmp_path / 'run' / 'checkpoints' / '1' / 'manifest.json').exists()
    assert restore_parameters(epath.Path(tmp_path) / 'run' / 'checkpoints', {'layer': jnp.zeros(3)})[0] == 1
