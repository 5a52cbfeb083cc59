"""Silver spans: the words of a document that support each of its codes, found by terms or by a model.

Evidence is only what the document asserts of the patient (`icd.assertion`).
"""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from ccl_jax.expansion.finder_prompts import evidence_prompt, parse_quotes
from ccl_jax.expansion.gold import gold_spans
from ccl_jax.expansion.snapping import Phrase, TextWords, find_phrase, snap
from ccl_jax.icd.assertion import DENIED, denies_itself, why_not_asserted
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.folding import fold
from ccl_jax.icd.matching import TermMatcher
from ccl_jax.icd.release import Release, Term
from ccl_jax.icd.words import word_set
from ccl_jax.records import Document, Evidence, Span, slice_evidence
from ccl_jax.tasks.prompts import quote_of

# A document and the codes whose evidence is looked for.
Request = tuple[Document, Sequence[str]]
# Code -> its evidence in order of the text; codes without any are left out.
Found = dict[str, tuple[Evidence, ...]]

# Documents at once: enough to keep an endpoint busy, few enough to lose little when a run is killed.
_BATCH = 64
# Codes of circumstances that the filter would take for no finding: a relative's disease, a risk, a vaccination.
_CIRCUMSTANCES = 'Z'
# 'Observation for conditions ruled out': what they mean is the denial.
_RULED_OUT = ('Z03', 'Z05')
# Words that say nothing by themselves, and the beginning of a word that tells it from others.
_GENERAL = word_set(
    'a|acute|and|by|chronic|condition|conditions|disease|diseases|disorder|disorders|due|elsewhere|for|illness|in'
    '|left|not|of|or|other|right|site|specified|state|status|syndrome|the|to|type|unspecified|with|without|classified'
)
_STEM = 5
_BETWEEN_PARTS = re.compile(r'\s*(?:\[?\.\.\.+\]?|\u2026)\s*')


class Finder(Protocol):
    """Looks for evidence; `Evidence.origin` is 'silver: <finder>: <what>'."""

    def find(self, requests: Sequence[Request], counts: Counter[str]) -> list[Found]:
        """Returns what was found for each request, in order; `counts` gets, by name, what was refused and why."""


def silver_spans(documents: Iterable[Document], finder: Finder, counts: Counter[str]) -> Iterator[Span]:
    """Yields spans for the ICD-10-CM codes of the documents, in their order.

    Each folded wording of a code comes once a document.

    Args:
        counts: gets the numbers of documents, codes and spans, and what the finder counts; names begin 'silver: '.
    """
    remaining = iter(documents)
    while batch := list(itertools.islice(remaining, _BATCH)):
        requests = [(d, tuple(dict.fromkeys(a.code for a in d.annotations if a.system == ICD10CM))) for d in batch]
        counts_of_finder: Counter[str] = Counter()
        found = finder.find(requests, counts_of_finder)
        counts.update({f'silver: {name}': count for name, count in counts_of_finder.items()})
        for (document, codes), evidence in zip(requests, found, strict=True):
            counts['silver: documents'] += 1
            counts['silver: codes looked for'] += len(codes)
            counts['silver: codes with evidence'] += len(evidence)
            for code, pieces in evidence.items():
                spans: dict[str, Span] = {}
                for piece in pieces:
                    spans.setdefault(fold(quote_of(document.text, piece)), _span(document, code, piece))
                counts['silver: spans'] += len(spans)
                counts['silver: same words again in the document'] += len(pieces) - len(spans)
                yield from spans.values()


def _span(document: Document, code: str, evidence: Evidence) -> Span:
    parts = '+'.join(f'{begin}-{end}' for begin, end in evidence.parts)
    return Span(
        span_id=f'silver:{document.doc_id}:{parts}:{code}',
        text=quote_of(document.text, evidence),
        code=code,
        tier='silver',
        provenance=f'doc:{document.doc_id}, {evidence.origin}',
    )


def objection(text: str, parts: Sequence[tuple[int, int]], code: str) -> str:
    """Returns why the words at `parts` are no evidence of `code` ('' if they are): one of `icd.assertion`'s reasons."""
    reasons = (why_not_asserted(text, begin, end) for begin, end in parts)
    return next((why for why in reasons if why and not _is_meant(why, code)), '')


def _is_meant(why: str, code: str) -> bool:
    """Whether a code means just what would else be an objection."""
    return code.startswith(_CIRCUMSTANCES) and (why != DENIED or code.startswith(_RULED_OUT))


class _Place(NamedTuple):
    """Where a term stands, and which."""

    begin: int
    end: int
    term_code: str
    origin: str


def _stems_in(term: str) -> set[str]:
    return {word[:_STEM] for word in fold(term).split() if word not in _GENERAL}


def _evidence(
    text: str, code: str, places: Iterable[_Place], shared: Collection[str], refused: dict[tuple[int, int], str]
) -> Iterator[Evidence]:
    """Yields the evidence that the text asserts; `refused` gets the other places, and those of `shared` codes."""
    for place in places:
        parts = ((place.begin, place.end),)
        if place.term_code in shared:
            refused[parts[0]] = 'term above several codes of the document'
        elif why := objection(text, parts, code):
            refused[parts[0]] = why
        else:
            yield Evidence(parts, slice_evidence(text, parts), f'silver: terms: {place.origin} of {place.term_code}')


def _without_parts_of_others(found: Found, counts: Counter[str]) -> Found:
    """Leaves out places within a longer one of another code: the 'hypertension' of 'portal hypertension' is not I10."""
    places = sorted({piece.parts[0] for pieces in found.values() for piece in pieces})
    within = {place for place in places if any(a <= place[0] and place[1] <= b and (a, b) != place for a, b in places)}
    kept = {code: tuple(piece for piece in pieces if piece.parts[0] not in within) for code, pieces in found.items()}
    counts['refused: part of a longer term of another code'] += sum(map(len, found.values())) - sum(
        map(len, kept.values())
    )
    return {code: pieces for code, pieces in kept.items() if pieces}


class TermFinder:
    """Finds the terms of a code, and of the codes above it: as printed, else in words that notes use.

    First come the exact terms of `icd.matching`. A code without evidence by them is looked for in the wordings of its
    gold spans, whose words may stand in another order or be misspelled by a letter (`snapping.find_phrase`). The
    title of a code above must share a word with the code: 'polyuria' is the title above 'nocturia', and no evidence of
    it. Above the codes of chapter 21 it names only the kind of circumstance ('body mass index'). A term above several
    codes of the document, like the 'tumor' of D49, tells none of them from the others, and a term within a longer one
    of another code is no evidence.

    Args:
        floor: how alike, of 100, a misspelled word must be (rapidfuzz ratio); above 100 none may be misspelled.
    """

    def __init__(self, release: Release, *, floor: float = 90.0):
        self._release = release
        self._floor = floor
        self._matcher = TermMatcher(release)
        self._wordings_of = functools.cache(self._wordings)
        self._stems_of = functools.cache(self._stems)

    def find(self, requests: Sequence[Request], counts: Counter[str]) -> list[Found]:
        """See `Finder`."""
        return [self._find(TextWords(document.text), codes, counts) for document, codes in requests]

    def _find(self, text: TextWords, codes: Sequence[str], counts: Counter[str]) -> Found:
        living = {code: nearest for code in codes if (nearest := self._release.nearest_living_ancestor(code))}
        counts['codes that the release does not have'] += len(codes) - len(living)
        above = Counter(other for nearest in set(living.values()) for other in self._release.ancestors(nearest))
        found: Found = {}
        for code, nearest in living.items():
            shared = {other for other, count in above.items() if count > 1 and other != nearest}
            refused: dict[tuple[int, int], str] = {}
            for places in (self._terms(text, code), self._worded(text, code)):
                evidence = list(_evidence(text.folded.original, code, places, shared, refused))
                if evidence:
                    found[code] = tuple(sorted(evidence, key=lambda piece: piece.parts))
                    break
            counts.update(f'refused: {why}' for why in refused.values())
        return _without_parts_of_others(found, counts)

    def _terms(self, text: TextWords, code: str) -> Iterator[_Place]:
        for match in self._matcher.find(text.folded, code):
            if self._is_related(code, match.term_code, match.term):
                yield _Place(match.begin, match.end, match.term_code, match.term.origin)

    def _worded(self, text: TextWords, code: str) -> Iterator[_Place]:
        taken: list[tuple[int, int]] = []
        for phrase, term_code, origin in self._wordings_of(code):
            for begin, end in find_phrase(text, phrase, self._floor):
                if all(end <= other_begin or other_end <= begin for other_begin, other_end in taken):
                    taken.append((begin, end))
                    exact = fold(text.folded.original[begin:end]) == phrase.folded
                    yield _Place(begin, end, term_code, origin if exact else f'{origin}, other order or spelling')

    def _wordings(self, code: str) -> list[tuple[Phrase, str, str]]:
        """Returns (phrase, code, origin) for a code, then for the codes above it, the longest of each first."""
        nearest = self._release.nearest_living_ancestor(code)
        wordings: list[tuple[Phrase, str, str]] = []
        for term_code in (nearest, *self._release.ancestors(nearest)) if nearest is not None else ():
            spans = list(gold_spans(self._release, [term_code]))
            for span in sorted(spans, key=lambda span: -len(span.text)):
                origin = span.provenance.removeprefix(f'{self._release.name}: ')
                if self._is_related(code, term_code, Term(span.text, origin)):
                    wordings.append((Phrase(span.text), term_code, origin))
        return wordings

    def _is_related(self, code: str, term_code: str, term: Term) -> bool:
        """Whether a term of a code at or above `code` says something of `code`; 'illness' says nothing of R69."""
        nearest, stems = self._release.nearest_living_ancestor(code), _stems_in(term.text)
        if nearest is None or term_code == nearest:
            return bool(stems)
        if code.startswith(_CIRCUMSTANCES):
            return False
        return not term.origin.startswith('title') or not self._stems_of(nearest).isdisjoint(stems)

    def _stems(self, code: str) -> frozenset[str]:
        return frozenset(stem for term in self._release.terms(code) for stem in _stems_in(term.text))


class _Question(NamedTuple):
    """One prompt: `text` is a piece of the text of requests[request] from offset `begin` on."""

    request: int
    begin: int
    text: str
    codes: tuple[str, ...]


class PromptFinder:
    """Asks a language model for quotes, and believes only what stands in the document.

    A quote must be in the text but for case, accents and punctuation; else it is snapped to the nearest words above
    `floor` (`snapping.snap`), or refused. A quote that stands there several times takes the first place that asserts
    it. Its parts may be joined by '...'. A long document is asked for in pieces, and many codes in several prompts.

    Args:
        generate: a model or an endpoint: one answer a prompt, in order, None where there is none. It should hold
            answers to `finder_prompts.EVIDENCE_SCHEMA` if it can.
        floor: how alike, of 100, the words of the text must be to a quote that is not verbatim (rapidfuzz ratio).
        quotes_per_code: more than so many quotes for a code in one answer are refused.
        codes_per_prompt: more would make answers long, which endpoints cut.
        characters_per_prompt: of the text; longer texts are cut at a line or a space.
    """

    def __init__(
        self,
        generate: Callable[[Sequence[str]], Sequence[str | None]],
        release: Release,
        *,
        floor: float = 88.0,
        quotes_per_code: int = 3,
        codes_per_prompt: int = 12,
        characters_per_prompt: int = 16_000,
    ):
        self._generate = generate
        self._release = release
        self._floor = floor
        self._quotes_per_code = quotes_per_code
        self._codes_per_prompt = codes_per_prompt
        self._characters_per_prompt = characters_per_prompt

    def find(self, requests: Sequence[Request], counts: Counter[str]) -> list[Found]:
        """See `Finder`; all prompts of the requests are one call of the model.

        Raises:
            ValueError: the model does not give one answer a prompt.
        """
        questions = [
            question for number, request in enumerate(requests) for question in self._questions(number, request)
        ]
        prompts = [evidence_prompt(q.text, q.codes, self._release, self._quotes_per_code) for q in questions]
        answers = self._generate(prompts) if prompts else []
        counts['prompts asked'] += len(prompts)
        found: list[dict[str, list[Evidence]]] = [{} for _ in requests]
        for question, answer in zip(questions, answers, strict=True):
            for code, evidence in self._evidence(question, answer, requests[question.request][0].text, counts):
                known = found[question.request].setdefault(code, [])
                if any(evidence.parts == other.parts for other in known):
                    counts['quote of the same words again'] += 1
                else:
                    known.append(evidence)
        return [{code: tuple(sorted(e, key=lambda piece: piece.parts)) for code, e in codes.items()} for codes in found]

    def _questions(self, number: int, request: Request) -> Iterator[_Question]:
        document, codes = request
        for begin, end in _pieces(document.text, self._characters_per_prompt):
            for first in range(0, len(codes), self._codes_per_prompt):
                yield _Question(
                    number, begin, document.text[begin:end], tuple(codes[first : first + self._codes_per_prompt])
                )

    def _evidence(
        self, question: _Question, answer: str | None, whole: str, counts: Counter[str]
    ) -> Iterator[tuple[str, Evidence]]:
        """Yields (code, evidence) of one answer, with offsets into the whole text; the rest is counted by reason."""
        quotes = parse_quotes(answer) if answer is not None else []
        if answer is None:
            counts['no answer'] += 1
        elif quotes is None:
            counts['answer is not the JSON asked for'] += 1
        text = TextWords(question.text)
        per_code: Counter[str] = Counter()
        for code, quote in quotes or ():
            per_code[code] += 1
            if code not in question.codes:
                counts['quote for a code that was not asked for'] += 1
            elif per_code[code] > self._quotes_per_code:
                counts['quote beyond the number asked for'] += 1
            else:
                parts, why = self._locate(text, quote, code)
                counts[f'quote {why}'] += 1
                if parts:
                    moved = tuple((question.begin + begin, question.begin + end) for begin, end in parts)
                    yield code, Evidence(moved, slice_evidence(whole, moved), f'silver: prompt: quote {why}')

    def _locate(self, text: TextWords, quote: str, code: str) -> tuple[tuple[tuple[int, int], ...], str]:
        """Returns (parts, how they were found) of a quote; no parts and the reason where it is refused."""
        original = text.folded.original
        parts: list[tuple[int, int]] = []
        verbatim = True
        for piece in filter(fold, _BETWEEN_PARTS.split(quote)):
            places = text.folded.find(fold(piece))
            if not places:
                verbatim = False
                snapped = snap(text, piece, self._floor)
                places = [snapped] if snapped is not None else []
            if not places:
                return (), 'is not in the text'
            after = parts[-1][1] if parts else 0
            # Of several places the first asserted one, after the part before if there is one.
            parts.append(min(places, key=lambda place: (bool(objection(original, [place], code)), place[0] < after)))
        if not parts:
            return (), 'has no words'
        why = objection(original, parts, code) or denies_itself(original, *parts[0])
        if why and not _is_meant(why, code):
            return (), f'refused: {why}'
        return tuple(parts), 'in the text' if verbatim else 'snapped'


def _pieces(text: str, size: int) -> Iterator[tuple[int, int]]:
    """Yields (begin, end) of pieces of at most `size` characters that end with a line, else a word, if they can."""
    begin = 0
    while len(text) - begin > size:
        half, limit = begin + size // 2, begin + size
        cut = max(text.rfind('\n', half, limit), 0) or max(text.rfind(' ', half, limit), 0)
        end = cut + 1 if cut else limit
        yield begin, end
        begin = end
    yield begin, len(text)
