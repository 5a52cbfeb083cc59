"""Normal forms of codes.

A code is stored in upper case with the dot where its system prints it, and its
system beside it. Sources of the dot's place: the official guidelines of each
system (ICD-10-CM after the third character, ICD-9-CM diagnoses after the third
or, for E-codes, the fourth, ICD-9-CM procedures after the second; ICD-10-PCS
and CPT have none).
"""

ICD10CM = 'ICD-10-CM'
ICD10PCS = 'ICD-10-PCS'
ICD9CM = 'ICD-9-CM'
ICD9PCS = 'ICD-9-PCS'
CPT = 'CPT'

SYSTEMS = (ICD10CM, ICD10PCS, ICD9CM, ICD9PCS, CPT)


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
