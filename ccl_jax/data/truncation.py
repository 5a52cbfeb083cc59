"""Cutting a text to what fits."""

import re
from collections.abc import Callable, Sequence

_WHITE_SPACE = re.compile(r'\s')


def longest_beginning(text: str, fits: Callable[[int], bool]) -> int | None:
    """Returns where the longest beginning of `text` ends that fits and ends before white space, so that no word is cut.

    Args:
        fits: whether text[:end] fits; once it does not, no longer beginning does.

    Returns:
        The end, or None where not even the first word fits.
    """
    return last_that_fits(word_ends(text), fits)


def word_ends(text: str) -> list[int]:
    """Returns the positions before white space, ascending; the end of the text is not among them."""
    return [match.start() for match in _WHITE_SPACE.finditer(text)]


def last_that_fits(ends: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Returns the last of the ascending `ends` that fits, None where none does.

    The search doubles its stride before it halves: to try an end costs time in
    proportion to the end, and a document may be much longer than what fits of it.

    Args:
        fits: whether an end fits; once one does not, no later one does.
    """
    low, stride = 0, 1
    while low + stride <= len(ends) and fits(ends[low + stride - 1]):
        low += stride
        stride *= 2
    high = min(low + stride - 1, len(ends))
    while low < high:
        middle = (low + high) // 2
        if fits(ends[middle]):
            low = middle + 1
        else:
            high = middle
    return ends[low - 1] if low else None
