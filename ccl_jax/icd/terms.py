"""Terms of the code system in the words that a note would use."""

import re

# Words that tell a coder how specific a term is, and that no clinician writes.
_QUALIFIER = re.compile(
    r',?\s*\bnot elsewhere classified\b|,?\s*\b(unspecified (organism|site|cause)|(site )?not specified|unspecified)\b'
    r'|\s*\bNOS\b|\s*\bNEC\b',
    re.IGNORECASE,
)
_BRACKETED = re.compile(r'\s*(\([^()]*\)|\[[^\[\]]*\])')
_LOWER_FIRST = re.compile(r'[A-Z][a-z]')


def natural_form(term: str) -> str:
    """Returns a title or inclusion term as running text would have it.

    'Heart failure, unspecified' -> 'heart failure', 'Essential (primary)
    hypertension' -> 'essential hypertension', 'TIA' -> 'TIA'. Qualifiers of
    specificity and bracketed non-essential modifiers go, and the capital of a
    first word that is not an abbreviation or a name in the genitive. Returns
    the term itself where nothing would be left.
    """
    text = _QUALIFIER.sub('', _BRACKETED.sub('', term))
    text = re.sub(r'\s+', ' ', text).strip(' ,;')
    if not text:
        return term
    first = text.split(' ', 1)[0]
    if _LOWER_FIRST.match(text) and not first.endswith(("'s", 's\u2019')):
        text = text[0].lower() + text[1:]
    return text
