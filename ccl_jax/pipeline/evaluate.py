"""`eval`: decode the evaluation split, score it beside the baselines, write the audit page."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ccl_jax.config import Config
from ccl_jax.decoding.predict import predict_documents
from ccl_jax.errors import UserError
from ccl_jax.evaluation.audit import audit_page, write_audit_page
from ccl_jax.evaluation.baselines import Lookup, Majority, fit_lookup, fit_majority
from ccl_jax.evaluation.familiarity import Familiarity
from ccl_jax.evaluation.metrics import code_statistics, paired_bootstrap
from ccl_jax.evaluation.report import evaluate, format_table, verdict
from ccl_jax.evaluation.strata import Strata
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.release import open_release
from ccl_jax.pipeline.files import write_text
from ccl_jax.pipeline.models import load_trained, open_mesh
from ccl_jax.pipeline.prepare import Prepared
from ccl_jax.pipeline.workdir import on_process_zero, say
from ccl_jax.records import Document, Prediction, Span, prediction_to_json, write_jsonl

MODEL_ROW = 'model'
SYNTHETIC_BANNER = 'These notes are synthetic: no patient stands behind them.'


def evaluate_run(config: Config, workdir: Path, prepared: Prepared) -> str:
    """Evaluates the newest checkpoint on `eval.split` and returns what to print.

    Writes `predictions.jsonl`, `metrics.json` and `audit.html` in `<workdir>/eval/<split>`.

    Raises:
        UserError: there is no checkpoint, or the split is unknown or empty.
    """
    settings = config.eval
    gold = [as_reference(document) for document in prepared.documents(settings.split)]
    gold = gold[: settings.max_documents] if settings.max_documents else gold
    if not gold:
        raise UserError(f'the split "{settings.split}" has no documents; set eval.split to another')
    mesh = open_mesh(config.mesh)
    step, decoder, tokenizer = load_trained(config, workdir, mesh)
    say(f'decoding {len(gold)} documents of {settings.split} with the checkpoint of step {step} ...')
    predictions, decoding = predict_documents(
        decoder,
        tokenizer,
        gold,
        buckets=config.training.plan.prompt_lengths,
        max_new_tokens=settings.max_new_tokens,
        batch_rows=settings.batch_rows,
    )
    say(decoding.sentence())
    directory = workdir / 'eval' / settings.split
    lines: list[str] = []

    def write() -> None:
        lines.append(_score(config, prepared, gold, predictions, directory, {'step': step, **decoding.to_json()}))

    on_process_zero(write, directory / 'metrics.json')
    return '\n'.join(lines)


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
    release = open_release(config.release)
    training, spans = prepared.documents('train'), prepared.spans()
    held_out = {(ICD10CM, code) for code in prepared.held_out}
    strata = Strata.from_training(training, spans, held_out)
    familiarity = Familiarity(span.text for span in spans)
    # Codes that annotators used count as valid although the release may have retired them.
    valid = {(ICD10CM, code) for code in release.codes()} | strata.document_codes
    systems = {MODEL_ROW: predictions} | _baselines(training, spans, gold)
    results = {
        name: evaluate(
            gold,
            answers,
            strata=strata,
            valid_codes=valid,
            familiarity=familiarity,
            seed=config.seed,
            samples=config.eval.bootstrap_samples,
        )
        for name, answers in systems.items()
    }
    statistics = {name: code_statistics(gold, answers, valid_codes=valid) for name, answers in systems.items()}
    differences = {
        name: paired_bootstrap(
            statistics[MODEL_ROW], statistics[name], seed=config.seed, samples=config.eval.bootstrap_samples
        )['micro_f1']
        for name in systems
        if name != MODEL_ROW
    }
    sentence = verdict(results, MODEL_ROW, differences)
    write_jsonl(directory / 'predictions.jsonl', map(prediction_to_json, predictions))
    page = audit_page(
        gold,
        predictions,
        title=f'{config.sources.name}, {config.eval.split}',
        title_of=lambda code: release.title(code) if code in release else None,
        valid_codes=valid,
        strata=strata,
        banner=SYNTHETIC_BANNER if prepared.synthetic else None,
    )
    write_audit_page(directory / 'audit.html', page)
    metrics = {
        **results[MODEL_ROW],
        'baselines': {name: result for name, result in results.items() if name != MODEL_ROW},
        'difference_to_baselines': {name: {'micro_f1': value.to_json()} for name, value in differences.items()},
        'split': config.eval.split,
        'source': config.sources.name,
        'synthetic': prepared.synthetic,
        'decoding': decoding,
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
            *(str(directory / name) for name in ('metrics.json', 'predictions.jsonl', 'audit.html')),
        ]
    )


def _baselines(training: list[Document], spans: list[Span], gold: list[Document]) -> dict[str, list[Prediction]]:
    systems: dict[str, Lookup | Majority] = {'majority': fit_majority(training)}
    if spans or any(annotation.evidence for document in training for annotation in document.annotations):
        systems = {'lookup': fit_lookup(training, spans), **systems}
    return {name: [system.predict(document) for document in gold] for name, system in systems.items()}
