"""What every test needs: a cache of releases that is not the user's, one of compiled programs, and a quick compiler."""

import atexit
import os
import shutil
import tempfile

import pytest

# Tests compile the same small programs in many processes, those of pytest-xdist among them, which inherit this.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    compiled = tempfile.mkdtemp(prefix='ccl-jax-compiled-')
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ['JAX_COMPILATION_CACHE_DIR'] = compiled
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

# LLVM's optimisations take longer than what they save on programs this small. XLA's own passes stay; new processes
# add to this, for another program may round otherwise.
QUICK = '--xla_backend_optimization_level=0'
if QUICK not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {QUICK}'.strip()


@pytest.fixture(scope='session', autouse=True)
def cache_of_releases():
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # A cache named from outside is respected, so that repeated runs may share one.
        if 'CCL_JAX_CACHE' not in os.environ:
            patch.setenv('CCL_JAX_CACHE', folder)
        yield
