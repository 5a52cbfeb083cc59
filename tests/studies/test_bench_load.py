"""The measurement of loading runs, and its numbers hang together; how fast a machine is, no test can say."""

import importlib.util
import re

import jax.numpy as jnp
import pytest

from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import check_checkpoint
from ccl_jax.studies import bench_load as study

ARCHITECTURE = Architecture(
    vocab_size=1_000,
    hidden_size=512,
    intermediate_size=1_024,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    max_position_embeddings=64,
)


@pytest.mark.slow
def test_every_way_of_loading_is_measured():
    text = study.bench_load(ARCHITECTURE, repeats=1)
    rows = re.findall(r'^(\S.*?)' + 5 * r' +(\d+\.\d+)' + '$', text, re.MULTILINE)
    names = [name for name, *_ in rows]
    ways = ['reading, through one buffer of 16 MiB', 'reading, into memory']
    theirs = bool(importlib.util.find_spec('torch'))
    assert names == [
        *ways,
        'ccl_jax, float32',
        *['transformers, float32'] * theirs,
        *ways,
        'ccl_jax, bfloat16',
        'ccl_jax, float32',
        *['transformers, bfloat16'] * theirs,
    ]
    for name, seconds, best, to_buffer, _, memory in rows:
        assert float(seconds) == float(best) > 0
        assert (name == ways[0]) <= (float(to_buffer) == 1)
        assert name == ways[0] or float(memory) > 1
    assert re.findall(r'^(\S+) GB of (\S+) in 4 files', text, re.MULTILINE) == [
        (f'{ARCHITECTURE.parameter_count() * bytes_each / 1e9:.2f}', dtype)
        for dtype, bytes_each in (('float32', 4), ('bfloat16', 2))
    ]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_checkpoint_is_one(dtype, tmp_path):
    study._write_checkpoint(ARCHITECTURE, jnp.dtype(dtype), tmp_path)
    assert check_checkpoint(tmp_path) == ARCHITECTURE
    assert len(list(tmp_path.glob('*.safetensors'))) == 4
