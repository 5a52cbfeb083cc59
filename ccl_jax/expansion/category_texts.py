"""The words of the code system as running text, for the base model."""

import itertools
from collections.abc import Iterable, Iterator

from ccl_jax.expansion.gold import gold_spans
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release


def category_texts(release: Release, codes: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields (id, text) for each three-character category: its title, and the terms of `codes` in it as a list.

    Terms are worded as gold spans in natural form; one that several codes of the category share stands once.
    No code string is written, because which code a term has is what spans are to teach.

    Args:
        codes: grouped by category, as `Release.billable_codes` gives them.
    """
    for category, members in itertools.groupby(codes, key=lambda code: code[:3]):
        terms: dict[str, str] = {}
        for span in gold_spans(release, members, ('natural',)):
            terms.setdefault(fold(span.text), span.text)
        title = release.title(category) if category in release else 'Terms'
        yield f'category:{category}', '\n'.join([f'{title}:', *(f'- {term}' for term in terms.values())])
