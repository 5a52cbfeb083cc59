"""Weights in and out of Hugging Face folders; random weights.

What is which is in `hf_tables`, reading in `hf_reading`, writing in `hf_writing`. Only safetensors
are read: pickled weights can run code.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.attention import MAX_SEGMENTS
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.hf_reading import Checkpoint, open_checkpoint, read_json, read_parameters
from ccl_jax.model.hf_tables import Source, sources_of
from ccl_jax.model.hf_writing import write_folder, write_json

ShardingFor = Callable[[str, tuple[int, ...]], Sharding]

_log = logging.getLogger(__name__)


def init_decoder(
    architecture: Architecture,
    *,
    seed: int,
    sharding_for: ShardingFor | None = None,
    param_dtype: jnp.dtype | type = jnp.float32,
    compute_dtype: jnp.dtype | type = jnp.float32,
    remat: str = 'none',
    mesh: Mesh | None = None,
    attention: str | None = None,
    max_segments: int = MAX_SEGMENTS,
) -> Decoder:
    """Returns a decoder with random weights, the same under any sharding up to rounding.

    Arguments as in `load_decoder`.
    """
    build = functools.partial(
        Decoder,
        architecture,
        param_dtype=param_dtype,
        compute_dtype=compute_dtype,
        remat=remat,
        mesh=mesh,
        attention=attention,
        max_segments=max_segments,
    )
    graphdef, abstract = _abstract(build)
    shardings = None
    if sharding_for is not None:
        shardings = {path: sharding_for(path, variable.shape) for path, variable in _by_path(abstract).items()}
    initialize = jax.jit(
        lambda: {path: variable[...] for path, variable in _by_path(nnx.state(build(rngs=nnx.Rngs(seed)))).items()},
        out_shardings=shardings,
    )
    return _assemble(graphdef, abstract, initialize())


def load_decoder(
    folder: str | Path,
    *,
    sharding_for: ShardingFor | None = None,
    param_dtype: jnp.dtype | type = jnp.float32,
    compute_dtype: jnp.dtype | type = jnp.float32,
    remat: str = 'none',
    mesh: Mesh | None = None,
    attention: str | None = None,
    max_segments: int = MAX_SEGMENTS,
) -> Decoder:
    """Reads a Hugging Face folder: `config.json` and safetensors in one file or with an index.

    A process reads the bytes of its own shards, and logs how many those were; beside the
    parameters, its memory holds two shards of one. Of a model with images (Gemma 3,
    MedGemma) the decoder alone is read.

    Args:
        sharding_for: gives the sharding of a parameter from its path ('layers/query') and shape;
            without it all parameters lie on this process's first device.
        param_dtype, compute_dtype, remat, mesh, attention, max_segments: see `Decoder`.

    Raises:
        UserError: the architecture is not supported, a file is missing or damaged, or tensors
            are missing, unexpected, or of the wrong shape or type (all are listed).
    """
    folder = Path(folder)
    architecture = read_architecture(folder)
    build = functools.partial(
        Decoder,
        architecture,
        param_dtype=param_dtype,
        compute_dtype=compute_dtype,
        remat=remat,
        mesh=mesh,
        attention=attention,
        max_segments=max_segments,
    )
    graphdef, abstract = _abstract(build)
    sharding_for = sharding_for or (lambda path, shape: SingleDeviceSharding(jax.local_devices()[0]))
    sources = _sources(architecture, abstract)
    checkpoint = _open(folder, architecture, sources)
    parameters, copied = read_parameters(checkpoint, sources, sharding_for, jnp.dtype(param_dtype))
    _log.info('%s: read %d bytes of weights', folder, copied)
    return _assemble(graphdef, abstract, parameters)


def check_checkpoint(folder: str | Path) -> Architecture:
    """Checks all that `load_decoder` checks, from the headers of the files alone; returns the architecture.

    Raises:
        UserError: as `load_decoder`.
    """
    folder = Path(folder)
    architecture = read_architecture(folder)
    _, abstract = _abstract(functools.partial(Decoder, architecture))
    _open(folder, architecture, _sources(architecture, abstract))
    return architecture


def read_architecture(folder: str | Path) -> Architecture:
    """Reads `config.json` of a Hugging Face folder.

    Raises:
        UserError: it is missing, is not JSON, or describes something unsupported.
    """
    path = Path(folder) / 'config.json'
    try:
        return Architecture.from_hf(read_json(path))
    except UserError as error:
        raise UserError(f'{path}: {error}') from None


def save_decoder(
    decoder: Decoder,
    folder: str | Path,
    *,
    tokenizer: Any = None,
    bos_token_id: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that transformers' `AutoModelForCausalLM.from_pretrained` reads.

    It holds `config.json`, `generation_config.json`, the weights in the parameters' type in
    safetensors of at most `max_shard_bytes` (unless one tensor is larger), and the
    tokenizer's files. It appears under its name only when it is complete. Where the
    parameters are spread over several processes, all of them call this and process 0 writes.

    Args:
        decoder: its `nnx.Param`s are written, no adapters.
        tokenizer: an object with `save_pretrained(folder)`.
        bos_token_id, eos_token_id, pad_token_id: recorded in both configs; null if None.

    Raises:
        UserError: the folder exists and is not empty, or process 0 could not write it.
    """
    state = nnx.state(decoder, nnx.Param)
    parameters = {path: variable[...] for path, variable in _by_path(state).items()}
    eos = list(eos_token_id) if isinstance(eos_token_id, Sequence) else eos_token_id
    token_ids = {'bos_token_id': bos_token_id, 'eos_token_id': eos, 'pad_token_id': pad_token_id}
    dtype = {'torch_dtype': parameters['embedding'].dtype.name}

    def write_rest(partial: Path) -> None:
        write_json(partial / 'config.json', {**decoder.architecture.to_hf(), **token_ids, **dtype})
        write_json(partial / 'generation_config.json', token_ids)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)

    write_folder(Path(folder), parameters, _sources(decoder.architecture, state), max_shard_bytes, write_rest)


def _open(folder: Path, architecture: Architecture, sources: Sequence[Source]) -> Checkpoint:
    checkpoint = open_checkpoint(folder, sources, architecture.tie_word_embeddings)
    for reason, count in checkpoint.skipped.items():
        _log.info('%s: skipped %d %s tensor(s)', folder, count, reason)
    return checkpoint


def _abstract(build: Callable[..., Decoder]) -> tuple[nnx.GraphDef, nnx.State]:
    """Returns the structure of a decoder and the shapes of its parameters, of which none is made."""
    return nnx.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))


def _sources(architecture: Architecture, state: nnx.State) -> list[Source]:
    shapes = {path: variable.shape for path, variable in _by_path(state).items()}
    return sources_of(architecture.model_type, shapes)


def _by_path(state: nnx.State) -> dict[str, nnx.Variable]:
    return {_name(path): variable for path, variable in nnx.to_flat_state(state)}


def _assemble(graphdef: nnx.GraphDef, abstract: nnx.State, arrays: Mapping[str, jax.Array]) -> Decoder:
    filled = [(path, variable.replace(arrays[_name(path)])) for path, variable in nnx.to_flat_state(abstract)]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def _name(path: Sequence[Any]) -> str:
    return '/'.join(map(str, path))
