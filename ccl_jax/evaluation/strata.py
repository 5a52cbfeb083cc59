"""Strata of codes: by how training knew them, and by how many training documents carry them.

S0 carried by a training document; S1 by no training document but by a training
span; S2 kept out of training on purpose; S3 the rest (codes without any term,
invented codes). Apart from these, every code is in one of four frequency buckets.
A stratum or bucket keeps, of gold and of predictions, its own codes, so the
metrics apply to it unchanged.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from ccl_jax.errors import UserError
from ccl_jax.evaluation.pairs import Code, code_key
from ccl_jax.records import Document, Span

STRATA = ('S0', 'S1', 'S2', 'S3')
FREQUENCIES = ('0', '1-5', '6-20', '>20')
"""The buckets, by the number of training documents that carry a code."""


@dataclasses.dataclass(frozen=True)
class Strata:
    """The codes that training saw, as (system, code).

    Attributes:
        document_counts: code -> training documents that carry it.
        span_codes: codes with a training span.
        held_out: codes kept out of training on purpose.

    Raises:
        UserError: a held-out code is carried by a training document or span.
    """

    document_counts: Mapping[Code, int]
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
        carried = (code for document in documents for code in {code_key(a) for a in document.annotations})
        return cls(
            document_counts=Counter(carried),
            span_codes=frozenset((span.system, span.code) for span in spans),
            held_out=frozenset(held_out),
        )

    @property
    def document_codes(self) -> frozenset[Code]:
        return frozenset(self.document_counts)

    def stratum(self, code: Code) -> str:
        if code in self.document_counts:
            return 'S0'
        if code in self.span_codes:
            return 'S1'
        return 'S2' if code in self.held_out else 'S3'

    def frequency(self, code: Code) -> str:
        count = self.document_counts.get(code, 0)
        if count == 0:
            return '0'
        return '1-5' if count <= 5 else '6-20' if count <= 20 else '>20'
