"""Where the time of a run goes, over all its starts: goodput is the share that ends up in steps that count.

Kinds of seconds, which add up to the time that the run was alive in `fit`:

    steps             of steps that are part of the run, waits not included
    start             to find and load a checkpoint, or to make the first state
    compile           of every shape, at each start
    data_wait         for a batch that was not there yet
    checkpoint_wait   in which a checkpoint held up the loop
    evaluation        of the development set
    scoring           of the development set, decoded
    lost              steps that were done and had to be done again after a restart, waits included

The ledger is written at every checkpoint, with the step that it reaches. What a killed process did after it is
found in the lines of metrics.jsonl that the resumed run drops; what it did between its last line and its end
is not known, nor is the time in which no process lived.

Beside them stand the device-seconds of the steps that are part of the run, waits included, each start's with its
own number of devices; and the energy of all that is not evaluation or scoring, where the devices tell it.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KINDS = ('steps', 'start', 'compile', 'data_wait', 'checkpoint_wait', 'evaluation', 'scoring', 'lost')

# What the device-seconds of a run are of.
_OF_STEPS = ('steps', 'data_wait', 'checkpoint_wait')

_UNKNOWN = 'a start of the run did not measure it'


class Goodput:
    """Adds up the seconds of this start to those of the starts before it.

    Args:
        path: the ledger, JSON.
        devices: of all processes, at this start.
    """

    def __init__(self, path: Path, devices: int = 1):
        self._path = path
        self._devices = devices
        saved = read_goodput(path)
        self._seconds = {kind: float(saved.get('seconds', {}).get(kind, 0.0)) for kind in KINDS}
        self._starts = int(saved.get('starts', 0)) + 1
        self._step = int(saved.get('step', 0))
        self._device_seconds = float(saved.get('device_seconds', 0.0))
        energy = saved.get('energy', {'joules': 0.0 if self._starts == 1 else None, 'reason': _UNKNOWN})
        self._joules_before: float | None = energy['joules']
        self._no_joules: str = energy['reason']
        self._last = time.perf_counter()

    def spent(self, kind: str) -> float:
        """Books the time since the last booking as `kind`, and returns its seconds."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._seconds[kind] += seconds
        if kind in _OF_STEPS:
            self._device_seconds += seconds * self._devices
        return seconds

    @property
    def device_seconds(self) -> float:
        """Of the steps so far, waits included."""
        return self._device_seconds

    def lose(self, dropped: Sequence[Mapping[str, Any]]) -> None:
        """Books the steps of dropped lines of metrics.jsonl as lost, where they were booked as something else."""
        booked = sum(self._seconds[kind] for kind in _OF_STEPS)
        for line in dropped:
            waits = {kind: float(line.get(kind) or 0.0) for kind in ('data_wait', 'checkpoint_wait')}
            seconds = float(line.get('seconds') or 0.0)
            self._seconds['lost'] += seconds
            if line['step'] < self._step:
                for kind, wait in {**waits, 'steps': max(0.0, seconds - sum(waits.values()))}.items():
                    self._seconds[kind] = max(0.0, self._seconds[kind] - wait)
        if booked:
            self._device_seconds *= sum(self._seconds[kind] for kind in _OF_STEPS) / booked

    def report(self, step: int, joules: float | None = None, reason: str = _UNKNOWN) -> dict[str, Any]:
        """Returns the ledger up to `step` steps done, as JSON.

        Args:
            joules: that the devices have used in this start; None where they do not tell.
            reason: why they do not.
        """
        self.spent('steps')
        total = sum(self._seconds.values())
        return {
            'goodput': round(self._seconds['steps'] / total, 6) if total else 0.0,
            'step': step,
            'starts': self._starts,
            'total_seconds': round(total, 3),
            'device_seconds': round(self._device_seconds, 3),
            'energy': self._energy(joules, reason),
            'seconds': {kind: round(seconds, 3) for kind, seconds in self._seconds.items()},
            'shares': {kind: round(seconds / total, 6) if total else 0.0 for kind, seconds in self._seconds.items()},
        }

    def _energy(self, joules: float | None, reason: str) -> dict[str, Any]:
        if self._joules_before is None:
            return {'joules': None, 'reason': self._no_joules}
        if joules is None:
            return {'joules': None, 'reason': reason}
        return {'joules': round(self._joules_before + joules, 3), 'reason': ''}

    def write(self, report: Mapping[str, Any]) -> None:
        """Writes what `report` gave."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(self._path.name + '.partial')
        partial.write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')
        partial.replace(self._path)


def sentence(report: Mapping[str, Any]) -> str:
    """Says in one line what a report holds."""
    shares = ', '.join(f'{kind.replace("_", " ")} {share:.1%}' for kind, share in report['shares'].items() if share)
    starts = f', over {report["starts"]} starts' if report['starts'] > 1 else ''
    return f'goodput {report["goodput"]:.1%} of {report["total_seconds"]:,.0f} s{starts}: {shares}'


def read_goodput(path: Path) -> dict[str, Any]:
    """Returns the ledger so far, {} where there is none; a torn one only costs its numbers."""
    try:
        saved = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}
