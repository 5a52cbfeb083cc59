"""Strata of codes: by how training knew them.

S0 carried by a training document; S1 by no training document but by a training
span; S2 kept out of training on purpose; S3 the rest (codes without any term,
invented codes). A stratum keeps, of gold and of predictions, the codes of that
stratum, so the metric functions apply to it unchanged.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence

from ccl_jax.errors import UserError
from ccl_jax.evaluation.metrics import Code, code_key, document_codes
from ccl_jax.records import Document, Prediction, Span

STRATA = ('S0', 'S1', 'S2', 'S3')


@dataclasses.dataclass(frozen=True)
class Strata:
    """The codes that training saw, as (system, code).

    Raises:
        UserError: a held-out code is carried by a training document or span.
    """

    document_codes: frozenset[Code]
    span_codes: frozenset[Code]
    held_out: frozenset[Code]

    def __post_init__(self) -> None:
        for carrier, codes in (('document', self.document_codes), ('span', self.span_codes)):
            leaked = sorted(self.held_out & codes)
            if leaked:
                raise UserError(
                    f'{len(leaked)} held-out codes are carried by a training {carrier}, {leaked[0][1]} first; '
                    'take them out of the held-out set or of the training data'
                )

    @classmethod
    def from_training(
        cls, documents: Collection[Document], spans: Iterable[Span], held_out: Iterable[Code] = ()
    ) -> 'Strata':
        return cls(
            document_codes=document_codes(documents),
            span_codes=frozenset((span.system, span.code) for span in spans),
            held_out=frozenset(held_out),
        )

    def stratum(self, code: Code) -> str:
        if code in self.document_codes:
            return 'S0'
        if code in self.span_codes:
            return 'S1'
        return 'S2' if code in self.held_out else 'S3'

    def restrict(
        self, gold: Sequence[Document], predictions: Sequence[Prediction], stratum: str
    ) -> tuple[list[Document], list[Prediction]]:
        """The same documents and predictions with only the codes of `stratum`."""
        documents = [
            dataclasses.replace(
                document, annotations=tuple(a for a in document.annotations if self.stratum(code_key(a)) == stratum)
            )
            for document in gold
        ]
        kept = [
            dataclasses.replace(
                prediction, codes=tuple(c for c in prediction.codes if self.stratum(code_key(c)) == stratum)
            )
            for prediction in predictions
        ]
        return documents, kept
