"""Which codes exist: the valid ones, and the label space of a file."""

import dataclasses
from collections.abc import Collection, Iterable
from pathlib import Path

from ccl_jax.errors import UserError
from ccl_jax.evaluation.pairs import Code
from ccl_jax.icd.codes import ICD10CM, SYSTEMS, is_well_formed, normalize_code
from ccl_jax.icd.release import Release


@dataclasses.dataclass(frozen=True)
class ValidCodes:
    """The codes of a release and those that annotators used, be they retired.

    Of the other systems there is no list at hand: their codes need only have the form.

    Attributes:
        release: of ICD-10-CM.
        annotated: codes of gold or training documents.
    """

    release: Release
    annotated: frozenset[Code]

    def __contains__(self, item: object) -> bool:
        if item in self.annotated:
            return True
        if not isinstance(item, tuple):
            return False
        system, code = item
        return code in self.release if system == ICD10CM else is_well_formed(code, system)


def read_label_space(path: str | Path, used: Collection[Code] = frozenset()) -> frozenset[Code]:
    """Returns the codes of a file with one `code` or `system<TAB>code` a line, in normal form.

    A line without a system stands for the code in every system in which it is `used`,
    for ICD-10-CM if there is none. Further columns and blank lines are passed over, so
    CodiEsp's lists of valid codes can be given as they are.

    Args:
        path: the file.
        used: the gold and predicted codes.

    Raises:
        UserError: the file cannot be read, is not UTF-8 text, or holds no code.
    """
    try:
        lines = Path(path).read_text(encoding='utf-8-sig').splitlines()
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; check the path') from None
    except UnicodeDecodeError:
        raise UserError(f'{path} is not UTF-8 text; write one code a line in UTF-8') from None
    systems: dict[str, list[Code]] = {}
    for code in used:
        systems.setdefault(_bare(code[1]), []).append(code)
    space: set[Code] = set()
    for line in lines:
        first, *rest = (column.strip() for column in line.split('\t'))
        if first in SYSTEMS and rest:
            space.add((first, normalize_code(rest[0], first)))
        elif first:
            space.update(systems.get(_bare(first), [(ICD10CM, normalize_code(first))]))
    space = {(system, code) for system, code in space if code}
    if not space:
        raise UserError(f'{path} holds no code; write one code, or system<TAB>code, a line')
    return frozenset(space)


def without_form(codes: Iterable[Code]) -> int:
    """How many of the codes have not the form of their system."""
    return sum(not is_well_formed(code, system) for system, code in codes)


def _bare(code: str) -> str:
    return ''.join(code.split()).replace('.', '').upper()
