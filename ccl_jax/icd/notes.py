"""The codes that a note of the tabular list names.

They stand in brackets, and often with a condition: '(B20)', '(S06.-)', '(O10-O11, O13-O16)', '(J44.0-J44.9)',
'(E08-E13 with .44)', '(V01-V09 with 5th character 9)', '(I69. with final characters -23)'. A trailing '-' or '.-'
means that more characters follow, so 'S06.-', 'S06' and 'S06.' name the same codes: S06 and all below.
"""

import dataclasses
import functools
import re

# A vitamin is none: 'unresponsive to vitamin B12'.
_CODE = r'(?<!vitamin )\b[A-Z](?:[0-9][0-9A-Z]|[A-Z][0-9])(?:\.[0-9A-Z]{1,4})?(?![0-9A-Za-z])'
_BRACKETS = re.compile(rf'\(\s*({_CODE}[^()]*)\)')
# The list is typed by hand: 'I70.2--I70.7-', 'F10.- -F19.-', 'I01.0 -I01.9' and 'M05.00 to M05.8A' are ranges too.
_RANGE = re.compile(rf'({_CODE})(?:[\s.-]*(?:-|\bto\b)[\s.-]*({_CODE}))?')
_WITH = re.compile(r'\bwith\s+')
_POSITIONS = {'fifth': 5, 'sixth': 6, 'six': 6, 'seventh': 7, '5th': 5, '6th': 6, '7th': 7}
_ORDINAL = '|'.join(_POSITIONS)
_AT_POSITION = re.compile(rf'({_ORDINAL})(?: (or|to) ({_ORDINAL}))?[ -]characters? (.+)')
_AT_END = re.compile(r'final characters? (.+)')
_VALUE = re.compile(r'[.-]?([0-9A-Z]+)(?:-\.?([0-9A-Z]+))?-?')
_BETWEEN_VALUES = re.compile(r'\s*,\s*|\.?\s+(?:or\s+)?')
_STEM_LENGTH = 6


@dataclasses.dataclass(frozen=True)
class Condition:
    """What the characters of a code must be: one of `values`, at a place.

    Attributes:
        place: 'after dot'; 'end' (of what stands before the 7th character and placeholders); 'positions'; or
            'last position', the last of the positions that holds no placeholder: 'T36-T50 with fifth or sixth
            character 5' means T36.95XA and T38.0X5A, and not T38.815A's fifth character.
        positions: counted from 1 without the dot.
    """

    place: str
    values: tuple[str, ...]
    positions: tuple[int, ...] = ()

    def holds(self, bare: str) -> bool:
        """Whether a code without dot meets it."""
        if self.place == 'after dot':
            return bare[3:].startswith(self.values)
        if self.place == 'end':
            return bare[:_STEM_LENGTH].rstrip('X').endswith(self.values)
        characters = ''.join(bare[position - 1 : position] for position in self.positions)
        if self.place == 'last position':
            return characters.rstrip('X')[-1:] in self.values
        return characters in self.values


@dataclasses.dataclass(frozen=True)
class CodeRange:
    """The codes from `first` to `last` with all below them, both without dot; often they are the same.

    With a condition, only those that meet it.
    """

    first: str
    last: str
    condition: Condition | None = None

    def contains(self, code: str) -> bool:
        """Whether a code in normal form is one of them; a header that is wider than the range is not."""
        bare = code.replace('.', '')
        wider = len(bare) < len(self.last) and self.last.startswith(bare)
        if wider or bare < self.first or bare[: len(self.last)] > self.last:
            return False
        return self.condition is None or self.condition.holds(bare)


@functools.cache
def code_references(note: str) -> tuple[CodeRange, ...]:
    """Returns the codes that a note names, in its order.

    They are taken from brackets, or where none holds a code, from the words ('conditions classified to Q87.-').
    Codes under a condition that is prose ('with open fracture 7th character') are left out: nothing certain can be
    said about them.
    """
    return tuple(reference for part in _BRACKETS.findall(note) or [note] for reference in _references(part))


def _references(text: str) -> list[CodeRange]:
    codes, *conditions = _WITH.split(text)
    ranges = [(first.replace('.', ''), last.replace('.', '')) for first, last in _RANGE.findall(codes)]
    if not ranges:
        return []
    condition = _condition(conditions[0].rstrip(' ,;.')) if conditions else None
    if conditions and condition is None:
        return []
    return [CodeRange(first, last or first, condition) for first, last in ranges]


def _condition(text: str) -> Condition | None:
    at_position, at_end = _AT_POSITION.fullmatch(text), _AT_END.fullmatch(text)
    if at_position:
        first, joint, second, values = at_position.groups()
        positions = tuple(_POSITIONS[word] for word in (first, second) if word)
        condition = Condition('last position' if joint == 'or' else 'positions', _values(values), positions)
    elif at_end:
        condition = Condition('after dot' if at_end[1].startswith('.') else 'end', _values(at_end[1]))
    else:
        condition = Condition('after dot', _values(text) if text.startswith('.') else ())
    return condition if condition.values else None


def _values(text: str) -> tuple[str, ...]:
    """Returns the characters that a condition lists, none if it is prose: '1-4 or 6' -> ('1', '2', '3', '4', '6')."""
    values: list[str] = []
    for part in _BETWEEN_VALUES.split(text):
        match = _VALUE.fullmatch(part)
        if match is None:
            return ()
        first, last = match[1], match[2] or match[1]
        if first.isdecimal() and last.isdecimal():
            values += [str(value).zfill(len(first)) for value in range(int(first), int(last) + 1)]
        elif first == last:
            values.append(first)
        else:
            return ()
    return tuple(values)
