"""Which spans are fit for training: the filters of the expansion, in their order, every refusal counted.

1. Leakage: what comes from an evaluation document (`ccl_jax.expansion.leakage`). First, so that what may not be used
   decides nothing.
2. Length, in words and characters.
3. A code string: words that give a code away ('(I10)', 'any condition in I50.-').
4. Duplicate: the same normal words under the same code; the span that ranks best stays.
5. Conflict: the same normal words under several codes. Codes above another of them give way to it; if several are left,
   the one whose spans with these words rank best stays, and if the best are equal, none does.
6. Excludes1: the span has just the words of an Excludes1 note of its code or of what is above it ('bursitis' under
   M70.10, where the note says 'bursitis NOS (M71.9-)'): the release says that they are coded elsewhere. That two codes
   of one note exclude each other is no contradiction here: it says which of them to report, not what the words mean.
7. Round trip (`ccl_jax.expansion.round_trip`): recorded in the span; none is refused for it.
8. The cap per code, best first, and the cap on all, in rounds: the best span of every code before the second of any,
   rare codes first.

Spans rank by where they come from: a person's annotation, the words of the title, those of another term, other forms
of terms, silver, synthetic.
"""

import dataclasses
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ccl_jax.expansion.leakage import Leakage
from ccl_jax.expansion.round_trip import RoundTrip
from ccl_jax.expansion.settings import FilterSettings
from ccl_jax.icd.codes import ICD10CM, normalize_code
from ccl_jax.icd.folding import fold
from ccl_jax.icd.notes import code_references
from ccl_jax.icd.release import Release
from ccl_jax.records import Span

TOO_SHORT = 'too short'
TOO_LONG = 'too long'
CODE_STRING = 'contains a code string'
DUPLICATE = 'duplicate'
CONFLICT = 'words of several codes'
EXCLUDED = 'words that an Excludes1 note sends elsewhere'
CAP_PER_CODE = 'beyond the cap per code'
CAP = 'beyond the cap on all spans'

_CODE = r'[A-Z](?:[0-9][0-9A-Z]|[A-Z][0-9])'
# 'I50.-', 'S72.001A'.
_DOTTED = re.compile(rf'(?<![\w-]){_CODE}\.(?:[0-9A-Z]{{1,4}}\b|-)')
# Where the tabular list names a category: 'B18-B19', '(I10)', 'any condition in I00'; not 'HLA-B27' or 'LGMD R12'.
_NAMED = re.compile(rf'\b({_CODE})\s?-\s?{_CODE}\b|[(\[]({_CODE})-?[)\]]|\b(?:in|to) ({_CODE})\b')
_DIGIT = re.compile(r'[0-9]')
_TOKEN = re.compile(r'\b[A-Z][0-9A-Z]{2,6}\b')
_SHORTEST_CODE, _SHORTEST_SURE = 3, 4
# 'HR+' and 'HR-' mean the contrary of each other, and folding would drop the sign.
_POSITIVE = re.compile(r'(?<=\w)\+(?!\w)')
_NEGATIVE = re.compile(r'(?<=[A-Z0-9]{2})-(?!\w)')
_BRACKETED = re.compile(r'\s*[(\[][^()\[\]]*[)\]]')
_UNSPECIFIC = re.compile(r'^unspecified |,? (?:NOS|NEC|unspecified)$', re.IGNORECASE)
_WORST = 6


@dataclasses.dataclass
class FilterReport:
    """Counts of spans per tier.

    Attributes:
        given, kept: before and after.
        dropped: per reason, in the order of the filters.
        found: of the kept ones, those whose code the retriever found within its depth; `found_first` at rank 1.
        asked: whether the retriever was asked.
    """

    given: Counter[str] = dataclasses.field(default_factory=Counter)
    kept: Counter[str] = dataclasses.field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = dataclasses.field(default_factory=lambda: defaultdict(Counter))
    found: Counter[str] = dataclasses.field(default_factory=Counter)
    found_first: Counter[str] = dataclasses.field(default_factory=Counter)
    asked: bool = False

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = {
            'given': dict(self.given),
            'dropped': {reason: dict(counts) for reason, counts in self.dropped.items()},
            'kept': dict(self.kept),
        }
        if self.asked:
            result['round_trip'] = {'found': dict(self.found), 'found_first': dict(self.found_first)}
        return result


def filter_spans(
    spans: Iterable[Span],
    release: Release,
    settings: FilterSettings,
    *,
    leakage: Leakage | None = None,
    frequency: Mapping[str, int] | None = None,
) -> tuple[list[Span], FilterReport]:
    """Returns the spans that pass all filters (see the module), and what became of the others.

    The answer is ordered by code, rare codes first, then in the order of the tabular list; the spans of a code by
    rank, then as given.

    Args:
        leakage: what the evaluation documents say; None if there are none.
        frequency: code -> documents of the corpus that carry it; a code that is absent is carried by none.
    """
    kept = list(spans)
    report = FilterReport()
    report.given.update(span.tier for span in kept)
    excludes1 = _Excludes1Words(release)
    standing = _Standing(release)

    def refuse(reasons: Callable[[Sequence[Span]], Sequence[str]]) -> None:
        nonlocal kept
        judged = list(zip(kept, reasons(kept), strict=True))
        for span, reason in judged:
            if reason:
                report.dropped[reason][span.tier] += 1
        kept = [span for span, reason in judged if not reason]

    if leakage is not None:
        refuse(leakage.reasons)
    refuse(lambda given: [_length_fault(span.text, settings) for span in given])
    refuse(lambda given: [CODE_STRING * contains_code(span.text, span.code, release) for span in given])
    refuse(lambda given: _wording_faults(given, standing, excludes1))
    refuse(lambda given: [EXCLUDED * excludes1.send_elsewhere(span) for span in given])
    if settings.round_trip_depth:
        report.asked = True
        ranks = RoundTrip(release).ranks(kept, settings.round_trip_depth)
        kept = [dataclasses.replace(span, round_trip=found) for span, found in zip(kept, ranks, strict=True)]
    kept = _rare_codes_first(kept, release, standing, frequency or {})
    refuse(lambda given: _beyond_caps(given, settings))
    report.kept.update(span.tier for span in kept)
    report.found.update(span.tier for span in kept if span.round_trip is not None)
    report.found_first.update(span.tier for span in kept if span.round_trip == 1)
    return kept, report


def contains_code(text: str, code: str, release: Release) -> bool:
    """Whether the words of a span for `code` give a code away.

    That is anything with the form and the dot of a code, a code of the release without its dot ('S72001A'), a category
    where the tabular list would name one, and the span's own code, one above it or one below it in any spelling.
    """
    if not _DIGIT.search(text):
        return False
    if _DOTTED.search(text) or any(''.join(names) in release for names in _NAMED.findall(text)):
        return True
    own = code.replace('.', '')
    for token in _TOKEN.findall(text.upper().replace('.', '')):
        if token.startswith(own) or (len(token) >= _SHORTEST_CODE and own.startswith(token)):
            return True
    return any(len(token) >= _SHORTEST_SURE and normalize_code(token) in release for token in _TOKEN.findall(text))


def normal_words(text: str) -> str:
    """Returns the words of a span as they are compared: folded, with the sign of a test's result spelt out."""
    if '+' in text or '-' in text:
        text = _NEGATIVE.sub(' negative ', _POSITIVE.sub(' positive ', text))
    return fold(text)


class _Standing:
    """How good a span is by its origin, 0 best; see the module."""

    def __init__(self, release: Release):
        self._release = release
        self._words_of: dict[str, tuple[str, frozenset[str]]] = {}

    def __call__(self, span: Span) -> int:
        if span.tier != 'gold':
            return {'document': 0, 'silver': 4, 'synthetic': 5}[span.tier]
        if span.code not in self._words_of:
            # Told by the words and not by the provenance: 'cholera' is the title 'Cholera'.
            terms = self._release.terms(span.code) if span.code in self._release else []
            printed = [normal_words(term.text) for term in terms]
            self._words_of[span.code] = (printed[0] if printed else '', frozenset(printed))
        words = normal_words(span.text)
        title, of_terms = self._words_of[span.code]
        return 1 if words == title else 2 if words in of_terms else 3


def _length_fault(text: str, settings: FilterSettings) -> str:
    if sum(map(str.isalnum, text)) < settings.min_characters:
        return TOO_SHORT
    if len(text) > settings.max_characters or len(text.split()) > settings.max_words:
        return TOO_LONG
    return ''


def _wording_faults(spans: Sequence[Span], standing: _Standing, excludes1: '_Excludes1Words') -> list[str]:
    """Returns `DUPLICATE` or `CONFLICT` for the spans whose words another span has too, '' for the others."""
    words = [normal_words(span.text) for span in spans]
    standings = [standing(span) for span in spans]
    faults = [''] * len(spans)
    # Sorted rather than kept in nested dicts, which would take hundreds of megabytes for a whole release.
    in_groups = sorted(range(len(spans)), key=lambda i: (words[i], spans[i].system, spans[i].code, standings[i], i))
    for _, same_words in itertools.groupby(in_groups, key=lambda i: (words[i], spans[i].system)):
        best, support = {}, {}
        for code, same_code in itertools.groupby(same_words, key=lambda i: spans[i].code):
            best[code], *others = same_code
            for i in others:
                faults[i] = DUPLICATE
            # The closing entry makes more support of the same standing the better one.
            support[code] = (*(standings[i] for i in (best[code], *others)), _WORST)
        if len(best) == 1:
            continue
        # A code that the next filter will refuse has no claim to the words.
        claims = {code: support[code] for code, i in best.items() if not excludes1.send_elsewhere(spans[i])}
        winner = _holder(claims)
        for code in claims:
            if code != winner:
                faults[best[code]] = CONFLICT
    return faults


def _holder(support: Mapping[str, tuple[int, ...]]) -> str | None:
    """Returns the code that words belong to of those that have them, None if that cannot be said.

    Args:
        support: code, in order, -> standings of its spans with these words.
    """
    codes = list(support)
    # A code stands directly before those below it, which begin with it.
    specific = [code for code, following in zip(codes, [*codes[1:], ''], strict=True) if not following.startswith(code)]
    best = min((support[code] for code in specific), default=())
    holders = [code for code in specific if support[code] == best]
    return holders[0] if len(holders) == 1 else None


class _Excludes1Words:
    """The words that Excludes1 notes send elsewhere, per code."""

    def __init__(self, release: Release):
        self._release = release
        self._words_of: dict[str, frozenset[str]] = {}

    def send_elsewhere(self, span: Span) -> bool:
        if span.system != ICD10CM or span.code not in self._release:
            return False
        if span.code not in self._words_of:
            self._words_of[span.code] = self._words(span.code)
        return normal_words(span.text) in self._words_of[span.code]

    def _words(self, code: str) -> frozenset[str]:
        release = self._release
        notes = [*release.excludes1(code), *(note for _, note in release.inherited_notes(code, 'excludes1'))]
        # A note that names the code itself speaks to its neighbours, and one that ends in a colon is half a sentence.
        return frozenset(
            normal_words(_UNSPECIFIC.sub('', _BRACKETED.sub('', note)))
            for note in notes
            if not note.endswith(':') and not any(codes.contains(code) for codes in code_references(note))
        )


def _rare_codes_first(
    spans: Sequence[Span], release: Release, standing: _Standing, frequency: Mapping[str, int]
) -> list[Span]:
    places = {code: place for place, code in enumerate(release.codes())}
    return sorted(
        spans,
        key=lambda span: (
            frequency.get(span.code, 0),
            places.get(span.code, len(places)),
            span.system,
            span.code,
            standing(span),
            span.round_trip is None,
        ),
    )


def _beyond_caps(spans: Sequence[Span], settings: FilterSettings) -> list[str]:
    """Returns what caps cut off, of spans that are ordered by code and from best to worst."""
    seen: Counter[tuple[str, str]] = Counter()
    rounds = []
    for span in spans:
        rounds.append(seen[span.system, span.code])
        seen[span.system, span.code] += 1
    most = settings.max_per_code or len(spans)
    faults = ['' if number < most else CAP_PER_CODE for number in rounds]
    within = sorted((i for i, fault in enumerate(faults) if not fault), key=lambda i: rounds[i])
    for i in within[settings.max_spans or len(spans) :]:
        faults[i] = CAP
    return faults
