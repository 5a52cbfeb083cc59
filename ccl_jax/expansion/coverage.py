"""How much of the code space a set of spans covers: by tier, by chapter, and against how often a corpus has a code."""

import statistics
import textwrap
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.release import Release
from ccl_jax.records import TIERS, Span

# Documents that carry a code: lower ends of the bins, the last one open.
FREQUENCY_BINS = (0, 1, 2, 6, 21)
NO_CHAPTER = 'no chapter'
_SHOWN = 20
_CHAPTER_WIDTH = 44


def coverage(
    spans: Iterable[Span],
    release: Release,
    held_out: Collection[str],
    frequency: Mapping[str, int],
    *,
    filters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the content of coverage.json.

    'Codes to cover' are the billable codes that are not held out. Spans of other code systems count among the spans
    alone.

    Args:
        held_out: codes that no span may carry.
        frequency: code -> documents of the corpus that carry it; absent codes have none.
        filters: the counts of `FilterReport.to_json`, put in as they are.
    """
    of_tier: Counter[str] = Counter()
    per_code: dict[str, Counter[str]] = defaultdict(Counter)
    round_trip: dict[str, Counter[str]] = defaultdict(Counter)
    for span in spans:
        of_tier[span.tier] += 1
        if span.system == ICD10CM:
            per_code[span.code][span.tier] += 1
        if span.round_trip is not None:
            round_trip[span.tier]['found'] += 1
            round_trip[span.tier]['found_first'] += span.round_trip == 1
    billable = release.billable_codes()
    held = frozenset(held_out)
    chapters: dict[str, list[str]] = {}
    for code in billable:
        chapters.setdefault(release.chapter(code) or NO_CHAPTER, []).append(code)
    bins: dict[int, list[str]] = {low: [] for low in FREQUENCY_BINS}
    for code in dict.fromkeys((*billable, *sorted(frequency))):
        count = frequency.get(code, 0)
        bins[max(low for low in FREQUENCY_BINS if low <= count)].append(code)
    not_billable = sorted(per_code.keys() - set(billable))
    return {
        'release': release.name,
        'spans': _in_order(of_tier),
        'codes': _in_order(Counter(tier for counts in per_code.values() for tier in counts)),
        'billable': _covered(billable, per_code, held),
        'without_span': [code for code in billable if code not in per_code and code not in held][:_SHOWN],
        'headers_with_span': sum(code in release for code in not_billable),
        'codes_not_in_release_with_span': sum(code not in release for code in not_billable),
        'held_out_with_span': len(held & per_code.keys()),
        'round_trip': {tier: dict(round_trip[tier]) for tier in TIERS if tier in round_trip},
        'chapters': [{'chapter': name, **_covered(codes, per_code, held)} for name, codes in chapters.items()],
        'frequency': [{'documents': _bin_label(low), **_covered(codes, per_code, held)} for low, codes in bins.items()],
        'filters': dict(filters or {}),
    }


def format_coverage(covered: Mapping[str, Any]) -> str:
    """Returns the content of coverage.json as tables of plain text."""
    tiers = list(covered['spans'])
    found = covered['round_trip']
    by_tier = [
        ['tier', 'spans', 'codes', 'found by terms', 'at rank 1'],
        *(
            [
                tier,
                f'{covered["spans"][tier]:,}',
                f'{covered["codes"].get(tier, 0):,}',
                *(_share(found.get(tier, {}).get(key, 0), covered['spans'][tier]) for key in ('found', 'found_first')),
            ]
            for tier in tiers
        ),
    ]
    sections = [
        f'Spans over {covered["release"]}',
        _table(by_tier if found else [row[:3] for row in by_tier]),
        _sentence(covered),
        _table(
            _covered_rows(
                'chapter', [{**row, 'chapter': chapter_label(row['chapter'])} for row in covered['chapters']], tiers
            )
        ),
        _table(_covered_rows('documents', covered['frequency'], tiers)),
    ]
    if covered['filters']:
        sections.append(_table(_filter_rows(covered['filters'])))
    return '\n\n'.join(sections)


def chapter_label(chapter: str) -> str:
    """Returns a chapter's title cut short, its codes first: 'I00-I99 Diseases of the circulatory system'."""
    title, bracket, codes = chapter.rpartition(' (')
    label = f'{codes.rstrip(")")} {title}' if bracket else chapter
    return textwrap.shorten(label, _CHAPTER_WIDTH, placeholder=' ...')


def _covered(codes: Sequence[str], per_code: Mapping[str, Counter[str]], held: frozenset[str]) -> dict[str, Any]:
    """Returns how well a set of codes is covered; spans are counted for the codes that are not held out."""
    wanted = [code for code in codes if code not in held]
    counts = [per_code[code].total() if code in per_code else 0 for code in wanted]
    spans: Counter[str] = Counter()
    with_tier: Counter[str] = Counter()
    for code in wanted:
        if code in per_code:
            spans.update(per_code[code])
            with_tier.update(per_code[code].keys())
    return {
        'codes': len(codes),
        'held_out': len(codes) - len(wanted),
        'with_span': sum(count > 0 for count in counts),
        'mean_spans': statistics.fmean(counts) if counts else None,
        'median_spans': statistics.median(counts) if counts else None,
        'spans': _in_order(spans),
        'codes_of_tier': _in_order(with_tier),
    }


def _in_order(counts: Mapping[str, int]) -> dict[str, int]:
    return {tier: counts[tier] for tier in TIERS if tier in counts}


def _bin_label(low: int) -> str:
    following = [other for other in FREQUENCY_BINS if other > low]
    if not following:
        return f'>{low - 1}'
    return str(low) if following[0] == low + 1 else f'{low}-{following[0] - 1}'


def _sentence(covered: Mapping[str, Any]) -> str:
    billable = covered['billable']
    wanted = billable['codes'] - billable['held_out']
    mean = '-' if billable['mean_spans'] is None else f'{billable["mean_spans"]:.2f}'
    text = (
        f'{billable["with_span"]:,} of {wanted:,} billable codes that are not held out have a span '
        f'({_share(billable["with_span"], wanted)}), {mean} on average; {billable["held_out"]:,} are held out.'
    )
    if covered['without_span']:
        text += f' Without any: {", ".join(covered["without_span"])}'
        text += ', ...' if wanted - billable['with_span'] > len(covered['without_span']) else ''
    if covered['held_out_with_span']:
        text += f' {covered["held_out_with_span"]:,} held-out codes have spans, which they must not.'
    return text


def _covered_rows(key: str, rows: Sequence[Mapping[str, Any]], tiers: Sequence[str]) -> list[list[str]]:
    header = [key, 'codes', 'held out', 'with span', 'share', 'spans per code', *tiers]
    return [
        header,
        *(
            [
                row[key],
                f'{row["codes"]:,}',
                f'{row["held_out"]:,}',
                f'{row["with_span"]:,}',
                _share(row['with_span'], row['codes'] - row['held_out']),
                '-' if row['mean_spans'] is None else f'{row["mean_spans"]:.2f}',
                *(f'{row["spans"].get(tier, 0):,}' for tier in tiers),
            ]
            for row in rows
        ),
    ]


def _filter_rows(filters: Mapping[str, Any]) -> list[list[str]]:
    tiers = [tier for tier in TIERS if tier in filters['given']]
    rows = {'given': filters['given'], **filters['dropped'], 'kept': filters['kept']}
    return [
        ['filter', *tiers],
        *([name, *(f'{counts.get(tier, 0):,}' for tier in tiers)] for name, counts in rows.items()),
    ]


def _share(part: int, whole: int) -> str:
    return f'{part / whole:.1%}' if whole else '-'


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows, the first of them the header, in columns; the first column is aligned left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        '  '.join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return '\n'.join([lines[0], '-' * len(lines[0]), *lines[1:]])
