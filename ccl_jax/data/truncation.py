"""Cutting a text to what fits."""

from collections.abc import Callable


def longest_beginning(text: str, fits: Callable[[int], bool]) -> int | None:
    """Returns where the longest beginning of `text` ends that fits and ends before white space, so that no word is cut.

    Args:
        fits: whether text[:end] fits; once it does not, no longer beginning does.

    Returns:
        The end, or None where not even the first word fits.
    """
    ends = [position for position, character in enumerate(text) if character.isspace()]
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high) // 2
        if fits(ends[middle]):
            low = middle + 1
        else:
            high = middle
    return ends[low - 1] if low else None
