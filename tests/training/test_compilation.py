"""The cache of compiled programs, and the profiler's window of a run."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from tiny import SHAPES, fit_tiny, losses

from ccl_jax.errors import UserError
from ccl_jax.training.compilation import use_compilation_cache

ROOT = Path(__file__).parents[2]

# Says how many of the programs that jax asked its cache for were in it.
COMPILES = """
import sys
import jax
from jax import monitoring
from ccl_jax.training.compilation import use_compilation_cache

hits = []
monitoring.register_event_listener(lambda event, **_: hits.append(1) if event.endswith('/cache_hits') else None)
use_compilation_cache(sys.argv[1])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
jax.jit(lambda x: x * 3 + 1)(2.0)
print(len(hits))
"""


@pytest.fixture
def no_cache():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', None)
    yield
    jax.config.update('jax_compilation_cache_dir', before)


def test_a_cache_that_jax_has_already_stays(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    assert before is not None
    use_compilation_cache(str(tmp_path / 'other'))
    assert jax.config.jax_compilation_cache_dir == before
    assert not (tmp_path / 'other').exists()


def test_no_cache(no_cache):
    use_compilation_cache('off')
    assert jax.config.jax_compilation_cache_dir is None


def test_the_cache_of_the_user(no_cache, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    use_compilation_cache('user')
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'ccl_jax' / 'compiled')


def test_a_folder_that_cannot_be_made_is_refused_and_the_users_own_is_not(no_cache, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'train\.compilation_cache'):
        use_compilation_cache(str(tmp_path / 'file' / 'cache'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    use_compilation_cache('user')
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.slow
def test_another_process_finds_what_was_compiled(tmp_path):
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    environment.pop('JAX_COMPILATION_CACHE_DIR', None)
    command = [sys.executable, '-c', COMPILES, str(tmp_path / 'cache')]
    hits = [int(subprocess.run(command, env=environment, check=True, stdout=-1).stdout) for _ in range(2)]
    assert hits[0] == 0
    assert hits[1] > 0


@pytest.mark.slow
def test_the_profiler_records_a_window_and_changes_nothing(tmp_path):
    fit_tiny(tmp_path / 'with', steps=6, shapes=SHAPES[:1], profile_start=2, profile_steps=2)
    fit_tiny(tmp_path / 'without', steps=6, shapes=SHAPES[:1])
    assert list((tmp_path / 'with' / 'tensorboard').glob('plugins/profile/*/*.xplane.pb'))
    assert not (tmp_path / 'without' / 'tensorboard' / 'plugins').exists()
    assert losses(tmp_path / 'with') == losses(tmp_path / 'without')
