"""All tiers of spans, filtered: from the code system, from documents and from neighbouring codes."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.expansion.coverage import coverage
from ccl_jax.expansion.documents import document_spans
from ccl_jax.expansion.filters import filter_spans
from ccl_jax.expansion.finders import Finder, TermFinder, silver_spans
from ccl_jax.expansion.gold import gold_spans
from ccl_jax.expansion.held_out import draw_held_out, read_held_out
from ccl_jax.expansion.leakage import Leakage
from ccl_jax.expansion.settings import ExpansionSettings
from ccl_jax.expansion.synthetic import prompt_spans, rule_spans
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.release import Release
from ccl_jax.records import Document, Span

# A model or an endpoint: one answer a prompt, in order; None where there is none.
Generate = Callable[[Sequence[str]], Sequence[str | None]]


@dataclasses.dataclass(frozen=True)
class Expansion:
    """The spans for training.

    Attributes:
        spans: rare codes first.
        held_out: codes that no span carries, on purpose.
        report: the content of coverage.json: what was made, dropped and covered.
    """

    spans: tuple[Span, ...]
    held_out: frozenset[str]
    report: dict[str, Any]


def expand(
    documents: Collection[Document],
    settings: ExpansionSettings,
    release: Release,
    *,
    own_spans: Iterable[Span] = (),
    code_space: Sequence[str] | None = None,
    held_out: frozenset[str] | None = None,
    evaluation: Iterable[Document] = (),
    finder: Finder | None = None,
    generate: Generate | None = None,
) -> Expansion:
    """Makes the spans that `settings` ask for, and filters them together with `own_spans`.

    Args:
        documents: the training documents, iterated several times.
        own_spans: spans that the source or the user brings.
        code_space: the codes that the source defines, for scope 'source'.
        held_out: the codes that the source keeps out; None to read or draw them as `settings` say.
        evaluation: the documents whose words may not come into training.
        finder: who finds silver evidence; None for the terms of the release.
        generate: who writes synthetic spans; None for rules.

    Raises:
        UserError: scope 'source' without a code space.
    """
    frequency = Counter(
        code for document in documents for code in {a.code for a in document.annotations if a.system == ICD10CM}
    )
    own_spans = list(own_spans)
    if held_out is None:
        held_out = _held_out(settings, release, own_spans, frequency)
    counts: Counter[str] = Counter()
    spans = [span for span in own_spans if span.code not in held_out]
    counts['own spans of held-out codes'] = len(own_spans) - len(spans)
    scope = []
    if {'gold', 'synthetic'} & set(settings.tiers):
        scope = _codes_in_scope(settings.scope, code_space, frequency, release)
    wanted = [code for code in scope if code not in held_out]
    counts['codes in scope'] = len(scope)
    counts['codes in scope that are held out'] = len(scope) - len(wanted)
    if 'gold' in settings.tiers:
        spans += gold_spans(release, wanted, settings.forms)
    spans += [span for span in document_spans(documents) if span.tier in settings.tiers and span.code not in held_out]
    if 'silver' in settings.tiers:
        spans += silver_spans(map(_without_evidence, documents), finder or TermFinder(release), counts)
    if 'synthetic' in settings.tiers:
        # Rules and prompts are English, and so must be what they work on.
        foreign = {span.span_id for span in document_spans(d for d in documents if d.language != 'en')}
        english = [span for span in spans if span.span_id not in foreign]
        spans += _synthetic(release, wanted, english, settings, generate, counts)
    kept, filters = filter_spans(
        spans, release, settings.filters, leakage=Leakage(_known_apart(evaluation, documents)), frequency=frequency
    )
    report = coverage(kept, release, held_out, frequency, filters=filters.to_json())
    report |= {'counts': {name: count for name, count in counts.items() if count}, 'held_out': len(held_out)}
    return Expansion(tuple(kept), held_out, report)


def _known_apart(evaluation: Iterable[Document], training: Iterable[Document]) -> Iterator[Document]:
    """Yields the evaluation documents; one that only shares its id with a training document gives up the id,
    because spans of the training document are not drawn from it."""
    texts = {document.doc_id: hash(document.text) for document in training}
    for document in evaluation:
        collides = texts.get(document.doc_id, hash(document.text)) != hash(document.text)
        yield dataclasses.replace(document, doc_id='') if collides else document


def _held_out(
    settings: ExpansionSettings, release: Release, own_spans: Iterable[Span], carried: Collection[str]
) -> frozenset[str]:
    if settings.held_out_file:
        listed = read_held_out(settings.held_out_file)
        leaked = sorted(listed & set(carried))
        if leaked:
            raise UserError(
                f'{len(leaked)} codes of {settings.held_out_file} are carried by training documents, '
                f'{leaked[0]} first; take the file that belongs to these documents'
            )
        return listed
    codes = dict.fromkeys((*release.codes(), *(span.code for span in own_spans if span.system == ICD10CM)))
    return draw_held_out(codes, carried, settings.held_out_share, settings.seed)


def _codes_in_scope(
    scope: str, code_space: Sequence[str] | None, carried: Collection[str], release: Release
) -> list[str]:
    """Returns the codes that get gold spans: headers and retired codes only where a document carries them."""
    if scope == 'source':
        if code_space is None:
            raise UserError('this source defines no code space; set expansion.scope to categories or release')
        return list(code_space)
    codes: Iterable[str] = release.billable_codes()
    if scope == 'categories':
        categories = {code[:3] for code in carried}
        codes = (code for code in codes if code[:3] in categories)
    return list(dict.fromkeys((*codes, *sorted(carried))))


def _without_evidence(document: Document) -> Document:
    """Returns the document with only the codes that have no evidence: the others need no finder."""
    missing = tuple(a for a in document.annotations if a.system == ICD10CM and not a.evidence)
    return dataclasses.replace(document, annotations=missing)


def _synthetic(
    release: Release,
    codes: Sequence[str],
    spans: Sequence[Span],
    settings: ExpansionSettings,
    generate: Generate | None,
    counts: Counter[str],
) -> Iterator[Span]:
    evidence: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if span.system == ICD10CM:
            evidence[span.code].append(span)
    if generate is None:
        return rule_spans(release, codes, evidence, wanted=settings.spans_per_code)
    poor = [code for code in codes if len(evidence[code]) < settings.spans_per_code]
    return prompt_spans(generate, release, poor, evidence, per_code=settings.spans_per_code, counts=counts)
