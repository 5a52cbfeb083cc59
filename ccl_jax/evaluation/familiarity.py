"""Whether the words behind a code were seen in training: a system that knows its spans by heart shows here.

A gold code of a document is `seen` if the text of one of its pieces of evidence is
the text of a training span (of whatever code; letters and digits compared), `unseen`
if it has evidence and none is, `without_evidence` otherwise. A predicted code counts
with the gold code of its document; one that is not gold counts by its own quotes, and
as `unseen` if it has none.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from ccl_jax.evaluation.pairs import code_key
from ccl_jax.icd.folding import fold
from ccl_jax.records import Annotation, Document, PredictedCode, Prediction

FAMILIARITIES = ('seen', 'unseen', 'without_evidence')


class Familiarity:
    """Tells gold and predicted codes apart by whether their words are those of a training span."""

    def __init__(self, span_texts: Iterable[str]):
        self._texts = frozenset(map(fold, span_texts))

    def restrict(
        self, gold: Sequence[Document], predictions: Sequence[Prediction], familiarity: str
    ) -> tuple[list[Document], list[Prediction]]:
        """The same documents and predictions with only the codes of one of `FAMILIARITIES`."""
        documents, of_gold = [], {}
        for document in gold:
            kinds = {code_key(a): self._of_gold(a) for a in document.annotations}
            of_gold[document.doc_id] = kinds
            kept = tuple(a for a in document.annotations if kinds[code_key(a)] == familiarity)
            documents.append(dataclasses.replace(document, annotations=kept))
        answers = []
        for prediction in predictions:
            kinds = of_gold.get(prediction.doc_id, {})
            codes = tuple(c for c in prediction.codes if kinds.get(code_key(c), self._of_false(c)) == familiarity)
            answers.append(dataclasses.replace(prediction, codes=codes))
        return documents, answers

    def _of_gold(self, annotation: Annotation) -> str:
        if not annotation.evidence:
            return 'without_evidence'
        return 'seen' if any(fold(e.text) in self._texts for e in annotation.evidence) else 'unseen'

    def _of_false(self, code: PredictedCode) -> str:
        return 'seen' if any(fold(e.text) in self._texts for e in code.evidence) else 'unseen'
