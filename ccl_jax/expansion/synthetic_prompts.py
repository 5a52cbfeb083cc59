"""What a language model is asked for synthetic spans, and how its answer is read."""

import json
from collections.abc import Sequence
from typing import Any

from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release
from ccl_jax.records import Span

# The answer that is asked for, as a JSON schema for endpoints that can be held to one.
PHRASES_SCHEMA: dict[str, Any] = {
    'type': 'object',
    'properties': {'phrases': {'type': 'array', 'items': {'type': 'string'}}},
    'required': ['phrases'],
    'additionalProperties': False,
}

# A few headers carry dozens of notes; the first ones describe the code well enough.
_MAX_NOTES = 12

_PROMPT = """\
Two neighbouring ICD-10-CM codes:

Code B, {neighbor}: {neighbor_title}
{neighbor_difference}Phrases from clinical notes and terms that support code B:
{evidence}

Code A, {code}: {title}
{difference}{notes}
Write {count} short phrases that a clinician could write in a note and that support code A, not code B. \
Vary wording and abbreviations as notes do; 2 to 12 words each; no code, no negation, no explanation, \
and no detail beyond what code A says. \
Answer with JSON only: {{"phrases": ["...", "..."]}}
"""


def synthetic_prompt(release: Release, code: str, neighbor: str, spans: Sequence[Span], count: int) -> str:
    """Returns the prompt that asks for `count` phrases for `code`, given `spans` of its neighbour.

    Raises:
        KeyError: the release does not have one of the codes.
    """
    title, neighbor_title = release.title(code), release.title(neighbor)
    notes = [f'- {term}' for term in (*release.inclusion_terms(code), *release.includes(code))]
    notes += [f'- not: {note}' for note in release.excludes1(code)]
    return _PROMPT.format(
        code=code,
        title=title,
        difference=_only_in('Only in the title of A', title, neighbor_title),
        notes=''.join(f'{line}\n' for line in ('Notes of code A:', *notes[:_MAX_NOTES])) if notes else '',
        neighbor=neighbor,
        neighbor_title=neighbor_title,
        neighbor_difference=_only_in('Only in the title of B', neighbor_title, title),
        evidence='\n'.join(f'- {span.text}' for span in spans),
        count=count,
    )


def parse_phrases(answer: str) -> tuple[str, ...] | None:
    """Returns the phrases of an answer, white space made single; None unless it is exactly what `PHRASES_SCHEMA` says.

    A phrase of white space, and one with characters that cannot be printed, is ''.
    """
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict) or set(parsed) != {'phrases'} or not isinstance(parsed['phrases'], list):
        return None
    if not all(isinstance(phrase, str) for phrase in parsed['phrases']):
        return None
    phrases = (' '.join(phrase.split()) for phrase in parsed['phrases'])
    return tuple(phrase if phrase.isprintable() else '' for phrase in phrases)


def _only_in(heading: str, title: str, other: str) -> str:
    known = set(fold(other).split())
    words = [word for word in title.split() if not set(fold(word).split()) <= known]
    return f'{heading}: {" ".join(words)}\n' if words else ''
