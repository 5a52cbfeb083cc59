"""One ICD-10-CM release: its codes, titles, notes and tree.

Codes go in and come out in normal form (`ccl_jax.icd.codes`). Blocks and
chapters are no codes here: `B20` is the category, its block's title comes from
`block('B20')`. Several releases can be open side by side.
"""

import functools
import importlib.util
from pathlib import Path

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import normalize_code
from ccl_jax.icd.tabular import Entry, parse_tabular

_CATEGORY_LENGTH = 3


class Release:
    """A release of ICD-10-CM, read-only.

    Methods that take a code raise KeyError if the release does not have it;
    `code in release` tests for that.

    Attributes:
        name: version and file, e.g. 'ICD-10-CM 2021 (icd10cm_tabular_2021)'.
    """

    def __init__(self, name: str, entries: dict[str, Entry]):
        self.name = name
        self._entries = entries
        self._categories: dict[str, list[str]] = {}
        for entry in entries.values():
            if entry.parent is None:
                self._categories.setdefault(entry.block, []).append(entry.code)

    @classmethod
    def from_tabular(cls, path: str | Path) -> 'Release':
        """Reads the tabular XML of a release. Raises UserError if `path` is not one."""
        version, entries = parse_tabular(path)
        return cls(f'ICD-10-CM {version} ({Path(path).stem})', entries)

    @staticmethod
    def embedded() -> 'Release':
        """Returns the release that the package simple-icd-10-cm ships, read once per process.

        Raises:
            UserError: the package is not installed or holds no tabular XML.
        """
        return _embedded()

    def __contains__(self, code: object) -> bool:
        return code in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def codes(self) -> tuple[str, ...]:
        """Returns all codes, headers and billable, in the order of the tabular list."""
        return tuple(self._entries)

    def billable_codes(self) -> tuple[str, ...]:
        """Returns the billable codes in the order of the tabular list."""
        return tuple(code for code, entry in self._entries.items() if not entry.children)

    def title(self, code: str) -> str:
        return self._entry(code).title

    def billable(self, code: str) -> bool:
        """Whether the code is complete; a header (with codes below it) is not billable."""
        return not self._entry(code).children

    def chapter(self, code: str) -> str:
        """Returns the title of the chapter, e.g. 'Diseases of the circulatory system (I00-I99)'."""
        return self._entry(code).chapter

    def block(self, code: str) -> str:
        """Returns the title of the innermost block, e.g. 'Hypertensive diseases (I10-I1A)'."""
        return self._entry(code).block

    def parent(self, code: str) -> str | None:
        """Returns the code above, None for a category (three characters)."""
        return self._entry(code).parent

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
        return self._entry(code).children

    def siblings(self, code: str) -> tuple[str, ...]:
        """Returns the other codes with the same parent; for a category the other categories of its block."""
        entry = self._entry(code)
        family = self._categories[entry.block] if entry.parent is None else self.children(entry.parent)
        return tuple(other for other in family if other != code)

    def inclusion_terms(self, code: str) -> tuple[str, ...]:
        """Returns the inclusion terms of this very code (not of the codes above)."""
        return self._entry(code).inclusion_terms

    def includes(self, code: str) -> tuple[str, ...]:
        """Returns the 'Includes' notes of this very code."""
        return self._entry(code).includes

    def excludes1(self, code: str) -> tuple[str, ...]:
        """Returns the Excludes1 notes ('not coded here') of this very code."""
        return self._entry(code).excludes1

    def excludes2(self, code: str) -> tuple[str, ...]:
        """Returns the Excludes2 notes ('not included here') of this very code."""
        return self._entry(code).excludes2

    def terms(self, code: str) -> list[tuple[str, str]]:
        """Returns (text, origin) of what names the code; origin is 'title', 'inclusion_term' or 'includes'."""
        entry = self._entry(code)
        return [
            (entry.title, 'title'),
            *((term, 'inclusion_term') for term in entry.inclusion_terms),
            *((note, 'includes') for note in entry.includes),
        ]

    def nearest_living_ancestor(self, code: str) -> str | None:
        """Returns the longest leading part of a code that this release has, None if not even its category.

        For codes that were retired or lack their seventh character: 'W19.XXX'
        gives 'W19'. A code that the release has is its own answer.
        """
        bare = code.replace('.', '')
        for length in range(len(bare), _CATEGORY_LENGTH - 1, -1):
            candidate = normalize_code(bare[:length])
            if candidate in self._entries:
                return candidate
        return None

    def _entry(self, code: str) -> Entry:
        try:
            return self._entries[code]
        except KeyError:
            raise KeyError(f'{code} is not in {self.name}') from None


@functools.cache
def _embedded() -> Release:
    # Importing the package would build its own tree in module globals (2-3 s, 180 MB); only its data file is wanted.
    spec = importlib.util.find_spec('simple_icd_10_cm')
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for path in sorted(Path(folder, 'data').glob('*tabular*.xml')):
            return Release.from_tabular(path)
    raise UserError(
        'the embedded ICD-10-CM release comes with the package simple-icd-10-cm, which '
        + ('holds no tabular XML here' if folders else 'is not installed')
        + '; run "pip install simple-icd-10-cm" or give a tabular XML by path'
    )
