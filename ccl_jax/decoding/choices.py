"""The tokens that may come next, with the room that each of them needs."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ccl_jax.decoding.quotable import NEVER


@dataclasses.dataclass(frozen=True)
class Table:
    """Ways to write tokens, int32 arrays of [n], ascending by token; a token has a row for each way to use it.

    Attributes:
        tokens: their ids.
        reach: bytes of the quote, from here to its nearest end after the token; 0 where the token closes the
            quote or none is open.
        close: bytes from behind the token to the end of the answer; -1 for the end token itself.
        origin: position in the document from which the token was read.
    """

    tokens: np.ndarray
    reach: np.ndarray
    close: np.ndarray
    origin: np.ndarray


@dataclasses.dataclass(frozen=True)
class Choices:
    """The tokens of a table, and those of them for which there is room.

    Attributes:
        tokens: all, int32, ascending, each once.
        size: rows of the table.
    """

    tokens: np.ndarray
    size: int
    _columns: tuple[Sequence[int] | np.ndarray, ...]
    _max_reach: int
    _max_close: int

    def within(self, quote_room: int, room: int) -> np.ndarray:
        """Returns the tokens that need at most `quote_room` bytes of quote and `room` bytes to the end."""
        if self._max_reach <= quote_room and self._max_close <= room:
            return self.tokens
        tokens, reach, close = (np.asarray(column, np.int32) for column in self._columns)
        return np.unique(tokens[(reach <= quote_room) & (close <= room)])


class Rows:
    """Gathers the rows of a table: single ones in lists, many at once in arrays."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.reach: list[int] = []
        self.close: list[int] = []
        self.origin: list[int] = []
        self._arrays: list[tuple[np.ndarray, ...]] = []

    def add(self, token: int, reach: int, close: int, origin: int) -> None:
        self.tokens.append(token)
        self.reach.append(reach)
        self.close.append(close)
        self.origin.append(origin)

    def extend(self, tokens: np.ndarray, reach: np.ndarray | int, close: np.ndarray, origin: np.ndarray | int) -> None:
        size = len(tokens)
        if size:
            reach, origin = (np.full(size, x, np.int32) if isinstance(x, int) else x for x in (reach, origin))
            self._arrays.append((tokens, reach, close, origin))

    def table(self) -> Table:
        single = (self.tokens, self.reach, self.close, self.origin)
        parts = zip((np.asarray(column, np.int32) for column in single), *self._arrays, strict=True)
        tokens, reach, close, origin = (np.concatenate(part, dtype=np.int32) for part in parts)
        possible = np.flatnonzero((reach < NEVER) & (close < NEVER))
        order = possible[np.argsort(tokens[possible], kind='stable')]
        return Table(tokens[order], reach[order], close[order], origin[order])

    def choices(self) -> Choices:
        if self._arrays or max(self.reach, default=0) >= NEVER or max(self.close, default=0) >= NEVER:
            table = self.table()
            columns = (table.tokens, table.reach, table.close)
            limits = int(table.reach.max(initial=0)), int(table.close.max(initial=-1))
            return Choices(np.unique(table.tokens), len(table.tokens), columns, *limits)
        limits = max(self.reach, default=0), max(self.close, default=-1)
        tokens = np.asarray(sorted(set(self.tokens)), np.int32)
        return Choices(tokens, len(self.tokens), (self.tokens, self.reach, self.close), *limits)
