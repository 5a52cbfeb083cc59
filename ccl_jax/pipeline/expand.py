"""`expand`: spans for the whole code space as a folder of files; and the same step within `prepare`."""

import dataclasses
import itertools
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from ccl_jax.config import Config
from ccl_jax.errors import UserError
from ccl_jax.expansion.coverage import format_coverage
from ccl_jax.expansion.coverage_page import write_coverage_page
from ccl_jax.expansion.endpoint.client import Endpoint
from ccl_jax.expansion.expand import Expansion, Generate, expand
from ccl_jax.expansion.finder_prompts import EVIDENCE_SCHEMA
from ccl_jax.expansion.finders import Finder, PromptFinder
from ccl_jax.expansion.held_out import held_out_to_json
from ccl_jax.expansion.synthetic_prompts import PHRASES_SCHEMA
from ccl_jax.icd.release import Release, open_release
from ccl_jax.pipeline.files import write_text
from ccl_jax.pipeline.sources import StoredDocuments, documents_file, write_documents
from ccl_jax.records import TIERS, Document, Span, span_to_json, write_jsonl
from ccl_jax.sources.corpus import Corpus, open_corpus
from ccl_jax.sources.jsonl import read_spans
from ccl_jax.sources.report import SourceReport

_CACHE = 'answers.jsonl'


def expand_release(config: Config, out: Path | None) -> Expansion:
    """Makes spans for the release alone, without documents: tiers 'gold' and 'synthetic'.

    Raises:
        UserError: as `expand_source`, or for a tier that needs documents.
    """
    needs = {'document', 'silver'} & set(config.expansion.tiers)
    if needs:
        raise UserError(
            f'spans of {" and ".join(sorted(needs))} come from documents; name a source by --config, '
            'or set --tiers=gold'
        )
    endpoint = _open_endpoint(config, out)
    return _write(_expand(config, open_release(config.release), None, (), (), endpoint), config, out)


def expand_source(config: Config, out: Path | None) -> Expansion:
    """Makes spans for the training documents of the config's source; all its other splits are evaluation.

    Writes, where `out` is given, `spans.jsonl`, `held_out.json`, `coverage.json`, and the plots.

    Raises:
        UserError: the source or the endpoint is unusable, or `out` cannot be written.
    """
    endpoint = _open_endpoint(config, out)
    release = open_release(config.release)
    # The finder of the silver tier looks at every code, and is stricter than the reader of the corpus.
    codiesp = dataclasses.replace(config.sources.codiesp, find_evidence='silver' not in config.expansion.tiers)
    corpus = open_corpus(dataclasses.replace(config.sources, codiesp=codiesp), release)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    # Clinical text, even for a while, stays where the user wants it.
    with tempfile.TemporaryDirectory(prefix='documents-', dir=out) as folder:
        seen = write_documents(corpus, Path(folder))
        splits = {n: StoredDocuments(documents_file(Path(folder), n), count) for n, count in seen.documents.items()}
        training = splits.pop('train', ())
        return _write(_expand(config, release, corpus, training, splits.values(), endpoint), config, out)


def expand_for_training(
    config: Config, release: Release, corpus: Corpus, splits: dict[str, StoredDocuments], directory: Path
) -> Expansion:
    """Makes the spans of a run; answers of an endpoint are kept in `directory`, so that they are paid once."""
    others = [documents for split, documents in splits.items() if split != 'train']
    return _expand(config, release, corpus, splits['train'], others, _open_endpoint(config, directory))


def sample_of(spans: Iterable[Span], count: int, seed: int) -> str:
    """Returns `count` random spans of each tier as text, for a person to judge."""
    by_tier: dict[str, list[Span]] = {}
    for span in spans:
        by_tier.setdefault(span.tier, []).append(span)
    blocks = []
    for tier in (tier for tier in TIERS if tier in by_tier):
        chosen = random.Random(f'{seed}:sample:{tier}').sample(by_tier[tier], min(count, len(by_tier[tier])))
        lines = [f'  {span.code:<9} {span.text}  [{span.provenance}]' for span in chosen]
        blocks.append('\n'.join([f'{tier}: {len(chosen)} of {len(by_tier[tier]):,}', *lines]))
    return '\n\n'.join(blocks)


def _expand(
    config: Config,
    release: Release,
    corpus: Corpus | None,
    training: Collection[Document],
    evaluation: Iterable[Iterable[Document]],
    endpoint: Endpoint | None,
) -> Expansion:
    settings = config.expansion
    usage: Counter[str] = Counter()
    own_spans = list(corpus.spans()) if corpus is not None else []
    if settings.spans_file:
        own_spans += read_spans(settings.spans_file, report=SourceReport(settings.spans_file, 'spans'))
    expansion = expand(
        training,
        settings,
        release,
        own_spans=own_spans,
        code_space=corpus.code_space if corpus is not None else None,
        held_out=corpus.held_out if corpus is not None else None,
        evaluation=itertools.chain.from_iterable(evaluation),
        finder=_finder(config, release, endpoint, usage),
        generate=_generator(config, endpoint, usage),
    )
    if usage:
        expansion.report['model'] = dict(usage)
    if endpoint is not None:
        expansion.report['endpoint'] = endpoint.report()
        if endpoint.stopped:
            print(f'warning: the endpoint was asked no more: {endpoint.stopped}', file=sys.stderr)
    return expansion


def _open_endpoint(config: Config, out: Path | None) -> Endpoint | None:
    settings = config.expansion
    used = ('silver' in settings.tiers and settings.finder == 'endpoint') or (
        'synthetic' in settings.tiers and settings.generator == 'endpoint'
    )
    if not used:
        return None
    endpoint = settings.endpoint
    if not endpoint.cache and out is not None:
        endpoint = dataclasses.replace(endpoint, cache=str(out / _CACHE))
    return Endpoint(endpoint)


def _finder(config: Config, release: Release, endpoint: Endpoint | None, usage: Counter[str]) -> Finder | None:
    settings = config.expansion
    if settings.finder == 'terms' or 'silver' not in settings.tiers:
        return None
    if settings.finder == 'endpoint' and endpoint is not None:
        return PromptFinder(lambda prompts: endpoint.generate(prompts, EVIDENCE_SCHEMA), release)
    return PromptFinder(_own_model(config, usage), release)


def _generator(config: Config, endpoint: Endpoint | None, usage: Counter[str]) -> Generate | None:
    settings = config.expansion
    if settings.generator == 'rules' or 'synthetic' not in settings.tiers:
        return None
    if settings.generator == 'endpoint' and endpoint is not None:
        return lambda prompts: endpoint.generate(prompts, PHRASES_SCHEMA)
    return _own_model(config, usage)


def _own_model(config: Config, usage: Counter[str]) -> Generate:
    if not config.model.path:
        raise UserError('finder or generator "model" needs a checkpoint; set model.path to a Hugging Face folder')
    # JAX starts only where a model is asked.
    from ccl_jax.decoding.answer import load_generate
    from ccl_jax.training.mesh import make_mesh

    mesh = make_mesh(config.mesh.replica, config.mesh.fsdp, config.mesh.tensor)
    return load_generate(
        config.model.path,
        mesh,
        param_dtype=config.model.param_dtype,
        compute_dtype=config.model.compute_dtype,
        buckets=config.training.plan.prompt_lengths,
        max_new_tokens=config.expansion.max_new_tokens,
        batch_rows=config.eval.batch_rows,
        usage=usage,
    )


def _write(expansion: Expansion, config: Config, out: Path | None) -> Expansion:
    if out is None:
        return expansion
    settings = config.expansion
    write_text(out / 'held_out.json', held_out_to_json(expansion.held_out, settings.held_out_share, settings.seed))
    write_text(out / 'coverage.json', json.dumps(expansion.report, indent=2) + '\n')
    write_coverage_page(expansion.report, out)
    # Last: its presence says that the rest is whole.
    write_jsonl(out / 'spans.jsonl', map(span_to_json, expansion.spans))
    return expansion


def summary(expansion: Expansion, out: Path | None) -> str:
    """Returns the coverage table and where the files are."""
    lines = [format_coverage(expansion.report)]
    if out is not None:
        lines += ['', *(str(out / name) for name in ('spans.jsonl', 'held_out.json', 'coverage.json', 'coverage.html'))]
    return '\n'.join(lines)
