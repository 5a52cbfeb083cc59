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
from ccl_jax.icd.codes import normalize_code

_FULL_LENGTH = 7
_MEND = 'give the tabular XML of an ICD-10-CM release (icd10cm_tabular_*.xml from cms.gov or cdc.gov)'

# One rule exists in prose only: in S06, 6th characters 7 and 8 (death) take no subsequent encounter or sequela.
_EXCEPTION = re.compile(r'7th characters (\w) and (\w) do not apply to codes in category \w+ with 6th character (.+)')
_SIXTH_CHARACTER = re.compile(r'\b(\w) - ')


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One code, header or billable, as a release has it.

    Attributes:
        code: in normal form.
        title: the description, white space normalised.
        chapter, block: titles of the chapter and of the innermost block around the code.
        parent: the code above, None for a category (three characters).
        children: the codes directly below in order; none means billable.
        inclusion_terms, includes, excludes1, excludes2: the code's own notes;
            those of the codes above apply to it too, but are not repeated here.
    """

    code: str
    title: str
    chapter: str
    block: str
    parent: str | None = None
    children: tuple[str, ...] = ()
    inclusion_terms: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()
    excludes1: tuple[str, ...] = ()
    excludes2: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _SeventhCharacters:
    """What a `sevenChrDef` says about all codes below it: (character, meaning) pairs, less `barred` after `sixth`."""

    meanings: tuple[tuple[str, str], ...] = ()
    barred: tuple[str, ...] = ()
    sixth: tuple[str, ...] = ()


def parse_tabular(path: str | Path) -> tuple[str, dict[str, Entry]]:
    """Returns (version, code -> entry in the order of the list) of a tabular XML file.

    Raises:
        UserError: the file cannot be read, is not XML, or is not a tabular list.
    """
    version = ''
    entries: dict[str, Entry] = {}
    try:
        with open(path, 'rb') as file:
            for _, element in ElementTree.iterparse(file):
                if element.tag == 'version':
                    version = _words(element.text)
                elif element.tag == 'chapter':
                    for entry in _chapter(element, path):
                        if entry.code in entries:
                            raise UserError(f'{path} lists {entry.code} twice; {_MEND}')
                        entries[entry.code] = entry
                    # One chapter at a time in memory: the whole tree takes some 60 MB.
                    element.clear()
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; {_MEND}') from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f'{path} is not well-formed XML ({error}); {_MEND}') from None
    if not entries:
        raise UserError(f'{path} is not a tabular list (it holds no chapter with codes); {_MEND}')
    return version, entries


def _chapter(chapter: ElementTree.Element, path: str | Path) -> Iterator[Entry]:
    title = _words(chapter.findtext('desc'))
    for section in chapter.iterfind('section'):
        # A range of ranges (C00-C96) is a section without codes; the blocks inside it are its siblings in the file.
        block = _words(section.findtext('desc'))
        for diag in section.iterfind('diag'):
            yield from _diag(diag, Entry('', '', title, block), _SeventhCharacters(), path)


def _diag(diag: ElementTree.Element, above: Entry, seventh: _SeventhCharacters, path: str | Path) -> Iterator[Entry]:
    """Yields the code of `diag` and all codes below it, generated ones included."""
    title = _words(diag.findtext('desc'))
    code = normalize_code(diag.findtext('name') or '')
    if not code or not title:
        raise UserError(f'{path} has a code without name or description below {above.code or above.block}; {_MEND}')
    seventh = _seventh_characters(diag) or seventh
    nested = diag.findall('diag')
    generated = () if nested else tuple(_extended(code, title, seventh))
    entry = Entry(
        code=code,
        title=title,
        chapter=above.chapter,
        block=above.block,
        parent=above.code or None,
        children=tuple(normalize_code(d.findtext('name') or '') for d in nested) + tuple(c for c, _ in generated),
        inclusion_terms=_notes(diag, 'inclusionTerm'),
        includes=_notes(diag, 'includes'),
        excludes1=_notes(diag, 'excludes1'),
        excludes2=_notes(diag, 'excludes2'),
    )
    yield entry
    for child in nested:
        yield from _diag(child, entry, seventh, path)
    for extended, extended_title in generated:
        yield Entry(extended, extended_title, above.chapter, above.block, parent=code)


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


def _notes(diag: ElementTree.Element, tag: str) -> tuple[str, ...]:
    return tuple(words for note in diag.iterfind(f'{tag}/note') if (words := _words(note.text)))


def _words(text: str | None) -> str:
    return ' '.join((text or '').split())
