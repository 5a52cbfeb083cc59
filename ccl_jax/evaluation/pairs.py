"""Gold and predicted codes, paired document by document, as index arrays.

All code-level metrics start here. Array letters: U units (documents, or groups of
documents), C codes, G gold (unit, code) pairs, P predicted ones.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from ccl_jax.errors import UserError
from ccl_jax.records import Annotation, Document, PredictedCode, Prediction

Code = tuple[str, str]
"""(system, code): a code is compared together with its system."""

Grouping = Literal['document', 'group']

Unit = tuple[str, list[tuple[Document, Prediction]]]
"""An id, and the documents of that unit with their predictions."""


def code_key(item: Annotation | PredictedCode) -> Code:
    return item.system, item.code


def document_codes(documents: Collection[Document]) -> frozenset[Code]:
    """The codes that at least one of the documents carries."""
    return frozenset(code_key(a) for document in documents for a in document.annotations)


def align(gold: Sequence[Document], predictions: Sequence[Prediction], *, by: Grouping = 'document') -> list[Unit]:
    """Pairs documents with predictions and groups them into units, sorted by unit id.

    A document without a prediction gets an empty one. With `by='group'` the
    documents of one `group_id` (an admission) form one unit.

    Raises:
        UserError: there are no documents, a document or a prediction occurs twice,
            or a prediction names an unknown document.
    """
    if not gold:
        raise UserError('there are no gold documents to evaluate on; check the split')
    known = {document.doc_id for document in gold}
    if len(known) < len(gold):
        twice = _first_duplicate(document.doc_id for document in gold)
        raise UserError(f'document {twice!r} occurs twice in the gold documents; keep one of them')
    by_id: dict[str, Prediction] = {}
    for prediction in predictions:
        if prediction.doc_id not in known:
            raise UserError(
                f'the prediction for {prediction.doc_id!r} has no document in the evaluated split; check the split'
            )
        if prediction.doc_id in by_id:
            raise UserError(f'there are two predictions for {prediction.doc_id!r}; keep one of them')
        by_id[prediction.doc_id] = prediction
    units: dict[str, list[tuple[Document, Prediction]]] = {}
    # Sorted, so that the order of the documents changes nothing: not the draws, not the ranking within a group.
    for document in sorted(gold, key=lambda document: document.doc_id):
        unit = document.doc_id if by == 'document' else document.group_id or document.doc_id
        units.setdefault(unit, []).append((document, by_id.get(document.doc_id, Prediction(document.doc_id, ()))))
    return sorted(units.items(), key=lambda item: item[0])


@dataclasses.dataclass(frozen=True)
class CodePairs:
    """Who has which code; a unit has a code once, however often it is listed.

    Attributes:
        unit_ids: the units.
        codes: every gold or predicted code, sorted.
        gold_units, gold_codes: [G] indices of the gold pairs.
        predicted_units, predicted_codes: [P] indices of the predicted pairs, sorted by
            unit and, within a unit, in the order of its ranking.
    """

    unit_ids: tuple[str, ...]
    codes: tuple[Code, ...]
    gold_units: np.ndarray
    gold_codes: np.ndarray
    predicted_units: np.ndarray
    predicted_codes: np.ndarray

    @classmethod
    def of(cls, units: Sequence[Unit]) -> 'CodePairs':
        gold = [{code_key(a) for document, _ in pairs for a in document.annotations} for _, pairs in units]
        predicted = [_ranking([prediction for _, prediction in pairs]) for _, pairs in units]
        codes = tuple(sorted(set().union(*gold, *predicted)))
        index = {code: i for i, code in enumerate(codes)}
        return cls(
            tuple(unit for unit, _ in units), codes, *_index_arrays(gold, index), *_index_arrays(predicted, index)
        )

    def only(self, kind_of: Callable[[Code], str], kind: str) -> 'CodePairs':
        """The same units with only the codes of one kind."""
        kept = np.array([kind_of(code) == kind for code in self.codes], bool)
        new_index = np.cumsum(kept) - 1
        gold, predicted = kept[self.gold_codes], kept[self.predicted_codes]
        return CodePairs(
            self.unit_ids,
            tuple(itertools.compress(self.codes, kept)),
            self.gold_units[gold],
            new_index[self.gold_codes[gold]],
            self.predicted_units[predicted],
            new_index[self.predicted_codes[predicted]],
        )

    @functools.cached_property
    def hits(self) -> np.ndarray:
        """[P] whether a predicted pair is gold."""
        columns = len(self.codes)
        gold = self.gold_units * columns + self.gold_codes
        return np.isin(self.predicted_units * columns + self.predicted_codes, gold)

    def gold_counts(self) -> np.ndarray:
        """[U] gold codes of each unit."""
        return np.bincount(self.gold_units, minlength=len(self.unit_ids))

    def predicted_counts(self) -> np.ndarray:
        """[U] predicted codes of each unit."""
        return np.bincount(self.predicted_units, minlength=len(self.unit_ids))


def _ranking(predictions: Sequence[Prediction]) -> list[Code]:
    """The distinct codes of a unit in order: by their best rank in a note, then by note."""
    ranked = itertools.zip_longest(*(prediction.codes for prediction in predictions))
    return list(dict.fromkeys(code_key(item) for of_rank in ranked for item in of_rank if item is not None))


def _index_arrays(codes: Sequence[Collection[Code]], index: dict[Code, int]) -> tuple[np.ndarray, np.ndarray]:
    units = np.repeat(np.arange(len(codes)), [len(of_unit) for of_unit in codes])
    return units, np.array([index[code] for of_unit in codes for code in of_unit], np.int64)


def _first_duplicate(items: Iterable[str]) -> str:
    seen: set[str] = set()
    repeated: Iterator[str] = (item for item in items if item in seen or seen.add(item))  # type: ignore[func-returns-value]
    return next(repeated)
