"""Whether an English sentence says that a finding is absent, or that a relative had it.

After NegEx (Chapman et al., A simple algorithm for identifying negated findings
and diseases in discharge summaries, Journal of Biomedical Informatics 2001): a
cue before the finding counts if few words stand between them and none of these
ends the cue's reach. Cues after the finding ('fever was absent') are rarer, and
only the clear ones are looked for.
"""

import re

# Words and commas between a cue and the finding, at most; NegEx has five words.
_REACH = 6
_CUE_BEFORE = re.compile(
    r'no|not|nor|neither|never|without|denied|denies|denying|absence|absent|negative|free|lacked|lacks'
    r'|father|mother|brother|sister|uncle|aunt|grandfather|grandmother|cousin|family'
)
# What begins a new statement within a sentence: 'no fever but cough', 'without known allergies, with a history of'.
_END_OF_REACH = re.compile(
    r'but|however|although|though|except|with|because|due|secondary|since|which|who|whose|when|while|until|after'
    r'|accompanied|irradiating|radiating|present(ed|s|ing)|reported|reports|complained|developed|suffered|came'
    r'|showed|revealed|began|starts'
)
# Characters that surely hold so many words.
_NEAR = 200
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|,")
_SENTENCE_END = re.compile(r'[\n;:]|[.?!](?=\s)')
_CUE_AFTER = re.compile(
    r'\W*((was|were|is|are|has been|have been|had been)\s+)?'
    r'(ruled out|excluded|discarded|absent|negative|not (observed|seen|found|detected|present|described|identified))\b',
    re.IGNORECASE,
)


def is_denied(text: str, begin: int, end: int) -> bool:
    """Whether the words at [begin, end) are denied or said of a relative, as far as their sentence tells."""
    *_, sentence = _SENTENCE_END.split(text[max(0, begin - _NEAR) : begin])
    words = _WORD.findall(sentence.lower())
    after_comma = False
    for word in words[: -_REACH - 2 : -1]:
        if _CUE_BEFORE.fullmatch(word):
            # 'no fever, chills' denies both; 'abdominal pain without peritonitis, vomiting' affirms the vomiting.
            return not (word == 'without' and after_comma)
        if _END_OF_REACH.fullmatch(word):
            break
        after_comma = after_comma or word == ','
    return _CUE_AFTER.match(text, end) is not None
