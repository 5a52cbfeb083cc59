"""Synthetic spans: what could be said of a code, from what is said of its neighbour.

A neighbour stands near by in the tabular list: under the same parent, else in
the same category. `rule_spans` edits the neighbour's span by the difference of
the two titles; `prompt_spans` asks a language model.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ccl_jax.expansion.neighbors import Neighbor, Neighborhood
from ccl_jax.expansion.synthetic_prompts import parse_phrases, synthetic_prompt
from ccl_jax.expansion.title_difference import edit
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release
from ccl_jax.icd.terms import natural_form
from ccl_jax.records import Span

# Spans of the neighbour that a prompt shows.
_SHOWN_SPANS = 5
# Prompts per call of the model: enough to keep an endpoint busy, few enough to lose little when a run is killed.
_BATCH = 256


def rule_spans(
    release: Release, codes: Iterable[str], evidence: Mapping[str, Sequence[Span]], *, wanted: int
) -> Iterator[Span]:
    """Yields spans edited from those of neighbours, for each of `codes` that has fewer than `wanted` in `evidence`.

    A code gets as many as it lacks, or fewer: spans of documents are edited
    before terms, and one of each neighbour, nearest first, before the second
    of any. A wording that the code has already, apart from brackets and words
    like 'unspecified', is not made. Codes that the release lacks get none.

    Args:
        evidence: code -> its spans. Synthetic ones are not edited again.
    """
    neighborhood = Neighborhood(release)
    for code in codes:
        own = evidence.get(code, ())
        if len(own) >= wanted or code not in release:
            continue
        seen = set().union(*(_wordings(span.text) for span in own))
        number = 0
        for text, neighbor, span in _edits(neighborhood.near(code), evidence):
            if number == wanted - len(own):
                break
            if _wordings(text) & seen:
                continue
            seen |= _wordings(text)
            origin = f'edited from {neighbor.code}: {neighbor.difference}'
            yield Span(f'synthetic:{code}:{number}', text, code, 'synthetic', _provenance(origin, span))
            number += 1


def prompt_spans(
    generate: Callable[[Sequence[str]], Sequence[str | None]],
    release: Release,
    codes: Iterable[str],
    evidence: Mapping[str, Sequence[Span]],
    *,
    per_code: int,
    counts: Counter[str],
) -> Iterator[Span]:
    """Yields up to `per_code` phrases for each of `codes` that a model wrote, given the evidence of a neighbour.

    The neighbour is the nearest code that has evidence; a title that differs
    by little comes first. A code without one is not asked for. A bad answer
    costs its own code only.

    Args:
        generate: a model or an endpoint: one answer a prompt, in order, None where there is none. It should hold
            answers to `synthetic_prompts.PHRASES_SCHEMA` if it can.
        counts: gets, by name, how many prompts were asked, and what became of the answers and their phrases.

    Raises:
        ValueError: `generate` does not give one answer a prompt.
    """
    neighborhood = Neighborhood(release)
    examples = _examples(neighborhood, (code for code in codes if code in release), evidence, counts)
    while batch := list(itertools.islice(examples, _BATCH)):
        prompts = [synthetic_prompt(release, code, neighbor, shown, per_code) for code, neighbor, shown in batch]
        counts['prompts asked'] += len(prompts)
        for (code, neighbor, shown), answer in zip(batch, generate(prompts), strict=True):
            known = [*evidence.get(code, ()), *shown]
            # A document's words may come back in the answer, so that its id must stand first.
            source = next((span for span in shown if _of_document(span)), shown[0])
            origin = _provenance(f'written by a model after {neighbor}', source)
            for number, text in enumerate(_new_phrases(answer, known, per_code, counts)):
                yield Span(f'synthetic:{code}:written:{number}', text, code, 'synthetic', origin)


def _edits(
    neighbors: Sequence[Neighbor], evidence: Mapping[str, Sequence[Span]]
) -> Iterator[tuple[str, Neighbor, Span]]:
    """Yields (edited text, neighbour, its span), best first."""
    found: list[tuple[tuple[bool, int, int], tuple[str, Neighbor, Span]]] = []
    for place, neighbor in enumerate(neighbors):
        turns = Counter[bool]()
        for span in evidence.get(neighbor.code, ()):
            text = edit(span.text, neighbor.difference) if span.tier != 'synthetic' else None
            if text is not None:
                term = not _of_document(span)
                found.append(((term, turns[term], place), (text, neighbor, span)))
                turns[term] += 1
    found.sort(key=lambda ranked: ranked[0])
    yield from (edited for _, edited in found)


def _examples(
    neighborhood: Neighborhood, codes: Iterable[str], evidence: Mapping[str, Sequence[Span]], counts: Counter[str]
) -> Iterator[tuple[str, str, list[Span]]]:
    """Yields (code, neighbour, the spans to show): of documents at most one, as a span names a single source."""
    for code in codes:
        candidates = itertools.chain((neighbor.code for neighbor in neighborhood.near(code)), neighborhood.around(code))
        neighbor = next((other for other in candidates if evidence.get(other)), None)
        if neighbor is None:
            counts['no neighbour with evidence'] += 1
            continue
        of_documents = [span for span in evidence[neighbor] if _of_document(span)]
        terms = [span for span in evidence[neighbor] if not _of_document(span)]
        yield code, neighbor, [*of_documents[:1], *terms][:_SHOWN_SPANS]


def _new_phrases(answer: str | None, known: Iterable[Span], per_code: int, counts: Counter[str]) -> Iterator[str]:
    """Yields the phrases of an answer that say something new, and counts the rest by reason."""
    phrases = parse_phrases(answer) if answer is not None else ()
    if answer is None:
        counts['no answer'] += 1
    elif phrases is None:
        counts['answer is not the JSON asked for'] += 1
    seen = {fold(span.text) for span in known}
    for number, phrase in enumerate(phrases or ()):
        if number >= per_code:
            counts['phrase beyond the number asked for'] += 1
        elif not fold(phrase):
            counts['phrase has no words or cannot be printed'] += 1
        elif fold(phrase) in seen:
            counts['phrase repeats a known span'] += 1
        else:
            seen.add(fold(phrase))
            counts['phrases kept'] += 1
            yield phrase


def _wordings(text: str) -> set[str]:
    return {fold(text), fold(natural_form(text))}


def _of_document(span: Span) -> bool:
    return span.provenance.startswith('doc:')


def _provenance(origin: str, span: Span) -> str:
    """Returns what was done and to what, with the document first, as that decides about leakage."""
    return f'{span.provenance}, {origin}' if _of_document(span) else f'{origin}; {span.provenance}'
