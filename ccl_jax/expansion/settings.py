"""The settings of the expansion; light to import, because every config holds them."""

import dataclasses

from ccl_jax.errors import UserError
from ccl_jax.expansion.endpoint.settings import EndpointSettings
from ccl_jax.expansion.gold import FORMS
from ccl_jax.records import TIERS

SCOPES = ('source', 'categories', 'release')
# Who finds silver evidence, and who writes synthetic spans.
FINDERS = ('terms', 'endpoint', 'model')
GENERATORS = ('rules', 'endpoint', 'model')


@dataclasses.dataclass(frozen=True)
class FilterSettings:
    """Which spans are fit for training; see `filters`.

    Attributes:
        min_characters: letters and digits that a span has at least.
        max_words, max_characters: what it has at most.
        round_trip_depth: ranks beyond it are not recorded; 0 asks for none.
        max_per_code: spans of one code at most; 0 for no limit.
        max_spans: spans at most; 0 for no limit.
    """

    min_characters: int = 2
    max_words: int = 50
    max_characters: int = 400
    round_trip_depth: int = 20
    max_per_code: int = 0
    max_spans: int = 0

    def __post_init__(self) -> None:
        for name, least in (('min_characters', 1), ('max_words', 1), ('max_characters', 1)):
            if getattr(self, name) < least:
                raise UserError(f'{name} is {getattr(self, name)}; it must be at least {least}')
        for name in ('round_trip_depth', 'max_per_code', 'max_spans'):
            if getattr(self, name) < 0:
                raise UserError(f'{name} is {getattr(self, name)}; it must be at least 0, which turns it off')


@dataclasses.dataclass(frozen=True)
class ExpansionSettings:
    """Which spans are made.

    Attributes:
        tiers: of `records.TIERS`: 'gold' from the release, 'document' from the training
            annotations, 'silver' from evidence found in the training documents for codes that
            have no annotated one, 'synthetic' from spans of neighbouring codes.
        scope: the codes that get gold and synthetic spans. 'source': the code space that the
            source defines; 'categories': the training codes and every billable code of their
            three-character categories; 'release': every billable code and the training codes.
        forms: of `gold.FORMS`: the wordings of gold spans.
        finder: of `FINDERS`: who finds silver evidence.
        generator: of `GENERATORS`: who writes synthetic spans.
        spans_per_code: codes with fewer spans get synthetic ones, up to this number.
        spans_file: JSONL of further spans, e.g. what `ccl-jax expand` wrote; '' for none.
        held_out_file: JSON of codes that no span may carry, e.g. what `ccl-jax expand` wrote; '' to
            draw them.
        held_out_share: share of the codes outside the training documents that no span may carry
            (stratum S2), chosen by seed; not for sources that hold out codes themselves.
        filters: see `FilterSettings`.
        endpoint: for finder or generator 'endpoint'.
        max_new_tokens: of an answer of finder or generator 'model'.
    """

    tiers: tuple[str, ...] = ('gold', 'document', 'silver')
    scope: str = 'source'
    forms: tuple[str, ...] = FORMS
    finder: str = 'terms'
    generator: str = 'rules'
    spans_per_code: int = 4
    spans_file: str = ''
    held_out_file: str = ''
    held_out_share: float = 0.4
    filters: FilterSettings = dataclasses.field(default_factory=FilterSettings)
    endpoint: EndpointSettings = dataclasses.field(default_factory=EndpointSettings)
    max_new_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values, known in (
            ('tiers', self.tiers, TIERS),
            ('forms', self.forms, FORMS),
            ('scope', (self.scope,), SCOPES),
            ('finder', (self.finder,), FINDERS),
            ('generator', (self.generator,), GENERATORS),
        ):
            unknown = [value for value in values if value not in known]
            if unknown:
                raise UserError(f'{name} has "{unknown[0]}"; it must be one of {", ".join(known)}')
        if not 0 <= self.held_out_share <= 1:
            raise UserError(f'held_out_share is {self.held_out_share}; it must lie between 0 and 1')
        for name in ('spans_per_code', 'max_new_tokens'):
            if getattr(self, name) < 1:
                raise UserError(f'{name} is {getattr(self, name)}; it must be at least 1')
