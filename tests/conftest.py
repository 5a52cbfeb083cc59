"""What every test needs: a cache of releases that is not the user's."""

import os
import tempfile

import pytest


@pytest.fixture(scope='session', autouse=True)
def cache_of_releases():
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # A cache named from outside is respected, so that repeated runs may share one.
        if 'CCL_JAX_CACHE' not in os.environ:
            patch.setenv('CCL_JAX_CACHE', folder)
        yield
