"""What a reviewer should look at twice: flags of a note's codes."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ccl_jax.evaluation.pairs import Code, code_key
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.release import Release
from ccl_jax.records import Document, Prediction

NOT_IN_RELEASE = 'not_in_release'
RETIRED = 'retired'
NOT_BILLABLE = 'not_billable'
EXCLUDES1 = 'excludes1'
DISAGREEMENT = 'disagreement'
UNGROUNDED = 'ungrounded'

FLAG_KINDS = (NOT_IN_RELEASE, RETIRED, NOT_BILLABLE, UNGROUNDED, EXCLUDES1, DISAGREEMENT)


class Flag(NamedTuple):
    """One of `FLAG_KINDS`, and a sentence for the reader."""

    kind: str
    detail: str


Flags = Mapping[Code, Sequence[Flag]]


def flags_of(
    document: Document,
    prediction: Prediction,
    release: Release,
    *,
    known_codes: Collection[Code] = frozenset(),
) -> dict[Code, tuple[Flag, ...]]:
    """Returns the flags of the note's predicted and gold codes; a code without any is absent.

    A code that the release does not have is `retired` where people used it (in the gold of this note or in
    `known_codes`), else `not_in_release`: the release alone cannot tell a retired code from an invented one. Codes of
    other systems than ICD-10-CM are not looked up. `excludes1` is given to both sides of a conflict among the predicted
    codes. Whether quotes are grounded shows when they are placed, so the audit page adds `ungrounded` by itself.

    Args:
        document: the note; its annotations are the gold codes, if it has any.
        prediction: the codes that a model gave it.
        release: the release to look codes up in.
        known_codes: further codes that people used, e.g. those of the training documents.
    """
    gold = {code_key(a): None for a in document.annotations}
    predicted = {code_key(c): None for c in prediction.codes}
    flags: dict[Code, list[Flag]] = {code: [] for code in predicted | gold}
    for code in flags:
        flags[code] += _release_flags(code, release, used=code in gold or code in known_codes)
    in_release_system = [code for system, code in predicted if system == ICD10CM]
    for conflict in release.excludes1_conflicts(in_release_system):
        for one, other in ((conflict.code, conflict.other), (conflict.other, conflict.code)):
            flag = Flag(EXCLUDES1, f'not beside {other}: note at {conflict.where}, \u201c{conflict.note}\u201d')
            # A note of a block or chapter that both codes share is found from either of them.
            if flag not in flags[ICD10CM, one]:
                flags[ICD10CM, one].append(flag)
    for item in prediction.codes:
        if item.agreement is False:
            others = ', '.join(item.rechecked)
            flags[code_key(item)].append(Flag(DISAGREEMENT, f'from the evidence alone the model gave {others}'))
    return {code: tuple(of_code) for code, of_code in flags.items() if of_code}


def _release_flags(key: Code, release: Release, used: bool) -> list[Flag]:
    system, code = key
    if system != ICD10CM:
        return []
    status = release.status(code)
    if status == 'billable':
        return []
    if status == 'header':
        return [Flag(NOT_BILLABLE, 'a header: the codes below it are billable')]
    if status == 'incomplete':
        return [Flag(NOT_BILLABLE, 'its 7th character is missing')]
    if used:
        return [Flag(RETIRED, f'people used it, but {release.name} does not have it: retired, or of another release')]
    return [Flag(NOT_IN_RELEASE, f'{release.name} does not have it: invented, or retired')]
