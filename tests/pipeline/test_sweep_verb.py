"""The verb `sweep` on finished runs of the miniature, one of which has to be evaluated anew."""

import json
import shutil

import pytest

from tests.pipeline.conftest import MINIATURE, ccl_jax, environment
from tests.pipeline.test_bad_input import assert_refused

SWEEP = """
from ccl_jax.studies.sweep_config import sweep_config

def get_config(variant=''):
    return sweep_config(
        'configs/demo.py:ci',
        arms={'long': {'eval.max_new_tokens': 24}, 'short': {'eval.max_new_tokens': 16}},
        seeds=(0,),
    )
"""
# The keys of the miniature; what its arms set is theirs.
OVERRIDES = [a for a in MINIATURE[2:] if 'max_new_tokens' not in a]


@pytest.mark.slow
def test_what_is_finished_is_skipped_and_the_rest_is_done_by_train(miniature, tmp_path, monkeypatch):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    (tmp_path / 'sweep.py').write_text(SWEEP)
    for arm in ('long', 'short'):
        shutil.copytree(miniature, tmp_path / 'w' / arm / 'seed0')
    before = (miniature / 'eval' / 'test' / 'metrics.json').read_bytes()
    command = ['sweep', f'--config={tmp_path}/sweep.py', f'--workdir={tmp_path}/w', *OVERRIDES]

    gathered = ccl_jax(*command, '--gather')
    assert gathered.returncode == 0, gathered.stderr
    assert '1 of 2 runs, the others are not finished' in gathered.stdout
    done = ccl_jax(*command)
    assert done.returncode == 0, done.stderr
    assert '2 runs, 1 of them finished' in done.stderr
    assert not (tmp_path / 'w' / 'long' / 'seed0' / 'train.log').exists()
    assert (tmp_path / 'w' / 'long' / 'seed0' / 'eval' / 'test' / 'metrics.json').read_bytes() == before
    short = json.loads((tmp_path / 'w' / 'short' / 'seed0' / 'eval' / 'test' / 'metrics.json').read_text())
    assert short['decoding'] != json.loads(before)['decoding']
    assert done.stdout.startswith('| arm | seeds | micro_f1 | difference |')
    assert '| short | 1 |' in done.stdout

    kept = (f'--config={tmp_path}/sweep.py', f'--config.results={tmp_path}/kept', *OVERRIDES)
    gathered = ccl_jax('sweep', *kept, f'--workdir={tmp_path}/w', '--gather')
    reused = ccl_jax('sweep', *kept, f'--workdir={tmp_path}/elsewhere', '--reuse')
    assert (gathered.returncode, reused.returncode) == (0, 0), reused.stderr
    for path in (tmp_path / 'w' / 'results').iterdir():
        assert (tmp_path / 'elsewhere' / 'results' / path.name).read_bytes() == path.read_bytes()
    assert [path.name for path in (tmp_path / 'elsewhere').iterdir()] == ['results']

    refused = ccl_jax(*command, '--config.data.steps=13')
    assert refused.returncode == 2
    assert 'holds a run of another config (data.steps was 12, is 13)' in refused.stderr


def test_a_model_that_cannot_be_used_is_refused_once_before_anything_is_made(tmp_path):
    (tmp_path / 'sweep.py').write_text(SWEEP)
    missing = ('--config.base.enabled=False', f'--config.model.path={tmp_path}/absent')
    refused = ccl_jax('sweep', f'--config={tmp_path}/sweep.py', f'--workdir={tmp_path}/w', *missing)
    assert_refused(refused, f'long seed 0: {tmp_path}/absent')
    assert not (tmp_path / 'w').exists()
