"""Comma-separated tables, plain or gzipped, read row by row.

The files of MIMIC and of the open note collections are RFC 4180 with a header
line; clinical text in them holds line ends and doubled quotes, and is handed on
exactly as it stands, because offsets count its characters.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ccl_jax.errors import UserError
from ccl_jax.sources.report import SourceReport

# Far beyond any note. A quote that is never closed would otherwise collect the rest of the file, millions of rows,
# as one field.
LONGEST_FIELD = 1 << 22
_GZIP_MAGIC = b'\x1f\x8b'
# What the decoder makes of bytes that are not UTF-8; well-formed UTF-8 never decodes to these.
_UNDECODED = re.compile('[\udc80-\udcff]')


def read_table(
    path: str | Path, columns: Sequence[str], *, report: SourceReport | None = None, optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (row number, fields) of a .csv or .csv.gz file in its order; memory stays at one row.

    Rows are numbered from 1, the first after the header; blank lines are none.
    Fields are strings, unchanged. Header names match without regard to case and
    surrounding white space. A byte order mark and CRLF line ends are accepted,
    and gzip is recognised by its first bytes, whatever the file's name.

    Args:
        path: the file.
        columns: the columns to return.
        report: a row with a wrong number of fields, a NUL, or bytes that are not
            UTF-8 is refused there; without it such a row is an error.
        optional: columns to return where the file has them.

    Raises:
        UserError: the file cannot be read, lacks a column, is damaged gzip or
            csv, or holds a bad row and there is no `report`.
    """
    path = Path(path)
    try:
        with open(path, 'rb') as file:
            binary = file
            if file.peek(2).startswith(_GZIP_MAGIC):
                binary = io.BufferedReader(gzip.GzipFile(fileobj=file), buffer_size=1 << 20)
            text = io.TextIOWrapper(binary, encoding='utf-8-sig', errors='surrogateescape', newline='')
            yield from _read_rows(text, path, columns, optional, report)
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror or error}; check the path') from None


def find_table(folder: str | Path, name: str) -> Path:
    """Returns the file `name`.csv or `name`.csv.gz of a folder, in whatever case.

    Raises:
        UserError: there is no such folder, or it has no such file.
    """
    folder = Path(folder)
    try:
        files = {file.name.lower(): file for file in sorted(folder.iterdir())}
    except OSError as error:
        raise UserError(f'cannot read the folder {folder}: {error.strerror}; check the path') from None
    for suffix in ('.csv', '.csv.gz'):
        if (file := files.get(name.lower() + suffix)) is not None:
            return file
    raise UserError(f'{folder} has neither {name}.csv nor {name}.csv.gz; give the folder that holds it')


def _read_rows(
    text: io.TextIOWrapper, path: Path, columns: Sequence[str], optional: Sequence[str], report: SourceReport | None
) -> Iterator[tuple[int, dict[str, str]]]:
    rows = _parse(text, path)
    width, places = _places(next(rows, (1, []))[1], path, columns, optional)
    for number, (line, fields) in enumerate(rows, start=1):
        reason = _fault(fields, width)
        if not reason:
            yield number, {name: fields[place] for name, place in places}
        elif report is not None:
            report.reject(f'{path.name} row {number}', reason, f'line {line}')
        else:
            raise UserError(f'{path} row {number} (line {line}): {reason}; mend or remove the row')


def _parse(text: io.TextIOWrapper, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (line where it begins, fields) of the rows, the header first."""
    # The limit is the process's own; somebody else's larger one is left alone.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    reader = csv.reader(text, strict=True)
    begin = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            raise UserError(
                f'{path} is damaged in the row that begins at line {begin}: a quote in it is not closed, or not '
                'doubled inside a quoted field; mend the row or get the file again'
            ) from None
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise UserError(
                f'{path} is not a whole gzip file (damaged or cut off after line {reader.line_num}); get the file again'
            ) from None
        if fields:
            yield begin, fields
        begin = reader.line_num + 1


def _places(
    header: list[str], path: Path, columns: Sequence[str], optional: Sequence[str]
) -> tuple[int, list[tuple[str, int]]]:
    """Returns the number of columns and (name asked for, place) of each that is wanted."""
    names = [name.strip().lower() for name in header]
    wanted = [name for name in dict.fromkeys((*columns, *optional)) if name in columns or name.lower() in names]
    # The header is not quoted: a file without one has clinical text there.
    if missing := [name for name in wanted if name.lower() not in names]:
        raise UserError(
            f'{path} has no column {", ".join(missing)} among the {len(names)} of its first line; '
            'give a comma-separated file with a header'
        )
    if twice := [name for name in wanted if names.count(name.lower()) > 1]:
        raise UserError(f'{path} has several columns named {", ".join(twice)}; keep one of each')
    return len(names), [(name, names.index(name.lower())) for name in wanted]


def _fault(fields: list[str], width: int) -> str:
    """Returns what is wrong with a row; '' if nothing."""
    if len(fields) != width:
        return 'row has not as many fields as the header'
    for field in fields:
        if '\0' in field:
            return 'row holds a NUL byte'
        if not field.isascii() and _UNDECODED.search(field):
            return 'row is not UTF-8'
    return ''
