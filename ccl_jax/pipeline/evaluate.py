"""`eval`: decode the evaluation split, score it beside the baselines, draw it, write the audit page."""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ccl_jax.config import Config
from ccl_jax.errors import UserError
from ccl_jax.evaluation.audit import audit_page, write_audit_page
from ccl_jax.evaluation.bootstrap import Estimate, paired_bootstrap
from ccl_jax.evaluation.familiarity import Familiarity
from ccl_jax.evaluation.flags import flags_of
from ccl_jax.evaluation.label_space import ValidCodes
from ccl_jax.evaluation.metrics import code_statistics
from ccl_jax.evaluation.pairs import document_codes
from ccl_jax.evaluation.plots import Plot, evaluation_plots
from ccl_jax.evaluation.report import evaluate, format_table, verdict
from ccl_jax.evaluation.strata import Strata
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.release import Release, open_release
from ccl_jax.pipeline.baselines import predict_baselines
from ccl_jax.pipeline.coding import coder_of_run
from ccl_jax.pipeline.cost import record_evaluation
from ccl_jax.pipeline.files import write_text
from ccl_jax.pipeline.prepare import Prepared
from ccl_jax.pipeline.workdir import on_process_zero, say
from ccl_jax.records import Document, Prediction, prediction_to_json, write_jsonl

MODEL_ROW = 'model'
SYNTHETIC_BANNER = 'These notes are synthetic: no patient stands behind them.'


def evaluate_run(config: Config, workdir: Path, prepared: Prepared) -> str:
    """Evaluates the newest checkpoint on `eval.split` and returns what to print.

    Writes `predictions.jsonl`, `metrics.json`, `figures/` and `audit.html` in `<workdir>/eval/<split>`.

    Raises:
        UserError: there is no checkpoint, or the split is unknown or empty.
    """
    settings = config.eval
    began = time.perf_counter()
    gold = evaluated_documents(prepared, settings.split, settings.max_documents)
    coder = coder_of_run(workdir, config)
    say(f'decoding {len(gold)} documents of {settings.split} with the checkpoint of step {coder.step} ...')
    predictions, decoding = coder.predict(gold)
    say(decoding.sentence())
    directory = workdir / 'eval' / settings.split
    lines: list[str] = []

    def write() -> None:
        lines.append(_score(config, prepared, gold, predictions, directory, {'step': coder.step, **decoding.to_json()}))

    record_evaluation(workdir, settings.split, decoding, time.perf_counter() - began)
    on_process_zero(write, directory / 'metrics.json')
    return '\n'.join(lines)


def evaluated_documents(prepared: Prepared, split: str, most: int) -> list[Document]:
    """Returns the first `most` (0: all) documents of a split as references to score against.

    Raises:
        UserError: the split is unknown or empty.
    """
    documents = [as_reference(document) for document in prepared.documents(split)]
    if not documents:
        raise UserError(f'the split "{split}" has no documents; set eval.split to another')
    return documents[:most] if most else documents


def as_reference(document: Document) -> Document:
    """Returns the document without silver evidence: what no person annotated is no reference to score against."""
    annotations = tuple(
        dataclasses.replace(a, evidence=tuple(e for e in a.evidence if not e.origin)) for a in document.annotations
    )
    return dataclasses.replace(document, annotations=annotations)


def _score(
    config: Config,
    prepared: Prepared,
    gold: list[Document],
    predictions: list[Prediction],
    directory: Path,
    decoding: dict[str, Any],
) -> str:
    """Writes all of an evaluation's files; returns what to print."""
    release = open_release(config.release)
    training, spans = prepared.documents('train'), prepared.spans()
    strata = Strata.from_training(training, spans, {(ICD10CM, code) for code in prepared.held_out})
    systems = {MODEL_ROW: predictions} | predict_baselines(
        config.eval.baselines, training, spans, gold, release=release, held_out=prepared.held_out, seed=config.seed
    )
    # Codes that annotators used count as valid although the release may have retired them.
    valid = ValidCodes(release, strata.document_codes | document_codes(gold))
    draws: dict[str, Any] = {'seed': config.seed, 'samples': config.eval.bootstrap_samples}
    familiarity = Familiarity(span.text for span in spans)
    results = {
        name: evaluate(
            gold,
            answers,
            strata=strata,
            valid_codes=valid,
            label_space=strata.document_codes,
            familiarity=familiarity,
            **draws,
        )
        for name, answers in systems.items()
    }
    differences = _differences(gold, systems, valid, draws)
    sentence = verdict(results, MODEL_ROW, differences)
    write_jsonl(directory / 'predictions.jsonl', map(prediction_to_json, predictions))
    _draw(config, prepared, gold, systems, strata, release, draws, directory)
    metrics = {
        **results[MODEL_ROW],
        'baselines': {name: result for name, result in results.items() if name != MODEL_ROW},
        'difference_to_baselines': {name: {'micro_f1': value.to_json()} for name, value in differences.items()},
        'split': config.eval.split,
        'source': config.sources.name,
        'synthetic': prepared.synthetic,
        'decoding': decoding,
        'settings': {**config.tree['eval'], 'split': config.eval.split},
        'verdict': sentence,
    }
    # Last: its presence says that the evaluation is whole.
    write_text(directory / 'metrics.json', json.dumps(metrics, indent=2) + '\n')
    title = f'{config.sources.name}, {config.eval.split}, {len(gold)} documents'
    return '\n'.join(
        [
            f'{title} ({SYNTHETIC_BANNER})' if prepared.synthetic else title,
            '',
            format_table(results),
            '',
            sentence,
            '',
            *(str(directory / name) for name in ('metrics.json', 'predictions.jsonl', 'audit.html', 'figures')),
        ]
    )


def _differences(
    gold: list[Document], systems: Mapping[str, list[Prediction]], valid: ValidCodes, draws: Mapping[str, int]
) -> dict[str, Estimate]:
    """Returns for each baseline by how much the model's micro F1 is above its own."""
    statistics = {name: code_statistics(gold, answers, valid_codes=valid) for name, answers in systems.items()}
    return {
        name: paired_bootstrap(statistics[MODEL_ROW], of_baseline, **draws)['micro_f1']
        for name, of_baseline in statistics.items()
        if name != MODEL_ROW
    }


def _draw(
    config: Config,
    prepared: Prepared,
    gold: list[Document],
    systems: Mapping[str, list[Prediction]],
    strata: Strata,
    release: Release,
    draws: Mapping[str, int],
    directory: Path,
) -> None:
    """Writes the plots and the audit page."""

    def title_of(code: str) -> str | None:
        return release.title(code) if code in release else None

    plots = evaluation_plots(
        gold, systems, model=MODEL_ROW, strata=strata, title_of=title_of, seed=draws['seed'], samples=draws['samples']
    )
    _write_plots(plots, directory / 'figures')
    known = strata.document_codes
    answers_of = {prediction.doc_id: prediction for prediction in systems[MODEL_ROW]}
    page = audit_page(
        gold,
        systems[MODEL_ROW],
        title=f'{config.sources.name}, {config.eval.split}',
        title_of=title_of,
        flags={d.doc_id: flags_of(d, answers_of[d.doc_id], release, known_codes=known) for d in gold},
        strata=strata,
        banner=SYNTHETIC_BANNER if prepared.synthetic else None,
        figures=[(plot.title, plot.image, plot.alt) for plot in plots.values()],
    )
    write_audit_page(directory / 'audit.html', page)


def _write_plots(plots: Mapping[str, Plot], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, plot in plots.items():
        (directory / name).write_bytes(plot.image)
