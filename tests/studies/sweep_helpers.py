"""Sweeps whose runs are a quick script instead of a training, and made-up finished runs."""

import json
import sys
from pathlib import Path

from ccl_jax.cli import _experiment
from ccl_jax.evaluation.report import evaluate
from ccl_jax.evaluation.strata import Strata
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.records import (
    Annotation,
    Document,
    Evidence,
    PredictedCode,
    Prediction,
    document_to_json,
    prediction_to_json,
)
from ccl_jax.records import write_jsonl as write
from ccl_jax.studies.sweep_config import check_sweep, runs_of, sweep_config

ROOT = Path(__file__).parent.parent.parent
EXPERIMENT = f'{ROOT}/configs/demo.py:ci'

# Stands in for `ccl-jax train`: what it does is in the arm's name.
FAKE = """
import json, os, pathlib, shutil, signal, sys, time

arguments = dict(zip(sys.argv[1:5:2], sys.argv[2:5:2]))
workdir = pathlib.Path(arguments['--workdir'])
arm, trees = workdir.parent.name, pathlib.Path(__file__).parent / 'trees'

def wait_for(*paths):
    for _ in range(3000):
        if all(path.exists() for path in paths):
            return
        time.sleep(0.02)
    sys.exit('it never came')

def save(*_):
    print('ccl-jax: SIGTERM: saved after step 3 of 9', file=sys.stderr)
    sys.exit(143)

with open(workdir / 'starts', 'a') as file:
    file.write('x')
shutil.copy(trees / f'{arm}-{workdir.name}.json', workdir / 'config.json')
(workdir / 'checkpoints').mkdir(exist_ok=True)
print('working')
if arm.startswith('broken') and not (workdir / 'mended').exists():
    print('ccl-jax: the source is gone; bring it back\\n', file=sys.stderr)
    sys.exit(2)
if arm.startswith('crash'):
    os.kill(os.getpid(), signal.SIGKILL)
if arm.startswith('silent'):
    sys.exit(0)
if arm.startswith('slow'):
    signal.signal(signal.SIGTERM, save)
    (workdir / 'began').touch()
    wait_for(workdir / 'release')
if arm.startswith('meets'):
    (workdir / 'began').touch()
    wait_for(*(workdir.parent.parent / other / workdir.name / 'began' for other in ('meets0', 'meets1')))
if arm.startswith('alone'):
    busy = workdir.parent.parent / 'busy'
    busy.mkdir()
    time.sleep(0.1)
    busy.rmdir()
metrics = workdir / 'eval' / 'test' / 'metrics.json'
metrics.parent.mkdir(parents=True, exist_ok=True)
settings = json.loads((workdir / 'config.json').read_text())['eval']
metrics.write_text(json.dumps({'settings': settings}))
"""


def sweep_of(workdir, arms, monkeypatch, **keys):
    """Returns (sweep, runs) of `configs/demo.py:ci`; `arms` as for `sweep_config`, or names alone."""
    monkeypatch.setattr('sys.argv', ['ccl-jax'])
    if not isinstance(arms, dict):
        arms = {name: {'data.steps': 24 + number} for number, name in enumerate(arms)}
    sweep = check_sweep(sweep_config(EXPERIMENT, arms=arms, **keys))
    return sweep, runs_of(sweep, workdir, _experiment)


def fake_command(folder, runs):
    """Writes the script and what it needs to know; returns the command."""
    (folder / 'trees').mkdir(exist_ok=True)
    for run in runs:
        (folder / 'trees' / f'{run.arm}-seed{run.seed}.json').write_text(json.dumps(run.config.tree))
    (folder / 'fake.py').write_text(FAKE)
    return sys.executable, str(folder / 'fake.py')


GOLD = {'d0': ('I10', 'E11.9'), 'd1': ('R07.9', 'N17.9')}
# A word that is in every document and every piece of evidence.
WORD = 'zebra'


def finish(run, value, predicted, *, cost=None, gold=None, low=None, high=None, scores=()):
    """Makes a finished run of `predicted`, doc_id -> codes, with `value` as its micro_f1, or all metrics for None."""
    evidence = (Evidence(((0, len(WORD)),), WORD),)
    documents = [
        Document(doc_id, f'{WORD} of {doc_id}', tuple(Annotation(c, evidence=evidence) for c in codes), split='test')
        for doc_id, codes in (GOLD if gold is None else gold).items()
    ]
    training = [Document('t', WORD, (Annotation('I10'), Annotation('E11.9')), split='train')]
    predictions = [
        Prediction(d, tuple(PredictedCode(c, evidence=evidence) for c in codes)) for d, codes in predicted.items()
    ]
    data = run.workdir / 'data'
    data.mkdir(parents=True)
    write(data / 'documents-test.jsonl', map(document_to_json, documents))
    write(data / 'documents-train.jsonl', map(document_to_json, training))
    (data / 'spans.jsonl').write_text('')
    (data / 'report.json').write_text(json.dumps({'held_out': ['N17.9'], 'synthetic': False}))
    (run.workdir / 'config.json').write_text(json.dumps(run.config.tree))
    write(run.evaluation / 'predictions.jsonl', map(prediction_to_json, predictions))
    section = {'metrics': {'micro_f1': {'value': value, 'low': low, 'high': high}}}
    metrics = {**section, 'strata': {'S0': section}}
    if value is None:
        strata = Strata.from_training(training, (), {(ICD10CM, 'N17.9')})
        metrics = evaluate(documents, predictions, strata=strata, valid_codes=(), seed=0, samples=20)
    write_metrics(run, metrics)
    if cost is not None:
        (run.workdir / 'cost.json').write_text(json.dumps({'total': cost}))
    if scores:
        (run.workdir / 'scores.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in scores))


def write_metrics(run, metrics):
    """Writes metrics.json of a run, as evaluated under its settings."""
    (run.evaluation / 'metrics.json').write_text(json.dumps({**metrics, 'settings': run.config.tree['eval']}))


def score_lines(curve, metric='micro_f1'):
    """Lines of scores.jsonl of (flops, score) pairs."""
    return [
        {
            'step': step,
            'split': 'dev',
            'metrics': {metric: score},
            'cost': {'tokens': 2 * flops, 'flops': flops, 'device_seconds': 0.5 * flops},
            'decoding': {'documents': 8},
        }
        for step, (flops, score) in enumerate(curve)
    ]
