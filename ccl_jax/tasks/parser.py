"""Reading back what a model wrote: items, their codes, and where the quotes stand.

The parser accepts any text, keeps what is well-formed and counts the rest.
"""

import dataclasses
import re
from collections.abc import Sequence

from ccl_jax.icd.codes import normalize_code
from ccl_jax.records import Evidence, PredictedCode, Prediction, slice_evidence
from ccl_jax.tasks.prompts import ARROW, CODE_HEADING, CODES_HEADING, EVIDENCE_HEADING, PART_SEPARATOR, Item

# The shape of a code in any release: a letter, a digit, then 1 to 5 further characters.
_CODE = re.compile(r'[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?')


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
    if not _CODE.fullmatch(code):
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

    Tried in order: as written; then folded for case, white space and
    punctuation between words. Within each, occurrences at word borders come
    first (so that 'MI' is not found in 'FAMILY').
    """
    whole = _find(text, quote, start)
    if whole is not None:
        return Evidence((whole,), text[whole[0] : whole[1]])
    parts: list[tuple[int, int]] = []
    for piece in quote.split(PART_SEPARATOR):
        begin_at = parts[-1][1] if parts else start
        place = _find(text, piece.strip(), begin_at)
        if place is None:
            return Evidence((), quote)
        parts.append(place)
    return Evidence(tuple(parts), slice_evidence(text, tuple(parts)))


def _find(text: str, piece: str, start: int) -> tuple[int, int] | None:
    words = re.findall(r'\w+', piece)
    exact = re.escape(piece)
    folded = r'[\W_]+'.join(re.escape(word) for word in words)
    for pattern, flags in ((exact, 0), (folded, re.IGNORECASE)):
        if not pattern:
            continue
        for bordered in (rf'(?<!\w){pattern}(?!\w)', pattern):
            compiled = re.compile(bordered, flags)
            match = compiled.search(text, start) or compiled.search(text)
            if match and match.end() > match.start():
                return match.span()
    return None
