"""Reading back what a model wrote: items, their codes, and where the quotes stand.

The parser accepts any text, keeps what is well-formed and counts the rest.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from ccl_jax.icd.codes import is_well_formed, normalize_code
from ccl_jax.records import Evidence, PredictedCode, Prediction, slice_evidence
from ccl_jax.tasks.prompts import ARROW, CODE_HEADING, CODES_HEADING, EVIDENCE_HEADING, PART_SEPARATOR, Item


@dataclasses.dataclass(frozen=True)
class Answer:
    """A parsed answer.

    Attributes:
        items: (quote, code) in the order written; in `blocks` the quote is ''
            unless there are as many quotes as codes.
        quotes: the evidence lines, of `blocks` alone.
        lines: for each item, the number of its line from 0.
        malformed: lines that are neither headings nor well-formed items.
    """

    items: tuple[Item, ...]
    lines: tuple[int, ...]
    quotes: tuple[str, ...]
    malformed: int


def parse_answer(text: str) -> Answer:
    """Parses the answer to a document or span prompt, in either output format."""
    items: list[Item] = []
    lines: list[int] = []
    quotes: list[str] = []
    malformed = 0
    in_evidence = False
    for number, raw in enumerate(text.split('\n')):
        line = raw.strip()
        if line in (EVIDENCE_HEADING, CODES_HEADING, CODE_HEADING):
            in_evidence = line == EVIDENCE_HEADING
        elif not line:
            continue
        elif not line.startswith('-'):
            malformed += 1
        elif in_evidence:
            quote = line[1:].strip()
            if quote:
                quotes.append(quote)
            else:
                malformed += 1
        else:
            item = _parse_item(line)
            if item is None:
                malformed += 1
            else:
                items.append(item)
                lines.append(number)
    if quotes and len(quotes) == len(items) and not any(item.quote for item in items):
        items = [Item(quote, item.code) for quote, item in zip(quotes, items, strict=True)]
    return Answer(tuple(items), tuple(lines), tuple(quotes), malformed)


def _parse_item(line: str) -> Item | None:
    quote, arrow, code = line.rpartition(ARROW.strip())
    if not arrow:
        quote, code = '-', line[1:]
    code = normalize_code(code)
    if not is_well_formed(code):
        return None
    return Item(quote[1:].strip(), code)


def prediction_from_answer(doc_id: str, text: str, answer: Answer, scores: Sequence[float] | None = None) -> Prediction:
    """Returns the prediction for a document: codes in the order written, each once, with
    the places of their quotes.

    A quote that occurs several times takes the first occurrence after the
    previous item, else the first. A quote that is not found keeps its text and
    has no parts.

    Args:
        scores: one number per item of `answer`, higher is surer; a code takes its best.
    """
    evidence: dict[str, list[Evidence]] = {}
    best: dict[str, float] = {}
    position = 0
    for i, item in enumerate(answer.items):
        found = evidence.setdefault(item.code, [])
        if scores is not None:
            best[item.code] = max(scores[i], best.get(item.code, scores[i]))
        if not item.quote:
            continue
        located = locate_quote(text, item.quote, position)
        if located.parts:
            position = located.parts[-1][1]
        if located not in found:
            found.append(located)
    codes = (PredictedCode(code, score=best.get(code), evidence=tuple(found)) for code, found in evidence.items())
    return Prediction(doc_id, tuple(codes))


def locate_quote(text: str, quote: str, start: int = 0) -> Evidence:
    """Returns where `quote` stands in `text`: the first occurrence from `start`, else the first.

    White space is folded, in text and quote. Tried in order: as written, whole,
    then in parts around ' ... ', one after the other where they stand so;
    then folded for case and punctuation between words, likewise. Within each,
    occurrences at word borders come first (so that 'MI' is not found in 'FAMILY').
    So a piece of the text is always found as such, and so are pieces that stand one after
    the other, if none but the last ends with ' ...'.
    """
    pieces = quote.split(PART_SEPARATOR)
    parts = _find_each(text, [quote], start, _as_written)
    if not parts and len(pieces) > 1:
        parts = _find_in_turn(text, pieces, start)
    if not parts:
        parts = _find_each(text, [quote], start, _folded)
    if not parts:
        parts = _find_each(text, pieces, start, _as_written, _folded)
    return Evidence(parts, slice_evidence(text, parts) if parts else quote)


# (begin, end) of each part of a quote; () where one of them is nowhere.
_Parts = tuple[tuple[int, int], ...]


def _find_in_turn(text: str, pieces: Sequence[str], start: int) -> _Parts:
    """Finds pieces as written, each after the one before, the first from `start` on, else from the beginning."""
    for begin_at, borders in ((start, (True, False)), (0, (True, False)), (0, (False,))):
        parts: list[tuple[int, int]] = []
        for piece in pieces:
            position = parts[-1][1] if parts else begin_at
            places = (_search(text, _as_written(piece), position, bordered) for bordered in borders)
            place = next((place for place in places if place), None)
            if place is None:
                break
            parts.append(place)
        else:
            return tuple(parts)
    return ()


def _find_each(text: str, pieces: Sequence[str], start: int, *readings: Callable[[str], str]) -> _Parts:
    """Finds each piece in the first of `readings` that stands anywhere, after the one before or else from the
    beginning."""
    parts: list[tuple[int, int]] = []
    for piece in pieces:
        position = parts[-1][1] if parts else start
        places = (
            _search(text, read(piece), begin_at, bordered)
            for read in readings
            for bordered in (True, False)
            for begin_at in (position, 0)
        )
        place = next((place for place in places if place), None)
        if place is None:
            return ()
        parts.append(place)
    return tuple(parts)


def _as_written(piece: str) -> str:
    return r'\s+'.join(re.escape(word) for word in piece.split())


def _folded(piece: str) -> str:
    return r'(?i:' + r'[\W_]+'.join(re.escape(word) for word in re.findall(r'\w+', piece)) + ')'


def _search(text: str, pattern: str, start: int, bordered: bool) -> tuple[int, int] | None:
    match = re.compile(rf'(?<!\w){pattern}(?!\w)' if bordered else pattern).search(text, start)
    return match.span() if match and match.end() > match.start() else None
