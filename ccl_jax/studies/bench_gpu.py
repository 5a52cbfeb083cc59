"""One NVIDIA GPU: attention on packed rows, and fine-tuning beside transformers and peft.

Models have the shape of Llama 3.1 8B (LoRA) and Llama 3.2 3B (all weights) and random weights; the data are documents
and short spans of random tokens. MFU counts the FLOPs that the examples need, each by itself and with causal attention
halved (`model.counts`), over the peak of the chip (`training.chips`), so neither padding nor recomputation counts.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ccl_jax.data.examples import ExampleStore
from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.counts import flops_per_token, lora_parameter_count
from ccl_jax.model.hf_writing import write_json
from ccl_jax.studies import bench_attention
from ccl_jax.studies.bench_attention import AttentionJob
from ccl_jax.studies.known_models import MODELS
from ccl_jax.studies.step_ours import OurJob
from ccl_jax.studies.step_process import Measured, ProcessFailed, run_measured, run_process
from ccl_jax.studies.step_torch import TheirJob
from ccl_jax.studies.training_mix import settle, write_mix
from ccl_jax.training.chips import peak_flops

PARTS = ('attention', 'lora', 'full')
_GIB = 2**30
_PLANNED_STEPS = 300
_OPTIMIZER = {'learning_rate': 1e-5, 'b1': 0.9, 'b2': 0.95, 'eps': 1e-8, 'clip_norm': 1.0}
# One process at a time has the GPU, and takes nearly all of its memory.
_ENVIRONMENT = {
    'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.94',
    'PYTORCH_CUDA_ALLOC_CONF': 'expandable_segments:True',
    'TOKENIZERS_PARALLELISM': 'false',
}
# Tells what there is in a process of its own, so that this one never holds a part of the GPU's memory.
_LOOK = """
import json, jax
device = jax.devices()[0]
print(json.dumps([device.platform, device.device_kind, jax.__version__]))
"""


@dataclasses.dataclass(frozen=True)
class Training:
    """A fine-tuning that is measured.

    Attributes:
        ours: (remat, accumulation) of each way of ours.
        lora: fields of `LoraSettings` that peft has too; {} to train all weights.
        examples: of a micro-batch of the other side, which have to fit if they are the longest.
        param_dtype: of frozen weights; trained ones are float32 on both sides, products bfloat16.
        seconds: of a measurement, beside compilation and warm-up.
        limit: seconds of all ways together; what does not end by then is stopped.
    """

    title: str
    architecture: Mapping[str, Any]
    ours: Sequence[tuple[str, int]]
    lora: Mapping[str, Any]
    param_dtype: str
    buckets: tuple[int, ...] = (2048, 8192)
    tokens_per_step: int = 65_536
    row_multiple: int = 8
    tile_tokens: int = 4096
    max_segments: int = 32
    examples: int = 4
    documents: int = 600
    shrink: int = 1
    seconds: float = 20.0
    limit: float = 250.0


_LLAMA_31_8B = MODELS['Llama-3.1-8B']
# From its config.json on huggingface.co.
_LLAMA_32_3B = {
    **_LLAMA_31_8B,
    'hidden_size': 3072,
    'intermediate_size': 8192,
    'num_hidden_layers': 28,
    'num_attention_heads': 24,
    'rope_scaling': {**_LLAMA_31_8B['rope_scaling'], 'factor': 32.0},
    'tie_word_embeddings': True,
}
TRAININGS = {
    'lora': Training(
        'LoRA of rank 16 on all linear layers, shaped like Llama 3.1 8B',
        _LLAMA_31_8B,
        ours=(('dots', 8), ('save_attention', 4)),
        lora={'rank': 16, 'alpha': 32.0},
        param_dtype='bfloat16',
    ),
    'full': Training(
        'all weights trained, shaped like Llama 3.2 3B',
        _LLAMA_32_3B,
        ours=(('save_attention', 8), ('dots', 8)),
        lora={},
        param_dtype='float32',
    ),
}


def bench_gpu(parts: Sequence[str] = PARTS) -> str:
    """Runs parts of the bench on the first GPU and returns their tables as text; a part takes up to 5 minutes.

    Raises:
        UserError: a part is unknown, or there is no NVIDIA GPU that jax can use.
    """
    for part in parts:
        if part not in PARTS:
            raise UserError(f'there is no part "{part}" of bench gpu; choose of {", ".join(PARTS)}')
    kind, version = _gpu()
    texts = [f'{kind}, {os.cpu_count()} cores, jax {version}']
    for part in parts:
        texts.append(run_attention(AttentionJob()) if part == 'attention' else run_training(TRAININGS[part], kind))
        # So that what is done is seen if a later part is stopped.
        print(texts[-1], file=sys.stderr, flush=True)
    return '\n\n'.join(texts)


def run_attention(job: AttentionJob) -> str:
    """Returns the table of the attention backends of this machine."""
    try:
        return bench_attention.report(job, run_process(job, _ENVIRONMENT))
    except ProcessFailed as failed:
        return f'attention: {failed}\n'


def run_training(training: Training, kind: str) -> str:
    """Trains in every way, one process after the other, and returns the table; a way that fails says why.

    Args:
        kind: of the device, to look its peak up.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        architecture = Architecture.from_hf(training.architecture)
        write_json(folder / 'config.json', dict(training.architecture))
        store = write_mix(
            folder,
            documents=training.documents,
            vocabulary=architecture.vocab_size,
            shrink=training.shrink,
            longest=training.buckets[-1],
        )
        results: dict[str, Measured | str] = {}
        end = time.monotonic() + training.limit
        for way, job in _jobs(training, folder, store).items():
            print(f'{training.title}: {way} ...', file=sys.stderr, flush=True)
            try:
                results[way] = run_measured(job, _ENVIRONMENT, max(1.0, end - time.monotonic()))
            except ProcessFailed as failed:
                results[way] = str(failed)
    return report(training, architecture, results, peak_flops(kind))


def report(
    training: Training, architecture: Architecture, results: Mapping[str, Measured | str], peak: float | None
) -> str:
    """Returns the table of a training: of each way, what it measured or why it failed.

    Args:
        peak: FLOP/s of the device; None where nobody knows it, e.g. a CPU.
    """
    measured = {way: result for way, result in results.items() if isinstance(result, Measured)}
    others = [result.speed for way, result in measured.items() if not way.startswith('ccl_jax')]
    lines = [
        training.title,
        f'{"":38}  real tokens/s      x     MFU   fill  positions/s  peak GiB  data wait  steps  start s',
    ]
    for way, result in results.items():
        if isinstance(result, str):
            lines.append(f'{way:38}  {result}')
            continue
        flops = sum(_flops(training, architecture, length) for length in result.lengths) / result.seconds
        # The faster of the other side's ways is what ours is compared with.
        ratio = f'{result.speed / max(others):5.2f}' if others else '    -'
        memory = '-' if result.peak_bytes is None else f'{result.peak_bytes / _GIB:.1f}'
        lines.append(
            f'{way:38}  {result.speed:13,.0f}  {ratio}  {"-" if peak is None else f"{flops / peak:.1%}":>6}  '
            f'{result.fill:5.1%}  {result.positions / result.seconds:11,.0f}  {memory:>8}  '
            f'{result.data_wait / result.seconds:9.2%}  {result.steps:5}  {result.start:7.1f}'
        )
    return '\n'.join(lines) + '\n'


def _jobs(training: Training, folder: Path, store: ExampleStore) -> dict[str, Any]:
    fields, plan = settle(
        store,
        {
            'buckets': training.buckets,
            'tokens_per_step': training.tokens_per_step,
            'row_multiple': training.row_multiple,
            'max_segments': training.max_segments,
            'steps': _PLANNED_STEPS,
        },
    )
    tokens = float(plan.step_tokens.mean())
    theirs = functools.partial(
        TheirJob,
        folder=str(folder),
        seconds=training.seconds,
        examples=training.examples,
        micro_batches=max(1, round(tokens / (training.examples * store.lengths.mean()))),
        optimizer=_OPTIMIZER,
        param_dtype=training.param_dtype,
        autocast=True,
        checkpointing=True,
        lora=training.lora,
    )
    jobs: dict[str, Any] = {
        f'ccl_jax, remat {remat}, {accumulation} micro-batches': OurJob(
            folder=str(folder),
            plan=fields,
            seconds=training.seconds,
            cache=str(folder / 'compiled'),
            accumulation=accumulation,
            tile_tokens=training.tile_tokens,
            remat=remat,
            param_dtype=training.param_dtype,
            compute_dtype='bfloat16',
            lora=training.lora,
            optimizer=_OPTIMIZER,
        )
        for remat, accumulation in training.ours
    }
    needed = ('torch', 'peft') if training.lora else ('torch',)
    if not all(map(importlib.util.find_spec, needed)):
        return jobs
    # The most important first, in case time is short.
    first, *rest = jobs.items()
    beside = {
        'transformers, random batches': theirs(least_steps=1),
        'transformers, batches of like lengths': theirs(least_steps=1, by_length=True),
    }
    return {**dict([first]), **beside, **dict(rest)}


@functools.cache
def _flops_of(architecture: Architecture, lora: tuple[tuple[str, Any], ...], length: int) -> float:
    if not lora:
        return length * flops_per_token(architecture, length, backward='full')
    adapters = lora_parameter_count(architecture, dict(lora)['rank'], '.*')
    return length * flops_per_token(architecture, length, backward='lora', lora_parameters=adapters)


def _flops(training: Training, architecture: Architecture, length: int) -> float:
    return _flops_of(architecture, tuple(training.lora.items()), length)


def _gpu() -> tuple[str, str]:
    """Returns the kind of the first GPU, and the version of jax."""
    looked = subprocess.run([sys.executable, '-c', _LOOK], capture_output=True, text=True)
    found = json.loads(looked.stdout.splitlines()[-1]) if looked.returncode == 0 else ['none', '', '']
    platform, kind, version = found
    if platform != 'gpu' or 'NVIDIA' not in kind.upper():
        raise UserError(
            'bench gpu needs an NVIDIA GPU that jax can use, and there is none here; '
            'on a machine with one, run pip install "ccl-jax[gpu]"'
        )
    return kind, version
