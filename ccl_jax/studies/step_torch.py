"""A training loop with transformers, torch and peft as their users write it, under measurement.

Examples come in random order, in micro-batches of a fixed number, padded on the right to the longest of each, with
an attention mask. Labels of prompts and of padding are -100. Gradients of several micro-batches add up to a step,
in which every target token has the same weight. All libraries are left at their defaults otherwise.
"""

import contextlib
import dataclasses
import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccl_jax.studies.step_process import ARRAYS, Measured

# Like transformers' sampler by length: so many batches of random examples are sorted at a time.
_SORTED_BATCHES = 50
_IGNORED = -100


@dataclasses.dataclass(frozen=True)
class TheirJob:
    """How to train and for how long.

    Attributes:
        folder: has a `config.json`, the arrays of `write_mix`, and weights or none: then they are random.
        seconds, least_steps: steps begin until then, and so many at least.
        examples: of a micro-batch.
        micro_batches: of a step.
        by_length: micro-batches hold examples of like lengths.
        autocast: products are bfloat16, whatever the type of the weights.
        checkpointing: the backward pass computes layers again.
        lora: `rank` and `alpha` of peft's adapters on all linear layers; {} to train all weights.
        optimizer: `learning_rate`, `b1`, `b2`, `eps` and `clip_norm`.
    """

    folder: str
    optimizer: Mapping[str, float]
    seconds: float
    examples: int
    micro_batches: int
    least_steps: int = 2
    by_length: bool = False
    param_dtype: str = 'float32'
    autocast: bool = False
    checkpointing: bool = False
    lora: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Mix:
    """The examples: all tokens one after the other, and where each example and its targets begin."""

    tokens: np.ndarray
    lengths: np.ndarray
    target_starts: np.ndarray

    @classmethod
    def load(cls, folder: str) -> 'Mix':
        with np.load(Path(folder) / ARRAYS) as arrays:
            return cls(**arrays)

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns `input_ids`, `attention_mask` and `labels` [examples, longest], int64."""
        begins = np.cumsum(self.lengths) - self.lengths
        shape = len(indices), int(self.lengths[indices].max())
        arrays = {name: np.zeros(shape, np.int64) for name in ('input_ids', 'attention_mask')}
        labels = np.full(shape, _IGNORED, np.int64)
        for row, index in enumerate(indices):
            length, target = self.lengths[index], self.target_starts[index]
            own = self.tokens[begins[index] : begins[index] + length]
            arrays['input_ids'][row, :length] = own
            arrays['attention_mask'][row, :length] = 1
            labels[row, target:length] = own[target:]
        return {**arrays, 'labels': labels}

    def order(self, job: TheirJob) -> Iterator[np.ndarray]:
        """Yields the examples of each micro-batch, without end; an epoch drops what fills none."""
        rng = np.random.default_rng(job.seed)
        while True:
            examples = rng.permutation(len(self.lengths))
            examples = examples[: len(examples) // job.examples * job.examples]
            if job.by_length:
                size = _SORTED_BATCHES * job.examples
                parts = [examples[begin : begin + size] for begin in range(0, len(examples), size)]
                examples = np.concatenate([part[np.argsort(self.lengths[part], kind='stable')] for part in parts])
            yield from rng.permutation(examples.reshape(-1, job.examples))


class Loop:
    """The model, its optimizer and a step."""

    def __init__(self, job: TheirJob):
        import torch

        self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.model = _model(job, self.device)
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        settings = job.optimizer
        self._optimizer = torch.optim.AdamW(
            self._trained,
            lr=settings['learning_rate'],
            betas=(settings['b1'], settings['b2']),
            eps=settings['eps'],
            weight_decay=0.0,
            fused=True,
        )
        self._clip_norm = settings['clip_norm']
        self._autocast = job.autocast

    def step(self, batches: Sequence[Mapping[str, np.ndarray]]) -> float:
        """Trains on micro-batches and returns the loss per target token."""
        import torch

        targets = torch.tensor(sum(int((batch['labels'] != _IGNORED).sum()) for batch in batches), device=self.device)
        losses = []
        for batch in batches:
            loss = self.loss(batch, targets)
            loss.backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(self._trained, self._clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(sum(losses))

    def loss(self, batch: Mapping[str, np.ndarray], targets: Any) -> Any:
        """Returns the cross-entropies of the target tokens of a micro-batch, over `targets`."""
        import torch

        inputs = {name: torch.from_numpy(array).to(self.device) for name, array in batch.items()}
        half = torch.autocast(self.device, torch.bfloat16) if self._autocast else contextlib.nullcontext()
        with half:
            return self.model(**inputs, use_cache=False, num_items_in_batch=targets).loss


def measure(job: TheirJob) -> dict[str, Any]:
    """Trains and returns the fields of a `Measured`; to be the work of a process."""
    import torch

    mix, loop = Mix.load(job.folder), Loop(job)
    began = time.perf_counter()
    order = mix.order(job)
    # On a GPU the largest batch first: what memory there must be, the allocator then has.
    warm_up = np.argsort(mix.lengths)[-job.examples :] if loop.device == 'cuda' else next(order)
    loop.step([mix.batch(warm_up)])
    steps, positions, data_wait, lengths = 0, 0, 0.0, []
    first = time.perf_counter()
    while steps < job.least_steps or time.perf_counter() - first < job.seconds:
        asked = time.perf_counter()
        indices = [next(order) for _ in range(job.micro_batches)]
        batches = [mix.batch(own) for own in indices]
        data_wait += time.perf_counter() - asked
        loss = loop.step(batches)
        steps, positions = steps + 1, positions + sum(batch['input_ids'].size for batch in batches)
        lengths += mix.lengths[np.concatenate(indices)].tolist()
    return dataclasses.asdict(
        Measured(
            steps=steps,
            lengths=tuple(lengths),
            positions=positions,
            seconds=time.perf_counter() - first,
            data_wait=data_wait,
            start=first - began,
            loss=loss,
            peak_bytes=torch.cuda.max_memory_allocated() if loop.device == 'cuda' else None,
        )
    )


def _model(job: TheirJob, device: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fused = device == 'cuda' and importlib.util.find_spec('flash_attn') is not None
    options = {
        'dtype': getattr(torch, job.param_dtype),
        'attn_implementation': 'flash_attention_2' if fused else 'sdpa',
    }
    model: Any
    with torch.device(device):
        if any(Path(job.folder).glob('*.safetensors')):
            model = AutoModelForCausalLM.from_pretrained(job.folder, **options)
        else:
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(job.folder), **options)
    if job.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})
    if job.lora:
        import peft

        settings = peft.LoraConfig(
            r=job.lora['rank'], lora_alpha=job.lora['alpha'], target_modules='all-linear', task_type='CAUSAL_LM'
        )
        model = peft.get_peft_model(model, settings)
    return model.train()
