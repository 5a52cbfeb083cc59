"""`icd`: show codes of a release, or find them by words."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from ccl_jax.icd.codes import ICD10CM, normalize_code, systems_of_form
from ccl_jax.icd.release import Release, open_release
from ccl_jax.icd.search import Hit, search, suggest_codes
from ccl_jax.icd.table import NOTE_KINDS

_HEADINGS = {
    'includes': 'Includes',
    'excludes1': 'Excludes1 (not coded here)',
    'excludes2': 'Excludes2 (not included here)',
    'use_additional': 'Use additional code',
    'code_first': 'Code first',
    'code_also': 'Code also',
}
_ORIGINS = {
    'inclusion_term': 'Inclusion terms',
    'index': 'Index',
    'external_cause_index': 'Index to external causes',
    'neoplasm_table': 'Table of neoplasms',
    'drug_table': 'Table of drugs and chemicals',
}
_TERMS_SHOWN = 20


def run_icd(codes: Sequence[str], words: str | None, release_spec: str, as_json: bool) -> int:
    """Prints what a release says of codes, then the codes found by `words`; returns the exit code.

    A code that the release does not have as it stands gets a line with suggestions on standard error, and the exit
    code is 2; so it is if words find nothing. As JSON, every code is one object on a line, and so is every hit.

    Raises:
        UserError: the release cannot be read.
    """
    release = open_release(release_spec)
    exit_code = 0
    for code in codes:
        if normalize_code(code) in release:
            print(json.dumps(code_to_json(release, code), ensure_ascii=False) if as_json else show_code(release, code))
        else:
            print(f'ccl-jax: {_unknown(release, code)}', file=sys.stderr)
            exit_code = 2
    if words is not None:
        hits = search(release, words)
        if hits:
            print(search_to_json(release, hits) if as_json else search_to_text(release, hits))
        else:
            print(f'ccl-jax: no code of {release.name} has these words; try fewer or other words', file=sys.stderr)
            exit_code = 2
    return exit_code


def show_code(release: Release, code: str) -> str:
    """Returns what a release says of a code, in any spelling of it, as text for a terminal.

    Raises:
        KeyError: the release does not have the code.
    """
    code = normalize_code(code)
    lines = [
        f'{code}  {release.title(code)}',
        f'{"billable" if release.billable(code) else "header, not billable"}; {release.name}',
    ]
    seventh = release.seventh_character(code)
    if seventh is not None:
        lines.append(f'7th character {seventh[0]}: {seventh[1]}')
    lines += _listed('Below', [place for place in (release.chapter(code), release.block(code)) if place])
    lines += _listed('', [f'{above}  {release.title(above)}' for above in reversed(release.ancestors(code))])
    lines += _listed('Codes below it', [f'{child}  {release.title(child)}' for child in release.children(code)])
    for origin, heading in _ORIGINS.items():
        terms = [term.text for term in release.terms(code) if term.origin == origin]
        left = len(terms) - _TERMS_SHOWN
        lines += _listed(heading, terms[:_TERMS_SHOWN] + ([f'... and {left} more'] if left > 0 else []))
    for kind, heading in _HEADINGS.items():
        inherited = [f'{note}  [{where}]' for where, note in release.inherited_notes(code, kind)]
        lines += _listed(heading, [*getattr(release, kind)(code), *inherited])
    return '\n'.join(lines)


def code_to_json(release: Release, code: str) -> dict[str, Any]:
    """Returns what a release says of a code, in any spelling of it, as one JSON object.

    Raises:
        KeyError: the release does not have the code.
    """
    code = normalize_code(code)
    seventh = release.seventh_character(code)
    return {
        'code': code,
        'system': ICD10CM,
        'release': release.name,
        'status': release.status(code),
        'billable': release.billable(code),
        'title': release.title(code),
        'chapter': release.chapter(code),
        'block': release.block(code),
        'parent': release.parent(code),
        'ancestors': list(release.ancestors(code)),
        'children': list(release.children(code)),
        'siblings': list(release.siblings(code)),
        'seventh_character': {'character': seventh[0], 'meaning': seventh[1]} if seventh is not None else None,
        'terms': [{'text': term.text, 'origin': term.origin} for term in release.terms(code)],
        **{kind: list(getattr(release, kind)(code)) for kind in NOTE_KINDS},
        'inherited': {
            kind: [{'where': where, 'note': note} for where, note in release.inherited_notes(code, kind)]
            for kind in NOTE_KINDS
        },
    }


def search_to_text(release: Release, hits: Sequence[Hit]) -> str:
    """Returns the codes found by words, a line for each, with the term that was found where it is not the title."""
    width = max((len(hit.code) for hit in hits), default=0)
    lines = []
    for hit in hits:
        title = release.title(hit.code)
        found = '' if hit.term.text == title else f'  [{hit.term.text}]'
        header = '' if release.billable(hit.code) else '  (header)'
        lines.append(f'{hit.code:<{width}}  {title}{header}{found}')
    return '\n'.join(lines)


def search_to_json(release: Release, hits: Sequence[Hit]) -> str:
    """Returns the codes found by words, a JSON object on a line for each."""
    records = (
        {
            'code': hit.code,
            'system': ICD10CM,
            'billable': release.billable(hit.code),
            'title': release.title(hit.code),
            'score': round(hit.score, 3),
            'term': {'text': hit.term.text, 'origin': hit.term.origin},
        }
        for hit in hits
    )
    return '\n'.join(json.dumps(record, ensure_ascii=False) for record in records)


def _listed(heading: str, entries: Sequence[str]) -> list[str]:
    return [*([f'{heading}:'] if heading else []), *(f'  {entry}' for entry in entries)] if entries else []


def _unknown(release: Release, code: str) -> str:
    """Says in one sentence what is wrong with a code, and which may have been meant."""
    normal = normalize_code(code)
    systems = [system for system in systems_of_form(normal) if system != ICD10CM]
    if release.status(normal) == 'incomplete':
        problem = f'{normal} is incomplete in {release.name}: its last characters are missing'
    elif ICD10CM not in systems_of_form(normal) and systems and any(map(str.isdigit, normal)):
        problem = f'{normal} has not the form of ICD-10-CM (it has that of {" and ".join(systems)})'
    else:
        shown = normal if any(map(str.isdigit, normal)) else f'"{code}"'
        problem = f'{shown} is not in {release.name}'
    suggestions = [f'{other} ({release.title(other)})' for other in suggest_codes(release, code)]
    return f'{problem}; did you mean {", ".join(suggestions)}?' if suggestions else problem
