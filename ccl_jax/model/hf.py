"""Weights in and out of Hugging Face folders; random weights.

One table maps tensors to parameters, in both directions. Only safetensors are read:
pickled weights can run code. Reading is lazy: a process reads the bytes of its own shards.
"""

import collections
import contextlib
import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import nnx
from jax.sharding import Sharding, SingleDeviceSharding
from safetensors.numpy import save_file

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder

ShardingFor = Callable[[str, tuple[int, ...]], Sharding]

# (tensor of the Hugging Face Llama, parameter of `Decoder`, whether one is the other's transpose).
# '{layer}' counts the layers; the parameter stacks them. Linear weights are [out, in] there, [in, out] here.
_TENSORS = (
    ('model.embed_tokens.weight', 'embedding', False),
    ('model.layers.{layer}.input_layernorm.weight', 'layers/attention_norm', False),
    ('model.layers.{layer}.self_attn.q_proj.weight', 'layers/query', True),
    ('model.layers.{layer}.self_attn.k_proj.weight', 'layers/key', True),
    ('model.layers.{layer}.self_attn.v_proj.weight', 'layers/value', True),
    ('model.layers.{layer}.self_attn.o_proj.weight', 'layers/output', True),
    ('model.layers.{layer}.post_attention_layernorm.weight', 'layers/mlp_norm', False),
    ('model.layers.{layer}.mlp.gate_proj.weight', 'layers/gate', True),
    ('model.layers.{layer}.mlp.up_proj.weight', 'layers/up', True),
    ('model.layers.{layer}.mlp.down_proj.weight', 'layers/down', True),
    ('model.norm.weight', 'final_norm', False),
    ('lm_head.weight', 'lm_head', True),
)
# Written by some checkpoints although they follow from the config.
_REDUNDANT = re.compile(r'(.*\.)?rotary_emb\.inv_freq')
_REDUNDANT_IF_TIED = re.compile(r'lm_head\.weight')
_FLOAT_TYPES = ('F64', 'F32', 'F16', 'BF16')
_SINGLE_FILE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'

_log = logging.getLogger(__name__)


def init_decoder(
    architecture: Architecture,
    *,
    seed: int,
    sharding_for: ShardingFor | None = None,
    param_dtype: jnp.dtype | type = jnp.float32,
    compute_dtype: jnp.dtype | type = jnp.float32,
    remat: bool = False,
) -> Decoder:
    """Returns a decoder with random weights, the same under any sharding up to rounding.

    Arguments as in `load_decoder`.
    """

    def build() -> Decoder:
        return Decoder(
            architecture, rngs=nnx.Rngs(seed), param_dtype=param_dtype, compute_dtype=compute_dtype, remat=remat
        )

    graphdef, abstract = nnx.split(nnx.eval_shape(build))
    shardings = None
    if sharding_for is not None:
        shardings = {path: sharding_for(path, variable.shape) for path, variable in _by_path(abstract).items()}
    initialize = jax.jit(
        lambda: {path: variable[...] for path, variable in _by_path(nnx.state(build())).items()},
        out_shardings=shardings,
    )
    return _assemble(graphdef, abstract, initialize())


def load_decoder(
    folder: str | Path,
    *,
    sharding_for: ShardingFor | None = None,
    param_dtype: jnp.dtype | type = jnp.float32,
    compute_dtype: jnp.dtype | type = jnp.float32,
    remat: bool = False,
) -> Decoder:
    """Reads a Hugging Face folder: `config.json` and safetensors in one file or with an index.

    Host memory peaks at this process's shards of the largest stacked parameter.

    Args:
        sharding_for: gives the sharding of a parameter from its path ('layers/query') and shape;
            without it all parameters lie on this process's first device.
        param_dtype, compute_dtype, remat: see `Decoder`.

    Raises:
        UserError: the architecture is not supported, a file is missing or damaged, or tensors
            are missing, unexpected, or of the wrong shape or type (all are listed).
    """
    folder = Path(folder)
    architecture = read_architecture(folder)
    graphdef, abstract = _abstract_decoder(architecture, param_dtype, compute_dtype, remat)
    sharding_for = sharding_for or (lambda path, shape: SingleDeviceSharding(jax.local_devices()[0]))
    sources = [_Source.of(path, variable.shape) for path, variable in _by_path(abstract).items()]
    with contextlib.ExitStack() as stack:
        tensors = _open_tensors(folder, stack)
        _check_accounts(folder, architecture, sources, tensors)
        arrays = {}
        for source in sources:
            read = source.reader(tensors, jnp.dtype(param_dtype))
            array = jax.make_array_from_callback(source.shape, sharding_for(source.path, source.shape), read)
            arrays[source.path] = array.block_until_ready()  # So that host memory holds one parameter at a time.
    return _assemble(graphdef, abstract, arrays)


def check_checkpoint(folder: str | Path) -> Architecture:
    """Checks all that `load_decoder` checks, from the headers of the files alone; returns the architecture.

    Raises:
        UserError: as `load_decoder`.
    """
    folder = Path(folder)
    architecture = read_architecture(folder)
    _, abstract = _abstract_decoder(architecture, jnp.float32, jnp.float32, False)
    sources = [_Source.of(path, variable.shape) for path, variable in _by_path(abstract).items()]
    with contextlib.ExitStack() as stack:
        _check_accounts(folder, architecture, sources, _open_tensors(folder, stack))
    return architecture


def read_architecture(folder: str | Path) -> Architecture:
    """Reads `config.json` of a Hugging Face folder.

    Raises:
        UserError: it is missing, is not JSON, or describes something unsupported.
    """
    path = Path(folder) / 'config.json'
    try:
        return Architecture.from_hf(_read_json(path))
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
    """Writes a folder that transformers' `LlamaForCausalLM.from_pretrained` reads.

    It holds `config.json`, `generation_config.json`, the weights in the parameters' type in
    safetensors of at most `max_shard_bytes` (unless one tensor is larger), and the
    tokenizer's files. It appears under its name only when it is complete.

    Args:
        tokenizer: an object with `save_pretrained(folder)`.
        bos_token_id, eos_token_id, pad_token_id: recorded in both configs; null if None.

    Raises:
        UserError: the folder exists and is not empty, or this process does not hold all parameters.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f'{folder} exists already; choose another folder or remove it')
    parameters = {path: variable[...] for path, variable in _by_path(nnx.state(decoder, nnx.Param)).items()}
    if not all(array.is_fully_addressable for array in parameters.values()):
        raise UserError(f'{folder}: the parameters are spread over several hosts; export the checkpoint on one host')
    partial = folder.with_name(folder.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_weights(parameters, partial, max_shard_bytes)
    eos = list(eos_token_id) if isinstance(eos_token_id, Sequence) else eos_token_id
    token_ids = {'bos_token_id': bos_token_id, 'eos_token_id': eos, 'pad_token_id': pad_token_id}
    dtype = {'torch_dtype': parameters['embedding'].dtype.name}
    _write_json(partial / 'config.json', {**decoder.architecture.to_hf(), **token_ids, **dtype})
    _write_json(partial / 'generation_config.json', token_ids)
    if tokenizer is not None:
        tokenizer.save_pretrained(partial)
    partial.replace(folder)


@dataclasses.dataclass(frozen=True)
class _Source:
    """A parameter and the tensors that it is made of: one, or one a layer."""

    path: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    stacked: bool
    transposed: bool

    @classmethod
    def of(cls, path: str, shape: tuple[int, ...]) -> '_Source':
        pattern, transposed = next((tensor, flip) for tensor, name, flip in _TENSORS if name == path)
        stacked = '{layer}' in pattern
        names = tuple(pattern.format(layer=layer) for layer in range(shape[0] if stacked else 1))
        return cls(path, tuple(shape), names, stacked, transposed)

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        shape = self.shape[1:] if self.stacked else self.shape
        return shape[::-1] if self.transposed else shape

    def reader(self, tensors: Mapping[str, Any], dtype: np.dtype) -> Callable[[Any], np.ndarray]:
        """Returns the callback of `jax.make_array_from_callback`: index of a shard (slices) -> its content."""
        shards: dict[tuple, np.ndarray] = {}  # Devices that hold copies of one shard share one reading.

        def read(index: Any) -> np.ndarray:
            bounds = tuple(part.indices(size)[:2] for part, size in zip(index, self.shape, strict=True))
            if bounds not in shards:
                shards[bounds] = self._read(tensors, dtype, bounds)
            return shards[bounds]

        return read

    def _read(self, tensors: Mapping[str, Any], dtype: np.dtype, bounds: tuple[tuple[int, int], ...]) -> np.ndarray:
        content = np.empty([end - begin for begin, end in bounds], dtype)
        layers, inner = (bounds[0], bounds[1:]) if self.stacked else ((0, 1), bounds)
        index = tuple(slice(*part) for part in (inner[::-1] if self.transposed else inner))
        for layer in range(*layers):
            piece = tensors[self.names[layer]][index]
            piece = piece.T if self.transposed else piece
            content[layer - layers[0] if self.stacked else ...] = piece
        return content

    def tensors_of(self, parameter: jax.Array) -> Iterator[tuple[str, jax.Array]]:
        """Yields (name, tensor) of the tensors in `parameter`, as Hugging Face lays them out."""
        for layer, name in enumerate(self.names):
            part = parameter[layer] if self.stacked else parameter
            yield name, part.T if self.transposed else part


def _check_accounts(
    folder: Path, architecture: Architecture, sources: Sequence[_Source], tensors: Mapping[str, Any]
) -> None:
    """Checks that every parameter has its tensors and every tensor its parameter."""
    expected = {name: source.tensor_shape for source in sources for name in source.names}
    missing = [f'{name} is missing' for name in expected if name not in tensors]
    wrong: list[str] = []
    unexpected: list[str] = []
    redundant: list[str] = []
    for name, tensor in tensors.items():
        shape, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
        if name not in expected:
            tied = architecture.tie_word_embeddings and _REDUNDANT_IF_TIED.fullmatch(name)
            (redundant if tied or _REDUNDANT.fullmatch(name) else unexpected).append(f'{name} is unexpected')
        elif shape != expected[name]:
            wrong.append(f'{name} has shape {list(shape)} instead of {list(expected[name])}')
        elif dtype not in _FLOAT_TYPES:
            wrong.append(f'{name} has type {dtype} instead of one of {", ".join(_FLOAT_TYPES)}')
    if missing or wrong or unexpected:
        problems = '; '.join(_merge_layers(missing + wrong + unexpected))
        raise UserError(f'{folder} does not match its config.json: {problems}; use a complete, unmodified checkpoint')
    if redundant:
        _log.info('%s: skipped %d redundant tensor(s)', folder, len(redundant))


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


def _open_tensors(folder: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Opens the safetensors of a folder; returns name -> slice, from which nothing is read yet."""
    if (folder / _SINGLE_FILE).exists():
        listed = None
        files = [_SINGLE_FILE]
    elif (folder / _INDEX).exists():
        listed = _read_json(folder / _INDEX).get('weight_map')
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise UserError(f'{folder / _INDEX} has no usable "weight_map"; download the checkpoint again')
        files = sorted(set(listed.values()))
    else:
        raise UserError(
            f'{folder} holds neither {_SINGLE_FILE} nor {_INDEX}; only safetensors are read, '
            'so convert other formats with save_pretrained(..., safe_serialization=True)'
        )
    tensors: dict[str, Any] = {}
    for file in files:
        if Path(file).name != file:
            raise UserError(f'{folder / _INDEX} points outside its folder ({file}); download the checkpoint again')
        try:
            handle = stack.enter_context(safetensors.safe_open(folder / file, framework='numpy'))
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f'cannot read {folder / file} ({error}); download the checkpoint again') from None
        for name in handle.keys():  # noqa: SIM118 - the handle is no mapping
            if listed is not None and listed.get(name) != file:
                raise UserError(f'{folder / _INDEX} does not list {name} of {file}; download the checkpoint again')
            tensors[name] = handle.get_slice(name)
    return tensors


def _write_weights(parameters: Mapping[str, jax.Array], folder: Path, max_shard_bytes: int) -> None:
    sources = [_Source.of(path, array.shape) for path, array in parameters.items()]
    shards: list[list[str]] = [[]]
    shard_bytes = total_bytes = 0
    for source in sources:
        size = int(np.prod(source.tensor_shape)) * parameters[source.path].dtype.itemsize
        for name in source.names:
            if shards[-1] and shard_bytes + size > max_shard_bytes:
                shards.append([])
                shard_bytes = 0
            shards[-1].append(name)
            shard_bytes += size
            total_bytes += size
    tensors = (pair for source in sources for pair in source.tensors_of(parameters[source.path]))
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = _SINGLE_FILE if len(shards) == 1 else f'model-{number:05d}-of-{len(shards):05d}.safetensors'
        # transformers requires the format; safetensors requires contiguous arrays.
        content = {name: np.ascontiguousarray(tensor) for name, (_, tensor) in zip(names, tensors, strict=False)}
        save_file(content, folder / file, metadata={'format': 'pt'})
        weight_map.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        _write_json(folder / _INDEX, {'metadata': {'total_size': total_bytes}, 'weight_map': weight_map})


def _abstract_decoder(
    architecture: Architecture, param_dtype: Any, compute_dtype: Any, remat: bool
) -> tuple[nnx.GraphDef, nnx.State]:
    """Returns a decoder's structure and the shapes of its parameters."""

    def build() -> Decoder:
        return Decoder(
            architecture, rngs=nnx.Rngs(0), param_dtype=param_dtype, compute_dtype=compute_dtype, remat=remat
        )

    return nnx.split(nnx.eval_shape(build))


def _by_path(state: nnx.State) -> dict[str, nnx.Variable]:
    return {_name(path): variable for path, variable in nnx.to_flat_state(state)}


def _assemble(graphdef: nnx.GraphDef, abstract: nnx.State, arrays: Mapping[str, jax.Array]) -> Decoder:
    filled = [(path, variable.replace(arrays[_name(path)])) for path, variable in nnx.to_flat_state(abstract)]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def _name(path: Sequence[Any]) -> str:
    return '/'.join(map(str, path))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; give the folder of a Hugging Face checkpoint') from None
    except ValueError:
        raise UserError(f'{path} is not JSON; download the checkpoint again') from None
    if not isinstance(content, dict):
        raise UserError(f'{path} is not a JSON object; download the checkpoint again')
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n', encoding='utf-8')
