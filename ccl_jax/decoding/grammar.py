"""The language of answers, as an automaton over bytes that knows no document.

Where a quote may stand, the automaton has a gap: it says that a quote begins
(QUOTE), or a later part of it (LATER), and where an answer goes on behind a
quote (`after`). `constraints.py` fills the gap with the words of a document.

States are sets of nodes, numbered as they are met; a set with a single way on is
the rule, so that there are hardly more states than nodes.
"""

import dataclasses
from collections import deque
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from ccl_jax.decoding.vocabulary import TrieNode
from ccl_jax.tasks.prompts import ARROW, CODE_HEADING, CODES_HEADING, EVIDENCE_HEADING, PART_SEPARATOR

FAR = 1 << 28  # no way, in bytes; a few of them still add up in int32
DEAD = 0  # the state without nodes

_NEWLINE = ord('\n')
_UPPER = range(ord('A'), ord('Z') + 1)
_DIGITS = range(ord('0'), ord('9') + 1)
# A line of free text begins with a byte that no white space begins with, nor a heading or an item; with a byte that
# begins a character, so that what stands before it is whole.
_VISIBLE = (*range(0x21, 0x7F), *range(0xC3, 0xE1), *range(0xE4, 0xF5))
_IN_LINE = tuple(byte for byte in range(256) if byte != _NEWLINE)


class Graph:
    """Nodes with edges labelled by bytes; an edge may lead to several nodes.

    Attributes:
        edges: for each node, byte -> nodes.
        accepting: nodes where an answer may end.
        quote, later: nodes where a quote, or a later part of one, begins.
        start: nodes of the empty answer.
        after, after_part: nodes behind a quote; `after_part` is where a later part may follow.
    """

    def __init__(self) -> None:
        self.edges: list[dict[int, tuple[int, ...]]] = []
        self.accepting: set[int] = set()
        self.start: tuple[int, ...] = ()
        self.quote = self.node()
        self.later = self.node()
        self.after: tuple[int, ...] = ()
        self.after_part: tuple[int, ...] = ()

    def node(self, accepting: bool = False) -> int:
        self.edges.append({})
        number = len(self.edges) - 1
        if accepting:
            self.accepting.add(number)
        return number

    def link(self, node: int, labels: Iterable[int], *targets: int) -> None:
        for byte in labels:
            known = self.edges[node].get(byte, ())
            self.edges[node][byte] = (*known, *(target for target in targets if target not in known))

    def spell(self, node: int, text: str, *targets: int) -> None:
        """Adds a path that writes `text` from `node` to `targets`."""
        *body, last = text.encode()
        for byte in body:
            following = self.node()
            self.link(node, [byte], following)
            node = following
        self.link(node, [last], *targets)

    def add_codes(self, root: int, codes: Collection[str] | None, *done: int) -> None:
        """Adds a trie that writes one of `codes`, or anything in a code's form if None, from `root` to `done`."""
        if codes is None:
            self._add_code_form(root, *done)
            return
        children: dict[tuple[int, int], int] = {}
        # The last byte leads to `done` itself: a code needs a last node of its own only where a longer one goes on.
        for code in sorted(set(codes)):
            *body, last = code.encode()
            node = root
            for byte in body:
                if (node, byte) not in children:
                    children[node, byte] = self.node()
                    self.link(node, [byte], children[node, byte])
                node = children[node, byte]
            self.link(node, [last], *done)

    def _add_code_form(self, root: int, *done: int) -> None:
        """The form of ICD-10-CM: [A-Z]([0-9][0-9A-Z]|[A-Z][0-9])(.[0-9A-Z]{1,4})?"""
        alphanumeric = (*_DIGITS, *_UPPER)
        second, after_digit, after_letter, dot = self.node(), self.node(), self.node(), self.node()
        self.link(root, _UPPER, second)
        self.link(second, _DIGITS, after_digit)
        self.link(second, _UPPER, after_letter)
        self.link(after_digit, alphanumeric, dot, *done)
        self.link(after_letter, _DIGITS, dot, *done)
        node = self.node()
        self.link(dot, [ord('.')], node)
        for _ in range(3):
            following = self.node()
            self.link(node, alphanumeric, following, *done)
            node = following
        self.link(node, alphanumeric, *done)

    def ways_to(self, *goals: Collection[int]) -> list[list[int]]:
        """Returns for each goal, and each node, the fewest bytes to one of the goal's nodes; FAR if there is no way."""
        sources: list[list[int]] = [[] for _ in self.edges]
        for node, edges in enumerate(self.edges):
            for nodes in set(edges.values()):
                for target in nodes:
                    sources[target].append(node)
        return [_ways(sources, goal) for goal in goals]


def _ways(sources: Sequence[Sequence[int]], goal: Collection[int]) -> list[int]:
    ways = [FAR] * len(sources)
    for node in goal:
        ways[node] = 0
    queue = deque(goal)
    while queue:
        target = queue.popleft()
        for node in sources[target]:
            if ways[node] == FAR:
                ways[node] = ways[target] + 1
                queue.append(node)
    return ways


@dataclasses.dataclass(frozen=True)
class Walk:
    """The tokens that a state allows, and where they leave the automaton.

    Attributes:
        tokens: int32 [n], ascending; those that end inside the automaton.
        end, quote, later: bytes from behind each token to the end of the answer, to a quote, and to a later
            part; int32 [n].
        quotes, laters: nodes of the vocabulary's trie at which a quote, or a later part, begins.
    """

    tokens: np.ndarray
    end: np.ndarray
    quote: np.ndarray
    later: np.ndarray
    quotes: tuple[TrieNode, ...]
    laters: tuple[TrieNode, ...]

    @property
    def is_empty(self) -> bool:
        return not (len(self.tokens) or self.quotes or self.laters)


class Grammar:
    """The automaton of a graph, its states made as they are met, and its walks together with a vocabulary.

    Attributes:
        start, after, after_part: states; see `Graph`.
        way_to_end, way_to_quote, way_to_later: for each state the fewest bytes to the end of the
            answer without a quote, to a quote, and to a later part; FAR if there is no such way.
    """

    def __init__(self, graph: Graph, root: TrieNode):
        self._graph = graph
        self._root = root
        self._ways = graph.ways_to(graph.accepting, {graph.quote}, {graph.later})
        self._numbers: dict[frozenset[int], int] = {}
        self._nodes: list[frozenset[int]] = []
        self._edges: list[dict[int, int] | None] = []
        self._unions: dict[tuple[int, int], int] = {}
        self._walks: dict[tuple[int, TrieNode], Walk] = {}
        self._closed: dict[int, bool] = {}
        self.way_to_end: list[int] = []
        self.way_to_quote: list[int] = []
        self.way_to_later: list[int] = []
        self._state(frozenset())  # DEAD
        self.start = self._state(frozenset(graph.start))
        self.after = self._state(frozenset(graph.after))
        self.after_part = self._state(frozenset(graph.after_part))

    def edges(self, state: int) -> dict[int, int]:
        """Returns byte -> state."""
        edges = self._edges[state]
        if edges is None:
            targets: dict[int, frozenset[int]] = {}
            for node in self._nodes[state]:
                for byte, nodes in self._graph.edges[node].items():
                    targets[byte] = targets.get(byte, frozenset()).union(nodes)
            edges = {byte: self._state(nodes) for byte, nodes in targets.items()}
            self._edges[state] = edges
        return edges

    def union(self, state: int, other: int) -> int:
        if DEAD in (state, other) or state == other:
            return state or other
        key = (state, other)
        if key not in self._unions:
            self._unions[key] = self._state(self._nodes[state] | self._nodes[other])
        return self._unions[key]

    def accepts(self, state: int) -> bool:
        return self.way_to_end[state] == 0

    def is_closed(self, state: int) -> bool:
        """Whether what any token does from `state` on is known without a document."""
        if state not in self._closed:
            walk = self.walk(state, self._root)
            inside = not walk.quotes and not walk.laters and walk.later.min(initial=self.way_to_later[state]) == FAR
            # The shortest quote has one byte.
            quicker = walk.quote + 1 + self.way_to_end[self.after]
            self._closed[state] = inside and bool(np.all(walk.end <= quicker))
        return self._closed[state]

    def walk(self, state: int, node: TrieNode) -> Walk:
        """Returns what can be written from `state` by tokens that go on at `node` of the vocabulary's trie.

        Of all tokens below `node`; a token that ends at `node` itself has been written already.
        """
        key = (state, node)
        if key not in self._walks:
            self._walks[key] = self._make_walk(state, node)
        return self._walks[key]

    def _make_walk(self, state: int, node: TrieNode) -> Walk:
        tokens: list[int] = []
        states: list[int] = []
        quotes: list[TrieNode] = []
        laters: list[TrieNode] = []
        stack = [(state, node)]
        while stack:
            state, below = stack.pop()
            if below is not node:
                tokens += below.tokens
                states += [state] * len(below.tokens)
            if self.way_to_quote[state] == 0:
                quotes.append(below)
            if self.way_to_later[state] == 0:
                laters.append(below)
            edges, children = self.edges(state), below.children
            shorter = edges if len(edges) < len(children) else children
            for byte in shorter:
                if byte in edges and byte in children:
                    stack.append((edges[byte], children[byte]))
        order = np.argsort(tokens, kind='stable')
        ways = (self.way_to_end, self.way_to_quote, self.way_to_later)
        end, quote, later = (np.asarray([way[state] for state in states], np.int32)[order] for way in ways)
        return Walk(np.asarray(tokens, np.int32)[order], end, quote, later, tuple(quotes), tuple(laters))

    def _state(self, nodes: frozenset[int]) -> int:
        if nodes not in self._numbers:
            self._numbers[nodes] = len(self._nodes)
            self._nodes.append(nodes)
            self._edges.append(None)
            ends, quotes, laters = (min((ways[node] for node in nodes), default=FAR) for ways in self._ways)
            self.way_to_end.append(ends)
            self.way_to_quote.append(quotes)
            self.way_to_later.append(laters)
        return self._numbers[nodes]


def document_graph(
    output_format: str, codes: Collection[str] | None, evidence: bool, strict: bool, leading_space: bool
) -> Graph:
    """Returns the graph of answers to a document.

    Args:
        output_format: 'pairs' or 'blocks'.
        codes: those that may be written; None for anything in a code's form.
        evidence: whether quotes are the document's words (the graph has gaps for them), or any words.
        strict: whether headings stand where targets have them and all other lines are items. If not,
            headings and lines of free text may stand anywhere; items have their form all the same.
        leading_space: whether a space may stand before the answer.
    """
    graph = Graph()
    code_line, code_end = graph.node(), graph.node(accepting=True)
    graph.link(code_end, [_NEWLINE], code_line)
    code = graph.node()
    graph.add_codes(code, codes, code_end)
    quote = graph.quote if evidence else graph.node()
    separator = graph.node()
    graph.spell(separator, PART_SEPARATOR, graph.later)
    start = graph.node()
    headings = [(CODES_HEADING, code_end)]

    if output_format == 'pairs':
        item, arrow = graph.node(), graph.node()
        graph.spell(code_line, '- ', item, code, quote)
        graph.spell(item, ARROW.lstrip(), code)
        graph.spell(arrow, ARROW, code)
        after = arrow
    else:
        graph.spell(code_line, '- ', code)
        quote_line, quote_end = graph.node(), graph.node(accepting=not strict)
        graph.link(quote_end, [_NEWLINE], quote_line)
        graph.spell(quote_line, '- ', quote)
        if strict:
            graph.spell(quote_line, f'\n{CODES_HEADING}', code_end)
        else:
            _add_free_lines(graph, quote_line, quote_end)
        headings.append((EVIDENCE_HEADING, quote_end))
        after = quote_end
    if strict:
        first_lines = [start]
    else:
        _add_free_lines(graph, code_line, code_end)
        first_lines = [code_line] if output_format == 'pairs' else [code_line, quote_line]
    for line in first_lines:
        for heading, end in headings:
            graph.spell(line, heading, end)

    graph.after, graph.after_part = (after,), (after, separator)
    if not evidence:
        _add_free_quote(graph, quote, after)
    graph.start = _with_leading_space(graph, start if strict else code_line, leading_space)
    return graph


def span_graph(codes: Collection[str] | None, leading_space: bool) -> Graph:
    """Returns the graph of answers to a single span: the heading and one code."""
    graph = Graph()
    start, code = graph.node(), graph.node()
    graph.spell(start, f'{CODE_HEADING}\n- ', code)
    graph.add_codes(code, codes, graph.node(accepting=True))
    graph.start = _with_leading_space(graph, start, leading_space)
    return graph


def _with_leading_space(graph: Graph, start: int, leading_space: bool) -> tuple[int, ...]:
    if not leading_space:
        return (start,)
    before = graph.node()
    graph.link(before, b' ', start)
    return (start, before)


def _add_free_lines(graph: Graph, line: int, end: int) -> None:
    """Lets empty lines and lines of any words follow; `end` is where a line has ended."""
    graph.accepting.add(line)
    graph.link(line, [_NEWLINE], line)
    words = graph.node(accepting=True)
    graph.link(line, [byte for byte in _VISIBLE if byte not in b'-#'], words)
    graph.link(words, _IN_LINE, words)
    for byte, nodes in graph.edges[end].items():
        graph.link(words, [byte], *nodes)


def _add_free_quote(graph: Graph, quote: int, after: int) -> None:
    """Lets any words stand for a quote: they begin with a visible character and go on within the line."""
    words = graph.node()
    graph.link(quote, _VISIBLE, words)
    graph.link(words, _IN_LINE, words)
    for byte, nodes in graph.edges[after].items():
        graph.link(words, [byte], *nodes)
    if after in graph.accepting:
        graph.accepting.add(words)
