"""Normal forms of codes.

A code is stored in upper case with the dot where its system prints it, and its
system beside it. Sources of the dot's place: the official guidelines of each
system (ICD-10-CM after the third character, ICD-9-CM diagnoses after the third
or, for E-codes, the fourth, ICD-9-CM procedures after the second; ICD-10-PCS
and CPT have none).
"""

import re

ICD10CM = 'ICD-10-CM'
ICD10PCS = 'ICD-10-PCS'
ICD9CM = 'ICD-9-CM'
ICD9PCS = 'ICD-9-PCS'
CPT = 'CPT'

SYSTEMS = (ICD10CM, ICD10PCS, ICD9CM, ICD9PCS, CPT)

# Of codes in normal form, to be matched as a whole; the patterns mean the same in JavaScript.
FORMS = {
    # The second character is a letter in QA0 alone (from 2026 on).
    ICD10CM: re.compile(r'[A-Z]([0-9][0-9A-Z]|[A-Z][0-9])(\.[0-9A-Z]{1,4})?'),
    # The letters I and O are not used, so as not to be read as digits.
    ICD10PCS: re.compile(r'[0-9A-HJ-NP-Z]{1,7}'),
    ICD9CM: re.compile(r'([0-9]{3}|V[0-9]{2})(\.[0-9]{1,2})?|E[0-9]{3}(\.[0-9])?'),
    ICD9PCS: re.compile(r'[0-9]{2}(\.[0-9]{1,2})?'),
    CPT: re.compile(r'[0-9]{4}[0-9A-Z]|[A-Z][0-9]{4}'),
}


def normalize_code(code: str, system: str = ICD10CM) -> str:
    """Returns the normal form of `code`, e.g. ' i109. ' -> 'I10.9', 'i10.' -> 'I10'.

    White space and dots are removed, letters upper-cased, and the dot is put
    back where `system` has one if characters follow it. The result is '' for a
    code that holds no characters; nothing else is checked (a code that no
    release knows is kept and flagged by whoever looks it up).

    Raises:
        ValueError: `system` is not one of `SYSTEMS`.
    """
    if system not in SYSTEMS:
        raise ValueError(f'unknown code system {system!r}; known: {", ".join(SYSTEMS)}')
    bare = ''.join(code.split()).replace('.', '').upper()
    if system in (ICD10PCS, CPT):
        return bare
    if system == ICD9PCS:
        head = 2
    elif system == ICD9CM and bare.startswith('E'):
        head = 4
    else:
        head = 3
    return f'{bare[:head]}.{bare[head:]}' if len(bare) > head else bare


def is_well_formed(code: str, system: str = ICD10CM) -> bool:
    """Whether a code in normal form has the form of its system; no release is asked.

    'U07.1', 'C7A.00', 'W19.XXX' and 'M1A.XXX0' have the form of ICD-10-CM, '401.9' has not. ICD-10-PCS codes may be
    cut short (CodiEsp gives the first four characters of most). CPT stands for HCPCS too (letter and four digits).

    Raises:
        ValueError: `system` is not one of `SYSTEMS`.
    """
    if system not in SYSTEMS:
        raise ValueError(f'unknown code system {system!r}; known: {", ".join(SYSTEMS)}')
    return FORMS[system].fullmatch(code) is not None


def systems_of_form(code: str) -> tuple[str, ...]:
    """Returns the systems whose form a code in normal form has, e.g. ('ICD-9-CM',) for '401.9'; often several."""
    return tuple(system for system in SYSTEMS if is_well_formed(code, system))
