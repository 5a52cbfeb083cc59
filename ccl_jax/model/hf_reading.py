"""Safetensors of a Hugging Face folder: checked as a whole, then read shard by shard onto devices.

Files are mapped, not read: a process touches the bytes of its own shards, and the only memory that
it allocates is that of the arrays. The format is that of https://huggingface.co/docs/safetensors.
"""

import collections
import dataclasses
import json
import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jax.sharding import Sharding

from ccl_jax.errors import UserError
from ccl_jax.model.hf_tables import Source, skipped, text_name

SINGLE_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'

_DTYPES = {'F64': np.dtype('<f8'), 'F32': np.dtype('<f4'), 'F16': np.dtype('<f2'), 'BF16': np.dtype(jnp.bfloat16)}
_PICKLES = ('.bin', '.pt', '.pth', '.ckpt')
# A block of [256, 256] stays in a core's cache while it is turned; odd strides keep its rows in different cache sets.
_BLOCK_ROWS, _BLOCK_COLUMNS, _BLOCK_PADDING = 256, 256, 16
# What one thread copies at a time: enough to outweigh handing it over.
_BAND_BYTES = 8 * 2**20
# XLA on the CPU takes over memory of this alignment instead of copying it.
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file that is mapped into memory; `content` reads nothing until it is touched."""

    mapped: mmap.mmap
    begin: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def content(self) -> np.ndarray:
        count = int(np.prod(self.shape, dtype=np.int64))
        return np.frombuffer(self.mapped, _DTYPES[self.dtype], count, self.begin).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The tensors of a folder that a decoder needs, all accounted for.

    Attributes:
        tensors: by the name that a checkpoint of text alone gives them.
        skipped: how many tensors are not needed, by the reason.
    """

    tensors: Mapping[str, Tensor]
    skipped: Mapping[str, int]


def open_checkpoint(folder: Path, sources: Sequence[Source], tied: bool) -> Checkpoint:
    """Maps the files of a folder and checks that every parameter has its tensors, and every tensor its parameter.

    Args:
        sources: of all parameters.
        tied: whether the embedding serves as the output's weights, so that a stored `lm_head` is redundant.

    Raises:
        UserError: an index that is unusable or points outside the folder, files that are missing or
            damaged, tensors that are missing, unexpected or of the wrong shape or type: all in one message.
    """
    found, unreadable, problems = _map_files(folder)
    expected = {name: source.tensor_shape for source in sources for name in source.names}
    needed: dict[str, Tensor] = {}
    surplus = []
    for stored, tensor in found.items():
        name = text_name(stored)
        if name not in expected:
            surplus.append(stored)
        elif name in needed:
            problems.append(f'{name} is there twice')
        else:
            needed[name] = tensor
    unneeded = skipped(surplus, tied)
    explained = {name for names in unneeded.values() for name in names}
    problems += [f'{name} is unexpected' for name in surplus if name not in explained]
    if found or not problems:  # If nothing could be read, the reason says it all.
        problems += [f'{name} is missing' for name in expected if name not in needed and name not in unreadable]
    for name, tensor in needed.items():
        if tensor.shape != expected[name]:
            problems.append(f'{name} has shape {list(tensor.shape)} instead of {list(expected[name])}')
        if tensor.dtype not in _DTYPES:
            problems.append(f'{name} has type {tensor.dtype} instead of one of {", ".join(_DTYPES)}')
    if problems:
        shown = '; '.join(_merge_layers(problems))
        raise UserError(f'{folder} cannot be loaded: {shown}; use a complete, unmodified checkpoint')
    return Checkpoint(needed, {reason: len(names) for reason, names in unneeded.items()})


def read_parameters(
    checkpoint: Checkpoint,
    sources: Sequence[Source],
    sharding_for: Callable[[str, tuple[int, ...]], Sharding],
    dtype: np.dtype,
) -> tuple[dict[str, jax.Array], int]:
    """Returns the parameters by path, and how many bytes of the files this process copied for them.

    Memory of the host holds two shards at a time. Devices that are the host's CPU take over that
    memory instead of copying it.

    Args:
        sources: of all parameters.
        sharding_for: gives the sharding of a parameter from its path and shape.
        dtype: of the parameters.
    """
    parameters: dict[str, jax.Array] = {}
    copied = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for source in sources:
            sharding = sharding_for(source.path, source.shape)
            arrays: list[jax.Array] = []
            for bounds, devices in _own_shards(sharding, source.shape).items():
                content = _aligned_empty([end - begin for begin, end in bounds], dtype)
                pieces = list(_pieces(checkpoint, source, bounds, content))
                copied += sum(piece.nbytes for _, piece in pieces)
                list(pool.map(_copy, *zip(*pieces, strict=True)))
                # The shard before has had the time of a reading to reach its device.
                jax.block_until_ready(arrays)
                arrays += [jax.device_put(content, device) for device in devices]
            jax.block_until_ready(arrays)
            parameters[source.path] = jax.make_array_from_single_device_arrays(source.shape, sharding, arrays)
    return parameters, copied


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises UserError if there is none."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; give the folder of a Hugging Face checkpoint') from None
    except ValueError:
        raise UserError(f'{path} is not JSON; download the checkpoint again') from None
    if not isinstance(content, dict):
        raise UserError(f'{path} is not a JSON object; download the checkpoint again')
    return content


_Bounds = tuple[tuple[int, int], ...]


def _own_shards(sharding: Sharding, shape: tuple[int, ...]) -> dict[_Bounds, list[jax.Device]]:
    """Returns the bounds of this process's shards, and the devices that hold each (several, if they hold copies)."""
    shards: dict[_Bounds, list[jax.Device]] = collections.defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        shards[tuple(part.indices(size)[:2] for part, size in zip(index or (), shape, strict=True))].append(device)
    return shards


def _pieces(
    checkpoint: Checkpoint, source: Source, bounds: _Bounds, content: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (target, piece of a tensor), both of [a, b] or [a], that together fill a shard's content."""
    layers, inner = (bounds[0], bounds[1:]) if source.stacked else ((0, 1), bounds)
    index = tuple(slice(*part) for part in (inner[::-1] if source.transposed else inner))
    for layer in range(*layers):
        piece = checkpoint.tensors[source.names[layer]].content[index]
        target = content[layer - layers[0]] if source.stacked else content
        target = target.T if source.transposed else target
        band = max(1, _BAND_BYTES // max(1, piece[:1].nbytes))
        for begin in range(0, len(piece), band):
            yield target[begin : begin + band], piece[begin : begin + band]


def _copy(target: np.ndarray, piece: np.ndarray) -> None:
    """Copies a piece to a target of its shape; a target whose columns are contiguous is written block by block."""
    if target.flags.c_contiguous or target.strides[-1] == target.itemsize:
        target[...] = piece
        return
    # Numpy's own transposing copy misses the cache at every element. Through a small block, whose
    # rows and columns are both in the cache, it is five times as fast.
    block = np.empty((_BLOCK_ROWS, _BLOCK_COLUMNS + _BLOCK_PADDING), target.dtype)
    for row in range(0, piece.shape[0], _BLOCK_ROWS):
        for column in range(0, piece.shape[1], _BLOCK_COLUMNS):
            area = slice(row, row + _BLOCK_ROWS), slice(column, column + _BLOCK_COLUMNS)
            part = piece[area]
            turned = block[: part.shape[0], : part.shape[1]]
            turned[...] = part
            target[area] = turned


def _aligned_empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % _ALIGNMENT
    return raw[begin : begin + size].view(dtype).reshape(shape)


def _map_files(folder: Path) -> tuple[dict[str, Tensor], set[str], list[str]]:
    """Returns the tensors by their stored names, which ones are in files that cannot be read, and problems."""
    listed = _read_listing(folder)
    found: dict[str, Tensor] = {}
    problems = []
    bad = set()
    for file in sorted(set(listed.values())) or [SINGLE_FILE]:
        try:
            tensors = _map_file(folder, file)
        except UserError as error:
            problems.append(str(error))
            bad.add(file)
            continue
        if listed:
            problems += [f'the index does not list {name} of {file}' for name in tensors if listed.get(name) != file]
        found |= tensors
    return found, {text_name(name) for name, file in listed.items() if file in bad}, problems


def _read_listing(folder: Path) -> dict[str, str]:
    """Returns the file of each tensor from the index; nothing if there is a single file."""
    if (folder / SINGLE_FILE).exists():
        return {}
    if not (folder / INDEX_FILE).exists():
        raise UserError(
            f'{folder} holds neither {SINGLE_FILE} nor {INDEX_FILE}; only safetensors are read, '
            'so convert other formats with save_pretrained(..., safe_serialization=True)'
        )
    listed = read_json(folder / INDEX_FILE).get('weight_map')
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise UserError(f'{folder / INDEX_FILE} has no usable "weight_map"; download the checkpoint again')
    return listed


def _map_file(folder: Path, file: str) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file. Raises UserError with no more than what is wrong with it."""
    if file in ('', '.', '..') or Path(file).name != file:
        raise UserError(f'{INDEX_FILE} points outside its folder ({file})')
    if file.endswith(_PICKLES):
        raise UserError(f'{file} is a pickle, which can run code when it is read')
    try:
        # This checks that the tensors fill the file without gaps and overlaps, and that shapes and sizes agree.
        with safetensors.safe_open(folder / file, framework='numpy'):
            pass
        with (folder / file).open('rb') as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f'{file} cannot be read ({error})') from None
    start = 8 + int.from_bytes(mapped[:8], 'little')
    return {
        name: Tensor(mapped, start + entry['data_offsets'][0], tuple(entry['shape']), entry['dtype'])
        for name, entry in json.loads(mapped[8:start]).items()
        if name != '__metadata__'
    }


def _merge_layers(problems: Sequence[str]) -> list[str]:
    """Puts equal problems of several layers together: 'model.layers.{0,1}.mlp... is missing'."""
    merged: dict[str, list[str]] = collections.defaultdict(list)
    for problem in problems:
        parts = re.fullmatch(r'(.*?\blayers\.)(\d+)(\..*)', problem)
        if parts:
            merged[f'{parts[1]}{{}}{parts[3]}'].append(parts[2])
        else:
            merged[problem] = []
    return [
        text.replace('{}', layers[0] if len(layers) == 1 else '{' + ','.join(layers) + '}') if layers else text
        for text, layers in merged.items()
    ]
