"""A finished run whose inputs change under it: refused by name, and nothing of it is touched."""

import json
import shutil

import pytest

from tests.pipeline.conftest import MINIATURE, ccl_jax


@pytest.fixture
def workdir(miniature, tmp_path):
    return shutil.copytree(miniature, tmp_path / 'copy')


def refusal(workdir):
    metrics = (workdir / 'metrics.jsonl').read_bytes()
    checkpoints = sorted(path.name for path in (workdir / 'checkpoints').iterdir())
    done = ccl_jax(*MINIATURE, f'--workdir={workdir}')
    assert done.returncode == 2
    assert 'cannot be resumed' in done.stderr
    assert 'Traceback' not in done.stderr
    assert (workdir / 'metrics.jsonl').read_bytes() == metrics
    assert sorted(path.name for path in (workdir / 'checkpoints').iterdir()) == checkpoints
    return done.stderr


@pytest.mark.slow
def test_another_tokenizer_is_refused(workdir):
    path = workdir / 'base' / 'hf' / 'tokenizer.json'
    tokenizer = json.loads(path.read_text())
    # One merge fewer: the vocabulary is the same, the ids of a text are not.
    tokenizer['model']['merges'].pop(0)
    path.write_text(json.dumps(tokenizer))
    error = refusal(workdir)
    assert 'tokenizer was' in error
    assert 'plan was' in error


@pytest.mark.slow
def test_another_plan_is_refused(workdir):
    path = workdir / 'data' / 'spans.jsonl'
    path.write_text(''.join(path.read_text().splitlines(keepends=True)[:-1]))
    error = refusal(workdir)
    assert 'plan was' in error
    assert 'examples was' in error
    assert 'tokenizer was' not in error
