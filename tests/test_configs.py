"""The configs of large models by shapes alone: nothing of them is allocated."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from ccl_jax.config import check_config
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.counts import lora_parameter_count
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.lora import add_lora, split_trained
from ccl_jax.studies.known_models import known_architecture
from ccl_jax.training.mesh import make_mesh
from ccl_jax.training.step import abstract_batch

FOLDER = Path(__file__).parent.parent / 'configs'
# Published numbers of parameters, and the devices that the digits of a variant's name count.
PARAMETERS = {
    'llama31_8b_lora': 8_030_261_248,
    'llama31_8b_full': 8_030_261_248,
    'llama33_70b_lora': 70_553_706_496,
    'qwen25_7b_lora': 7_615_616_512,
}
DEVICES = {'gpu8': 8}


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f'{name}.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('name', PARAMETERS)
def test_every_variant_divides_its_rows_over_its_devices(name):
    module = load(name)
    kinds = {variant.partition('_')[0] for variant in module.VARIANTS}
    assert kinds == {'gpu8', 'v5e', 'v5p', 'v6e'}
    for variant in module.VARIANTS:
        config = check_config(module.get_config(variant))
        devices = DEVICES.get(variant) or int(variant.partition('_')[2])
        assert devices % config.mesh.tensor == 0
        needed = devices // config.mesh.tensor * config.training.train.accumulation
        architecture = known_architecture(config.model.path)
        assert architecture.num_key_value_heads % config.mesh.tensor == 0
        assert config.training.plan.longest_row == 8192 <= architecture.max_position_embeddings
        for bucket in config.training.plan.buckets:
            assert config.training.plan.rows_per_step(bucket) % needed == 0
    with pytest.raises(ValueError, match='no variant "v1_1"'):
        module.get_config('v1_1')


@pytest.mark.parametrize('name', PARAMETERS)
def test_the_step_of_every_bucket_has_the_right_shapes(name):
    config = check_config(load(name).get_config())
    architecture = known_architecture(config.model.path)
    assert architecture.parameter_count() == PARAMETERS[name]

    def build():
        decoder = Decoder(
            architecture,
            rngs=nnx.Rngs(0),
            param_dtype=jnp.dtype(config.model.param_dtype),
            compute_dtype=jnp.dtype(config.model.compute_dtype),
            remat=config.model.remat,
        )
        if config.lora.enabled:
            add_lora(decoder, config.lora, 0)
        return decoder

    graphdef, *states = split_trained(nnx.eval_shape(build))
    trained, frozen = map(nnx.to_pure_dict, states)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (trained, frozen)]
    adapters = lora_parameter_count(architecture, config.lora.rank, config.lora.targets) if config.lora.enabled else 0
    assert sizes == ([adapters, PARAMETERS[name]] if config.lora.enabled else [PARAMETERS[name], 0])

    mesh = make_mesh(fsdp=1, devices=jax.devices()[:1])
    for bucket in config.training.plan.buckets:
        rows = config.training.plan.rows_per_step(bucket)
        hidden = jax.eval_shape(
            lambda trained, frozen, batch: nnx.merge(graphdef, trained, frozen)(
                batch['tokens'], batch['positions'], batch['segment_ids']
            ),
            trained,
            frozen,
            abstract_batch(rows, bucket, mesh),
        )
        assert (hidden.shape, hidden.dtype) == ((rows, bucket, architecture.hidden_size), jnp.bfloat16)


@pytest.mark.parametrize(
    ('variant', 'least', 'most'),
    [('codiesp', 3.9e6, 4.0e6), ('synthetic', 3.9e6, 4.0e6), ('codiesp_small', 1.5e6, 1.6e6)],
)
def test_the_backbones_of_the_experiment_have_the_sizes_that_the_file_says(variant, least, most):
    base = check_config(load('experiments/backbone').get_config(variant)).base
    architecture = Architecture(
        vocab_size=base.vocab_size,
        hidden_size=base.hidden_size,
        intermediate_size=base.intermediate_size,
        num_hidden_layers=base.num_hidden_layers,
        num_attention_heads=base.num_attention_heads,
        num_key_value_heads=base.num_key_value_heads,
        head_dim=base.hidden_size // base.num_attention_heads,
        max_position_embeddings=base.max_position_embeddings,
        tie_word_embeddings=True,
    )
    assert architecture.head_dim == 64
    assert least < architecture.parameter_count() < most
    with pytest.raises(ValueError, match='no variant "mimic"'):
        load('experiments/backbone').get_config('mimic')
