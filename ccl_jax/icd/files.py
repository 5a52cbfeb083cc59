"""From files and folders to the table of a release: what each file is, which belong together, and their terms."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from ccl_jax.errors import UserError
from ccl_jax.icd.cache import cached_table
from ccl_jax.icd.order_file import parse_order_file, parse_order_line
from ccl_jax.icd.table import ReleaseTable
from ccl_jax.icd.tabular import parse_tabular

TABULAR, ORDER, INDEX = 'tabular list', 'order file', 'index'
_ROOTS = {'ICD10CM.tabular': TABULAR, 'ICD10CM.index': INDEX}
_MEND = 'give the tabular XML or the order file of an ICD-10-CM release, and index XML files if you have them'
_SHOWN = 3


def read_release(paths: Sequence[str | Path]) -> ReleaseTable:
    """Returns the table of the release that lies in `paths` (see `Release.open`), from the cache where it is there.

    Raises:
        UserError: a file cannot be read, is of no known kind or damaged, or they make no release together.
    """
    files = _recognised_files(paths)
    tabulars, orders, indexes = ([path for path, kind in files if kind == wanted] for wanted in (TABULAR, ORDER, INDEX))
    for kind, found in ((TABULAR, tabulars), (ORDER, orders)):
        if len(found) > 1:
            raise UserError(f'{found[0]} and {found[1]} are each a {kind}, and a release has one; name the one to take')
    given = ', '.join(str(path) for path in paths)
    if not tabulars and not orders:
        raise UserError(f'{given}: no tabular list and no order file of ICD-10-CM there; {_MEND}')
    return cached_table([path for path, _ in files], lambda: _build(tabulars, orders, indexes))


def recognise(path: Path) -> str | None:
    """Returns what a file is by its content: `TABULAR`, `ORDER`, `INDEX`, or None for anything else.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open(path, 'rb') as file:
            first_line = file.readline(1000).decode('utf-8-sig', errors='replace')
            if parse_order_line(first_line) is not None:
                return ORDER
            file.seek(0)
            for _, element in ElementTree.iterparse(file, events=('start',)):
                return _ROOTS.get(element.tag)
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; {_MEND}') from None
    except (ElementTree.ParseError, LookupError, ValueError):
        return None
    return None


def _recognised_files(paths: Sequence[str | Path]) -> list[tuple[Path, str]]:
    files: dict[Path, str] = {}
    for path in map(Path, paths):
        for file in _inside(path):
            kind = recognise(file)
            if kind is not None:
                files[file] = kind
            elif file == path:
                raise UserError(f'{path} is neither a tabular list, an order file nor an index of ICD-10-CM; {_MEND}')
    return list(files.items())


def _inside(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        return sorted(file for file in path.iterdir() if file.is_file())
    except OSError as error:
        raise UserError(f'cannot read the folder {path}: {error.strerror}; {_MEND}') from None


def _build(tabulars: list[Path], orders: list[Path], indexes: list[Path]) -> ReleaseTable:
    table = parse_tabular(tabulars[0]) if tabulars else parse_order_file(orders[0])
    if tabulars and orders:
        _compare(table, tabulars[0], parse_order_file(orders[0]), orders[0])
    for path in indexes:
        _add_index_terms(table, path)
    return table


def _compare(tabular: ReleaseTable, tabular_path: Path, order: ReleaseTable, order_path: Path) -> None:
    ours, theirs = _billable(tabular), _billable(order)
    if ours != theirs:
        first = ', '.join(sorted(ours ^ theirs)[:_SHOWN])
        raise UserError(
            f'{tabular_path} and {order_path} are of different releases: {len(ours):,} and {len(theirs):,} billable '
            f'codes, the first that differ are {first}; give files of one release'
        )


def _billable(table: ReleaseTable) -> set[str]:
    headers = set(table.parents)
    return {code for row, code in enumerate(table.codes) if row not in headers}


def _add_index_terms(table: ReleaseTable, path: Path) -> None:
    # Only a release that is parsed needs it, and it takes long to import.
    from ccl_jax.icd.index import read_index_terms

    known = set(table.codes)
    for term in read_index_terms(path):
        if term.code in known:
            table.index_terms.setdefault(term.origin, {}).setdefault(term.code, []).append(term.text)
        else:
            table.left_out_terms[term.origin] = table.left_out_terms.get(term.origin, 0) + 1
