"""Short spans (evidence -> code): from the code system itself and from annotated documents."""

import dataclasses
import hashlib
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.release import Release
from ccl_jax.icd.terms import natural_form
from ccl_jax.records import Document, Span
from ccl_jax.tasks.prompts import quote_of

TIERS = ('gold', 'document', 'silver')
SCOPES = ('source', 'categories', 'release')


@dataclasses.dataclass(frozen=True)
class ExpansionSettings:
    """Which spans are made.

    Attributes:
        tiers: of `TIERS`: 'gold' from the release, 'document' from the training annotations,
            'silver' from evidence of the training documents that no person annotated.
        scope: the codes that get gold spans. 'source': the code space that the
            source defines; 'categories': the training codes and every billable
            code of their three-character categories; 'release': every billable code.
        max_gold_spans: a seeded sample of that size is kept; 0 keeps all.
        held_out_share: share of the codes outside the training documents that
            no span may carry (stratum S2), chosen by seed; not for sources that
            hold out codes themselves.
    """

    tiers: tuple[str, ...] = TIERS
    scope: str = 'source'
    max_gold_spans: int = 0
    held_out_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [tier for tier in self.tiers if tier not in TIERS]
        if unknown:
            raise UserError(f'tiers has "{unknown[0]}"; it must be one of {", ".join(TIERS)}')
        if self.scope not in SCOPES:
            raise UserError(f'scope is "{self.scope}"; it must be one of {", ".join(SCOPES)}')
        if self.max_gold_spans < 0:
            raise UserError(f'max_gold_spans is {self.max_gold_spans}; it must be at least 0, which keeps all')
        if not 0 <= self.held_out_share <= 1:
            raise UserError(f'held_out_share is {self.held_out_share}; it must lie between 0 and 1')


@dataclasses.dataclass(frozen=True)
class Expansion:
    """The spans for training.

    Attributes:
        held_out: codes that no span carries, on purpose.
        report: spans per tier, codes per tier, and what was dropped.
    """

    spans: tuple[Span, ...]
    held_out: frozenset[str]
    report: dict[str, Any]


def expand(
    documents: Collection[Document],
    settings: ExpansionSettings,
    release: Release,
    *,
    own_spans: Sequence[Span] = (),
    code_space: Sequence[str] | None = None,
    held_out: frozenset[str] | None = None,
) -> Expansion:
    """Makes the spans that `settings` ask for; the source's `own_spans` come first.

    Args:
        documents: the training documents, iterated twice.
        code_space: the codes that the source defines, for scope 'source'.
        held_out: the codes that the source keeps out; None to draw them by `held_out_share`.

    Raises:
        UserError: scope 'source' without a code space, or no span at all.
    """
    carried = {annotation.code for document in documents for annotation in document.annotations}
    spans = list(own_spans)
    if 'gold' in settings.tiers:
        gold = list(gold_spans(release, _codes_in_scope(settings.scope, code_space, carried, release)))
        if settings.max_gold_spans and len(gold) > settings.max_gold_spans:
            gold = random.Random(f'{settings.seed}:gold').sample(gold, settings.max_gold_spans)
        spans += gold
    spans += [span for span in document_spans(documents) if span.tier in settings.tiers]
    if held_out is None:
        held_out = frozenset(
            code
            for code in {*release.codes(), *(span.code for span in spans)}
            if code not in carried and _drawn(code, settings)
        )
    kept = [span for span in spans if span.code not in held_out]
    report = {
        'spans': {tier: sum(span.tier == tier for span in kept) for tier in sorted({span.tier for span in kept})},
        'codes': len({span.code for span in kept}),
        'codes_only_in_spans': len({span.code for span in kept} - carried),
        'dropped_held_out': len(spans) - len(kept),
    }
    return Expansion(tuple(kept), held_out, report)


def gold_spans(release: Release, codes: Iterable[str]) -> Iterator[Span]:
    """Yields the terms of each code: title and inclusion terms, as printed and as a note
    would write them (`natural_form`), each wording of a code once.

    Codes that the release does not know yield nothing.
    """
    for code in codes:
        if code not in release:
            continue
        terms = [('title', release.title(code))]
        terms += [('inclusion_term', term) for term in release.inclusion_terms(code)]
        wordings: dict[str, str] = {}
        for origin, term in terms:
            wordings.setdefault(term, origin)
            wordings.setdefault(natural_form(term), f'{origin}, natural form')
        for number, (text, origin) in enumerate(wordings.items()):
            yield Span(f'gold:{code}:{number}', text, code, tier='gold', provenance=f'{release.name}: {origin}')


def document_spans(documents: Iterable[Document]) -> Iterator[Span]:
    """Yields the evidence of the documents, each (folded text, code) once: tier 'document' where a person
    annotated it, else 'silver'."""
    seen: set[tuple[str, str]] = set()
    for document in documents:
        for annotation in document.annotations:
            if annotation.system != ICD10CM:
                continue
            for evidence in annotation.evidence:
                text = quote_of(document.text, evidence)
                key = (text.casefold(), annotation.code)
                if key in seen:
                    continue
                seen.add(key)
                parts = '+'.join(f'{begin}-{end}' for begin, end in evidence.parts)
                tier = 'silver' if evidence.origin else 'document'
                origin = f', {evidence.origin}' if evidence.origin else ''
                yield Span(
                    span_id=f'{tier}:{document.doc_id}:{parts}:{annotation.code}',
                    text=text,
                    code=annotation.code,
                    tier=tier,
                    provenance=f'doc:{document.doc_id}{origin}',
                )


def _codes_in_scope(
    scope: str, code_space: Sequence[str] | None, carried: Collection[str], release: Release
) -> list[str]:
    if scope == 'release':
        return list(release.billable_codes())
    if scope == 'categories':
        categories = {code[:3] for code in carried}
        return sorted(
            {code for code in release.billable_codes() if code[:3] in categories}
            | {code for code in carried if code in release}
        )
    if code_space is None:
        raise UserError('this source defines no code space; set expansion.scope to categories or release')
    return list(code_space)


def _drawn(code: str, settings: ExpansionSettings) -> bool:
    """Whether the seed holds this code out; a function of the code alone, so that scopes agree."""
    digest = hashlib.sha256(f'{settings.seed}:held out:{code}'.encode()).digest()
    return int.from_bytes(digest[:8]) < settings.held_out_share * 2**64
