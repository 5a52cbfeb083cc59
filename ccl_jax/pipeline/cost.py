"""`cost.json`: what a run has cost, its stages apart.

    {"format": 1,
     "device": {"kind", "count", "processes"},                 of the last start of a training
     "stages": {
       "base", "training": {
         "steps", "examples", "tokens": {task: {"prompt", "target"}}, "padding_tokens",
         "flops": {"forward", "backward"},
         "device_seconds", "wall_seconds", "lost_seconds", "energy_joules"},
       "evaluation": {split: {"documents", "prompt_tokens", "new_tokens", "flops", "device_seconds", "device"}},
       "expansion": {"endpoint", "model", "tokens"}},
     "total": {"tokens", "flops", "device_seconds"}}           base + training; not evaluation, not expansion

Tokens, padding and FLOPs of a training are those of the steps that count, each once, from the plan and the lines of
metrics.jsonl (`training.step_costs`, which says what is a FLOP). Seconds are of all starts, from goodput.json:

    device_seconds   of the steps that count, with their waits for data and checkpoints, times the devices
    wall_seconds     of all starts, compilation and lost steps included, evaluation and scoring not
    lost_seconds     of steps that had to be done again
    energy_joules    of the loop without evaluation and scoring; null where `energy_reason` says why

`base` is the stand-in for pretraining. `evaluation` has the split that was decoded at the end; `scores:<split>` is the
sum of what was decoded on the way and `loss:<split>` of the dev loss, whose `prompt_tokens` are the targets too.
Device-seconds of decoding include compilation; its FLOPs are those of `model.counts.generation_flops`.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from ccl_jax.decoding.predict import DecodingReport
from ccl_jax.pipeline.files import write_text
from ccl_jax.training.goodput import read_goodput
from ccl_jax.training.loop import GOODPUT
from ccl_jax.training.recorder import DEV, METRICS, SCORES
from ccl_jax.training.step_costs import Cost, StepCosts

COST = 'cost.json'
FORMAT = 1

# The stages that are training; their sum is the total.
TRAININGS = ('base', 'training')


def record_training(workdir: Path, stage: str, folder: Path, costs: StepCosts) -> None:
    """Writes what a training has cost so far into the ledger of `workdir`; process 0 does.

    Args:
        stage: one of `TRAININGS`.
        folder: where the training keeps metrics.jsonl and goodput.json.
    """

    def change(ledger: dict[str, Any]) -> None:
        goodput = read_goodput(folder / GOODPUT)
        entry = training_entry(costs.up_to(_steps_done(folder / METRICS)), goodput)
        if entry == ledger['stages'].get(stage):
            # Finished before, perhaps on other devices.
            return
        ledger['device'] = _device()
        ledger['stages'][stage] = entry
        for split, of_split in _by_split(_lines(folder / SCORES)).items():
            ledger['stages']['evaluation'][f'scores:{split}'] = {**scores_entry(of_split), 'device': _device()}

    _update(workdir, change)


def record_dev_loss(workdir: Path, split: str, one_pass: Cost) -> None:
    """Writes what the dev loss has cost: as many passes as dev.jsonl has lines."""

    def change(ledger: dict[str, Any]) -> None:
        passes = len(_lines(workdir / DEV))
        seconds = read_goodput(workdir / GOODPUT).get('seconds', {}).get('evaluation', 0.0)
        ledger['stages']['evaluation'][f'loss:{split}'] = {
            'documents': passes * one_pass.examples,
            'prompt_tokens': passes * one_pass.tokens,
            'new_tokens': 0,
            'flops': passes * one_pass.forward,
            'device_seconds': round(seconds * jax.device_count(), 3),
            'device': _device(),
        }

    _update(workdir, change)


def record_evaluation(workdir: Path, split: str, decoding: DecodingReport, seconds: float) -> None:
    """Writes what decoding a split has cost; the same split evaluated again takes the place of the first time."""

    def change(ledger: dict[str, Any]) -> None:
        ledger['stages']['evaluation'][split] = {
            'documents': decoding.documents,
            'prompt_tokens': decoding.prompt_tokens,
            'new_tokens': decoding.new_tokens,
            'flops': decoding.flops,
            'device_seconds': round(seconds * jax.device_count(), 3),
            'device': _device(),
        }

    _update(workdir, change)


def record_expansion(workdir: Path, report: Mapping[str, Any]) -> None:
    """Writes the tokens that an endpoint or a model used to make the spans.

    Args:
        report: of the expansion.
    """

    def change(ledger: dict[str, Any]) -> None:
        ledger['stages']['expansion'] = expansion_entry(report)

    _update(workdir, change)


def training_entry(cost: Cost, goodput: Mapping[str, Any]) -> dict[str, Any]:
    """The ledger's entry of a training from what its steps cost and from its goodput.json."""
    seconds = goodput.get('seconds', {})
    aside = seconds.get('evaluation', 0.0) + seconds.get('scoring', 0.0)
    energy = goodput.get('energy', {'joules': None, 'reason': 'goodput.json does not say'})
    return {
        **cost.to_json(),
        'device_seconds': goodput.get('device_seconds', 0.0),
        'wall_seconds': round(goodput.get('total_seconds', 0.0) - aside, 3),
        'lost_seconds': seconds.get('lost', 0.0),
        'energy_joules': energy['joules'],
        **({'energy_reason': energy['reason']} if energy['joules'] is None else {}),
    }


def scores_entry(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The ledger's entry of all scores on the way, from the lines of scores.jsonl."""
    names = ('documents', 'prompt_tokens', 'new_tokens', 'flops', 'device_seconds')
    return {name: sum(line['decoding'][name] for line in lines) for name in names}


def expansion_entry(report: Mapping[str, Any]) -> dict[str, Any]:
    """The ledger's entry of an expansion from its report; rules use no tokens.

    `tokens` adds what the endpoint told, what it is assumed to have used where it did not tell, what earlier runs on
    the same cache used, and what a model of one's own read and wrote.
    """
    endpoint = report.get('endpoint', {}).get('usage')
    model = report.get('model')
    counted = ('input_tokens', 'output_tokens', 'assumed_tokens', 'tokens_of_earlier_runs')
    used = sum((endpoint or {}).get(name, 0) for name in counted)
    used += sum((model or {}).get(name, 0) for name in ('input_tokens', 'output_tokens'))
    return {'endpoint': endpoint, 'model': model, 'tokens': used}


def total_of(stages: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of the trainings."""
    trainings = [stages[name] for name in TRAININGS if name in stages]
    return {
        'tokens': sum(sum(task.values()) for stage in trainings for task in stage['tokens'].values()),
        'flops': sum(sum(stage['flops'].values()) for stage in trainings),
        'device_seconds': round(sum(stage['device_seconds'] for stage in trainings), 3),
    }


def _update(workdir: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Applies `change` to the ledger on process 0; a torn one begins anew."""
    if jax.process_index():
        return
    path = workdir / COST
    try:
        ledger = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        ledger = {'format': FORMAT, 'device': _device(), 'stages': {'evaluation': {}, 'expansion': {}}}
    change(ledger)
    stages = ledger['stages']
    ledger['stages'] = {name: stages[name] for name in (*TRAININGS, 'evaluation', 'expansion') if name in stages}
    ledger['total'] = total_of(stages)
    write_text(path, json.dumps(ledger, indent=2) + '\n')


def _device() -> dict[str, Any]:
    return {
        'kind': jax.devices()[0].device_kind,
        'count': jax.device_count(),
        'processes': jax.process_count(),
    }


def _steps_done(metrics: Path) -> int:
    lines = _lines(metrics)
    return lines[-1]['step'] + 1 if lines else 0


def _by_split(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    splits: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        splits.setdefault(line['split'], []).append(line)
    return splits


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines, without what a killed process left torn."""
    lines = []
    for text in path.read_text(encoding='utf-8', errors='replace').splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines
