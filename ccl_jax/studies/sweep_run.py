"""Running what a sweep lacks, as processes of this machine."""

import collections
import contextlib
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ccl_jax.errors import Interrupted, UserError
from ccl_jax.pipeline.workdir import check_workdir
from ccl_jax.studies.sweep_config import Run

LOG = 'train.log'
TRAIN = (sys.executable, '-c', 'from ccl_jax.cli import run; run()', 'train')
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def unfinished(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs that still have to be made, or evaluated under the present settings of `eval`.

    Raises:
        UserError: the folder of a run holds weights of another config.
    """
    return [run for run in runs if not is_finished(run)]


def is_finished(run: Run) -> bool:
    """Whether the run's evaluation is there, under the present settings. Raises UserError as `unfinished`."""
    check_workdir(run.workdir, run.config)
    try:
        metrics = json.loads(metrics_file(run).read_text(encoding='utf-8'))
    except FileNotFoundError:
        return False
    # What the workdir's config says is what was last asked for, which need not have come to its end.
    return metrics.get('settings') == run.config.tree['eval']


def metrics_file(run: Run) -> Path:
    return run.evaluation / 'metrics.json'


def run_all(
    runs: Sequence[Run],
    *,
    parallel: int = 1,
    command: Sequence[str] = TRAIN,
    when_finished: Callable[[Run], object] = lambda run: None,
) -> dict[str, str]:
    """Makes the runs that are not finished, and returns name -> last words of those that failed.

    Each is a process of its own, whose output goes to `train.log` in its folder, so that the end of one ends
    no other. They are pinned to no device and no core: more than one at a time is for machines where
    the environment (e.g. XLA_PYTHON_CLIENT_MEM_FRACTION) or the host's cores leave room.

    SIGINT, SIGTERM and SIGHUP stop the sweep: the runs get SIGTERM, save and end; a second signal kills them.

    Args:
        parallel: runs at a time.
        command: what the arguments of a run are given to.
        when_finished: called with each run that has come to its end here.

    Raises:
        UserError: as `unfinished`.
        Interrupted, KeyboardInterrupt: the sweep was stopped; it goes on by the same call.
    """
    waiting = collections.deque(unfinished(runs))
    total, done = len(runs), len(runs) - len(waiting)
    _say(f'{total} runs, {done} of them finished' if done else f'{total} runs')
    active: dict[subprocess.Popen, tuple[Run, float]] = {}
    failures: dict[str, str] = {}
    stopped = False
    with _noted_signals() as received, _ended(active):
        heeded = 0
        while active or (waiting and not received):
            while waiting and len(active) < parallel and not received:
                run = waiting.popleft()
                active[_start(run, command)] = run, time.monotonic()
                _say(f'{run.name}: started, see {run.workdir / LOG}')
            for process in [process for process in active if process.poll() is not None]:
                run, began = active.pop(process)
                done += process.returncode == 0 and metrics_file(run).exists()
                words = _last_words(run, process.returncode)
                if not words:
                    _say(f'{run.name}: finished in {time.monotonic() - began:.0f} s, {done} of {total}')
                    when_finished(run)
                elif received:
                    stopped = True
                else:
                    failures[run.name] = words
                    _say(f'{run.name}: failed, {words}')
            if len(received) > heeded:
                heeded = len(received)
                _say(f'stopping: {len(active)} runs save what they have; a second signal kills them')
                for process in active:
                    process.send_signal(signal.SIGTERM if heeded == 1 else signal.SIGKILL)
            time.sleep(0.05)
    if received and (waiting or stopped):
        if signal.SIGINT in received:
            raise KeyboardInterrupt
        name = signal.Signals(received[0]).name
        raise Interrupted(f'{name}: {done} of {total} runs are finished; start the same command again to go on')
    return failures


def _start(run: Run, command: Sequence[str]) -> subprocess.Popen:
    try:
        run.workdir.mkdir(parents=True, exist_ok=True)
        # Of former settings of `eval`; while it is there, the run counts as finished.
        metrics_file(run).unlink(missing_ok=True)
        log = open(run.workdir / LOG, 'a', encoding='utf-8')  # noqa: SIM115
    except OSError as error:
        raise UserError(f'cannot write {run.workdir}: {error.strerror}; use another --workdir') from None
    with log:
        log.write(f'\n+ ccl-jax train {shlex.join(run.arguments)}\n')
        log.flush()
        # A session of its own: the terminal's Ctrl-C reaches the sweep alone, which tells the runs to save.
        return subprocess.Popen(
            [*command, *run.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _last_words(run: Run, code: int) -> str:
    """Why a run that has ended is not finished; '' if it is."""
    if code == 0 and metrics_file(run).exists():
        return ''
    how = f'killed by signal {-code}' if code < 0 else f'exit code {code}'
    lines = (run.workdir / LOG).read_text(encoding='utf-8', errors='replace').split('\n')
    last = next((line.strip() for line in reversed(lines) if line.strip()), '')
    return f'{how}: {last}'


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Notes signals in the list that it yields, instead of ending at once."""
    received: list[int] = []
    # What is ignored (SIGHUP under nohup) stays ignored.
    noted = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, lambda number, _: received.append(number)) for number in noted}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _ended(active: dict[subprocess.Popen, tuple[Run, float]]) -> Iterator[None]:
    """Leaves no process behind, whatever happens to the sweep."""
    try:
        yield
    finally:
        for process in active:
            process.terminate()
        for process in active:
            process.wait()


def _say(message: str) -> None:
    # `console.say` would wake the devices, which belong to the runs.
    print(message, file=sys.stderr, flush=True)
