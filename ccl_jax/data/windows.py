"""A document that is too long, as overlapping windows of its text."""

import bisect
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

from ccl_jax.data.truncation import last_that_fits
from ccl_jax.records import Document
from ccl_jax.tasks.prompts import window

# A sentence ends after . ! or ? where no lower-case word follows; not after a title, a single letter or a list number.
# A line end may only be a wrapped line: it counts before an empty line, an item of a list and a heading.
_SENTENCE_END = re.compile(
    r'\b(?!(?:Dr|Mr|Mrs|Ms|St|vs|No|Prof|Dra?|Sr|Sra)\.)(?!\d+\.)\w{2,}[)\]"\'%]*[.!?]+[)\]"\']*(?=\s+(?![a-zà-ÿ\s]))'
    r'|(?=[ \t]*\n[ \t]*(?:\r?\n|[-*•]|\d+[.)]|[A-Z][\w /&]{0,40}:))'
)
_WORD = re.compile(r'\S+')
# What is no word, such as a line of base64, may be cut as well.
_PIECE_OF_WORD = re.compile(r'\S{1,32}')


def cut_into_windows(
    document: Document, fits: Callable[[Document], bool], overlap: int
) -> list[tuple[int, Document]] | None:
    """Cuts a document into windows that fit, each as long as can be.

    A window ends at the end of a sentence, of a word where not one sentence
    fits. The next one begins with the whole sentences (words, after a cut within
    a sentence) that lie in the last `overlap` characters, and earlier where a
    piece of evidence would else be whole in neither, but never in the first half
    of the window before: only evidence longer than half a window can be lost.

    A code goes to every window that holds a whole piece of its evidence, and where
    none does it is lost. Codes that never had evidence go to the first window,
    because nothing says where else they belong; a document without any evidence
    is therefore cut to its first window.

    Args:
        fits: whether a window fits with its codes; once one does not, no longer one does.
        overlap: characters.

    Returns:
        (where the window begins in the text, window) in order, or None where
        not one word fits, or not even without text.
    """
    evidenced = dataclasses.replace(document, annotations=tuple(a for a in document.annotations if a.evidence))
    windows: list[tuple[int, Document]] = []
    words = [match.end() for match in _WORD.finditer(document.text)]
    for begin, end in _extents(document, evidenced, fits, overlap, words):
        if end is None:
            return None
        windows.append((begin, window(evidenced if windows else document, begin, end)))
        if not evidenced.annotations:
            break
    return windows


def text_windows(text: str, fits: Callable[[str], bool], overlap: int) -> list[tuple[int, int]] | None:
    """Cuts a text into windows that fit, as `cut_into_windows` does, to its end.

    Runs of more than 32 characters without white space may be cut as well.

    Args:
        fits: whether a text fits; once one does not, no longer one does.
        overlap: characters.

    Returns:
        (begin, end) of each window in order, or None where not one piece of a word fits.
    """
    document = Document('text', text)
    edges = [match.end() for match in _PIECE_OF_WORD.finditer(text)]
    windows = []
    for begin, end in _extents(document, document, lambda part: fits(part.text), overlap, edges):
        if end is None:
            return None
        windows.append((begin, end))
    return windows


def sentence_ends(text: str) -> list[int]:
    """Returns the positions after the sentences of `text`, ascending; white space or the end of the text follows each.

    In doubt there is none: a missing end costs a little room, a wrong one cuts a sentence.
    """
    length = len(text.rstrip())
    ends = {match.end() for match in _SENTENCE_END.finditer(text)}
    return sorted({end for end in ends if 0 < end < length and not text[end - 1].isspace()} | {length})


def _extents(
    document: Document, evidenced: Document, fits: Callable[[Document], bool], overlap: int, words: Sequence[int]
) -> Iterator[tuple[int, int | None]]:
    """Yields (begin, end) of each window; the end is None where nothing fits.

    Args:
        words: ends of words, ascending: where to cut what holds no end of a sentence that fits.
    """
    text = document.text
    sentences = sentence_ends(text)
    begin, reached = 0, 0
    while reached < sentences[-1]:
        whole = evidenced if reached else document

        def fits_to(end: int, whole: Document = whole, begin: int = begin) -> bool:
            return fits(window(whole, begin, end))

        # A window that does not get farther than the one before is of no use.
        end = last_that_fits(sentences[bisect.bisect_right(sentences, reached) :], fits_to)
        if end is None:
            end = last_that_fits(words[bisect.bisect_right(words, reached) :], fits_to)
        if end is None and begin < reached:
            begin = _after_space(text, reached)
            continue
        yield begin, end
        if end is None:
            return
        edges = sentences if sentences[bisect.bisect_left(sentences, end)] == end else words
        begin, reached = _next_begin(evidenced, edges, begin, end, overlap), end


def _next_begin(document: Document, edges: Sequence[int], begin: int, end: int, overlap: int) -> int:
    """Returns where the window after [begin, end) begins.

    Args:
        edges: ends of sentences or of words, ascending, `end` among them.
    """
    text = document.text
    middle = (begin + end) // 2
    nearby = edges[bisect.bisect_left(edges, middle) : bisect.bisect_right(edges, end)]
    starts = [_after_space(text, edge) for edge in nearby]
    following = min(start for start in starts if start >= end - overlap)
    cut = [
        first
        for annotation in document.annotations
        for evidence in annotation.evidence
        if middle < (first := min(evidence.parts)[0]) < end < max(b for _, b in evidence.parts)
    ]
    if not cut or min(cut) >= following:
        return following
    return max((start for start in starts if start <= min(cut)), default=min(cut))


def _after_space(text: str, position: int) -> int:
    match = _WORD.search(text, position)
    return match.start() if match else len(text)
