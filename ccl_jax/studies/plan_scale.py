"""Made-up examples of any number, and how much time and memory a plan of them takes.

Imports little, so that the memory of a process that plans is the plan's.
"""

import pickle
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ccl_jax.data.plan import make_plan
from ccl_jax.data.plan_settings import PlanSettings

SPANS_PER_DOCUMENT = 15
LONGEST = 8192
_MEDIAN = 2200
_PART = 1_000_000


class Examples(NamedTuple):
    """Lengths, task ids and target starts of examples, documents first."""

    lengths: np.ndarray
    task_ids: np.ndarray
    target_starts: np.ndarray


def lognormal_examples(count: int, seed: int = 0) -> Examples:
    """Made-up lengths: documents of a median of 2,200 tokens, none above 8,192, with 15 spans of about 50 each."""
    rng = np.random.default_rng(seed)
    documents = count // (1 + SPANS_PER_DOCUMENT)
    lengths = np.empty(count, np.int32)
    lengths[:documents] = np.clip(rng.lognormal(np.log(_MEDIAN), 0.6, documents), 64, LONGEST)
    lengths[documents:] = np.clip(rng.lognormal(np.log(48), 0.5, count - documents), 12, 400)
    task_ids = (np.arange(count) >= documents).astype(np.int8)
    return Examples(lengths, task_ids, np.maximum(1, lengths - np.maximum(6, lengths // 10)))


def print_scale(folder: str) -> None:
    """Plans two epochs of the columns in `folder` and prints time and memory; for a process of its own, on Linux."""
    own_memory = _OwnMemory()
    columns = Examples(*(np.load(Path(folder) / f'{name}.npy', mmap_mode='r') for name in Examples._fields))
    begin = time.perf_counter()
    plan = make_plan(*columns, PlanSettings((), 65_536, epochs=2, longest=LONGEST))
    planning = time.perf_counter() - begin
    slowest = 0.0
    for step in np.random.default_rng(0).integers(plan.steps // 2, plan.steps, 20).tolist():
        begin = time.perf_counter()
        plan.rows(step)
        slowest = max(slowest, time.perf_counter() - begin)
    own = own_memory.peak()
    # Not getrusage: it counts what the process was before it became this one.
    whole = _memory('VmHWM') / 2**20
    print(
        f'{plan.examples:,} examples, {plan.report["epochs"]} epochs, {plan.steps:,} steps, {plan.report["windows"]:,} '
        f'windows: planned in {planning:.0f} s; the slowest of 20 random steps of the last epoch took {slowest:.2f} s; '
        f'peak memory {own:.2f} GiB, {whole:.2f} GiB with the pages of the mapped columns; '
        f'{len(pickle.dumps(plan)) / 2**20:.1f} MiB are sent to a worker'
    )


def write_columns(count: int, folder: Path) -> None:
    """Writes the columns of lognormal examples as .npy files, parts of a million at a time, documents first."""
    documents = count // (1 + SPANS_PER_DOCUMENT)
    paths = [folder / f'{name}.npy' for name in Examples._fields]
    for path, dtype in zip(paths, (np.int32, np.int8, np.int32), strict=True):
        np.lib.format.open_memmap(path, 'w+', dtype, (count,))
    done = [0, documents]  # by task
    for seed in range(-(-count // _PART)):
        part = lognormal_examples(min(_PART, count - seed * _PART), seed)
        # Mapped anew for every part, so that only its pages are in memory.
        columns = [np.load(path, mmap_mode='r+') for path in paths]
        for task in (0, 1):
            own = np.flatnonzero(part.task_ids == task)
            for column, values in zip(columns, part, strict=True):
                column[done[task] : done[task] + len(own)] = values[own][: count - done[task]]
            done[task] += len(own)


class _OwnMemory:
    """Looks every 50 ms at how much memory this process has without the pages of mapped files."""

    def __init__(self) -> None:
        self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def peak(self) -> float:
        """Ends the watch and returns the most that was seen, in GiB."""
        self._stop.set()
        self._thread.join()
        return self._peak / 2**20

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self._peak = max(self._peak, _memory('RssAnon'))


def _memory(name: str) -> int:
    """Returns a count of the memory of this process in KiB, as Linux names it."""
    return int(Path('/proc/self/status').read_text().split(f'{name}:')[1].split()[0])
