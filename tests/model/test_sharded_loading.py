"""A checkpoint on eight devices. In a process of its own: the number of devices is fixed at the start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import functools, logging, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from ccl_jax.decoding.generate import generate
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import init_decoder, load_decoder, save_decoder
from jax.sharding import AxisType, NamedSharding, PartitionSpec

target = sys.argv[1]
assert jax.device_count() == 8
mesh = jax.make_mesh((2, 2, 2), ('replica', 'fsdp', 'tensor'), axis_types=(AxisType.Auto,) * 3)
# Shards of more than one block, none of them whole blocks.
architecture = Architecture(
    vocab_size=22,
    hidden_size=1048,
    intermediate_size=534,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    max_position_embeddings=64,
    initializer_range=0.1,
)

def sharding_for(path, shape):
    specs = {1: (), 2: ('fsdp', 'tensor'), 3: (None, 'fsdp', 'tensor')}
    return NamedSharding(mesh, PartitionSpec(*(() if 'norm' in path else specs[len(shape)])))

rng = np.random.default_rng(0)
tokens = rng.integers(0, 22, (4, 16)).astype(np.int32)
rows = (tokens, np.tile(np.arange(16, dtype=np.int32), (4, 1)), np.ones_like(tokens))
prompts = [rng.integers(0, 22, n).tolist() for n in (3, 9, 5)]
forward = jax.jit(lambda graphdef, params, rows: (d := nnx.merge(graphdef, params)).logits(d(*rows)), static_argnums=0)
decode = functools.partial(generate, prompts=prompts, end_ids=(), max_new_tokens=8, buckets=(16,), batch_rows=4)

def leaves(decoder):
    return {'/'.join(path): variable[...] for path, variable in nnx.to_flat_state(nnx.state(decoder))}

drawn = init_decoder(architecture, seed=0)
save_decoder(drawn, f'{target}/source')
handler = logging.StreamHandler(sys.stdout)
logging.getLogger('ccl_jax').addHandler(handler)
logging.getLogger('ccl_jax').setLevel(logging.INFO)
whole, sharded = load_decoder(f'{target}/source'), load_decoder(f'{target}/source', sharding_for=sharding_for)
logging.getLogger('ccl_jax').removeHandler(handler)
# A stacked weight lies on 2 x 2 shards, whose bytes are those of the whole.
for path, array in leaves(sharded).items():
    reference = leaves(whole)[path]
    np.testing.assert_array_equal(reference, leaves(drawn)[path])
    assert array.sharding == sharding_for(path, array.shape), path
    for shard in array.addressable_shards:
        np.testing.assert_array_equal(shard.data, reference[shard.index])
expected = forward(*nnx.split(whole), rows)
batch = jax.device_put(rows, NamedSharding(mesh, PartitionSpec(('replica', 'fsdp'))))
np.testing.assert_allclose(forward(*nnx.split(sharded), batch), expected, atol=1e-4)
assert [g.tokens for g in decode(sharded)] == [g.tokens for g in decode(whole)]
save_decoder(sharded, f'{target}/saved', max_shard_bytes=10**6)
jax.tree.map(np.testing.assert_array_equal, nnx.state(load_decoder(f'{target}/saved')), nnx.state(whole))
left, right = (init_decoder(whole.architecture, seed=5, sharding_for=s) for s in (sharding_for, None))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), nnx.state(left), nnx.state(right))
# Copies of a shard may share memory, and a donated one may be written over.
update = jax.jit(lambda values: jax.tree.map(lambda x: 2 * x, values), donate_argnums=0)
before = {path: np.array(array) for path, array in leaves(sharded).items()}
after = update(leaves(sharded))
after = update(after)
for path, array in after.items():
    for shard in array.addressable_shards:
        np.testing.assert_array_equal(shard.data, 4 * before[path][shard.index])
print('same')
"""

# The peak of a load over what the process held before, in units of the model's bytes.
MEMORY = """
import sys, threading, time
import jax, jax.numpy as jnp
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import init_decoder, load_decoder, save_decoder
from ccl_jax.training.mesh import make_mesh, sharding_for

folder, action = sys.argv[1:]
mesh = make_mesh(fsdp=4, tensor=2)
architecture = Architecture(
    vocab_size=8000,
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=6,
    num_attention_heads=16,
    num_key_value_heads=4,
    head_dim=64,
    max_position_embeddings=64,
)
place = lambda path, shape: sharding_for(mesh, path, shape)

def anonymous():
    lines = open('/proc/self/status').read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith('RssAnon'))

if action == 'write':
    save_decoder(init_decoder(architecture, seed=0), folder)
    sys.exit()
decoder = load_decoder(folder, sharding_for=place) if action == 'save' else None
jax.block_until_ready(jax.jit(lambda: jnp.ones((8, 8)))())
begin = peak = anonymous()
done = threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
if action == 'load':
    decoder = load_decoder(folder, sharding_for=place)
else:
    save_decoder(decoder, folder + '-saved')
done.set()
thread.join()
print((peak - begin) / (4 * architecture.parameter_count()))
"""


def run(script, *arguments):
    environment = {
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8',
        'PYTHONPATH': str(ROOT),
    }
    result = subprocess.run(
        [sys.executable, '-c', script, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.strip().splitlines()


@pytest.mark.slow
def test_a_sharded_checkpoint_computes_and_decodes_the_same(tmp_path):
    *logged, last = run(SCRIPT, tmp_path)
    assert last == 'same'
    # Every byte is read once, also where two devices hold it.
    size = (2 * (2 * 1048 * 6 * 6 + 3 * 1048 * 534 + 2 * 1048) + (2 * 22 + 1) * 1048) * 4
    assert [line.split(': ')[1] for line in logged] == [f'read {size} bytes of weights'] * 2


@pytest.mark.slow
def test_host_memory_of_loading_and_saving(tmp_path):
    """Loading holds the model once, in the memory of the devices; saving adds a few tensors."""
    run(MEMORY, tmp_path / 'model', 'write')
    assert float(run(MEMORY, tmp_path / 'model', 'load')[-1]) < 1.3
    # The largest tensor is a thirteenth of the model, and lies there three times while it is turned and gathered.
    assert float(run(MEMORY, tmp_path / 'model', 'save')[-1]) < 0.3
