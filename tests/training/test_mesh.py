import dataclasses

import jax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from tiny import ARCHITECTURE

from ccl_jax.errors import UserError
from ccl_jax.model.decoder import Decoder
from ccl_jax.training.mesh import AXES, batch_sharding, make_mesh, path_name, sharding_for, tree_shardings
from ccl_jax.training.optimizer import make_optimizer
from ccl_jax.training.settings import OptimizerSettings

# Meshes of devices that are not there, to look at shardings without computing.
SIXTEEN = AbstractMesh((2, 4, 2), AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize('sizes', [{}, {'fsdp': 1, 'tensor': -1}, {'replica': -1, 'fsdp': 1}, {'fsdp': 1}])
def test_one_device(sizes):
    mesh = make_mesh(**sizes, devices=jax.devices()[:1])
    assert dict(mesh.shape) == {'replica': 1, 'fsdp': 1, 'tensor': 1}
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    'sizes', [{'fsdp': 2}, {'tensor': 3}, {'fsdp': -1, 'tensor': -1}, {'replica': 0}, {'fsdp': -2}]
)
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(UserError, match=r'mesh replica=\S+ fsdp=\S+ tensor=\S+'):
        make_mesh(**sizes, devices=jax.devices()[:1])


@pytest.mark.parametrize(
    ('path', 'shape', 'expected'),
    [
        ('embedding', (128, 64), ('tensor', 'fsdp')),
        ('lm_head', (64, 128), ('fsdp', 'tensor')),
        ('layers/query', (3, 64, 32), (None, 'fsdp', 'tensor')),
        ('layers/output', (3, 32, 64), (None, 'tensor', 'fsdp')),
        ('layers/gate', (3, 64, 96), (None, 'fsdp', 'tensor')),
        ('layers/down', (3, 96, 64), (None, 'tensor', 'fsdp')),
        ('layers/attention_norm', (3, 64), ()),
        ('final_norm', (64,), ()),
        # The factors of an adapter, W's neighbours.
        ('layers/adapters/query/a', (3, 64, 5), ()),
        ('layers/adapters/query/b', (3, 5, 32), (None, None, 'tensor')),
        ('layers/adapters/down/a', (3, 96, 5), (None, 'tensor', None)),
        ('layers/adapters/down/b', (3, 5, 64), ()),
        ('opt_state/0/nu/layers/adapters/up/b', (3, 5, 96), (None, None, 'tensor')),
        ('layers/query_bias', (3, 32), ()),
        # An axis that does not divide its dimension is left out, the other one stays.
        ('embedding', (127, 64), (None, 'fsdp')),
        ('layers/down', (3, 96, 62), (None, 'tensor', None)),
        # Moments of an optimizer.
        ('opt_state/0/mu/layers/down', (3, 96, 64), (None, 'tensor', 'fsdp')),
        ('opt_state/0/count', (), ()),
    ],
)
def test_table(path, shape, expected):
    assert sharding_for(SIXTEEN, path, shape).spec == PartitionSpec(*expected)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh looks at in a TPU device: two slices of 4 x 2 chips below."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = 'tpu'
    device_kind: str = 'no kind whose rings are known'
    process_index: int = 0
    core_on_chip: int = 0


TWO_SLICES = [Chip(8 * number + i, number, (i % 4, i // 4, 0)) for number in range(2) for i in range(8)]


def test_replica_runs_over_slices_first():
    mesh = make_mesh(4, -1, 2, devices=TWO_SLICES)
    assert dict(mesh.shape) == {'replica': 4, 'fsdp': 2, 'tensor': 2}
    assert set(mesh.axis_types) == {AxisType.Auto}
    slices = [[device.slice_index for device in replica.flat] for replica in mesh.devices]
    assert slices == [[0] * 4, [0] * 4, [1] * 4, [1] * 4]
    assert len({device.id for device in mesh.devices.flat}) == 16


def test_slices_that_are_not_replicas_are_refused():
    with pytest.raises(UserError, match='2 TPU slices: replica is 1; make it a multiple of 2'):
        make_mesh(1, -1, 2, devices=TWO_SLICES)


def test_batches_lie_over_both_batch_axes():
    assert batch_sharding(SIXTEEN).shard_shape((16, 5)) == (2, 5)


@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_every_matrix_and_its_moments_are_divided_by_all_axes(tied, name):
    architecture = dataclasses.replace(ARCHITECTURE, tie_word_embeddings=tied)
    model = nnx.eval_shape(lambda: Decoder(architecture, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    moments = jax.eval_shape(make_optimizer(OptimizerSettings(name=name)).init, params)
    matrices = 0
    for tree in (params, moments):
        shardings = jax.tree.leaves(tree_shardings(SIXTEEN, tree))
        for (path, leaf), sharding in zip(jax.tree_util.tree_leaves_with_path(tree), shardings, strict=True):
            divided_by = 1
            if leaf.ndim >= 2 and 'norm' not in path_name(path):
                divided_by, matrices = 8, matrices + 1
            shard_shape = sharding.shard_shape(leaf.shape)
            assert leaf.size == divided_by * int(jax.numpy.prod(jax.numpy.array(shard_shape))), path_name(path)
    # 7 per layer and the embeddings; AdamW has two moments of each, Muon one of the hidden ones.
    embeddings = 1 if tied else 2
    assert matrices == 7 + embeddings + (2 * (7 + embeddings) if name == 'adamw' else 7 + 2 * embeddings)


def test_paths_of_flax_states_and_plain_dicts_are_the_same():
    model = nnx.eval_shape(lambda: Decoder(ARCHITECTURE, rngs=nnx.Rngs(0)))
    state = nnx.state(model, nnx.Param)
    names = [
        {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (state, nnx.to_pure_dict(state))
    ]
    assert names[0] == names[1] >= {'embedding', 'layers/query', 'final_norm'}
