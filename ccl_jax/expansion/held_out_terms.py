"""The words of held-out codes, which no text that a backbone reads may hold."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

from ccl_jax.expansion.gold import FORMS, gold_spans
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release

# A single word counts from so many characters. Folding makes a shorter one, mostly an
# abbreviation, the same as an ordinary word: 'ALL', 'AIDS', 'MS'.
_SHORTEST_WORD = 5


class HeldOutTerms:
    """Finds the codes and terms of held-out codes in folded words (`ccl_jax.icd.folding`).

    A code is found in any length and spelling, 'I50.9' and 'i509'. Terms are the wordings
    that the gold tier would have made spans of (title, inclusion terms, includes, index terms, in
    `forms`); of one word only from 5 characters. A term that is also one of a code that is
    not held out does not count: training teaches it anyway.

    Args:
        held_out: the codes; headers among them count with their terms.
        taught: the codes that training may teach; those in `held_out` are passed over.
        forms: of `gold.FORMS`.
        own_terms: further wordings of codes, which the release does not have.
    """

    def __init__(
        self,
        release: Release,
        held_out: Collection[str],
        taught: Iterable[str],
        *,
        forms: Sequence[str] = FORMS,
        own_terms: Mapping[str, Sequence[str]] | None = None,
    ):
        own_terms = own_terms or {}
        taught = [code for code in dict.fromkeys(taught) if code not in held_out] if held_out else []
        terms = _wordings(release, sorted(held_out), forms, own_terms) - _wordings(release, taught, forms, own_terms)
        self._terms = {term for term in terms if ' ' in term or len(term) >= _SHORTEST_WORD}
        for code in held_out:
            self._terms |= {fold(code), fold(code.replace('.', ''))}
        # Numbers of words of the terms that begin with these two; so a sentence is looked through once.
        self._lengths: dict[str, set[int]] = {}
        for words in map(str.split, self._terms):
            if len(words) > 1:
                self._lengths.setdefault(' '.join(words[:2]), set()).add(len(words))

    def __len__(self) -> int:
        return len(self._terms)

    def in_words(self, words: Sequence[str]) -> bool:
        """Whether a run of the folded `words` is a held-out code or term."""
        if not self._terms.isdisjoint(words):
            return True
        for start, pair in enumerate(map(' '.join, itertools.pairwise(words))):
            for length in self._lengths.get(pair, ()):
                if ' '.join(words[start : start + length]) in self._terms:
                    return True
        return False


def _wordings(
    release: Release, codes: Sequence[str], forms: Sequence[str], own_terms: Mapping[str, Sequence[str]]
) -> set[str]:
    wordings = {fold(span.text) for span in gold_spans(release, codes, forms)}
    return wordings | {fold(text) for code in codes for text in own_terms.get(code, ())}
