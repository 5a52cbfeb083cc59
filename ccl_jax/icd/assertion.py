"""Whether an English sentence asserts a finding of the patient: not denied, of a relative, or merely thought of.

After NegEx (Chapman et al., A simple algorithm for identifying negated findings
and diseases in discharge summaries, Journal of Biomedical Informatics 2001) and
ConText (Harkema et al., ConText: An algorithm for determining negation,
experiencer, and temporal status from clinical reports, same journal, 2009): a
cue before the finding counts if few words stand between them and none of these
ends the cue's reach. Cues after the finding ('fever was absent') are rarer, and
only the clear ones are looked for. What is suspected or probable counts as
asserted, as inpatient coding has it (ICD-10-CM Official Guidelines, section II.H).
"""

import re

DENIED = 'denied or ruled out'
RELATIVE = 'of a relative or donor'
HYPOTHETICAL = 'hypothetical'
OTHER_TERM = 'part of another term'

# Characters before the finding that surely hold every cue in reach.
_NEAR = 240
_WORD = re.compile(r"[^\W_]+(?:['\u2019/-][^\W_]+)*")
# The colon of a heading that itself is a cue ends nothing.
_SENTENCE_END = re.compile(r'[\n;]|[.?!](?=\s)|(?<!history)(?<!negative)(?<!background):', re.IGNORECASE)

_RELATIVES = (
    'father|mother|parents?|brothers?|sisters?|siblings?|sons?|daughters?|uncles?|aunts?|nephews?|nieces?|cousins?'
    '|grand(?:father|mother|parents?)|relatives?|donors?'
)
# 'Did not improve', 'no longer': what follows is there.
_NOT_A_DENIAL = (
    r'(?! (?:only|longer|increase|decrease|changes?|improve\w*|respon\w*|relie\w*|progress\w*|tolera\w*|certain'
    r'|treat\w*|complian\w*|comply\w*|adher\w*|follow\w*|resol\w*|subside\w*|remit\w*|control\w*|know)\b)'
)
_DENIAL = re.compile(
    rf'\b(?:no|not|nor|neither|never|cannot|without)\b{_NOT_A_DENIAL}|\b(?:denie[ds]|denying|lack(?:s|ed|ing)?)\b'
    r'|\b(?:absence|free) (?:of|from)\b|\babsent\b(?! with)'
    r'|(?<!gram )(?<!factor )(?<!-)\bnegative\b(?= (?:for|in)\b|:| (?:[\w-]+ )?$)'
    r'|(?<!been )(?<!was )(?<!were )(?<!is )\b(?:rul(?:e|es|ed|ing) out|exclud(?:e|es|ed|ing)|discard(?:s|ed|ing)?)\b'
    r'|\bdifferential diagnos[ei]s (?:of|between|includ\w+)|\binstead of\b|\brather than\b',
    re.IGNORECASE,
)
# What begins a new statement within a sentence: 'no fever but cough', 'without known allergies, with a history of'.
_END_OF_DENIAL = re.compile(
    r'\b(?:but|however|although|though|except|with|because|due|secondary|since|which|who|whose|when|while|until|after'
    r'|accompanied|irradiating|radiating|present(?:ed|s|ing)|reported|reports|complained|developed|suffered|came'
    r'|showed|shows|revealed|began|starts|finding|diagnosed|diagnosis of|confirm\w*|was|were)\b',
    re.IGNORECASE,
)
_REACH_OF_DENIAL = 6

_EXPERIENCER = re.compile(
    rf'\bfamily (?:\w+ )?(?:history|background)\b|\b(?:familial|family) antecedents?\b'
    rf'|(?<!by )(?<!by his )(?<!by her )(?<!by the )(?<!to )(?<!from )\b(?:{_RELATIVES}|family members?)\b',
    re.IGNORECASE,
)
_END_OF_EXPERIENCER = re.compile(
    r'\b(?:but|patient|he|she|presented (?:to|at|in|with)|admitted|attend\w*|consult\w*|refer\w*|reported|reports|says'
    r'|said|notic\w+|observ\w+|inform\w*|relate|brought|accompanied|personal (?:history|background)|came)\b',
    re.IGNORECASE,
)
_REACH_OF_EXPERIENCER = 10
_IN_A_RELATIVE = re.compile(
    rf'\W+(?:in|of) (?:(?:a|an|her|his|the|one|two|several|both|first|second|degree|maternal|paternal|older'
    rf'|younger)\s)*(?:{_RELATIVES}|family)\b',
    re.IGNORECASE,
)

_THOUGHT_OF = re.compile(
    r'\b(?:vaccin\w+|immuni[sz]\w+|prophyla\w+|prevent\w*|protect\w*)\b(?: \w+)?? (?:against|for|of|from)\b'
    r'|\b(?:vaccinated|(?:prevent|avoid)(?:s|ed|ing)?)\b|\brisk (?:factors? )?(?:of|for)\b'
    r'|\bscreen(?:ed|ing)? (?:for|of)\b'
    r'|\b(?:fear|in case|warning signs?) of\b|\bif\b',
    re.IGNORECASE,
)
_END_OF_THOUGHT = re.compile(
    r'\b(?:but|however|with|because|due|secondary|since|which|who|when|while|until|after|compatible|consistent'
    r'|show\w*|reveal\w*|indicat\w*|presented|developed|diagnosed|confirm\w*|was|were|patients?)\b|[,(]',
    re.IGNORECASE,
)
_REACH_OF_THOUGHT = 5
# A list of what was tested for goes on across commas: 'serology for rubella, hepatitis B and HIV'.
_TESTED_FOR = re.compile(
    r'(?<!positive )\b(?:tests?|tested|testing|serolog\w+|markers?|cultures?)\b(?: \w+){0,4}?'
    r' (?:(?<!except )for|against|of)\b'
    r'|(?<!positive )\bserolog\w+:?|(?<!positive )\bantibod\w+ (?:against|to|for)\b',
    re.IGNORECASE,
)
_END_OF_TESTS = re.compile(_END_OF_THOUGHT.pattern.replace('|[,(]', r'|\btreat'), re.IGNORECASE)
_REACH_OF_TESTS = 12

# 'Hepatitis B serology', 'tumor markers': the finding is only looked for, or feared.
_ASKED_FOR = (
    r'(?:markers?|vaccin\w+|immuni[sz]ation|serolog\w+|antibod\w+|antigens?|prophylaxis|screening|risk|units?|clinics?'
    r'|tests?|cultures?|stains?|suppressor|necrosis factor)'
)
_LOOKED_FOR = re.compile(
    rf'[\s-]+(?:(?-i:[A-E])\s+|virus\s+|(?:and|or|,)\s+(?-i:[A-E])\s+){{0,4}}{_ASKED_FOR}\b(?P<rest>[^.;\n]{{0,40}})',
    re.IGNORECASE,
)
_POSITIVE = re.compile(r'\bpositiv\w+', re.IGNORECASE)
_DENIAL_AFTER = re.compile(
    r'\W*(?:(?:and|or|(?-i:[A-Z0-9]{1,3})|virus|infection|disease|involvement|signs?)\s+){0,4}'
    r'(?:(?:was|were|is|are|(?:has|have|had|could|can) (?:also )?be(?:en)?)\s+)?'
    r'(?:free|ruled out|excluded|discarded|absent|negative|unlikely'
    r'|not (?:observed|seen|found|detected|present|described|identified|confirmed|evident|appreciated))\b',
    re.IGNORECASE,
)


def why_not_asserted(text: str, begin: int, end: int) -> str:
    """Returns why the words at [begin, end) say nothing of the patient, as far as their sentence tells.

    Either '', where they are asserted, or one of `DENIED`, `RELATIVE`, `HYPOTHETICAL`, `OTHER_TERM`.
    """
    before = ' '.join(_SENTENCE_END.split(text[max(0, begin - _NEAR) : begin])[-1].split(' '))
    cue = _cue_in_reach(before, _DENIAL, _END_OF_DENIAL, _REACH_OF_DENIAL)
    if cue is not None and not _ends_at_comma(cue):
        return DENIED
    if _DENIAL_AFTER.match(text, end):
        return DENIED
    if _cue_in_reach(before, _EXPERIENCER, _END_OF_EXPERIENCER, _REACH_OF_EXPERIENCER) or _IN_A_RELATIVE.match(
        text, end
    ):
        return RELATIVE
    looked_for = _LOOKED_FOR.match(text, end)
    if looked_for is not None:
        return '' if _POSITIVE.search(looked_for['rest']) else OTHER_TERM
    if (
        _cue_in_reach(before, _THOUGHT_OF, _END_OF_THOUGHT, _REACH_OF_THOUGHT) is None
        and _cue_in_reach(before, _TESTED_FOR, _END_OF_TESTS, _REACH_OF_TESTS) is None
    ):
        return ''
    rest = _SENTENCE_END.split(text[end : end + _NEAR])[0]
    return '' if _POSITIVE.search(rest) else HYPOTHETICAL


def denies_itself(text: str, begin: int, end: int) -> str:
    """Returns the reason where the words at [begin, end) begin with a cue: 'no fever', 'mother with gout'; '' else."""
    for cues, reason in ((_DENIAL, DENIED), (_EXPERIENCER, RELATIVE), (_THOUGHT_OF, HYPOTHETICAL)):
        cue = cues.match(text, begin, end)
        if cue is not None and _WORD.search(text, cue.end(), end):
            return reason
    return ''


def _ends_at_comma(denial: re.Match[str]) -> bool:
    """Whether a denial ends before the last comma of what follows it.

    'No fever, chills' denies both, and so does 'without fever, chills or cough'; 'abdominal pain without peritonitis,
    vomiting' affirms the vomiting.
    """
    rest = denial.string[denial.end() :]
    return denial[0].lower() == 'without' and ',' in rest and re.search(r'\b(?:or|nor)\b[^,]*$', rest) is None


def _cue_in_reach(before: str, cues: re.Pattern[str], ends: re.Pattern[str], reach: int) -> re.Match[str] | None:
    """Returns the last cue before the finding if at most `reach` words follow it, none of which ends its reach."""
    *_, cue = (None, *cues.finditer(before))
    if cue is None or len(_WORD.findall(before, cue.end())) > reach or ends.search(before, cue.end()):
        return None
    return cue
