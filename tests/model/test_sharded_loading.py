"""A checkpoint on eight devices. In a process of its own: the number of devices is fixed at the start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import functools, sys
import jax, numpy as np
from flax import nnx
from ccl_jax.decoding.generate import generate
from ccl_jax.model.hf import init_decoder, load_decoder, save_decoder
from jax.sharding import AxisType, NamedSharding, PartitionSpec

source, target = sys.argv[1:]
assert jax.device_count() == 8
mesh = jax.make_mesh((2, 2, 2), ('replica', 'fsdp', 'tensor'), axis_types=(AxisType.Auto,) * 3)

def sharding_for(path, shape):
    specs = {1: (), 2: ('fsdp', 'tensor'), 3: (None, 'fsdp', 'tensor')}
    return NamedSharding(mesh, PartitionSpec(*(() if 'norm' in path else specs[len(shape)])))

rng = np.random.default_rng(0)
tokens = rng.integers(0, 24, (4, 16)).astype(np.int32)
rows = (tokens, np.tile(np.arange(16, dtype=np.int32), (4, 1)), np.ones_like(tokens))
prompts = [rng.integers(0, 24, n).tolist() for n in (3, 9, 5)]
forward = jax.jit(lambda graphdef, params, rows: (d := nnx.merge(graphdef, params)).logits(d(*rows)), static_argnums=0)
decode = functools.partial(generate, prompts=prompts, end_ids=(), max_new_tokens=8, buckets=(16,), batch_rows=4)

whole, sharded = load_decoder(source), load_decoder(source, sharding_for=sharding_for)
# A stacked weight lies on 2 x 2 shards, whose bytes are those of the whole.
for path, variable in nnx.to_flat_state(nnx.state(sharded)):
    array, reference = variable[...], dict(nnx.to_flat_state(nnx.state(whole)))[path][...]
    assert array.sharding == sharding_for('/'.join(path), array.shape), path
    for shard in array.addressable_shards:
        np.testing.assert_array_equal(shard.data, reference[shard.index])
expected = forward(*nnx.split(whole), rows)
batch = jax.device_put(rows, NamedSharding(mesh, PartitionSpec(('replica', 'fsdp'))))
np.testing.assert_allclose(forward(*nnx.split(sharded), batch), expected, atol=1e-4)
assert [g.tokens for g in decode(sharded)] == [g.tokens for g in decode(whole)]
save_decoder(sharded, target)
jax.tree.map(np.testing.assert_array_equal, nnx.state(load_decoder(target)), nnx.state(whole))
left, right = (init_decoder(whole.architecture, seed=5, sharding_for=s) for s in (sharding_for, None))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), nnx.state(left), nnx.state(right))
print('same')
"""


@pytest.mark.slow
def test_a_sharded_checkpoint_computes_and_decodes_the_same(tmp_path):
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
        'PYTHONPATH': str(root),
    }
    result = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(root / 'tests/goldens/llama'), str(tmp_path / 'saved')],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.stdout.strip() == 'same', result.stderr[-3000:]
