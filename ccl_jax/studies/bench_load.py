"""How long a checkpoint takes to load, and how much memory: this package, reading the files, and transformers."""

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.hf import load_decoder
from ccl_jax.model.hf_tables import sources_of
from ccl_jax.model.hf_writing import write_json, write_weights
from ccl_jax.training.mesh import make_mesh, sharding_for

# 762 million parameters: 3.0 GB in float32.
_ARCHITECTURE = Architecture(
    vocab_size=32_000,
    hidden_size=2_048,
    intermediate_size=5_632,
    num_hidden_layers=14,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=64,
    max_position_embeddings=2_048,
)
_FILES = 4
_FSDP, _TENSOR = 4, 2
_BUFFER_BYTES = 16 * 2**20
# One float32 of each page.
_PAGE_STEP = 1024
_NAMES = {
    'buffer': 'reading, through one buffer of 16 MiB',
    'memory': 'reading, into memory',
    'ccl_jax': 'ccl_jax, {dtype}',
    'transformers': 'transformers, {dtype}',
}


def bench_load(architecture: Architecture = _ARCHITECTURE, repeats: int = 5) -> str:
    """Writes random checkpoints of four files and returns a table of how they load, as text.

    This package loads onto eight devices of the CPU, fsdp 4 x tensor 2; transformers into the memory of
    one, where it leaves weights mapped that need no conversion, so every page of them is touched.
    Files are in the page cache. Each measurement is a process of its own, in turn, and counts
    no imports. Memory is the peak of RssAnon of the whole process with its libraries, so
    pages of mapped files don't count.

    Args:
        architecture: of the checkpoints, which take 6 bytes a parameter in the system's temporary folder.
        repeats: of each way; seconds are their median, ratios are of medians, memory is their maximum.
    """
    tables = []
    for dtype in ('float32', 'bfloat16'):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _write_checkpoint(architecture, jnp.dtype(dtype), folder)
            tables.append(_table(folder, architecture, dtype, repeats))
    return '\n\n'.join(tables) + '\n'


def measure_load(way: str, folder: str, dtype: str) -> None:
    """Loads a folder one way and prints the seconds: what a process of `bench_load` does."""
    load = _WAYS[way](Path(folder), dtype)
    begin = time.perf_counter()
    loaded = load()
    print(time.perf_counter() - begin)
    del loaded


def _table(folder: Path, architecture: Architecture, file_dtype: str, repeats: int) -> str:
    ways = [('buffer', file_dtype), ('memory', file_dtype), ('ccl_jax', file_dtype)]
    ways += [('ccl_jax', 'float32')] if file_dtype != 'float32' else []
    ways += [('transformers', file_dtype)] if importlib.util.find_spec('torch') else []
    runs: dict[tuple[str, str], list[tuple[float, int]]] = {way: [] for way in ways}
    for repeat in range(repeats):
        first = repeat % len(ways)  # Memory that one process returns is cheap for the next, so each comes after each.
        for way in ways[first:] + ways[:first]:
            runs[way].append(_run(*way, folder))
    seconds = {way: statistics.median(spent for spent, _ in results) for way, results in runs.items()}
    gigabytes = sum(path.stat().st_size for path in folder.glob('*.safetensors')) / 1e9
    lines = [
        f'{gigabytes:.2f} GB of {file_dtype} in {_FILES} files; {os.cpu_count()} cores; median of {repeats}',
        f'{"":40}  seconds     best  x through buffer  x into memory  peak RssAnon / model',
    ]
    for way, results in runs.items():
        name, dtype = way
        model_bytes = architecture.parameter_count() * jnp.dtype(dtype).itemsize
        lines.append(
            f'{_NAMES[name].format(dtype=dtype):40}  {seconds[way]:7.3f}  {min(spent for spent, _ in results):7.3f}  '
            f'{seconds[way] / seconds[ways[0]]:16.2f}  {seconds[way] / seconds[ways[1]]:13.2f}  '
            f'{max(peak for _, peak in results) / model_bytes:20.2f}'
        )
    return '\n'.join(lines)


def _write_checkpoint(architecture: Architecture, dtype: np.dtype, folder: Path) -> None:
    """Writes random weights of this type, one tensor at a time, a layer's tensors together."""
    abstract = nnx.state(nnx.eval_shape(lambda: Decoder(architecture, rngs=nnx.Rngs(0))))
    shapes = {'/'.join(map(str, path)): variable.shape for path, variable in nnx.to_flat_state(abstract)}
    sources = sources_of(architecture.model_type, shapes)
    specs = {name: jax.ShapeDtypeStruct(source.tensor_shape, dtype) for source in sources for name in source.names}
    specs = dict(sorted(specs.items()))
    sizes = [int(np.prod(spec.shape)) * dtype.itemsize for spec in specs.values()]
    rng = np.random.default_rng(0)
    tensors = ((rng.random(spec.shape, np.float32) - 0.5).astype(dtype) for spec in specs.values())
    write_json(folder / 'config.json', {**architecture.to_hf(), 'torch_dtype': dtype.name})
    # A tensor that does not fit into a file any more begins the next, so files need some room.
    write_weights(folder, specs, tensors, sum(sizes) // _FILES + max(sizes) // 2)


def _run(way: str, dtype: str, folder: Path) -> tuple[float, int]:
    """Returns the seconds that a process took to load, and its peak of anonymous memory in bytes."""
    code = f'from {__name__} import measure_load; measure_load({way!r}, {str(folder)!r}, {dtype!r})'
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={_FSDP * _TENSOR}'
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags, 'HF_HUB_DISABLE_PROGRESS_BARS': '1'}
    process = subprocess.Popen([sys.executable, '-c', code], env=environment, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _anonymous_bytes(process.pid))
        time.sleep(0.005)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f'loading {folder} by {way} failed')
    return float(output), peak


def _anonymous_bytes(process: int) -> int:
    """RssAnon of a process (Linux); 0 once it has ended."""
    lines = Path(f'/proc/{process}/status').read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith('RssAnon')), 0)


def _through_buffer(folder: Path, _: str) -> Callable[[], object]:
    buffer = bytearray(_BUFFER_BYTES)

    def load() -> None:
        for path in folder.glob('*.safetensors'):
            with path.open('rb', buffering=0) as file:
                while file.readinto(buffer):
                    pass

    return load


def _into_memory(folder: Path, _: str) -> Callable[[], object]:
    return lambda: [np.fromfile(path, np.uint8) for path in folder.glob('*.safetensors')]


def _ours(folder: Path, dtype: str) -> Callable[[], object]:
    mesh = make_mesh(fsdp=_FSDP, tensor=_TENSOR)
    return lambda: load_decoder(
        folder, sharding_for=lambda path, shape: sharding_for(mesh, path, shape), param_dtype=jnp.dtype(dtype)
    )


def _transformers(folder: Path, dtype: str) -> Callable[[], object]:
    import torch
    from transformers import LlamaForCausalLM

    def load() -> object:
        model = LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        for parameter in model.parameters():
            parameter.detach().flatten()[::_PAGE_STEP].sum().item()
        return model

    return load


_WAYS: Mapping[str, Callable[[Path, str], Callable[[], object]]] = {
    'buffer': _through_buffer,
    'memory': _into_memory,
    'ccl_jax': _ours,
    'transformers': _transformers,
}
