"""Reading against numpy: every type, layout and size, from files made by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import SingleDeviceSharding

from ccl_jax.model.hf_reading import open_checkpoint, read_parameters
from ccl_jax.model.hf_tables import TABLES, Source, sources_of, text_name

DTYPES = {'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': jnp.bfloat16}
# Around the size of the blocks in which matrices are turned, and of what a thread takes at a time.
SIZES = st.sampled_from([1, 2, 17, 255, 256, 257, 511, 513, 700])


def write_file(path, tensors, dtype, padding):
    """Writes a safetensors file whose data begin anywhere, so that no tensor need be aligned."""
    begin, header = 0, {}
    for name, array in tensors.items():
        header[name] = {'dtype': dtype, 'shape': array.shape, 'data_offsets': [begin, begin + array.nbytes]}
        begin += array.nbytes
    content = json.dumps(header).encode() + b' ' * padding
    data = b''.join(array.tobytes() for array in tensors.values())
    path.write_bytes(len(content).to_bytes(8, 'little') + content + data)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(DTYPES)),
    st.sampled_from([jnp.float32, jnp.bfloat16]),
    SIZES,
    SIZES,
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 7),
    st.integers(0, 2**32),
)
def test_parameters_are_the_tensors_stacked_and_turned(
    tmp_path_factory, file_dtype, dtype, rows, columns, layers, transposed, padding, seed
):
    folder = tmp_path_factory.mktemp('model')
    rng = np.random.default_rng(seed)
    names = [f'tensor{layer}' for layer in range(max(layers, 1))]
    tensors = {name: (100 * rng.standard_normal((rows, columns))).astype(DTYPES[file_dtype]) for name in names}
    write_file(folder / 'model.safetensors', tensors, file_dtype, padding)
    expected = [array.astype(dtype).T if transposed else array.astype(dtype) for array in tensors.values()]
    expected = np.stack(expected) if layers else expected[0]
    source = Source('parameter', expected.shape, tuple(names), layers > 0, transposed)
    checkpoint = open_checkpoint(folder, [source], tied=False)
    device = SingleDeviceSharding(jax.devices()[0])
    parameters, copied = read_parameters(checkpoint, [source], lambda path, shape: device, np.dtype(dtype))
    np.testing.assert_array_equal(parameters['parameter'], expected, strict=True)
    assert copied == sum(array.nbytes for array in tensors.values())


def test_special_values_survive(tmp_path):
    values = np.array([[np.nan, np.inf, -np.inf], [-0.0, 1e-42, 3.4e38]], np.float32)
    write_file(tmp_path / 'model.safetensors', {'tensor': values}, 'F32', 0)
    source = Source('parameter', (3, 2), ('tensor',), False, True)
    checkpoint = open_checkpoint(tmp_path, [source], tied=False)
    device = SingleDeviceSharding(jax.devices()[0])
    parameters, _ = read_parameters(checkpoint, [source], lambda path, shape: device, np.dtype(np.float32))
    assert np.asarray(parameters['parameter']).tobytes() == values.T.tobytes()


@pytest.mark.parametrize('model_type', TABLES)
def test_the_tables_map_one_to_one(model_type):
    tensors, paths, _ = zip(*TABLES[model_type], strict=True)
    assert len(set(tensors)) == len(set(paths)) == len(tensors)


def test_a_parameter_that_no_table_knows_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match='layers/router'):
        sources_of('llama', {'layers/router': (2, 3, 4)})


@pytest.mark.parametrize(
    ('stored', 'name'),
    [
        ('language_model.model.layers.0.mlp.up_proj.weight', 'model.layers.0.mlp.up_proj.weight'),
        ('language_model.lm_head.weight', 'lm_head.weight'),
        ('model.language_model.norm.weight', 'model.norm.weight'),
        ('model.norm.weight', 'model.norm.weight'),
        ('vision_tower.language_model.model.norm.weight', 'vision_tower.language_model.model.norm.weight'),
        ('model.vision_tower.vision_model.post_layernorm.weight',) * 2,
    ],
)
def test_names_inside_of_a_model_with_images(stored, name):
    assert text_name(stored) == name
