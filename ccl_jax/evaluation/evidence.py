"""Evidence metrics as MDACE and CodiEsp define them; end to end: evidence of a wrong code is wrong.

Sources: the MDACE paper (Cheng et al. 2023) with its scoring program, and the
official program of CodiEsp's track X (Miranda-Escalada et al. 2020). Items are sets
per chart, which is a group of notes with one `group_id`, and sums run over charts.
Two cases that MDACE does not have:

- A discontinuous reference is one span from its first start to its last end; its
  tokens are those of its parts.
- A quote that occurs nowhere is a wrong item of its own; only the position-free
  metrics, which compare words, can still count it as right.

Array letters: U units (charts), C codes, E (unit, code) pairs with evidence.
"""

import dataclasses
import itertools
import re
import string
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence

import numpy as np

from ccl_jax.evaluation.bootstrap import Estimate, Ratio, Statistics, bootstrap, ratio_statistics
from ccl_jax.evaluation.grounding import GROUNDING_KINDS, Parts, placed_evidence
from ccl_jax.evaluation.pairs import Code, Grouping, Unit, align, code_key
from ccl_jax.records import Document, Prediction, slice_evidence

MDACE_METRICS = ('evidence_span_exact', 'evidence_span_free', 'evidence_token_exact', 'evidence_token_free')
EVIDENCE_METRICS = (*MDACE_METRICS, 'evidence_codiesp_x')

# What CodiEsp allows a predicted interval to add to the gold one, on each side.
_TOLERANCE = 10

# The characters of MDACE's cleaning; both lists are ASCII there.
_NOT_BREAKING = frozenset(string.punctuation + string.whitespace)
_TRIMMED = '-.,/ \n\t'
_TRIMMED_LEFT, _TRIMMED_RIGHT = _TRIMMED + ')', _TRIMMED + '('

_TOKEN = re.compile(r'\w+')


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """What is done to gold and predicted spans before MDACE's metrics, in this order.

    Attributes:
        merge_adjacent: neighbours of one code with only punctuation or white space
            between them become one span.
        trim: punctuation and white space at both ends go.
    """

    merge_adjacent: bool = False
    trim: bool = False


NO_CLEANING = Cleaning()


@dataclasses.dataclass(frozen=True)
class _Reference:
    """A piece of evidence: its code, its sorted parts (none where it stands nowhere), its words."""

    code: Code
    parts: Parts
    quote: str

    @property
    def begin(self) -> int:
        return self.parts[0][0]

    @property
    def end(self) -> int:
        return max(end for _, end in self.parts)


@dataclasses.dataclass(frozen=True)
class EvidenceCounts:
    """How much evidence each (unit, code) has, and how much of it is right.

    Attributes:
        unit_ids: the units.
        codes: the codes with evidence.
        units, columns: [E] indices of unit and code.
        items: [E, `EVIDENCE_METRICS`, 3]: items that are right, gold, predicted.
        is_gold: [E] whether the code is a gold code of the unit.
        grounding: [E, `GROUNDING_KINDS`]: predicted quotes.
    """

    unit_ids: tuple[str, ...]
    codes: tuple[Code, ...]
    units: np.ndarray
    columns: np.ndarray
    items: np.ndarray
    is_gold: np.ndarray
    grounding: np.ndarray

    @classmethod
    def of(
        cls, units: Sequence[Unit], *, valid_codes: Container[Code] | None = None, cleaning: Cleaning = NO_CLEANING
    ) -> 'EvidenceCounts':
        """Counts the evidence of the units of `align`; arguments as `evidence_statistics`."""
        rows: list[tuple[int, Code, np.ndarray, bool, np.ndarray]] = []
        for u, (_, pairs) in enumerate(units):
            items, grounding = _count_unit(pairs, valid_codes, cleaning)
            gold = {code_key(a) for document, _ in pairs for a in document.annotations}
            rows += [(u, code, items[code], code in gold, grounding[code]) for code in items]
        codes = tuple(sorted({code for _, code, *_ in rows}))
        index = {code: i for i, code in enumerate(codes)}
        shape = len(rows), len(EVIDENCE_METRICS), 3
        return cls(
            tuple(unit for unit, _ in units),
            codes,
            np.array([u for u, *_ in rows], np.int64),
            np.array([index[code] for _, code, *_ in rows], np.int64),
            np.array([items for _, _, items, _, _ in rows], float).reshape(shape),
            np.array([is_gold for *_, is_gold, _ in rows], bool),
            np.array([kinds for *_, kinds in rows], float).reshape(len(rows), len(GROUNDING_KINDS)),
        )

    def only(self, kind_of: Callable[[Code], str], kind: str) -> 'EvidenceCounts':
        """The same units with only the codes of one kind."""
        kept = np.array([kind_of(code) == kind for code in self.codes], bool)
        rows = kept[self.columns]
        return EvidenceCounts(
            self.unit_ids,
            tuple(itertools.compress(self.codes, kept)),
            self.units[rows],
            (np.cumsum(kept) - 1)[self.columns[rows]],
            self.items[rows],
            self.is_gold[rows],
            self.grounding[rows],
        )

    def statistics(self) -> Statistics:
        """The metrics that `evidence_statistics` lists."""
        given_gold = self.items[:, : len(MDACE_METRICS)].copy()
        given_gold[..., 2] *= self.is_gold[:, None]
        ratios = _item_ratios(EVIDENCE_METRICS, self._per_unit(self.items))
        ratios |= _item_ratios([f'{name}_given_gold' for name in MDACE_METRICS], self._per_unit(given_gold))
        kinds = self._per_unit(self.grounding)
        quotes = kinds.sum(axis=1)
        ratios['grounding_rate'] = Ratio(kinds[:, :2].sum(axis=1), quotes)
        for k, kind in enumerate(GROUNDING_KINDS):
            ratios[f'grounding_{kind}'] = Ratio(kinds[:, k], quotes)
        return Statistics(self.unit_ids, ratio_statistics(ratios), len(self.unit_ids))

    def gold_spans(self) -> int:
        """How many items of `evidence_span_exact` are gold."""
        return int(self.items[:, 0, 1].sum())

    def grounding_counts(self) -> dict[str, int]:
        """How many predicted quotes occur in their document: exact, folded, not_found."""
        return {kind: int(count) for kind, count in zip(GROUNDING_KINDS, self.grounding.sum(axis=0), strict=True)}

    def _per_unit(self, counts: np.ndarray) -> np.ndarray:
        """Counts [E, ...] summed to [U, ...]."""
        sums = np.zeros((len(self.unit_ids), *counts.shape[1:]))
        np.add.at(sums, self.units, counts)
        return sums


def evidence_metrics(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    *,
    valid_codes: Container[Code] | None = None,
    by: Grouping = 'group',
    cleaning: Cleaning = NO_CLEANING,
    seed: int,
    samples: int = 1000,
) -> dict[str, Estimate]:
    """All evidence metrics of one system; see `evidence_statistics`. Raises UserError as `align` does."""
    statistics = evidence_statistics(gold, predictions, valid_codes=valid_codes, by=by, cleaning=cleaning)
    return bootstrap(statistics, seed=seed, samples=samples)


def evidence_statistics(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    *,
    valid_codes: Container[Code] | None = None,
    by: Grouping = 'group',
    cleaning: Cleaning = NO_CLEANING,
) -> Statistics:
    """Evidence metrics as functions of the units' weights.

    `_precision`, `_recall` and `_f1` of each of these, undefined where the gold
    documents carry no evidence at all:

    - `evidence_span_exact`: items (document, begin, end, code).
    - `evidence_span_free`: items (lower-cased text, code).
    - `evidence_token_exact`: items (document, begin of the token, code).
    - `evidence_token_free`: items (token, code).
      Tokens are runs of word characters in lower case without pure numbers above 10.
    - `evidence_codiesp_x`: pairs (document, code) that have evidence. A gold pair is hit
      if one of its predicted intervals contains one of its gold ones (first start to last
      end) and exceeds it by at most 10 characters on each side. Predicted codes outside
      `valid_codes` (None: all are valid) do not count, nor does `cleaning` matter.

    The first four with `_given_gold` in the name leave out the predicted evidence of codes
    that are not gold in the unit: MDACE's published scores are of systems that were told
    the gold codes.

    `grounding_rate` and `grounding_{exact,folded,not_found}`: shares of the predicted
    quotes that occur in their document, letter by letter or folded, or do not.
    """
    units = align(gold, predictions, by=by)
    return EvidenceCounts.of(units, valid_codes=valid_codes, cleaning=cleaning).statistics()


def mdace_tokens(text: str) -> list[tuple[str, int]]:
    """(lower-cased token, offset) of a text; pure numbers above 10 are dropped."""
    # Matched before lower-casing: a few letters grow when lower-cased, which would shift the offsets.
    tokens = ((match.group().lower(), match.start()) for match in _TOKEN.finditer(text))
    return [(token, begin) for token, begin in tokens if not (token.isdecimal() and _above_ten(token))]


def _count_unit(
    pairs: Iterable[tuple[Document, Prediction]], valid_codes: Container[Code] | None, cleaning: Cleaning
) -> tuple[dict[Code, np.ndarray], dict[Code, np.ndarray]]:
    """Code -> items [`EVIDENCE_METRICS`, 3], and code -> quotes [`GROUNDING_KINDS`], of one unit."""
    items: dict[Code, np.ndarray] = defaultdict(lambda: np.zeros((len(EVIDENCE_METRICS), 3)))
    grounding: dict[Code, np.ndarray] = defaultdict(lambda: np.zeros(len(GROUNDING_KINDS)))
    gold_items: list[set[tuple]] = [set() for _ in MDACE_METRICS]
    predicted_items: list[set[tuple]] = [set() for _ in MDACE_METRICS]
    for document, prediction in pairs:
        gold = [
            _Reference(code_key(annotation), _in_order(evidence.parts), evidence.text)
            for annotation in document.annotations
            for evidence in annotation.evidence
        ]
        predicted = []
        for answer, evidence, kind, parts in placed_evidence(document, prediction):
            predicted.append(_Reference(code_key(answer), _in_order(parts), evidence.text))
            grounding[code_key(answer)][GROUNDING_KINDS.index(kind)] += 1
        for counts, code in _codiesp_x(gold, predicted, valid_codes):
            items[code][-1] += counts
        for references, sets in ((gold, gold_items), (predicted, predicted_items)):
            for reference in _cleaned(references, document.text, cleaning):
                _add_items(sets, document, reference)
    for m, (gold_set, predicted_set) in enumerate(zip(gold_items, predicted_items, strict=True)):
        for k, chosen in enumerate((gold_set & predicted_set, gold_set, predicted_set)):
            # The code is the last member of an item.
            for *_, code in chosen:
                items[code][m, k] += 1
    return items, grounding


def _codiesp_x(
    gold: Sequence[_Reference], predicted: Sequence[_Reference], valid_codes: Container[Code] | None
) -> Iterable[tuple[tuple[bool, bool, bool], Code]]:
    """Yields ((hit, in gold, in predicted), code) of the pairs of one document."""
    wanted, answered = _by_code(gold), _by_code(predicted)
    for code in wanted.keys() | answered.keys():
        known = code in answered and (valid_codes is None or code in valid_codes)
        hit = known and any(
            0 <= g.begin - p.begin <= _TOLERANCE and 0 <= p.end - g.end <= _TOLERANCE
            for g in wanted.get(code, ())
            for p in answered[code]
            if g.parts and p.parts
        )
        yield (hit, code in wanted, known), code


def _cleaned(references: list[_Reference], text: str, cleaning: Cleaning) -> list[_Reference]:
    if cleaning.merge_adjacent:
        references = _merged(references, text)
    return [_trimmed(reference, text) for reference in references] if cleaning.trim else references


def _merged(references: Sequence[_Reference], text: str) -> list[_Reference]:
    """Merges neighbours in the order of their begins, over all codes of the note, as MDACE's program does.

    Overlapping neighbours merge too, and the end is that of the later one: of two nested
    spans the outer one is cut at the end of the inner one, there as here.
    """
    merged: list[_Reference] = []
    for reference in sorted((r for r in references if r.parts), key=lambda r: r.begin):
        if merged and _are_neighbours(merged[-1], reference, text):
            previous = merged.pop()
            joint = (previous.parts[-1][0], reference.parts[0][1])
            parts = (*previous.parts[:-1], joint, *reference.parts[1:])
            reference = _Reference(reference.code, parts, slice_evidence(text, parts))
        merged.append(reference)
    return merged + [r for r in references if not r.parts]


def _are_neighbours(previous: _Reference, reference: _Reference, text: str) -> bool:
    if previous.code != reference.code:
        return False
    if previous.end <= reference.begin:
        return _NOT_BREAKING.issuperset(text[previous.end : reference.begin])
    # Overlapping discontinuous references have no sensible union.
    return len(previous.parts) == len(reference.parts) == 1


def _trimmed(reference: _Reference, text: str) -> _Reference:
    """Trims both ends; nothing but punctuation becomes an empty span, which still is an item."""
    if not reference.parts:
        return dataclasses.replace(reference, quote=reference.quote.lstrip(_TRIMMED_LEFT).rstrip(_TRIMMED_RIGHT))
    parts = list(reference.parts)
    begin, end = parts[0]
    parts[0] = end - len(text[begin:end].lstrip(_TRIMMED_LEFT)), end
    begin, end = parts[-1]
    parts[-1] = begin, begin + len(text[begin:end].rstrip(_TRIMMED_RIGHT))
    filled = tuple(part for part in parts if part[0] < part[1])
    return dataclasses.replace(reference, parts=filled or tuple(parts[-1:]))


def _add_items(sets: Sequence[set[tuple]], document: Document, reference: _Reference) -> None:
    """Adds one piece of evidence to the item sets of `MDACE_METRICS`."""
    span_exact, span_free, token_exact, token_free = sets
    code, parts, quote = reference.code, reference.parts, reference.quote
    if not parts:
        span_exact.add((document.doc_id, None, quote, code))
        span_free.add((quote.lower(), code))
        for token, _ in mdace_tokens(quote):
            token_exact.add((document.doc_id, None, token, code))
            token_free.add((token, code))
        return
    span_exact.add((document.doc_id, reference.begin, reference.end, code))
    span_free.add((slice_evidence(document.text, parts).lower(), code))
    for begin, end in parts:
        for token, offset in mdace_tokens(document.text[begin:end]):
            token_exact.add((document.doc_id, begin + offset, code))
            token_free.add((token, code))


def _item_ratios(names: Sequence[str], counts: np.ndarray) -> dict[str, Ratio]:
    """Precision, recall and F1 from counts [U, names, (right, gold, predicted)], undefined without gold items."""
    ratios = {}
    for m, name in enumerate(names):
        right, gold, predicted = counts[:, m].T
        ratios[f'{name}_precision'] = Ratio(right, predicted, gold)
        ratios[f'{name}_recall'] = Ratio(right, gold)
        ratios[f'{name}_f1'] = Ratio(2 * right, gold + predicted, gold)
    return ratios


def _by_code(references: Iterable[_Reference]) -> dict[Code, list[_Reference]]:
    found: dict[Code, list[_Reference]] = defaultdict(list)
    for reference in references:
        found[reference.code].append(reference)
    return dict(found)


def _in_order(parts: Parts) -> Parts:
    return tuple(sorted(parts))


def _above_ten(digits: str) -> bool:
    significant = digits.lstrip('0')
    # Python refuses to convert thousands of digits, and a note may hold them.
    return len(significant) > 2 or int(significant or '0') > 10
