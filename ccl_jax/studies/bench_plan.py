"""`bench plan`: what the batch plan saves, beside other ways to pack, and how long planning takes.

Each way gets the same examples. Fill is tokens over positions; cost is the modelled FLOPs
of the rows over those of the examples by themselves, without padding (`data.cost`).
"""

import contextlib
import functools
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import grain
import grain.experimental
import numpy as np

from ccl_jax.config import check_config, default_config
from ccl_jax.data.cost import modelled_cost
from ccl_jax.data.plan import Plan, make_plan
from ccl_jax.data.plan_settings import PlanSettings
from ccl_jax.pipeline.train import prepare
from ccl_jax.studies.plan_scale import (
    LONGEST,
    SPANS_PER_DOCUMENT,
    Examples,
    lognormal_examples,
    print_scale,
    write_columns,
)
from ccl_jax.tasks import TASKS

_BINS = (8, 64)
_TOKENS_PER_STEP = 65_536
# CodiEsp is 39 steps of 65,536 tokens, so that the padding of an epoch's last step would be what is measured.
_TOKENS_PER_STEP_OF_CODIESP = 16_384
_TIMED = 1_000_000


class _Packed(NamedTuple):
    """Lengths of the rows, empty ones included, and the most examples in one."""

    row_lengths: np.ndarray
    most: int


def bench_plan(codiesp: Path | None = None, *, documents: int = 3000, scale: int = 0) -> str:
    """Returns the tables as text; takes about a minute, and `scale` its own.

    Args:
        codiesp: folder of CodiEsp v4, whose documents and gold spans are tokenised with a
            byte-pair tokenizer trained on them; without it that table is left out.
        documents: of the lognormal table, with 15 spans each.
        scale: examples to plan from memory maps in a process of its own; 0 leaves it out.

    Raises:
        UserError: there is no CodiEsp in the folder.
    """
    parts = []
    if codiesp is not None:
        examples = codiesp_examples(codiesp)
        for tokens_per_step in (_TOKENS_PER_STEP_OF_CODIESP, _TOKENS_PER_STEP):
            parts.append(_compare('CodiEsp with gold spans', examples, tokens_per_step))
    lognormal = lognormal_examples(documents * (1 + SPANS_PER_DOCUMENT))
    parts.append(_compare('lognormal documents', lognormal, _TOKENS_PER_STEP))
    million = lognormal_examples(_TIMED)
    parts += [_shards(million), _time(million)]
    if scale:
        parts.append(_measure_scale(scale))
    return '\n\n'.join(parts)


def codiesp_examples(path: Path) -> Examples:
    """The training documents and gold spans of CodiEsp, in a byte-pair tokenizer trained on its texts.

    Raises:
        UserError: there is no CodiEsp in the folder.
    """
    tree = default_config()
    tree.sources.name = 'codiesp'
    tree.sources.codiesp.path = str(path)
    tree.expansion.scope = 'categories'
    tree.expansion.tiers = ('gold',)
    tree.eval.split = 'dev'
    tree.base.enabled = True
    tree.base.vocab_size = 8192
    tree.base.texts = 500
    tree.base.max_position_embeddings = LONGEST
    tree.data.buckets = (LONGEST,)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        store, _ = prepare(check_config(tree), Path(folder))['training']
        return Examples(*(np.array(c) for c in (store.lengths, store.task_ids, store.target_starts)))


def _compare(title: str, examples: Examples, tokens_per_step: int) -> str:
    lengths = examples.lengths
    longest = 128 * -(-int(lengths.max()) // 128)
    powers = tuple(2**k for k in range(6, 14) if 2**k < 2 * longest)
    ways: dict[str, Callable[[], tuple[int, _Packed]]] = {
        'ours, at most 8 row lengths': lambda: _planned(
            examples, PlanSettings((), tokens_per_step, epochs=1, longest=longest)
        ),
        'ours, powers of two from 256': lambda: _planned(
            examples, PlanSettings(tuple(p for p in powers if p >= 256), tokens_per_step, epochs=1)
        ),
        'ours, one long row': lambda: _planned(examples, PlanSettings((longest,), tokens_per_step, epochs=1)),
    }
    for name in ('FirstFit', 'BestFit'):
        for bins in _BINS:
            ways[f'Grain {name}, {bins} bins'] = functools.partial(_grain, name, bins, lengths, longest)
    ways['powers of two, one example a row'] = lambda: (len(powers), _one_per_row(lengths, powers))
    ideal = modelled_cost(lengths).sum()
    lines = [
        f'{title}: {_describe(examples)}; {tokens_per_step:,} tokens per step',
        f'{"":<34}{"shapes":>8}{"fill":>9}{"cost":>8}{"most in a row":>15}',
    ]
    for name, way in ways.items():
        shapes, packed = way()
        fill = lengths.sum() / packed.row_lengths.sum()
        cost = modelled_cost(packed.row_lengths).sum() / ideal
        lines.append(f'{name:<34}{shapes:>8}{fill:>9.1%}{cost:>8.3f}{packed.most:>15}')
    return '\n'.join(lines)


def _describe(examples: Examples) -> str:
    parts = []
    for task in np.unique(examples.task_ids):
        own = examples.lengths[examples.task_ids == task]
        parts.append(
            f'{len(own):,} of {TASKS[task]}, {np.median(own):,.0f} tokens in the median, {own.max():,} at most'
        )
    return '; '.join(parts)


def _planned(examples: Examples, settings: PlanSettings) -> tuple[int, _Packed]:
    plan = make_plan(*examples, settings)
    return len(plan.buckets), _rows_of(plan)


def _rows_of(plan: Plan) -> _Packed:
    rows = np.array([plan.settings.rows_per_step(length) for length in plan.step_lengths.tolist()])
    return _Packed(np.repeat(plan.step_lengths.astype(np.int64), rows), plan.report['most_examples_per_row'])


def _grain(name: str, bins: int, lengths: np.ndarray, longest: int) -> tuple[int, _Packed]:
    """Packs the examples in random order with a packer of Grain, which has one row length."""
    packer = getattr(grain.experimental, f'{name}PackIterDataset')
    source = [np.ones(length, np.int8) for length in np.random.default_rng(0).permutation(lengths)]
    dataset = grain.MapDataset.source(source).map(lambda tokens: {'tokens': tokens})
    # Without threads and buffers: only the packing counts here.
    parent = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    packed = packer(parent, length_struct={'tokens': longest}, num_packing_bins=bins, shuffle_bins=False)
    most = [int(row['tokens_segment_ids'].max()) for row in packed]
    return 1, _Packed(np.full(len(most), longest), max(most))


def _one_per_row(lengths: np.ndarray, buckets: tuple[int, ...]) -> _Packed:
    return _Packed(np.array(buckets)[np.searchsorted(buckets, lengths)], 1)


def _shards(examples: Examples) -> str:
    """The settings of a small and of a large run on several numbers of shards of the rows."""
    lines = [
        f'steps, leftovers and segments: {len(examples.lengths):,} lognormal examples, at most 8 row lengths',
        f'{"tokens_per_step":>16}{"shards":>8}{"steps":>7}{"cost":>7}{"handed on":>11}{"moved":>7}{"empty":>7}'
        f'{"most in a row":>15}  rows x length',
    ]
    for tokens_per_step in (_TOKENS_PER_STEP, 1 << 22):
        for shards in (1, 8, 64):
            settings = PlanSettings((), tokens_per_step, row_multiple=shards, epochs=1, longest=LONGEST)
            report = make_plan(*examples, settings).report
            shapes = ', '.join(f'{rows}x{length}' for length, rows in report['rows_per_step'].items())
            lines.append(
                f'{tokens_per_step:>16,}{shards:>8}{report["steps"]:>7,}{report["modelled_cost"]:>7.3f}'
                f'{report["carried"]:>11,}{report["moved_rows"]:>7,}{report["empty_rows"]:>7,}'
                f'{report["most_examples_per_row"]:>15}  {shapes}'
            )
    lines.append(f'segments of a row are at most max_segments {settings.max_segments}, the padding included')
    return '\n'.join(lines)


def _time(examples: Examples) -> str:
    settings = PlanSettings((), _TOKENS_PER_STEP, epochs=1, longest=LONGEST)
    begin = time.perf_counter()
    plan = make_plan(*examples, settings)
    planning = time.perf_counter() - begin
    begin = time.perf_counter()
    plan.rows(plan.steps // 2)
    reaching = time.perf_counter() - begin
    return (
        f'{len(examples.lengths):,} examples planned in {planning:.1f} s on one core; '
        f'a step in the middle reached in {reaching:.2f} s'
    )


def _measure_scale(count: int) -> str:
    """Plans `count` examples from memory maps, in a process whose memory is its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_columns(count, Path(folder))
        command = [sys.executable, '-c', f'from {print_scale.__module__} import print_scale; print_scale({folder!r})']
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
