"""Baselines that a model has to beat: memorised strings, and the most frequent codes (`tfidf` has a learned one).

The strings are taken as they stand. To leave out those that their sentence denies
(`icd.assertion`) costs the lookup more than it gives where annotators code what they
read: micro F1 0.401 instead of 0.436 on the English CodiEsp, train to dev, 2026-11-27.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from ccl_jax.errors import UserError
from ccl_jax.evaluation.grounding import folded_words
from ccl_jax.evaluation.pairs import Code, code_key
from ccl_jax.expansion.gold import gold_spans
from ccl_jax.icd.release import Release
from ccl_jax.records import Document, Evidence, PredictedCode, Prediction, Span

Term = tuple[str, ...]
"""A string as its folded words."""


@dataclasses.dataclass(frozen=True)
class Lookup:
    """A dictionary from folded strings to codes; see `fit_lookup`.

    Attributes:
        codes: term -> its codes in order.
        lengths: first word of a term -> the lengths of the terms that begin with it.
    """

    codes: dict[Term, tuple[Code, ...]]
    lengths: dict[str, tuple[int, ...]]

    def predict(self, document: Document) -> Prediction:
        """The codes of all terms in the document, in the order of their first hit, every hit as evidence.

        The longest terms of the document match first, the leftmost among equals, and no word matches twice.
        """
        words = folded_words(document.text)
        found: dict[Code, list[Evidence]] = {}
        for first, length in self._hits([word for word, _, _ in words]):
            begin, end = words[first][1], words[first + length - 1][2]
            evidence = Evidence(((begin, end),), document.text[begin:end])
            for code in self.codes[tuple(word for word, _, _ in words[first : first + length])]:
                found.setdefault(code, []).append(evidence)
        codes = tuple(PredictedCode(code, system, evidence=tuple(hits)) for (system, code), hits in found.items())
        return Prediction(document.doc_id, codes)

    def _hits(self, words: list[str]) -> list[tuple[int, int]]:
        """(first word, number of words) of the hits in document order."""
        hits = []
        taken = [False] * len(words)
        for first, length in sorted(_occurrences(words, self.codes, self.lengths), key=lambda hit: (-hit[1], hit[0])):
            if not any(taken[first : first + length]):
                taken[first : first + length] = [True] * length
                hits.append((first, length))
        return sorted(hits)


@dataclasses.dataclass(frozen=True)
class Majority:
    """The same codes for every document; see `fit_majority`."""

    codes: tuple[Code, ...]

    def predict(self, document: Document) -> Prediction:
        return Prediction(document.doc_id, tuple(PredictedCode(code, system) for system, code in self.codes))


def fit_lookup(documents: Sequence[Document], spans: Iterable[Span] = (), *, tau: float = 0.2) -> Lookup:
    """Learns the strings of the training documents' evidence and of the training spans.

    A (string, code) pair is kept if at least the share `tau` of the string's
    occurrences in the training documents supports the code, and always if no
    training document holds the string. So an unspecific word that was evidence once
    does not fire everywhere. An occurrence supports a code that is annotated at just
    these words, or that its document carries without any evidence.

    Raises:
        UserError: `tau` is outside 0..1, or there is nothing to learn from.
    """
    if not 0 <= tau <= 1:
        raise UserError(f'the lookup baseline needs a tau between 0 and 1, not {tau}')
    pairs: dict[Term, set[Code]] = defaultdict(set)
    for document in documents:
        for annotation in document.annotations:
            for evidence in annotation.evidence:
                pairs[_term(evidence.text)].add(code_key(annotation))
    for span in spans:
        pairs[_term(span.text)].add((span.system, span.code))
    pairs.pop((), None)
    if not pairs:
        raise UserError('the lookup baseline needs training evidence or spans, and there are none; add spans')
    seen, annotated = _count_occurrences(documents, pairs)
    kept: dict[Term, tuple[Code, ...]] = {}
    for term, codes in pairs.items():
        passing = tuple(sorted(code for code in codes if annotated[term, code] >= tau * seen[term]))
        if passing:
            kept[term] = passing
    return Lookup(kept, _lengths(kept))


def release_terms(release: Release, known: Iterable[str], held_out: Collection[str]) -> Iterator[Span]:
    """Yields the terms of the billable and the `known` codes of a release as spans, printed and in running text.

    Held-out codes are left out: a baseline may not know what the model may not.
    """
    codes = dict.fromkeys((*release.billable_codes(), *sorted(known)))
    return gold_spans(release, (code for code in codes if code not in held_out), ('printed', 'natural'))


def fit_majority(documents: Sequence[Document]) -> Majority:
    """The k most frequent codes of the training documents, k = the rounded mean number of codes per document.

    Ties go to the code that sorts first. Raises UserError if there are no documents.
    """
    if not documents:
        raise UserError('the majority baseline needs training documents, and there are none; check the train split')
    counts = Counter(code for document in documents for code in {code_key(a) for a in document.annotations})
    mean = counts.total() / len(documents)
    ranked = sorted(counts, key=lambda code: (-counts[code], code))
    return Majority(tuple(ranked[: int(mean + 0.5)]))


def _count_occurrences(
    documents: Iterable[Document], pairs: dict[Term, set[Code]]
) -> tuple[Counter[Term], Counter[tuple[Term, Code]]]:
    """How often each term occurs in the documents, and how often an occurrence supports one of its codes."""
    lengths = _lengths(pairs)
    seen: Counter[Term] = Counter()
    annotated: Counter[tuple[Term, Code]] = Counter()
    for document in documents:
        words = folded_words(document.text)
        codes_at = _codes_at(document, words)
        anywhere = {code_key(annotation) for annotation in document.annotations if not annotation.evidence}
        folded = [word for word, _, _ in words]
        for first, length in _occurrences(folded, pairs, lengths):
            term = tuple(folded[first : first + length])
            seen[term] += 1
            supported = anywhere | codes_at[first, length] if (first, length) in codes_at else anywhere
            annotated.update((term, code) for code in supported & pairs[term])
    return seen, annotated


def _codes_at(document: Document, words: list[tuple[str, int, int]]) -> dict[tuple[int, int], set[Code]]:
    """(first word, number of words) -> the codes whose evidence covers exactly these words.

    A discontinuous reference covers exactly the words of its parts, so it never equals an occurrence with a gap.
    """
    word_at = {}
    for w, (_, begin, end) in enumerate(words):
        word_at.update(dict.fromkeys(range(begin, end), w))
    found: dict[tuple[int, int], set[Code]] = defaultdict(set)
    for annotation in document.annotations:
        for evidence in annotation.evidence:
            covered = sorted({word_at[i] for begin, end in evidence.parts for i in range(begin, end) if i in word_at})
            if covered and covered[-1] - covered[0] == len(covered) - 1:
                found[covered[0], len(covered)].add(code_key(annotation))
    return found


def _occurrences(
    words: list[str], terms: Mapping[Term, object], lengths: dict[str, tuple[int, ...]]
) -> Iterator[tuple[int, int]]:
    """Yields (first word, number of words) of every occurrence of a term, overlapping ones too."""
    for first, word in enumerate(words):
        for length in lengths.get(word, ()):
            if first + length <= len(words) and tuple(words[first : first + length]) in terms:
                yield first, length


def _lengths(terms: Iterable[Term]) -> dict[str, tuple[int, ...]]:
    found: dict[str, set[int]] = defaultdict(set)
    for term in terms:
        found[term[0]].add(len(term))
    return {word: tuple(sorted(lengths)) for word, lengths in found.items()}


def _term(text: str) -> Term:
    return tuple(word for word, _, _ in folded_words(text))
