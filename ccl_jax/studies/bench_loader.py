"""How many tokens a second the loader delivers from ArrayRecord, and where the time goes."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from ccl_jax.data.examples import ExampleStore, TokenizedExample, write_examples
from ccl_jax.data.loader import assemble_rows, make_loader
from ccl_jax.data.plan import Plan, PlanSettings, make_plan

_ROW_LENGTH = 8_192
_TOKENS_PER_STEP = 65_536
_SPANS_PER_DOCUMENT = 15
_VOCABULARY = 128_000
# More than are read in the seconds of a measurement; of the stages, fewer do.
_STEPS = 1_500
_STEPS_OF_STAGES = 50
# (threads, workers)
_WAYS = ((0, 0), (2, 0), (4, 0), (2, 1), (2, 2))


def bench_loader(documents: int = 2_000, seconds: float = 5.0) -> str:
    """Measures the loader on random tokens and returns two tables as text.

    Documents of about 2,200 tokens (lognormal, at most 8,192), each with 15 spans, in rows of 8,192
    tokens and steps of 65,536 positions, onto the first device of this process. Files are in the
    page cache: what is measured is this code, not a disk.

    Args:
        documents: in the store that is written to a temporary folder.
        seconds: how long each combination of threads and workers is measured, once it runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = write_examples(_random_examples(documents), Path(folder) / 'store', {})
        settings = PlanSettings((_ROW_LENGTH,), _TOKENS_PER_STEP, steps=_STEPS)
        plan = make_plan(store.lengths, store.task_ids, store.target_starts, settings)
        lines = [
            f'{len(store):,} examples of {int(store.lengths.sum(dtype=np.int64)):,} random tokens; rows of '
            f'{_ROW_LENGTH:,}, {plan.shape(0)[0]} a step, {plan.report["fill"]:.0%} full; {os.cpu_count()} cores',
            '',
            'threads  workers   tokens/s',
        ]
        for threads, workers in _WAYS:
            speed = _tokens_per_second(store, plan, threads, workers, seconds)
            lines.append(f'{threads:7d}  {workers:7d}  {speed:9,.0f}')
        stages = _seconds_of_stages(store, plan)
        total = sum(stages.values())
        lines += ['', 'one step, one after the other']
        lines += [f'  {name:28s} {1000 * spent:6.2f} ms  {spent / total:4.0%}' for name, spent in stages.items()]
    return '\n'.join(lines) + '\n'


def _random_examples(documents: int) -> Iterator[TokenizedExample]:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(2_200), 0.6, documents), 64, _ROW_LENGTH).astype(int)
    for number, length in enumerate(lengths.tolist()):
        tokens = rng.integers(0, _VOCABULARY, length, np.int32)
        yield TokenizedExample(f'document:{number}', 'document', tokens, length - length // 20)
        for span in range(_SPANS_PER_DOCUMENT):
            tokens = rng.integers(0, _VOCABULARY, rng.integers(20, 60), np.int32)
            yield TokenizedExample(f'span:{number}:{span}', 'span', tokens, len(tokens) - 8)


def _tokens_per_second(store: ExampleStore, plan: Plan, threads: int, workers: int, seconds: float) -> float:
    """Tokens without padding, in the time from the first steps that a running pipeline delivers."""
    batches = make_loader(store, plan, _sharding(), threads=threads, workers=workers)
    # Workers start one by one, and each has read ahead by then: not counted.
    for _ in range(16 * (workers + 1)):
        next(batches)
    steps = []
    begin = time.perf_counter()
    for step, batch in batches:
        jax.block_until_ready(batch)
        steps.append(step)
        if time.perf_counter() - begin > seconds:
            break
    spent = time.perf_counter() - begin
    return sum(int(store.lengths[row].sum()) for step in steps for row in plan.rows(step)) / spent


def _seconds_of_stages(store: ExampleStore, plan: Plan) -> dict[str, float]:
    """Mean seconds a step of each stage, in this thread."""
    stages = {'plan': 0.0, 'read and decode records': 0.0, 'assemble rows': 0.0, 'copy to the device': 0.0}
    for step in range(_STEPS_OF_STAGES):
        times = [time.perf_counter()]
        rows = plan.rows(step)
        times.append(time.perf_counter())
        tokens = iter(store.read(np.concatenate(rows)))
        times.append(time.perf_counter())
        batch = assemble_rows(
            [[next(tokens) for _ in row] for row in rows],
            plan.shape(step)[1],
            [store.target_starts[row] for row in rows],
            [store.task_ids[row] for row in rows],
            plan.settings.normalization,
        )
        times.append(time.perf_counter())
        jax.block_until_ready(jax.device_put(batch, _sharding()))
        times.append(time.perf_counter())
        for name, spent in zip(stages, np.diff(times), strict=True):
            stages[name] += float(spent) / _STEPS_OF_STAGES
    return stages


def _sharding() -> SingleDeviceSharding:
    return SingleDeviceSharding(jax.local_devices()[0])
