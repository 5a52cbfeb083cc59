"""configs/llama31_8b_lora.py by shapes alone: nothing of the 8B model is allocated."""

import importlib.util
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.config import check_config
from ccl_jax.data.plan import make_plan
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder
from ccl_jax.training.mesh import make_mesh
from ccl_jax.training.step import abstract_batch
from tests.model.test_architecture import LLAMA_31_8B

PARAMETERS = 8_030_261_248


def test_a_step_of_every_bucket_has_the_right_shapes():
    path = Path(__file__).parent.parent / 'configs' / 'llama31_8b_lora.py'
    spec = importlib.util.spec_from_file_location('llama31_8b_lora', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = check_config(module.get_config())
    architecture = Architecture.from_hf(LLAMA_31_8B)
    assert architecture.parameter_count() == PARAMETERS
    decoder = nnx.eval_shape(
        lambda: Decoder(
            architecture,
            rngs=nnx.Rngs(0),
            param_dtype=jnp.dtype(config.model.param_dtype),
            compute_dtype=jnp.dtype(config.model.compute_dtype),
            remat=config.model.remat,
        )
    )
    graphdef, params = nnx.split(decoder, nnx.Param)
    params = nnx.to_pure_dict(params)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == PARAMETERS

    part = config.training
    lengths = np.array([bucket - 3 for bucket in part.plan.buckets] * 4)
    plan = make_plan(lengths, np.zeros_like(lengths), lengths - 2, part.plan)
    mesh = make_mesh(fsdp=1, devices=jax.devices()[:1])
    assert {plan.shape(step)[1] for step in range(plan.steps)} <= set(part.plan.buckets)
    for bucket in part.plan.buckets:
        rows = part.plan.rows_per_step(bucket)
        assert rows % 64 == 0, 'the rows of a step divide over 64 devices'
        hidden = jax.eval_shape(
            lambda params, batch: nnx.merge(graphdef, params)(
                batch['tokens'], batch['positions'], batch['segment_ids']
            ),
            params,
            abstract_batch(rows, bucket, mesh),
        )
        assert (hidden.shape, hidden.dtype) == ((rows, bucket, 4096), jnp.bfloat16)
