"""What one finished run of a sweep says, read from its workdir or from a file of its small results.

Small results are all that tables, intervals and curves need, without any text: `<folder>/<arm>-seed<k>.json.gz`, a
JSON object.

    {"format": 1,
     "config":     key -> value of the run; see `settings_of`
     "metrics":    metrics.json
     "cost":       cost.json, or null
     "scores":     the lines of scores.jsonl
     "documents":  {"ids":       of the evaluated documents
                    "codes":     [system, code, stratum in this run]
                    "gold":      for each document, indices into codes
                    "predicted": the same, by rank
                    "evidence":  [document, code, is gold, counts of items and of grounding as in `EvidenceCounts`]}}

Both ways lead through this object, so what is read from a file is what was read from the workdir. It holds the codes
of each document: where the documents may not be given away, neither may it.
"""

import dataclasses
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccl_jax.config import Config, default_config, leaves
from ccl_jax.errors import UserError
from ccl_jax.evaluation.bootstrap import Estimate, Statistics
from ccl_jax.evaluation.evidence import EVIDENCE_METRICS, EvidenceCounts
from ccl_jax.evaluation.grounding import GROUNDING_KINDS
from ccl_jax.evaluation.metrics import pair_statistics
from ccl_jax.evaluation.pairs import Code, CodePairs, align
from ccl_jax.evaluation.strata import Strata
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.pipeline.evaluate import evaluated_documents
from ccl_jax.pipeline.files import write_bytes
from ccl_jax.pipeline.prepare import Prepared
from ccl_jax.pipeline.workdir import FREE_KEYS
from ccl_jax.sources.jsonl import read_predictions
from ccl_jax.studies.cost import read_scores
from ccl_jax.studies.sweep_config import Run
from ccl_jax.studies.sweep_run import metrics_file

FORMAT = 1
COSTS = ('tokens', 'flops', 'device_seconds')
UNDEFINED = Estimate(None, None, None)

# Beside `FREE_KEYS`: where a run keeps things, and how it reaches an endpoint.
_OF_THE_MACHINE = ('checkpoint_directory', 'cache', 'url', 'api_key_env', 'allow_remote')
# A name without a default, and no place.
_NAMES = ('expansion.endpoint.model',)

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Coded:
    """The codes and the evidence of the evaluated documents, counted.

    Attributes:
        stratum: of each code, by what the run's training saw.
    """

    pairs: CodePairs
    evidence: EvidenceCounts
    stratum: Mapping[Code, str]

    def statistics(self, part: str) -> Statistics:
        """Metrics of codes and evidence, of one stratum or of all codes for ''."""
        pairs, counts = self.pairs, self.evidence
        if part:
            pairs, counts = pairs.only(self.stratum.__getitem__, part), counts.only(self.stratum.__getitem__, part)
        codes, evidence = pair_statistics(pairs, valid_codes=(), is_part=bool(part)), counts.statistics()
        return Statistics(
            codes.unit_ids, lambda w: codes.compute(w) | evidence.compute(w), max(codes.width, evidence.width)
        )


@dataclasses.dataclass(frozen=True)
class Result:
    """What one finished run says.

    Attributes:
        metrics: name -> value with its interval over documents.
        cost: of `COSTS`, those that are known.
        scores: the lines of scores.jsonl.
        baselines: name -> the metrics of a baseline that stood beside the model.
    """

    arm: str
    seed: int
    metrics: Mapping[str, Estimate]
    baselines: Mapping[str, Mapping[str, Estimate]]
    cost: Mapping[str, float]
    scores: Sequence[Mapping[str, Any]]
    coded: Coded

    def value(self, metric: str) -> float | None:
        return self.metrics.get(metric, UNDEFINED).value


def result_of(run: Run, record: Record) -> Result:
    """What a record of `run` says."""
    total = (record['cost'] or {}).get('total', {})
    return Result(
        run.arm,
        run.seed,
        _estimates(record['metrics']),
        {name: _estimates(saved) for name, saved in record['metrics'].get('baselines', {}).items()},
        {name: float(total[name]) for name in COSTS if total.get(name) is not None},
        record['scores'],
        _coded(record['documents']),
    )


def read_record(run: Run) -> Record:
    """Reads the workdir of a finished run. Raises UserError if scores.jsonl cannot be read."""
    metrics = json.loads(metrics_file(run).read_text(encoding='utf-8'))
    # Those of `eval`, which the config has too, there without places.
    del metrics['settings']
    path = run.workdir / 'cost.json'
    try:
        scores = read_scores(run.workdir)
    except ValueError:
        raise UserError(
            f'scores.jsonl in {run.workdir} cannot be read; run "ccl-jax train" there again, or remove it'
        ) from None
    return {
        'format': FORMAT,
        'config': settings_of(run.config),
        'metrics': metrics,
        'cost': json.loads(path.read_text(encoding='utf-8')) if path.exists() else None,
        'scores': scores,
        'documents': _count_documents(run),
    }


def settings_of(config: Config) -> dict[str, Any]:
    """Dotted key -> value of all that decides a run's results.

    Left out is where and in how much memory it was made. A file or folder that is read counts by whether it is
    named: its path says nothing on another machine.
    """
    return _settings(config.tree)


def _settings(tree: dict[str, Any]) -> dict[str, Any]:
    places = {key for key, value in leaves(default_config().to_dict()) if value == '' and key not in _NAMES}
    return {
        key: bool(value) if key in places else value
        for key, value in leaves(tree)
        if not key.startswith('mesh.') and key.rpartition('.')[2] not in (*FREE_KEYS, *_OF_THE_MACHINE)
    }


def record_file(run: Run, folder: Path) -> Path:
    return folder / f'{run.arm}-seed{run.seed}.json.gz'


def write_record(record: Record, path: Path) -> None:
    """Writes small results; the same ones give the same bytes. Raises UserError as `write_bytes`."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename='', mode='wb', fileobj=packed, mtime=0) as file:
        file.write(json.dumps(record, sort_keys=True, separators=(',', ':')).encode())
    write_bytes(path, packed.getvalue())


def load_record(path: Path) -> Record:
    """Reads what `write_record` wrote. Raises UserError if it cannot be read or has another format."""
    try:
        record = json.loads(gzip.decompress(path.read_bytes()))
        version = record['format']
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
        raise UserError(f'{path} cannot be read; restore it, or remove it and make the run again') from None
    if version != FORMAT:
        raise UserError(
            f'{path} has format {version} and this version reads {FORMAT}; remove it and make the run again'
        )
    return record


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[str]:
    """Yields in what two results of `settings_of` differ.

    A key that came into being after `saved` was written counts there as its default, which leaves things as they were.
    """
    saved = _settings(default_config().to_dict()) | dict(saved)
    for key in sorted(saved.keys() | current.keys()):
        if saved.get(key) != current.get(key):
            yield f'{key} was {json.dumps(saved.get(key))}, is {json.dumps(current.get(key))}'


def _estimates(saved: Mapping[str, Any]) -> dict[str, Estimate]:
    """Name -> estimate of a metrics.json, with the parts of the codes before the name: S1.micro_f1."""
    sections = {'': saved} | {f'{name}.': part for name, part in saved['strata'].items()}
    sections |= {f'{name}.': part for name, part in saved.get('evidence_in_spans', {}).items()}
    return {
        f'{prefix}{name}': Estimate(**estimate)
        for prefix, section in sections.items()
        for name, estimate in section['metrics'].items()
    }


def _count_documents(run: Run) -> Record:
    report = json.loads((run.workdir / 'data' / 'report.json').read_text(encoding='utf-8'))
    prepared = Prepared(run.workdir / 'data', frozenset(report['held_out']), report['synthetic'])
    gold = evaluated_documents(prepared, run.config.eval.split, run.config.eval.max_documents)
    units = align(gold, list(read_predictions(run.evaluation / 'predictions.jsonl')))
    pairs, counts = CodePairs.of(units), EvidenceCounts.of(units)
    held_out = {(ICD10CM, code) for code in prepared.held_out}
    strata = Strata.from_training(prepared.documents('train'), prepared.stream_spans(), held_out)
    index = {code: i for i, code in enumerate(pairs.codes)}
    evidence = zip(counts.units, counts.columns, counts.is_gold, counts.items, counts.grounding, strict=True)
    # Sorted where the order means nothing, so that the same results are the same bytes.
    return {
        'ids': list(pairs.unit_ids),
        'codes': [[*code, strata.stratum(code)] for code in pairs.codes],
        'gold': [sorted(codes) for codes in _by_unit(pairs.gold_units, pairs.gold_codes, len(units))],
        'predicted': _by_unit(pairs.predicted_units, pairs.predicted_codes, len(units)),
        'evidence': sorted(
            [int(u), index[counts.codes[c]], int(is_gold), *map(int, items.ravel()), *map(int, grounding)]
            for u, c, is_gold, items, grounding in evidence
        ),
    }


def _coded(documents: Record) -> Coded:
    ids, codes = tuple(documents['ids']), tuple((system, code) for system, code, _ in documents['codes'])
    items = 3 * len(EVIDENCE_METRICS)
    rows = np.array(documents['evidence'], np.int64).reshape(-1, 3 + items + len(GROUNDING_KINDS))
    return Coded(
        CodePairs(ids, codes, *_flat(documents['gold']), *_flat(documents['predicted'])),
        EvidenceCounts(
            ids,
            codes,
            rows[:, 0],
            rows[:, 1],
            rows[:, 3 : 3 + items].astype(float).reshape(-1, len(EVIDENCE_METRICS), 3),
            rows[:, 2].astype(bool),
            rows[:, 3 + items :].astype(float),
        ),
        {(system, code): stratum for system, code, stratum in documents['codes']},
    )


def _by_unit(units: np.ndarray, codes: np.ndarray, count: int) -> list[list[int]]:
    lists: list[list[int]] = [[] for _ in range(count)]
    for unit, code in zip(units.tolist(), codes.tolist(), strict=True):
        lists[unit].append(code)
    return lists


def _flat(lists: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(units, codes), the inverse of `_by_unit`."""
    units = np.repeat(np.arange(len(lists)), [len(codes) for codes in lists])
    return units, np.array(list(itertools.chain.from_iterable(lists)), np.int64)
