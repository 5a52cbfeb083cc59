"""Where quotes of a document may begin and end, in the bytes of its folded text.

A quote is a piece of `' '.join(text.split())`, as targets are written. It begins
and ends at word borders: never inside a run of letters, digits, underscores and
combining marks, and not at a space.
"""

import functools
import re
import unicodedata
from array import array
from bisect import bisect_left

import numpy as np

NEVER = 1 << 28
BARRIER = ord('\n')  # folded text holds no line end, so it can mark what no quote may hold

# What an end allows.
NO_END, END, END_OF_PART = 0, 1, 2

_SURROGATE = re.compile('[\ud800-\udfff]')
# A part that ends with this word cannot be told from the separator behind it.
_DOTS = b' ...'


class QuotableText:
    """The folded text of a document and the places where a quote may begin and end.

    Attributes:
        folded: its bytes, and a BARRIER at the end. A lone surrogate, which UTF-8 cannot hold, is a BARRIER too.
        starts: byte positions where a quote may begin, int32 [S], ascending; only those whose nearest
            end is at most `longest` bytes away.
        flags: for each byte position NO_END; END, where a quote may end; or END_OF_PART, where
            a further part may follow as well.
        distance: for each byte position the bytes to the nearest end from there on, 0 at an end; NEVER if none.
    """

    def __init__(self, text: str, longest: int):
        text = _SURROGATE.sub('\n', ' '.join(text.split()))
        encoded = text.encode()
        size = len(encoded)
        self.folded = encoded + b'\n'
        codes = np.frombuffer(text.encode('utf-32-le'), np.uint32)
        place = np.zeros(len(codes) + 1, np.int64)  # of each character in bytes
        np.cumsum(1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000), out=place[1:])

        kinds, inverse = np.unique(codes, return_inverse=True)
        word = np.asarray([_in_word(chr(code)) for code in kinds], bool)[inverse]
        outside = np.isin(codes, (ord(' '), BARRIER))
        border = np.ones(len(codes) + 1, bool)
        border[1:-1] = ~(word[1:] & word[:-1])
        start_characters = np.flatnonzero(border[:-1] & ~outside)
        end_characters = np.flatnonzero(border[1:] & ~outside) + 1

        distance = np.full(size + 1, NEVER, np.int32)
        _write_distances(distance, place[end_characters], np.flatnonzero(np.frombuffer(encoded, np.uint8) == BARRIER))
        starts = place[start_characters].astype(np.int32)
        shortest = distance[starts + 1] + 1
        starts, shortest = starts[shortest <= longest], shortest[shortest <= longest]

        flags = np.zeros(size + 1, np.uint8)
        ends = place[end_characters]
        flags[ends] = END
        if len(starts):
            flags[ends[ends <= starts[-1]]] = END_OF_PART
            dotted = [match.end() for match in re.finditer(re.escape(_DOTS), encoded)]
            flags[dotted] = np.minimum(flags[dotted], END)
        self.starts = starts
        self.flags = flags.tobytes()
        self.distance = array('i', distance.tobytes())
        self._starts = array('i', starts.tobytes())
        # Of the piece that begins at each start or later.
        from_last = np.append(shortest, NEVER)[::-1].astype(np.int32)
        self._shortest_from = array('i', np.minimum.accumulate(from_last)[::-1].tobytes())
        self._starts_with: dict[int, list[int]] = {}

    def shortest_after(self, position: int) -> int:
        """Returns the bytes of the shortest piece that begins at `position` or later; NEVER if none does."""
        return self._shortest_from[bisect_left(self._starts, position)]

    def starts_with(self, byte: int) -> list[int]:
        """Returns the starts at which `byte` stands, ascending."""
        if byte not in self._starts_with:
            first_bytes = np.frombuffer(self.folded, np.uint8)[self.starts]
            self._starts_with[byte] = self.starts[first_bytes == byte].tolist()
        return self._starts_with[byte]


def _write_distances(distance: np.ndarray, ends: np.ndarray, barriers: np.ndarray) -> None:
    """Writes for each position the way to the nearest end at or after it, unless a barrier stands between."""
    if not len(ends):
        return
    positions = np.arange(len(distance))
    nearest = np.searchsorted(ends, positions)
    reached = nearest < len(ends)
    end = ends[np.minimum(nearest, len(ends) - 1)]
    if len(barriers):
        barrier = np.append(barriers, len(distance))[np.searchsorted(barriers, positions)]
        reached &= barrier >= end
    distance[reached] = (end - positions)[reached]


@functools.lru_cache(maxsize=4096)
def _in_word(character: str) -> bool:
    return character.isalnum() or character == '_' or unicodedata.category(character).startswith('M')
