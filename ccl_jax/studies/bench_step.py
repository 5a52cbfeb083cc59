"""Our training step beside a loop of transformers and torch, on the CPU: tokens a second, and where they come from.

Both train the same model, from the same weights, on the same documents and short spans, with AdamW in float32 on
all cores, and with about as many tokens a step. Tokens a second are positions a second times the share of positions
that hold tokens, the fill; so a ratio of two ways is one of the computation times one of how batches are made.
"""

import dataclasses
import functools
import importlib.util
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccl_jax.data.examples import ExampleStore
from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import init_decoder, save_decoder
from ccl_jax.studies.known_models import SMALL_LLAMA
from ccl_jax.studies.step_ours import OurJob
from ccl_jax.studies.step_process import Measured, run_measured
from ccl_jax.studies.step_torch import TheirJob
from ccl_jax.studies.training_mix import settle, write_mix

# More than are trained in the seconds of a measurement.
_PLANNED_STEPS = 300
_OPTIMIZER = {'learning_rate': 1e-4, 'b1': 0.9, 'b2': 0.95, 'eps': 1e-8, 'clip_norm': 1.0}
_ENVIRONMENT = {'JAX_PLATFORMS': 'cpu', 'CUDA_VISIBLE_DEVICES': '', 'TOKENIZERS_PARALLELISM': 'false'}
# Row lengths for one example each: close where the spans are, and doubled where the documents are.
_SINGLE_LENGTHS = (16, 32, 128, 512, 1024, 2048)
_WAYS = {
    'random': 'transformers, random batches',
    'by_length': 'transformers, batches of like lengths',
    'single': 'ccl_jax, one example a row',
    'packed': 'ccl_jax, packed',
}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
        documents: of the data, with 15 spans each.
        shrink: lengths are those of a run with rows of 8,192 tokens, divided by this.
        tokens_per_step: positions of a packed step.
        examples: of a micro-batch of the other side.
        seconds: of a measurement, beside compilation and warm-up.
    """

    architecture: Architecture
    documents: int
    shrink: int
    tokens_per_step: int
    examples: int
    seconds: float

    @property
    def longest(self) -> int:
        return 8192 // self.shrink


# A micro-batch holds as many examples as is the default of transformers' Trainer.
_SIZE = Size(
    architecture=SMALL_LLAMA,
    documents=400,
    shrink=4,
    tokens_per_step=4096,
    examples=8,
    seconds=6.0,
)


def bench_step(size: Size = _SIZE, repeats: int = 3) -> str:
    """Trains in every way, in turn, each time in a process of its own, and returns a table as text.

    The other side is measured with random batches, transformers' default, and with batches of like lengths,
    which its Trainer can be asked for. One example a row means the same code and plan, but rows that hold
    one example each, of lengths that fit spans and documents.

    Raises:
        UserError: torch is not installed.
    """
    if importlib.util.find_spec('torch') is None:
        raise UserError('this needs torch, which is not installed; run pip install "ccl-jax[test]"')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / 'model'
        save_decoder(init_decoder(size.architecture, seed=0), folder)
        store = write_mix(
            folder,
            documents=size.documents,
            vocabulary=size.architecture.vocab_size,
            shrink=size.shrink,
            longest=size.longest,
        )
        jobs = _jobs(size, folder, store)
        runs: dict[str, list[Measured]] = {way: [] for way in _WAYS}
        for repeat in range(repeats):
            for way in [*_WAYS][repeat % len(_WAYS) :] + [*_WAYS][: repeat % len(_WAYS)]:
                print(f'{_WAYS[way]}, {repeat + 1} of {repeats} ...', file=sys.stderr, flush=True)
                runs[way].append(run_measured(jobs[way](repeat), _ENVIRONMENT))
    return report(size, store.lengths, runs)


def report(size: Size, lengths: np.ndarray, runs: Mapping[str, Sequence[Measured]]) -> str:
    """Returns the table and what it says, as text.

    Args:
        lengths: tokens of each example of the data.
        runs: of each way in `_WAYS`.
    """
    speeds = {way: statistics.median(run.speed for run in results) for way, results in runs.items()}
    pooled = {way: _pooled(results) for way, results in runs.items()}
    lines = [
        f'{size.architecture.parameter_count() / 1e6:.1f} million parameters, float32, AdamW; {len(lengths):,} '
        f'examples of {lengths.min()} to {lengths.max():,} tokens, {np.median(lengths):.0f} in the median and '
        f'{lengths.mean():.0f} in the mean; {os.cpu_count()} cores; {len(runs["packed"])} processes a way, in turn',
        '',
        f'{"":38}  real tokens/s    best      x   fill  positions/s  tokens/step  start s, first and last',
    ]
    for way, results in runs.items():
        total = pooled[way]
        lines.append(
            f'{_WAYS[way]:38}  {speeds[way]:13,.0f}  {max(run.speed for run in results):6,.0f}  '
            f'{speeds[way] / speeds["random"]:5.2f}  {total.fill:5.1%}  {total.positions / total.seconds:11,.0f}  '
            f'{total.tokens / total.steps:11,.0f}  {results[0].start:11.1f} {results[-1].start:12.1f}'
        )
    lines.append('')
    for other in ('random', 'by_length'):
        ratio, filled = speeds['packed'] / speeds[other], pooled['packed'].fill / pooled[other].fill
        lines.append(
            f'packed is {ratio:.2f} x {_WAYS[other]}: {filled:.2f} x by fill and {ratio / filled:.2f} x by positions '
            'a second'
        )
    packing, whole = speeds['packed'] / speeds['single'], speeds['packed'] / speeds['random']
    share = math.log(packing) / math.log(whole) if whole != 1 else math.nan
    losses = ', '.join(f'{results[-1].loss:.3f} ({_WAYS[way]})' for way, results in runs.items())
    lines += [
        f'packed is {packing:.2f} x {_WAYS["single"]}: on a log scale {share:.0%} of the whole ratio come from packing',
        f'waiting for data takes {pooled["packed"].data_wait / pooled["packed"].seconds:.2%} of our packed steps',
        f'loss of the last step: {losses}',
    ]
    return '\n'.join(lines) + '\n'


def _jobs(size: Size, folder: Path, store: ExampleStore) -> Mapping[str, Any]:
    """Returns for each way the function of the repeat's number that gives its job."""
    fields = {'tokens_per_step': size.tokens_per_step, 'steps': _PLANNED_STEPS}
    # A bucket costs seconds of compilation, and from four on each adds little.
    packed, plan = settle(store, {**fields, 'buckets': (), 'longest': size.longest, 'max_buckets': 4})
    tokens = float(plan.step_tokens.mean())
    lengths = tuple(sorted({min(length, size.longest) for length in _SINGLE_LENGTHS}))
    single, plan = settle(store, {**fields, 'buckets': lengths, 'max_segments': 2})
    single['tokens_per_step'] = round(tokens / plan.report['fill'])
    ours = functools.partial(
        OurJob, folder=str(folder), seconds=size.seconds, cache=str(folder.parent / 'compiled'), optimizer=_OPTIMIZER
    )
    theirs = functools.partial(
        TheirJob,
        folder=str(folder),
        seconds=size.seconds,
        examples=size.examples,
        micro_batches=max(1, round(tokens / (size.examples * store.lengths.mean()))),
        optimizer=_OPTIMIZER,
    )
    return {
        'random': lambda repeat: theirs(seed=repeat),
        'by_length': lambda repeat: theirs(seed=repeat, by_length=True),
        'single': lambda repeat: ours(plan={**single, 'seed': repeat}),
        'packed': lambda repeat: ours(plan={**packed, 'seed': repeat}),
    }


def _pooled(results: Sequence[Measured]) -> Measured:
    """Returns all steps of several processes as if one had done them."""
    sums = {name: sum(getattr(run, name) for run in results) for name in ('steps', 'positions', 'seconds', 'data_wait')}
    return dataclasses.replace(results[-1], lengths=tuple(n for run in results for n in run.lengths), **sums)
