"""Reads the tabular list of an ICD-10-CM release, the XML file that CMS and CDC publish.

chapter > section (block) > nested diag. Most 7-character codes are not listed:
a `sevenChrDef` names the seventh characters of every code below it, and they
are generated here. The rules are those of the official guidelines, section
I.A.4 (placeholder X) and I.A.5 (seventh characters).
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import ICD10CM, is_well_formed, normalize_code
from ccl_jax.icd.table import ReleaseTable

_FULL_LENGTH = 7
_MEND = 'give the tabular XML of an ICD-10-CM release (icd10cm_tabular_*.xml from cms.gov or cdc.gov)'

# One rule exists in prose only: in S06, 6th characters 7 and 8 (death) take no subsequent encounter or sequela.
_EXCEPTION = re.compile(r'7th characters (\w) and (\w) do not apply to codes in category \w+ with 6th character (.+)')
_SIXTH_CHARACTER = re.compile(r'\b(\w) - ')


# Note elements, and the kind of note that each is.
_NOTE_TAGS = {
    'includes': 'includes',
    'excludes1': 'excludes1',
    'excludes2': 'excludes2',
    'useAdditionalCode': 'use_additional',
    'codeFirst': 'code_first',
    'codeAlso': 'code_also',
}


@dataclasses.dataclass(frozen=True, slots=True)
class _SeventhCharacters:
    """What a `sevenChrDef` says about all codes below it: (character, meaning) pairs, less `barred` after `sixth`."""

    meanings: tuple[tuple[str, str], ...] = ()
    barred: tuple[str, ...] = ()
    sixth: tuple[str, ...] = ()


def parse_tabular(path: str | Path) -> ReleaseTable:
    """Returns the table of a release from its tabular XML, generated 7-character codes included.

    Raises:
        UserError: the file cannot be read, is not XML, or is not a tabular list.
    """
    reader = _Reader(path)
    version = ''
    try:
        with open(path, 'rb') as file:
            for _, element in ElementTree.iterparse(file):
                if element.tag == 'version':
                    version = _words(element.text)
                elif element.tag == 'chapter':
                    reader.chapter(element)
                    # One chapter at a time in memory: the whole tree takes some 60 MB.
                    element.clear()
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; {_MEND}') from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f'{path} is not well-formed XML ({error}); {_MEND}') from None
    table = reader.table
    if not table.codes:
        raise UserError(f'{path} is not a tabular list (it holds no chapter with codes); {_MEND}')
    return dataclasses.replace(table, name=f'ICD-10-CM {version} ({Path(path).stem})')


class _Reader:
    """Fills the columns of a table, chapter by chapter."""

    def __init__(self, path: str | Path):
        self.path = path
        self.table = ReleaseTable('', [], [], [])
        self._listed: set[str] = set()

    def chapter(self, chapter: ElementTree.Element) -> None:
        above = self._place(chapter, f'chapter {_words(chapter.findtext("name"))}', -1)
        ranges: list[tuple[str, int]] = []
        for section in chapter.iterfind('section'):
            # A range of ranges (C00-C96) is a section without codes, and a sibling of the blocks inside it.
            name = section.get('id', '')
            around = [row for outer, row in ranges if _encloses(outer, name)]
            place = self._place(section, f'block {name}', around[-1] if around else above)
            if section.find('diag') is None:
                ranges.append((name, place))
            for diag in section.iterfind('diag'):
                self.table.category_places[normalize_code(diag.findtext('name') or '')] = place
                self._diag(diag, -1, _SeventhCharacters())

    def _place(self, element: ElementTree.Element, name: str, above: int) -> int:
        """Adds a chapter or block and returns its row."""
        self.table.place_names.append(name)
        self.table.place_titles.append(_words(element.findtext('desc')))
        self.table.places_above.append(above)
        self._notes_of(element, name)
        return len(self.table.place_names) - 1

    def _diag(self, diag: ElementTree.Element, above: int, seventh: _SeventhCharacters) -> None:
        """Adds the code of `diag` and all codes below it, generated ones included."""
        title = _words(diag.findtext('desc'))
        code = normalize_code(diag.findtext('name') or '')
        code_above = self.table.codes[above] if above >= 0 else ''
        where = f'below {code_above or self.table.place_names[-1]}'
        if not code or not title:
            raise UserError(f'{self.path} has a code without name or description {where}; {_MEND}')
        if not is_well_formed(code, ICD10CM) or not _may_stand_below(code, code_above):
            raise UserError(f'{self.path} has {code[:20]} {where}, where it cannot be; {_MEND}')
        row = self._code(code, title, above)
        self._notes_of(diag, code)
        inclusion_terms = _notes(diag, 'inclusionTerm')
        if inclusion_terms:
            self.table.inclusion_terms[code] = inclusion_terms
        seventh = _seventh_characters(diag) or seventh
        nested = diag.findall('diag')
        for child in nested:
            self._diag(child, row, seventh)
        if not nested:
            for extended, extended_title in _extended(code, title, seventh):
                self._code(extended, extended_title, row)

    def _code(self, code: str, title: str, above: int) -> int:
        if code in self._listed:
            raise UserError(f'{self.path} lists {code} twice; {_MEND}')
        self._listed.add(code)
        self.table.codes.append(code)
        self.table.titles.append(title)
        self.table.parents.append(above)
        return len(self.table.codes) - 1

    def _notes_of(self, element: ElementTree.Element, name: str) -> None:
        for tag, kind in _NOTE_TAGS.items():
            notes = _notes(element, tag)
            if notes:
                self.table.notes[kind][name] = notes


def _may_stand_below(code: str, above: str) -> bool:
    """Whether a code is of the category of the one above ('' for a category) and longer.

    It need not begin with it: FY2021 has H54.512A below H54.511. That codes grow also bounds how deep a file nests.
    """
    return code[:3] == above[:3] and len(code) > len(above) if above else '.' not in code


def _encloses(outer: str, inner: str) -> bool:
    """Whether the range of a section, e.g. 'V00-V99', holds that of another, e.g. 'V00-V09' or 'V97'."""
    return outer[:3] <= inner[:3] and inner[-3:] <= outer[-3:]


def _seventh_characters(diag: ElementTree.Element) -> _SeventhCharacters | None:
    definition = diag.find('sevenChrDef')
    if definition is None:
        return None
    meanings = tuple((e.get('char', ''), _words(e.text)) for e in definition.iterfind('extension'))
    for note in _notes(diag, 'notes'):
        exception = _EXCEPTION.search(note)
        if exception:
            return _SeventhCharacters(meanings, exception.groups()[:2], tuple(_SIXTH_CHARACTER.findall(exception[3])))
    return _SeventhCharacters(meanings)


def _extended(code: str, title: str, seventh: _SeventhCharacters) -> Iterator[tuple[str, str]]:
    """Yields (code, title) of the 7-character codes of a code that the file lists without children."""
    bare = code.replace('.', '')
    if len(bare) == _FULL_LENGTH:
        return
    stem = bare.ljust(_FULL_LENGTH - 1, 'X')
    for character, meaning in seventh.meanings:
        if not (character in seventh.barred and stem[-1] in seventh.sixth):
            yield normalize_code(stem + character), f'{title}, {meaning}'


def _notes(element: ElementTree.Element, tag: str) -> list[str]:
    return [words for note in element.iterfind(f'{tag}/note') if (words := _words(note.text))]


def _words(text: str | None) -> str:
    return ' '.join((text or '').split())
