"""One ICD-10-CM release: its codes, titles, notes, terms and tree.

Codes go in and come out in normal form (`ccl_jax.icd.codes`). Blocks and
chapters are no codes here: `B20` is the category, its block's title comes from
`block('B20')`. Several releases can be open side by side.
"""

import functools
import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import normalize_code
from ccl_jax.icd.files import read_release
from ccl_jax.icd.notes import code_references
from ccl_jax.icd.order_file import parse_order_file
from ccl_jax.icd.table import NOTE_KINDS, ReleaseTable
from ccl_jax.icd.tabular import parse_tabular

_CATEGORY_LENGTH = 3
_FULL_LENGTH = len('W19.XXXA')


class Term(NamedTuple):
    """Words that name a code, and where they come from.

    `origin` is 'title', 'inclusion_term', 'includes', 'index', 'external_cause_index', 'neoplasm_table' or
    'drug_table'.
    """

    text: str
    origin: str


class Conflict(NamedTuple):
    """`other` must not stand beside `code`: an Excludes1 note that `where` (code, block or chapter) has says so."""

    code: str
    other: str
    where: str
    note: str


class Release:
    """A release of ICD-10-CM, read-only.

    Methods that take a code raise KeyError if the release does not have it;
    `code in release` tests for that, and `status` answers for any code.

    Attributes:
        name: version and file, e.g. 'ICD-10-CM 2021 (icd10cm_tabular_2021)'.
        left_out_terms: origin -> number of index terms whose code the release does not have.
    """

    def __init__(self, table: ReleaseTable):
        self.name = table.name
        self.left_out_terms = Counter(table.left_out_terms)
        self._table = table
        self._rows = {code: row for row, code in enumerate(table.codes)}
        self._children: dict[int, list[str]] = {}
        for code, parent in zip(table.codes, table.parents, strict=True):
            if parent >= 0:
                self._children.setdefault(parent, []).append(code)
        self._categories: dict[int, list[str]] = {}
        for code, place in table.category_places.items():
            self._categories.setdefault(place, []).append(code)

    @classmethod
    def open(cls, paths: Sequence[str | Path]) -> 'Release':
        """Reads a release from files or folders, or from the cache (`ccl_jax.icd.cache`) if they were read before.

        Exactly one tabular list or order file makes the codes; given both, the tabular list makes them and the order
        file must have the same billable codes. Index files add terms. A folder is searched (not its subfolders) for
        files that are one of these, whatever their names; the rest of it is ignored.

        Raises:
            UserError: a given file is none of these, cannot be read or is damaged, or there is not exactly one
                tabular list or order file.
        """
        return cls(read_release(paths))

    @classmethod
    def from_tabular(cls, path: str | Path) -> 'Release':
        """Reads the tabular XML of a release, past the cache. Raises UserError if `path` is not one."""
        return cls(parse_tabular(path))

    @classmethod
    def from_order_file(cls, path: str | Path) -> 'Release':
        """Reads the order file of a release, past the cache: no notes, and '' for chapters and blocks.

        Raises:
            UserError: `path` is not an order file.
        """
        return cls(parse_order_file(path))

    @staticmethod
    def embedded() -> 'Release':
        """Returns the release that the package simple-icd-10-cm ships, read once per process.

        Raises:
            UserError: the package is not installed or holds no tabular XML.
        """
        return _embedded()

    def __contains__(self, code: object) -> bool:
        return code in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def codes(self) -> tuple[str, ...]:
        """Returns all codes, headers and billable, in the order of the tabular list."""
        return tuple(self._table.codes)

    def billable_codes(self) -> tuple[str, ...]:
        """Returns the billable codes in the order of the tabular list."""
        return tuple(code for row, code in enumerate(self._table.codes) if row not in self._children)

    def status(self, code: str) -> str:
        """Returns what the release makes of any code: 'billable', 'header', 'incomplete' or 'unknown'.

        Incomplete: only its 7th character is missing, or that and placeholders (W19.XXX, W19.X). Unknown: retired, or
        no code at any time.
        """
        if code in self._rows:
            return 'billable' if self.billable(code) else 'header'
        stem = self.nearest_living_ancestor(code)
        if stem is None or code[len(stem) :].strip('.X'):
            return 'unknown'
        return 'incomplete' if any(child.startswith(code) for child in self.children(stem)) else 'unknown'

    def title(self, code: str) -> str:
        return self._table.titles[self._row(code)]

    def billable(self, code: str) -> bool:
        """Whether the code is complete; a header (with codes below it) is not billable."""
        return self._row(code) not in self._children

    def seventh_character(self, code: str) -> tuple[str, str] | None:
        """Returns (character, meaning) of a 7-character code, e.g. ('A', 'initial encounter') of W19.XXXA.

        None for a shorter code, and for one whose last character means something of its own.
        """
        title, parent = self.title(code), self.parent(code)
        if parent is None or len(code) < _FULL_LENGTH:
            return None
        # Both the tabular list's rule and the order file print such a title as that of the code above, and the meaning.
        above = self.title(parent) + ', '
        return (code[-1], title.removeprefix(above)) if title.startswith(above) else None

    def chapter(self, code: str) -> str:
        """Returns the title of the chapter, e.g. 'Diseases of the circulatory system (I00-I99)'."""
        places = self._places(code)
        return self._table.place_titles[places[-1]] if places else ''

    def block(self, code: str) -> str:
        """Returns the title of the innermost block, e.g. 'Hypertensive diseases (I10-I1A)'."""
        places = self._places(code)
        return self._table.place_titles[places[0]] if places else ''

    def parent(self, code: str) -> str | None:
        """Returns the code above, None for a category (three characters)."""
        parent = self._table.parents[self._row(code)]
        return self._table.codes[parent] if parent >= 0 else None

    def ancestors(self, code: str) -> tuple[str, ...]:
        """Returns the codes above, nearest first, up to the category."""
        above = []
        parent = self.parent(code)
        while parent is not None:
            above.append(parent)
            parent = self.parent(parent)
        return tuple(above)

    def children(self, code: str) -> tuple[str, ...]:
        """Returns the codes directly below."""
        return tuple(self._children.get(self._row(code), ()))

    def siblings(self, code: str) -> tuple[str, ...]:
        """Returns the other codes with the same parent; for a category the other categories of its block."""
        parent = self.parent(code)
        if parent is not None:
            family = self.children(parent)
        else:
            family = tuple(self._categories.get(self._table.category_places.get(code, -1), ()))
        return tuple(other for other in family if other != code)

    def nearest_common_ancestor(self, codes: Sequence[str]) -> str | None:
        """Returns the deepest code that is each of `codes` or above it; None across categories or without codes."""
        lines = [(code, *self.ancestors(code)) for code in codes]
        if not lines:
            return None
        shared = set(lines[0]).intersection(*lines[1:])
        return next((code for code in lines[0] if code in shared), None)

    def nearest_living_ancestor(self, code: str) -> str | None:
        """Returns the longest leading part of a code that this release has, None if not even its category.

        For codes that were retired or lack their seventh character: 'W19.XXX'
        gives 'W19'. A code that the release has is its own answer.
        """
        bare = code.replace('.', '')
        for length in range(len(bare), _CATEGORY_LENGTH - 1, -1):
            candidate = normalize_code(bare[:length])
            if candidate in self._rows:
                return candidate
        return None

    def inclusion_terms(self, code: str) -> tuple[str, ...]:
        """Returns the inclusion terms of this very code (not of the codes above)."""
        self._row(code)
        return tuple(self._table.inclusion_terms.get(code, ()))

    def includes(self, code: str) -> tuple[str, ...]:
        """Returns the 'Includes' notes of this very code."""
        return self._own_notes(code, 'includes')

    def excludes1(self, code: str) -> tuple[str, ...]:
        """Returns the Excludes1 notes ('not coded here') of this very code."""
        return self._own_notes(code, 'excludes1')

    def excludes2(self, code: str) -> tuple[str, ...]:
        """Returns the Excludes2 notes ('not included here') of this very code."""
        return self._own_notes(code, 'excludes2')

    def use_additional(self, code: str) -> tuple[str, ...]:
        """Returns the 'Use additional code' notes of this very code."""
        return self._own_notes(code, 'use_additional')

    def code_first(self, code: str) -> tuple[str, ...]:
        """Returns the 'Code first' notes of this very code."""
        return self._own_notes(code, 'code_first')

    def code_also(self, code: str) -> tuple[str, ...]:
        """Returns the 'Code also' notes of this very code."""
        return self._own_notes(code, 'code_also')

    def inherited_notes(self, code: str, kind: str) -> tuple[tuple[str, str], ...]:
        """Returns (where, note) for the notes that apply to a code from above, nearest first.

        They come from the codes above, then the blocks around it, then the chapter; `where` is a code,
        'block X00-X09' or 'chapter 9'.

        Raises:
            ValueError: `kind` is not one of `NOTE_KINDS`.
        """
        if kind not in NOTE_KINDS:
            raise ValueError(f'unknown kind of note {kind!r}; known: {", ".join(NOTE_KINDS)}')
        notes = self._table.notes[kind]
        places = (self._table.place_names[place] for place in self._places(code))
        return tuple((where, note) for where in (*self.ancestors(code), *places) for note in notes.get(where, ()))

    def excludes1_conflicts(self, codes: Sequence[str]) -> list[Conflict]:
        """Returns which of `codes` exclude each other by an own or inherited Excludes1 note.

        A note names its codes in brackets (`ccl_jax.icd.notes`); one that names none is no conflict. Codes that the
        release does not have bring no notes, but can be excluded by those of others.
        """
        conflicts = []
        different = tuple(dict.fromkeys(codes))
        for code in different:
            if code not in self._rows:
                continue
            notes = (*((code, note) for note in self.excludes1(code)), *self.inherited_notes(code, 'excludes1'))
            for where, note in notes:
                references = code_references(note)
                conflicts += [
                    Conflict(code, other, where, note)
                    for other in different
                    if other != code and any(reference.contains(other) for reference in references)
                ]
        return conflicts

    def terms(self, code: str) -> list[Term]:
        """Returns what names the code: its title, inclusion terms, 'Includes' notes and index terms, in this order."""
        terms = [Term(self.title(code), 'title')]
        terms += [Term(text, 'inclusion_term') for text in self.inclusion_terms(code)]
        terms += [Term(text, 'includes') for text in self.includes(code)]
        for origin, texts in self._table.index_terms.items():
            terms += [Term(text, origin) for text in texts.get(code, ())]
        return terms

    def term_table(self) -> Iterator[tuple[str, Term]]:
        """Yields every (code, term), headers included, in the order of the list."""
        for code in self._table.codes:
            for term in self.terms(code):
                yield code, term

    def _own_notes(self, code: str, kind: str) -> tuple[str, ...]:
        self._row(code)
        return tuple(self._table.notes[kind].get(code, ()))

    def _places(self, code: str) -> list[int]:
        """Returns the rows of the blocks around a code, innermost first, and of its chapter."""
        category = (code, *self.ancestors(code))[-1]
        place = self._table.category_places.get(category, -1)
        places = []
        while place >= 0:
            places.append(place)
            place = self._table.places_above[place]
        return places

    def _row(self, code: str) -> int:
        try:
            return self._rows[code]
        except KeyError:
            raise KeyError(f'{code} is not in {self.name}') from None


def open_release(spec: str) -> Release:
    """Returns the release of a setting: '' is the embedded one, else paths of files or folders, comma-separated.

    Raises:
        UserError: as `Release.open` and `Release.embedded` do.
    """
    paths = [path.strip() for path in spec.split(',') if path.strip()]
    return Release.open(paths) if paths else Release.embedded()


@functools.cache
def _embedded() -> Release:
    # Importing the package would build its own tree in module globals (2-3 s, 180 MB); only its data file is wanted.
    spec = importlib.util.find_spec('simple_icd_10_cm')
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for path in sorted(Path(folder, 'data').glob('*tabular*.xml')):
            return Release.open([path])
    raise UserError(
        'the embedded ICD-10-CM release comes with the package simple-icd-10-cm, which '
        + ('holds no tabular XML here' if folders else 'is not installed')
        + '; run "pip install simple-icd-10-cm" or give a tabular XML by path'
    )
