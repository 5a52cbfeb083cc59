"""A Hugging Face folder from parameters on any mesh, one tensor at a time, complete or not there at all.

A folder is written beside its place under a name that ends in `.partial` and renamed at the end, so
what is killed leaves no half model under the name; the next writing clears the leftover.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from ccl_jax.errors import UserError
from ccl_jax.model.hf_reading import INDEX_FILE, SINGLE_FILE
from ccl_jax.model.hf_tables import Source

_DTYPE_NAMES = {'float64': 'F64', 'float32': 'F32', 'float16': 'F16', 'bfloat16': 'BF16'}


def write_folder(
    folder: Path,
    parameters: Mapping[str, jax.Array],
    sources: Sequence[Source],
    max_shard_bytes: int,
    write_rest: Callable[[Path], None],
) -> None:
    """Writes the weights and what `write_rest(folder)` adds.

    Where parameters are spread over several processes, all of them call this, and process 0 writes; a
    process that holds all parameters writes by itself. Beside the parameters, the memory of the
    host holds one tensor at a time, and so does that of the devices (each, where processes are several).

    Args:
        parameters: by path.
        sources: of all of them, in the order in which they are written.
        max_shard_bytes: of a safetensors file, unless one tensor is larger.

    Raises:
        UserError: the folder exists and is not empty, or process 0 could not write it.
    """
    spread = not all(parameter.is_fully_addressable for parameter in parameters.values())
    writes = not spread or jax.process_index() == 0
    partial = folder.with_name(folder.name + '.partial')
    with _agreeing(spread, folder):
        if writes:
            _make_empty(partial, folder)
    specs = {
        name: jax.ShapeDtypeStruct(source.tensor_shape, parameters[source.path].dtype)
        for source in sources
        for name in source.names
    }
    tensors = _gathered(parameters, sources, spread)
    with _agreeing(spread, folder):
        try:
            if writes:
                write_weights(partial, specs, tensors, max_shard_bytes)
                write_rest(partial)
                partial.replace(folder)
        finally:
            for _ in tensors if spread else ():  # The others wait for this process to take part in every gathering.
                pass


def write_weights(
    folder: Path, specs: Mapping[str, jax.ShapeDtypeStruct], tensors: Iterable[Any], max_shard_bytes: int
) -> None:
    """Writes safetensors of at most `max_shard_bytes` (unless one tensor is larger), with an index if they are several.

    Args:
        specs: shape and type of each tensor, by its name.
        tensors: as many arrays in the same order; each is asked for when the one before is written.
    """
    shards: list[dict[str, jax.ShapeDtypeStruct]] = [{}]
    for name, spec in specs.items():
        if shards[-1] and sum(map(_bytes, [*shards[-1].values(), spec])) > max_shard_bytes:
            shards.append({})
        shards[-1][name] = spec
    weight_map = {}
    rest = iter(tensors)
    for number, shard in enumerate(shards, start=1):
        file = SINGLE_FILE if len(shards) == 1 else f'model-{number:05d}-of-{len(shards):05d}.safetensors'
        with (folder / file).open('wb') as stream:
            stream.write(_header(shard))
            for _ in shard:  # No variable keeps a tensor while the next one is made.
                stream.write(np.ascontiguousarray(next(rest)).reshape(-1).view(np.uint8).data)
        weight_map.update(dict.fromkeys(shard, file))
    if len(shards) > 1:
        total = sum(map(_bytes, specs.values()))
        write_json(folder / INDEX_FILE, {'metadata': {'total_size': total}, 'weight_map': weight_map})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n', encoding='utf-8')


@contextlib.contextmanager
def _agreeing(spread: bool, folder: Path) -> Iterator[None]:
    """If the block fails on process 0, it fails on all, instead of leaving the others waiting."""
    failure: BaseException | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if spread and multihost_utils.broadcast_one_to_all(np.int32(failure is not None)) and failure is None:
        raise UserError(f'{folder} could not be written by process 0; see its message')
    if failure is not None:
        raise failure


def _make_empty(partial: Path, folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f'{folder} exists already; choose another folder or remove it')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)


def _gathered(parameters: Mapping[str, jax.Array], sources: Sequence[Source], spread: bool) -> Iterator[jax.Array]:
    """Yields the tensors in the order of the sources, each of them whole on every process."""
    for source in sources:
        parameter = parameters[source.path]
        sharding = parameter.sharding
        whole = (
            NamedSharding(sharding.mesh, PartitionSpec()) if spread and isinstance(sharding, NamedSharding) else None
        )
        gather = jax.jit(functools.partial(_tensor, source), out_shardings=whole)
        for layer in range(len(source.names)):
            yield gather(parameter, layer)


def _tensor(source: Source, parameter: jax.Array, layer: int) -> jax.Array:
    """Returns one of the parameter's tensors as Hugging Face lays it out."""
    part = jax.lax.dynamic_index_in_dim(parameter, layer, keepdims=False) if source.stacked else parameter
    return part.T if source.transposed else part


def _header(specs: Mapping[str, jax.ShapeDtypeStruct]) -> bytes:
    """Returns the beginning of a safetensors file, which the tensors' bytes follow in the same order."""
    entries: dict[str, Any] = {'__metadata__': {'format': 'pt'}}  # transformers requires it.
    begin = 0
    for name, spec in specs.items():
        end = begin + _bytes(spec)
        dtype = _DTYPE_NAMES[jnp.dtype(spec.dtype).name]
        entries[name] = {'dtype': dtype, 'shape': list(spec.shape), 'data_offsets': [begin, end]}
        begin = end
    content = json.dumps(entries).encode()
    content += b' ' * (-len(content) % 8)  # The tensors begin at a multiple of 8 bytes.
    return len(content).to_bytes(8, 'little') + content


def _bytes(spec: jax.ShapeDtypeStruct) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * jnp.dtype(spec.dtype).itemsize
