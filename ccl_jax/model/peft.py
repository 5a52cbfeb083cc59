"""Adapters in and out of PEFT folders: `adapter_config.json` and `adapter_model.safetensors`.

The format is that of Hugging Face's `peft` (LoraConfig), which transformers and vLLM read. A factor
A is [r, in] and B is [out, r] there, one pair a layer; here they are stacked, [L, in, r] and [L, r, out].
"""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from safetensors.numpy import save_file

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.hf_reading import read_json
from ccl_jax.model.hf_tables import TABLES, text_name
from ccl_jax.model.hf_writing import write_json
from ccl_jax.model.lora import Adapter, ShardingFor, factor_path
from ccl_jax.model.settings import LINEARS

CONFIG_FILE = 'adapter_config.json'
WEIGHTS_FILE = 'adapter_model.safetensors'

# Before the path of a module of transformers' model.
_PREFIX = 'base_model.model.'
# Fields of LoraConfig that change the result where they are set.
_UNSUPPORTED = (
    'alora_invocation_tokens',
    'alpha_pattern',
    'fan_in_fan_out',
    'layer_replication',
    'lora_bias',
    'modules_to_save',
    'rank_pattern',
    'target_parameters',
    'trainable_token_indices',
    'use_bdlora',
    'use_dora',
    'use_qalora',
)
# Initialisations that change the base weights, so that the adapter fits no unmodified checkpoint.
_CHANGE_THE_BASE = ('pissa', 'olora', 'corda', 'loftq', 'lora_ga')


def save_adapter(decoder: Decoder, folder: str | Path, *, base: str | Path) -> None:
    """Writes the decoder's adapters as a folder that `peft.PeftModel.from_pretrained` reads; weights are not touched.

    Every process takes part, process 0 writes. The folder appears under its name only when it is complete.

    Args:
        base: the Hugging Face folder that the adapters belong to; its path is recorded, and its
            `config.json` tells whether the decoder is the text part of a larger model.

    Raises:
        UserError: the folder exists and is not empty, or `base` has no readable `config.json`.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f'{folder} exists already; choose another folder or remove it')
    adapters = dict(decoder.layers.adapters.items())
    in_larger_model = 'text_config' in read_json(Path(base) / 'config.json')
    modules = _modules(decoder.architecture, in_larger_model)
    tensors = {}
    for name, adapter in adapters.items():
        for letter, factor in (('A', adapter.a), ('B', adapter.b)):
            for module, array in zip(modules[name], _whole(factor[...]), strict=True):
                tensors[f'{_PREFIX}{module}.lora_{letter}.weight'] = np.ascontiguousarray(array.T)
    targets = [modules[name][0].rpartition('.')[2] for name in adapters]
    if in_larger_model:
        # A short name would also match modules outside the text part, such as those of a vision tower.
        targets = [module for name in adapters for module in modules[name]]
    if jax.process_index() == 0:
        partial = folder.with_name(folder.name + '.partial')
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(tensors, partial / WEIGHTS_FILE, metadata={'format': 'pt'})
        write_json(partial / CONFIG_FILE, _lora_config(next(iter(adapters.values())), targets, base))
        partial.replace(folder)


def load_adapter(decoder: Decoder, folder: str | Path, *, sharding_for: ShardingFor | None = None) -> None:
    """Gives the decoder the adapters of a PEFT folder, as float32, instead of those that it had.

    Args:
        sharding_for: as in `add_lora`; without it they lie on this process's first device.

    Raises:
        UserError: a file is missing or damaged, the config asks for something that is not supported, or
            tensors are missing, unexpected, or of the wrong shape (all are listed).
    """
    folder = Path(folder)
    rank, scale, dropout = _read_settings(folder / CONFIG_FILE)
    tensors = _read_tensors(folder / WEIGHTS_FILE)
    place = sharding_for or (lambda path, shape: SingleDeviceSharding(jax.local_devices()[0]))
    adapters = {}
    for name, sources in _sources(folder, decoder, rank, tensors).items():
        factors = {}
        for factor, names in sources.items():
            content = np.stack([tensors[source].T for source in names]).astype(np.float32)
            sharding = place(factor_path(name, factor), content.shape)
            factors[factor] = jax.make_array_from_callback(content.shape, sharding, content.__getitem__)
        adapters[name] = Adapter(**factors, scale=scale, dropout=dropout)
    decoder.layers.adapters = nnx.Dict(adapters)


def _modules(architecture: Architecture, in_larger_model: bool) -> dict[str, list[str]]:
    """Returns linear -> the paths of its modules in transformers' model, by layer."""
    modules = {}
    for tensor, path, _ in TABLES[architecture.model_type]:
        name = path.removeprefix('layers/')
        if name in LINEARS:
            pattern = tensor.removesuffix('.weight')
            if in_larger_model:
                pattern = pattern.replace('model.', 'model.language_model.', 1)
            modules[name] = [pattern.format(layer=layer) for layer in range(architecture.num_hidden_layers)]
    return modules


def _lora_config(adapter: Adapter, targets: list[str], base: str | Path) -> dict[str, Any]:
    rank = adapter.a.shape[-1]
    alpha = adapter.scale * rank
    return {
        'peft_type': 'LORA',
        'task_type': 'CAUSAL_LM',
        'base_model_name_or_path': str(base),
        'r': rank,
        # `peft` declares a whole number.
        'lora_alpha': int(alpha) if alpha == int(alpha) else alpha,
        'lora_dropout': adapter.dropout,
        'target_modules': targets,
        'bias': 'none',
        'fan_in_fan_out': False,
        'init_lora_weights': True,
        'inference_mode': True,
        'modules_to_save': None,
    }


def _read_settings(path: Path) -> tuple[int, float, float]:
    """Returns rank, scale and dropout of an `adapter_config.json`; refuses by name what is not supported."""
    config = read_json(path)
    if config.get('peft_type') != 'LORA':
        raise UserError(f'{path}: peft_type {config.get("peft_type")!r} is not supported; use a LORA adapter')
    unsupported = [name for name in _UNSUPPORTED if config.get(name)]
    if config.get('bias', 'none') != 'none':
        unsupported.append('bias')
    if str(config.get('init_lora_weights', True)).lower().startswith(_CHANGE_THE_BASE):
        unsupported.append('init_lora_weights')
    if unsupported:
        raise UserError(
            f'{path}: {", ".join(unsupported)} is not supported; merge the adapter by peft and use the result'
        )
    rank, alpha = config.get('r'), config.get('lora_alpha')
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise UserError(f'{path} has no usable r and lora_alpha; save the adapter again')
    scale = alpha / (math.sqrt(rank) if config.get('use_rslora') else rank)
    return rank, scale, float(config.get('lora_dropout') or 0.0)


def _sources(
    folder: Path, decoder: Decoder, rank: int, tensors: Mapping[str, np.ndarray]
) -> dict[str, dict[str, list[str]]]:
    """Returns linear -> factor -> its tensors by layer, after a check that every tensor is needed and there."""
    # By the name that a model of text alone has.
    found = {text_name(name.removeprefix(_PREFIX)): name for name in tensors}
    expected: dict[str, dict[str, list[str]]] = {}
    problems = []
    for name, modules in _modules(decoder.architecture, False).items():
        wanted = {letter: [f'{module}.lora_{letter}.weight' for module in modules] for letter in 'AB'}
        if not any(tensor in found for names in wanted.values() for tensor in names):
            continue
        _, inputs, outputs = getattr(decoder.layers, name).shape
        expected[name] = {}
        for letter, shape in (('A', (rank, inputs)), ('B', (outputs, rank))):
            for tensor in wanted[letter]:
                if tensor not in found:
                    problems.append(f'{tensor} is missing')
                elif tensors[found[tensor]].shape != shape:
                    problems.append(f'{tensor} has shape {list(tensors[found[tensor]].shape)} instead of {list(shape)}')
            expected[name][letter.lower()] = [found.pop(tensor) for tensor in wanted[letter] if tensor in found]
    problems += [f'{tensor} is unexpected' for tensor in found.values()]
    if problems or not expected:
        listed = '; '.join(problems) or 'it holds no tensors'
        raise UserError(f'{folder} does not fit the model: {listed}; use an adapter that was made for this model')
    return expected


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the handle is no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f'cannot read {path} ({error}); only adapters in safetensors are read') from None


def _whole(array: jax.Array) -> np.ndarray:
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
