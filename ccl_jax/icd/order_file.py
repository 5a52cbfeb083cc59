"""Reads the order file of an ICD-10-CM release: every code with its titles, one a line.

Fixed width, as CMS publishes it (icd10cm-order-*.txt; columns from 1): 1-5 order, 7-13 code without dot, 15 flag
(0 header, 1 billable), 17-76 short title, 78- long title. The tree is not in the file: the code above another is the
longest code that it begins with.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import ICD10CM, is_well_formed, normalize_code
from ccl_jax.icd.table import ReleaseTable

_MEND = 'give the order file of an ICD-10-CM release (icd10cm-order-*.txt from cms.gov)'
_LINE = re.compile(r'([0-9]{5}) ([A-Z0-9]{3,7} *) ([01]) (.{60}) (.*\S.*)')
_CODE_WIDTH = 7


class OrderLine(NamedTuple):
    """One line of an order file; `code` in normal form, white space of the titles normalised."""

    order: int
    code: str
    billable: bool
    short_title: str
    title: str


def parse_order_line(line: str) -> OrderLine | None:
    """Returns what a line says (its end of line may be there or not), None if it is no line of an order file."""
    match = _LINE.fullmatch(line.rstrip('\r\n'))
    if match is None or len(match[2]) != _CODE_WIDTH:
        return None
    code = normalize_code(match[2])
    if not is_well_formed(code, ICD10CM):
        return None
    return OrderLine(int(match[1]), code, match[3] == '1', ' '.join(match[4].split()), ' '.join(match[5].split()))


def read_order_file(path: str | Path) -> Iterator[OrderLine]:
    """Yields the lines of an order file; a byte order mark, CRLF and blank lines are fine.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or a line is not of the format.
    """
    try:
        with open(path, 'rb') as file:
            for number, line in enumerate(file, start=1):
                parsed = parse_order_line(line.decode('utf-8-sig' if number == 1 else 'utf-8'))
                if parsed is not None:
                    yield parsed
                elif line.strip():
                    raise UserError(f'line {number} of {path} is no line of an order file; {_MEND}')
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; {_MEND}') from None
    except UnicodeDecodeError:
        raise UserError(f'line {number} of {path} is not UTF-8; {_MEND}') from None


def parse_order_file(path: str | Path) -> ReleaseTable:
    """Returns the table of a release from its order file: codes, titles and tree.

    Raises:
        UserError: as `read_order_file`, and where a code is listed twice, stands before its category, or is flagged
            billable with codes below it, or a header without (as in a file that was cut).
    """
    rows: dict[str, int] = {}
    titles, parents, flags = [], [], []
    headers = set()
    for line in read_order_file(path):
        if line.code in rows:
            raise UserError(f'{path} lists {line.code} twice; {_MEND}')
        parent = _row_above(line.code, rows)
        if parent < 0 and '.' in line.code:
            raise UserError(f'{path} lists {line.code} without its category before it; {_MEND}')
        rows[line.code] = len(rows)
        titles.append(line.title)
        parents.append(parent)
        flags.append(line.billable)
        headers.add(parent)
    for code, row in rows.items():
        if flags[row] and row in headers:
            raise UserError(f'{path} flags {code} as billable and lists codes below it; {_MEND}')
        if not flags[row] and row not in headers:
            raise UserError(f'{path} flags {code} as a header and lists no code below it; {_MEND}')
    if not rows:
        raise UserError(f'{path} holds no codes; {_MEND}')
    return ReleaseTable(f'ICD-10-CM ({Path(path).stem})', list(rows), titles, parents)


def _row_above(code: str, rows: dict[str, int]) -> int:
    for length in range(len(code) - 1, 2, -1):
        row = rows.get(code[:length])
        if row is not None:
            return row
    return -1
