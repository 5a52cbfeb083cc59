"""Reads the alphabetic indexes of an ICD-10-CM release, the XML files that CMS and CDC publish.

Four files have one schema: the index to diseases and injuries, the index to
external causes, the table of neoplasms, and the table of drugs and chemicals.
letter > mainTerm > nested term; a term has a title (with `nemod`, modifiers in
parentheses that are not essential), and a code, cells (in the two tables), a
`see` that sends the reader elsewhere, or a `seeAlso`.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import normalize_code
from ccl_jax.icd.external_causes import external_cause_wordings
from ccl_jax.icd.folding import fold
from ccl_jax.icd.natural_order import Title, clean, natural_wordings
from ccl_jax.icd.table_wording import drug_wordings, neoplasm_wordings

INDEX = 'index'
EXTERNAL_CAUSES = 'external_cause_index'
NEOPLASMS = 'neoplasm_table'
DRUGS = 'drug_table'

_MEND = 'give an index XML of an ICD-10-CM release (icd10cm-index-*.xml and its like from cms.gov or cdc.gov)'
# A `see` that leads to another `see` is followed so often.
_LONGEST_CHAIN = 4


@dataclasses.dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of an index.

    Attributes:
        path: the titles from the main term down to this line.
        code: in normal form; None where the line has none.
        cells: (meaning of the column, code in normal form) of a line of a table, empty cells left out.
        see, see_also: what the line refers to, as printed; '' for nothing.
    """

    path: tuple[Title, ...]
    code: str | None = None
    cells: tuple[tuple[str, str], ...] = ()
    see: str = ''
    see_also: str = ''


@dataclasses.dataclass(frozen=True)
class Index:
    """An index file.

    Attributes:
        version: e.g. '2026'.
        kind: 'index', 'external_cause_index', 'neoplasm_table' or 'drug_table'.
        entries: in the order of the file. A line that only says `see` has the code and cells of the line it refers to,
            where there is exactly one such line in the file.
        unresolved: the number of lines whose `see` refers to no line with a code, or to several.
    """

    version: str
    kind: str
    entries: tuple[IndexEntry, ...]
    unresolved: int


class IndexTerm(NamedTuple):
    """A wording of an index line for a code; `origin` is the kind of the index."""

    code: str
    text: str
    origin: str


def read_index_terms(path: str | Path) -> Iterator[IndexTerm]:
    """Yields the terms of an index file in natural order of words, each once for a code however it is spelled.

    Raises:
        UserError: see `parse_index`.
    """
    index = parse_index(path)
    seen: set[tuple[str, str]] = set()
    for entry in index.entries:
        for code, text in _wordings(entry, index.kind):
            key = (code, fold(text))
            if key not in seen:
                seen.add(key)
                yield IndexTerm(code, text, index.kind)


def _wordings(entry: IndexEntry, kind: str) -> Iterator[tuple[str, str]]:
    """Yields (code, wording) of a line."""
    if entry.cells:
        table_wordings = drug_wordings if kind == DRUGS else neoplasm_wordings
        for meaning, code in entry.cells:
            for text in table_wordings(entry.path, meaning):
                yield code, text
    elif entry.code is not None:
        wordings = external_cause_wordings if kind == EXTERNAL_CAUSES else natural_wordings
        for text in wordings(entry.path):
            yield entry.code, text


def parse_index(path: str | Path) -> Index:
    """Reads an index file.

    Raises:
        UserError: the file cannot be read, is not XML, or is not an index.
    """
    version, title = '', ''
    columns: dict[str, str] = {}
    entries: list[IndexEntry] = []
    try:
        with open(path, 'rb') as file:
            for _, element in ElementTree.iterparse(file):
                if element.tag == 'version':
                    version = _words(element.text)
                elif element.tag == 'title' and not entries:
                    # The last title before the first main term may be a letter's; the file's own comes first.
                    title = title or _words(element.text)
                elif element.tag == 'head':
                    columns[element.get('col', '')] = _words(element.text)
                elif element.tag == 'mainTerm':
                    entries.extend(_entries(element, (), columns))
                    element.clear()
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; {_MEND}') from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f'{path} is not well-formed XML ({error}); {_MEND}') from None
    if not entries:
        raise UserError(f'{path} is not an index (it holds no main term); {_MEND}')
    resolved, unresolved = _resolve(entries)
    return Index(version, _kind(title, columns), resolved, unresolved)


def _kind(title: str, columns: dict[str, str]) -> str:
    first = columns.get('1', '').casefold()
    if first.startswith('neoplasm'):
        return NEOPLASMS
    if columns:
        return DRUGS
    return EXTERNAL_CAUSES if 'external cause' in title.casefold() else INDEX


def _entries(element: ElementTree.Element, above: tuple[Title, ...], columns: dict[str, str]) -> Iterator[IndexEntry]:
    """Yields the line of a mainTerm or term and those below it."""
    path = (*above, _title(element.find('title')))
    cells = ((columns.get(cell.get('col', ''), ''), _code(cell.text)) for cell in element.iterfind('cell'))
    yield IndexEntry(
        path=path,
        code=_code(element.findtext('code')),
        cells=tuple((meaning, code) for meaning, code in cells if meaning and code),
        see=_words(element.findtext('see')),
        see_also=_words(element.findtext('seeAlso')),
    )
    for term in element.iterfind('term'):
        yield from _entries(term, path, columns)


def _title(element: ElementTree.Element | None) -> Title:
    if element is None:
        return Title('')
    before = _words(element.text)
    after = _words(' '.join(modifier.tail or '' for modifier in element))
    modifiers = ' '.join(_words(modifier.text) for modifier in element)
    # A modifier may hold one of its own: '(accidental(ly))'.
    nonessential = tuple(_words(part) for part in re.findall(r'\(((?:[^()]|\([^()]*\))*)\)', modifiers))
    glue = '' if not after or after.startswith((',', '-')) else ' '
    return Title(f'{before}{glue}{after}'.strip(), tuple(filter(None, nonessential)), len(before))


def _code(text: str | None) -> str | None:
    """Returns the normal form of 'C79.8-' or 'I10'; None for '-' and '--', which say that there is no code."""
    return normalize_code(_words(text).rstrip('-').rstrip('.')) or None if text else None


def _words(text: str | None) -> str:
    return ' '.join((text or '').split())


class _Node:
    """A line of the index as a place to be referred to: below it, folded names lead to further ones."""

    def __init__(self, entry: IndexEntry | None = None) -> None:
        self.entry = entry
        self.below: dict[str, list[_Node]] = {}


def _resolve(entries: Sequence[IndexEntry]) -> tuple[tuple[IndexEntry, ...], int]:
    """Gives lines that only refer to another line its code and cells; returns also how many could not be followed."""
    root = _tree(entries)
    resolved, unresolved = [], 0
    for entry in entries:
        if entry.see and not entry.code and not entry.cells:
            target = _follow(root, entry)
            if target is None:
                unresolved += 1
            else:
                entry = dataclasses.replace(entry, code=target.code, cells=target.cells)
        resolved.append(entry)
    return tuple(resolved), unresolved


def _tree(entries: Sequence[IndexEntry]) -> _Node:
    root = _Node()
    nodes: list[_Node] = []
    for entry in entries:
        depth = len(entry.path)
        del nodes[depth - 1 :]
        node = _Node(entry)
        above = nodes[-1] if nodes else root
        for name in _names(entry.path[-1]):
            above.below.setdefault(name, []).append(node)
        nodes.append(node)
    return root


def _names(title: Title) -> set[str]:
    """Returns the folded names by which a line may be referred to: its whole title, or one form between commas."""
    text = clean(title.text)
    return {name for form in (text, *text.split(', ')) if (name := fold(form))}


def _follow(root: _Node, entry: IndexEntry) -> IndexEntry | None:
    """Returns the one line with a code or cells that a `see` leads to, None if there is none or more than one."""
    for _ in range(_LONGEST_CHAIN):
        pieces = [fold(clean(piece)) for piece in entry.see.split(', ')]
        targets = {id(node): node.entry for node in _targets(root, tuple(filter(None, pieces)))}
        if len(targets) != 1:
            return None
        (target,) = targets.values()
        if target is None or target.code or target.cells:
            return target
        entry = target
    return None


def _targets(node: _Node, pieces: tuple[str, ...]) -> Iterator[_Node]:
    """Yields the lines reached by the pieces between commas; a title with commas takes several of them at once."""
    if not pieces:
        yield node
        return
    for length in range(len(pieces), 0, -1):
        for below in node.below.get(' '.join(pieces[:length]), ()):
            yield from _targets(below, pieces[length:])
