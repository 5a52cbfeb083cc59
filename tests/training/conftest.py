import sys
from pathlib import Path

import jax
import pytest

# For `import tiny` under any import mode.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope='session', autouse=True)
def _compile_each_step_once(tmp_path_factory):
    """Many tests compile the same tiny step; subprocesses, where bits are compared, compile anew."""
    jax.config.update('jax_compilation_cache_dir', str(tmp_path_factory.mktemp('compiled')))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
    yield
    jax.config.update('jax_compilation_cache_dir', None)
