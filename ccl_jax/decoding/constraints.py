"""Constrained decoding: answers that are well-formed, with known codes and verbatim quotes.

Everything is decided on bytes: the automaton of answers (`grammar.py`), whose gaps
are filled with the words of a document (`quotable.py`), walks together with a trie
over the bytes of the vocabulary (`vocabulary.py`). So a code or a quote may be cut
into tokens in any way, and a token may span a border.

A state is (state of the grammar, positions in the document where an open quote may
stand, the position that a later part must follow). What it allows is kept: over the
run where no document is needed, else over the document. A token is allowed only if
the answer can still be closed after it: even if every byte is a token of its own,
the shortest way to the end and the end token fit into what is left of
`max_new_tokens`.
"""

from bisect import bisect_left
from collections.abc import Collection, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from ccl_jax.decoding.choices import Choices, Rows, Table
from ccl_jax.decoding.grammar import DEAD, FAR, Grammar, Graph, Walk, document_graph, span_graph
from ccl_jax.decoding.quotable import BARRIER, END, END_OF_PART, QuotableText
from ccl_jax.decoding.vocabulary import TrieNode, Vocabulary
from ccl_jax.errors import UserError
from ccl_jax.tasks.prompts import PART_SEPARATOR

LONGEST_QUOTE = 300

# Kept per document: the choices of states, as long as they hold no more tokens than this together.
_KEPT_CHOICES = 1 << 18
# From so many positions on, arrays are faster than lists.
_MANY = 256


class AnswerConstraints:
    """What answers of one run may hold; makes the constraint of each prompt and holds what these share.

    Attributes:
        vocabulary: of the tokenizer; `vocabulary.text(tokens)` is what an answer says.
        choices: those of states that need no document, kept over the run.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_id: int,
        output_format: str,
        codes: Collection[str] | None,
        evidence: bool,
        format: bool,
        max_new_tokens: int,
        longest_quote: int = LONGEST_QUOTE,
    ):
        """Prepares the constraints; takes seconds for a vocabulary of 128k tokens.

        Args:
            end_id: the token that ends an answer.
            output_format: 'pairs' or 'blocks'.
            codes: in normal form; no other code can be written. None: any text in the form of ICD-10-CM.
            evidence: whether every quote is a piece of the folded document between word borders,
                or several, each after the one before, joined by ' ... '.
            format: whether the answer consists of the headings in their places and of items. If not,
                lines of free text (which begin with neither '-', '#' nor white space) and headings may stand
                anywhere; a line that begins with '-' is an item all the same.
            max_new_tokens: of an answer at most, the end token among them.
            longest_quote: bytes of a quote at most, in UTF-8.

        Raises:
            UserError: the tokenizer's bytes are unknown or incomplete, `codes` is empty, or an answer needs more
                than `max_new_tokens`.
        """
        if codes is not None and not codes:
            raise UserError('the list of codes that may be written is empty; give at least one code')
        self.vocabulary = Vocabulary(tokenizer, end_id)
        self.end_id = end_id
        self.max_new_tokens = max_new_tokens
        self.longest_quote = longest_quote
        self.choices: dict[tuple[Grammar, int], Choices] = {}
        self._codes = codes
        leading_space = self.vocabulary.writes_leading_space
        self._document = self._grammar(document_graph(output_format, codes, evidence, format, leading_space))
        self._span: Grammar | None = None

    def of_document(self, text: str) -> 'AnswerConstraint':
        """Returns the constraint of the answer to a document."""
        return AnswerConstraint(self, self._document, QuotableText(text, self.longest_quote))

    def of_span(self) -> 'AnswerConstraint':
        """Returns the constraint of the answer to a single span: a heading and one code."""
        if self._span is None:
            self._span = self._grammar(span_graph(self._codes, self.vocabulary.writes_leading_space))
        return AnswerConstraint(self, self._span, QuotableText('', self.longest_quote))

    def _grammar(self, graph: Graph) -> Grammar:
        grammar = Grammar(graph, self.vocabulary.root)
        shortest = grammar.way_to_end[grammar.start] + 1
        if shortest > self.max_new_tokens:
            raise UserError(
                f'max_new_tokens is {self.max_new_tokens}, but the shortest answer may take {shortest}; raise it'
            )
        return grammar


class AnswerConstraint:
    """The state of one answer: `allowed()`, then `advance(token)`, until the end token.

    Attributes:
        ended: whether the end token has come.
    """

    def __init__(self, shared: AnswerConstraints, grammar: Grammar, text: QuotableText):
        self._shared = shared
        self._grammar = grammar
        self._text = text
        self._root = shared.vocabulary.root
        self._token_bytes = shared.vocabulary.token_bytes
        self._longest = shared.longest_quote
        self._behind = {END: grammar.after, END_OF_PART: grammar.after_part}
        self._closing = grammar.way_to_end[grammar.after]
        self._choices: dict[tuple[int, tuple[int, ...], int], Choices] = {}
        self._kept = 0
        self._plain: dict[tuple[int, TrieNode], tuple[list[int], ...]] = {}
        self._tables: dict[TrieNode, Table] = {}
        self._left = shared.max_new_tokens
        self._state = grammar.start
        self._positions: tuple[int, ...] = ()
        self._later = -1  # where the part before an open separator ended
        self._length = 0  # bytes of the open quote
        self.ended = False

    def allowed(self) -> np.ndarray:
        """Returns the ids of the tokens that may come next, int32, ascending, never empty; not to be written to."""
        quote_room = max(0, self._longest - self._length)
        room = self._left - 2  # the next token and the end token
        return self._choose().within(quote_room, room)

    def advance(self, token: int) -> None:
        """Takes the next token; it must be one of `allowed()`."""
        self._left -= 1
        if token == self._shared.end_id:
            self.ended = True
            return
        for byte in self._token_bytes[token]:
            self._step(byte)

    def _step(self, byte: int) -> None:
        grammar, text = self._grammar, self._text
        state = grammar.edges(self._state).get(byte, DEAD)
        later, positions = self._later, []
        if self._positions:
            folded, flags = text.folded, text.flags
            part_end = -1
            for position in self._positions:
                flag = flags[position]
                if flag:
                    following = grammar.edges(self._behind[flag]).get(byte, DEAD)
                    if following:
                        state = grammar.union(state, following)
                        # Of several, the first leaves the most places for a later part.
                        if flag == END_OF_PART and part_end < 0:
                            part_end = position
                if folded[position] == byte != BARRIER:
                    positions.append(position + 1)
            # Two separators are never open at once: a part that others follow does not end with ' ...'.
            later = part_end if part_end >= 0 else later
        if grammar.way_to_quote[self._state] == 0:
            positions += [start + 1 for start in text.starts_with(byte)]
        if grammar.way_to_later[self._state] == 0:
            starts = text.starts_with(byte)
            positions = sorted({*positions, *(start + 1 for start in starts[bisect_left(starts, self._later) :])})
        is_open = grammar.way_to_later[state] < FAR
        self._length = self._length + 1 if positions or is_open else 0
        if self._length > self._longest:
            positions = []
        self._state, self._positions, self._later = state, tuple(positions), later if is_open else -1

    def _choose(self) -> Choices:
        """Returns the choices of the present state, made once."""
        if not self._positions and self._grammar.is_closed(self._state):
            kept: dict = self._shared.choices
            key: tuple = (self._grammar, self._state)
        else:
            kept = self._choices
            key = (self._state, self._positions, self._later)
        choices = kept.get(key)
        if choices is None:
            choices = kept[key] = self._make_choices()
            if kept is self._choices:
                self._kept += choices.size
                if self._kept > _KEPT_CHOICES:
                    kept.clear()
                    self._kept = 0
        return choices

    def _make_choices(self) -> Choices:
        grammar = self._grammar
        rows = Rows()
        walk = grammar.walk(self._state, self._root)
        if not walk.is_empty:
            self._add_walk(rows, walk, grammar.way_to_later[self._state], self._later)
        may_end = grammar.accepts(self._state)
        if self._positions:
            self._add_words(rows, self._root, self._positions, begun=True)
            flags = self._text.flags
            may_end |= any(flags[at] and grammar.accepts(self._behind[flags[at]]) for at in self._positions)
        if may_end:
            rows.add(self._shared.end_id, 0, -1, 0)
        return rows.choices()

    def _table(self, node: TrieNode) -> Table:
        """Returns the tokens that go on at `node` with the first words of a quote; their origin is its start."""
        if node not in self._tables:
            rows = Rows()
            self._add_words(rows, node, self._text.starts, begun=False)
            self._tables[node] = rows.table()
        return self._tables[node]

    def _add_walk(
        self, rows: Rows, walk: Walk, way_to_later: int, part_end: int, reach: int = 0, origin: int = 0
    ) -> None:
        """Adds the tokens of a walk through the grammar.

        Args:
            way_to_later: bytes from the walk's beginning to a later part, FAR if none.
            part_end: where in the document the part before ended.
            reach: bytes of the quote before the walk's beginning.
        """
        first_piece = self._text.shortest_after(0)
        rows.extend(walk.tokens, reach, np.minimum(walk.end, walk.quote + first_piece + self._closing), origin)
        for node in walk.quotes:
            table = self._table(node)
            inside = table.reach <= self._longest
            rows.extend(table.tokens[inside], reach, table.close[inside], origin)
        if way_to_later < FAR:
            piece = self._text.shortest_after(part_end)
            rows.extend(walk.tokens, reach + way_to_later + piece, walk.later + piece + self._closing, origin)
            for node in walk.laters:
                table = self._table(node)
                inside = table.origin >= part_end
                rows.extend(
                    table.tokens[inside], reach + way_to_later + table.reach[inside], table.close[inside], origin
                )

    def _add_words(self, rows: Rows, node: TrieNode, positions: Sequence[int] | np.ndarray, begun: bool) -> None:
        """Adds the tokens that go on at `node` with the document's words from any of `positions`.

        Args:
            begun: whether the quote has begun before; if not, it cannot end at once.
        """
        text, closing = self._text, self._closing
        folded, flags, distance = text.folded, text.flags, text.distance
        stack = [(node, 0, positions)]
        while stack:
            node, depth, positions = stack.pop()
            if len(positions) > _MANY:
                stack += self._add_many(rows, node, depth, np.asarray(positions), begun)
                continue
            if isinstance(positions, np.ndarray):
                positions = positions.tolist()
            if node.tokens and depth:
                ways = [distance[position] for position in positions]
                for token in node.tokens:
                    rows.tokens += [token] * len(ways)
                    rows.reach += [depth + way for way in ways]
                    rows.close += [way + closing for way in ways]
                    rows.origin += [position - depth for position in positions]
            children = node.children
            if not children:
                continue
            groups: dict[int, list[int]] = {}
            for position in positions:
                flag = flags[position]
                if flag and (depth or begun):
                    self._add_behind(rows, node, depth, position, flag)
                byte = folded[position]
                if byte in children and byte != BARRIER:
                    groups.setdefault(byte, []).append(position + 1)
            for byte, group in groups.items():
                stack.append((children[byte], depth + 1, group))

    def _add_many(
        self, rows: Rows, node: TrieNode, depth: int, positions: np.ndarray, begun: bool
    ) -> list[tuple[TrieNode, int, np.ndarray]]:
        """One round of `_add_words` by arrays; returns what follows: (child, depth, positions)."""
        way = np.frombuffer(self._text.distance, np.int32)[positions]
        if depth:
            for token in node.tokens:
                rows.extend(np.full(len(way), token, np.int32), depth + way, way + self._closing, positions - depth)
        if depth or begun:
            flags = np.frombuffer(self._text.flags, np.uint8)[positions]
            for flag, state in self._behind.items():
                if not self._grammar.walk(state, node).is_empty:
                    for position in positions[flags == flag].tolist():
                        self._add_behind(rows, node, depth, position, flag)
        bytes_there = np.frombuffer(self._text.folded, np.uint8)[positions]
        following = []
        for byte in np.unique(bytes_there).tolist():
            if byte in node.children and byte != BARRIER:
                following.append((node.children[byte], depth + 1, positions[bytes_there == byte] + 1))
        return following

    def _add_behind(self, rows: Rows, node: TrieNode, depth: int, position: int, flag: int) -> None:
        """Adds the tokens that go on at `node` with what stands behind a quote, which ends at `position`."""
        walk = self._grammar.walk(self._behind[flag], node)
        if walk.is_empty:
            return
        origin = position - depth
        if walk.quotes or walk.laters:
            way_to_later = len(PART_SEPARATOR) if flag == END_OF_PART else FAR
            self._add_walk(rows, walk, way_to_later, position, depth, origin)
            return
        # The usual case, in lists: few tokens, and all end inside the grammar.
        if (flag, node) not in self._plain:
            close = np.minimum(walk.end, walk.quote + self._text.shortest_after(0) + self._closing)
            inside = walk.later < FAR
            columns = (walk.tokens, close, walk.tokens[inside], walk.later[inside])
            self._plain[flag, node] = tuple(column.tolist() for column in columns)
        tokens, close, part_tokens, ways = self._plain[flag, node]
        for token, way in zip(tokens, close, strict=True):
            if way < FAR:
                rows.add(token, depth, way, origin)
        if part_tokens:
            piece = self._text.shortest_after(position)
            for token, way in zip(part_tokens, ways, strict=True):
                rows.add(token, depth + len(PART_SEPARATOR) + piece, way + piece + self._closing, origin)
