"""Terms of the code system in the words that a note would use."""

import re

_BRACKETED = re.compile(r'\s*(\([^()]*\)|\[[^\[\]]*\])')
# Words that tell a coder how specific a term is, and that no clinician writes.
_QUALIFIERS = (
    re.compile(r',?\s*\bnot elsewhere classified\b', re.IGNORECASE),
    re.compile(r',\s*((site )?not specified|unspecified)\b[^,]*', re.IGNORECASE),
    re.compile(r'\s+of unspecified (site|part|stage|severity)\b', re.IGNORECASE),
    re.compile(r'\bunspecified\s+', re.IGNORECASE),
    re.compile(r'\s*\b(NOS|NEC)\b'),
)
# A first word keeps its capital where it is an abbreviation, a name in the
# genitive, or the first of several names ('TIA', "Bell's palsy", 'Miller Fisher syndrome').
_KEEPS_CAPITAL = re.compile(r"\S*[A-Z]|\S*['\u2019]s\b|\S+ [A-Z][a-z]")


def natural_form(term: str) -> str:
    """Returns a title or inclusion term as running text would have it.

    'Heart failure, unspecified' -> 'heart failure', 'Essential (primary)
    hypertension' -> 'essential hypertension', 'TIA' -> 'TIA'. Qualifiers of
    specificity and bracketed non-essential modifiers go, and so does the
    capital of an ordinary first word. Returns the term itself where nothing
    would be left.
    """
    text = _BRACKETED.sub(' ', term)
    for qualifier in _QUALIFIERS:
        text = qualifier.sub('', text)
    text = re.sub(r'\s+', ' ', text).replace(' ,', ',').strip(' ,;')
    if not text:
        return term
    if _KEEPS_CAPITAL.match(text[1:]):
        return text
    return text[0].lower() + text[1:]
