"""The same answers on a mesh of eight devices as on one, and a cache that never leaves its devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import re

import jax
import numpy as np
from flax import nnx

from ccl_jax.decoding import steps
from ccl_jax.decoding.generate import generate
from ccl_jax.model.hf import load_decoder
from ccl_jax.training.mesh import make_mesh, sharding_for

FOLDER = 'tests/goldens/gemma2'
mesh = make_mesh(1, 4, 2)
rng = np.random.default_rng(0)
prompts = [rng.integers(0, 37, n).tolist() for n in (7, 1, 30, 3, 12, 8, 2, 11, 29)]


class Hashed:
    def __init__(self, prompt):
        self.state = sum(prompt)

    def allowed(self):
        return np.random.default_rng(self.state).choice(37, 3, replace=False).astype(np.int32)

    def advance(self, token):
        self.state = 31 * self.state + token


def answers(decoder, rows, **settings):
    constraints = [Hashed(prompt) if i % 2 else None for i, prompt in enumerate(prompts)]
    for chosen in (None, constraints):
        yield [
            (generation.tokens, generation.ended)
            for generation in generate(
                decoder, prompts, end_ids=(5, 9), max_new_tokens=6, buckets=(8, 32), batch_rows=rows,
                constraints=chosen, **settings,
            )
        ]


one = load_decoder(FOLDER)
divided = load_decoder(FOLDER, sharding_for=lambda path, shape: sharding_for(mesh, path, shape), mesh=mesh)
for settings in ({}, {'temperature': 1.0, 'seed': 2}):
    # Three rows are no multiple of the four parts.
    assert [*answers(one, 3, **settings)] == [*answers(divided, 3, **settings)]

graphdef, params = nnx.split(divided)
model = {'graphdef': graphdef, 'mesh': mesh}
state = steps.empty(params, rows=8, slots=40, **model)
key = state.cache['key'][0]
assert key.sharding.shard_shape(key.shape) == (1, 2, 1, 6, 40), key.sharding
zeros = np.zeros(8, np.int32)
rows = steps.Rows(zeros, zeros, zeros, zeros + 9, zeros == 0)
prompt = steps.prefill(params, np.zeros((4, 8), np.int32), np.ones(4, np.int32), **model)
for compiled in (
    steps.decode.lower(params, state, rows, None, np.zeros(1, np.int32), np.int32(0), steps=4, **model).compile(),
    steps.advance.lower(params, state, zeros, zeros, **model).compile(),
    steps.insert.lower(state, prompt, np.arange(4, dtype=np.int32), mesh=mesh).compile(),
):
    # Slots of the whole cache in a collective would be a cache that is sent around.
    text = compiled.as_text()
    collectives = re.findall(r'= .*(?:all-gather|all-to-all|collective-permute|all-reduce)\\(.*', text)
    moved = [line for line in collectives if re.search(r'[\\[,]40[,\\]]', line)]
    assert not moved, moved[0][:300]
    assert 'input_output_alias={' in text
print('same')
"""


@pytest.mark.slow
def test_a_mesh_changes_no_answer():
    environment = {
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8',
        'PYTHONPATH': str(ROOT),
    }
    result = subprocess.run(
        [sys.executable, '-c', SCRIPT], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip() == 'same'
