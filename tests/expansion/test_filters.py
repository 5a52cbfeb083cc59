"""Each filter against cases worked by hand on the embedded release, and properties of all together."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.expansion import filters
from ccl_jax.expansion.filters import contains_code, filter_spans, normal_words
from ccl_jax.expansion.leakage import DRAWN, SHARED, Leakage
from ccl_jax.expansion.settings import FilterSettings
from ccl_jax.icd.release import Release
from ccl_jax.records import TIERS, Document, Span

NO_ROUND_TRIP = FilterSettings(round_trip_depth=0)


@pytest.fixture(scope='module')
def release() -> Release:
    return Release.embedded()


def _span(text: str, code: str, tier: str = 'gold', span_id: str = '') -> Span:
    provenance = 'doc:d1' if tier in ('document', 'silver') else 'a release: title'
    return Span(span_id or f'{tier}:{code}:{text}', text, code, tier, provenance)


def _filtered(spans, release, given=NO_ROUND_TRIP, **arguments):
    """Returns the ids kept, and tier -> reason -> count of what was dropped."""
    kept, report = filter_spans(spans, release, given, **arguments)
    assert report.given.total() == len(spans)
    assert report.kept.total() == len(kept) == len(spans) - sum(c.total() for c in report.dropped.values())
    return [span.span_id for span in kept], {reason: dict(counts) for reason, counts in report.dropped.items()}


@pytest.mark.parametrize(
    ('text', 'code', 'contains'),
    [
        ('Hypertension (I10)', 'I11.9', True),
        ('hypertension i10', 'I10', True),
        ('hypertension i10', 'I11.9', False),
        ('type 2 diabetes e11.65', 'E11.65', True),
        ('diabetes E119', 'I10', True),
        ('diabetes E11', 'E11.65', True),
        ('E11.65 diabetes', 'E11', True),
        ('any condition in I50.- due to hypertension', 'I11.0', True),
        ('any condition in I00', 'I01.0', True),
        ('malignant neoplasm classifiable to C16.1-C16.4', 'C16.9', True),
        ('hepatitis B18 - B19', 'K75.9', True),
        ('old fracture S72.001A', 'S72.002A', True),
        ('a retired code: Z99.99', 'I10', True),
        ('HLA-B27 positive', 'M45.9', False),
        ('vitamin B12 deficiency', 'D51.9', False),
        ('LGMD R12', 'G71.035', False),
        ('fracture from T12 to L1', 'S22.080A', False),
        ('compression of T10-T12', 'G95.20', False),
        ('pH 7.35, HbA1c 8.5 %', 'E11.9', False),
        ('G6PD deficiency', 'D75.A', False),
        ('influenza A H1N1', 'J10.1', False),
        ('heart failure', 'I50.9', False),
    ],
)
def test_code_strings(text, code, contains, release):
    assert contains_code(text, code, release) is contains


def test_normal_words_keep_the_sign_of_a_result():
    assert normal_words('ER+/HER2- Café-au-lait, pre- and postoperative') == (
        'er positive her2 negative cafe au lait pre and postoperative'
    )


def test_length(release):
    spans = [
        _span(text, 'I10') for text in ('H', 'MI', '- / -', 'x' * 30, 'x' * 31, 'a b c d e', 'a b c d e f', '39 º')
    ]
    kept, dropped = _filtered(spans, release, FilterSettings(2, max_words=5, max_characters=30, round_trip_depth=0))
    assert [span_id.split(':')[2] for span_id in kept] == ['MI', 'x' * 30, 'a b c d e', '39 º']
    assert dropped == {filters.TOO_SHORT: {'gold': 2}, filters.TOO_LONG: {'gold': 2}}


def test_of_duplicates_the_best_tier_stays_then_the_first(release):
    spans = [
        _span('heart failure', 'I50.9', 'synthetic'),
        _span('Heart-failure', 'I50.9', 'silver'),
        _span('HEART FAILURE', 'I50.9', 'silver'),
        _span('cardiac failure', 'I50.9', 'synthetic'),
        _span('cardiac failure', 'I50.9', 'document'),
        _span('cardiac failure', 'I50.9', 'gold'),
    ]
    kept, dropped = _filtered(spans, release)
    assert kept == ['document:I50.9:cardiac failure', 'silver:I50.9:Heart-failure']
    assert dropped == {filters.DUPLICATE: {'synthetic': 2, 'silver': 1, 'gold': 1}}


@pytest.mark.parametrize(
    ('spans', 'kept'),
    [
        # The most specific of a line wins, whatever its tier.
        (
            [('asthma', 'J45', 'document'), ('asthma', 'J45.90', 'gold'), ('asthma', 'J45.909', 'synthetic')],
            ['J45.909'],
        ),
        # Siblings: nobody knows whose the words are.
        ([('a fall', 'W19.XXXA', 'gold'), ('a fall', 'W19.XXXD', 'gold'), ('a fall', 'W19', 'gold')], []),
        # The better tier wins.
        ([('flu', 'J11.1', 'silver'), ('flu', 'J11.2', 'document')], ['J11.2']),
        ([('flu', 'J11.1', 'silver'), ('flu', 'J11.2', 'synthetic'), ('flu', 'J11.81', 'synthetic')], ['J11.1']),
        # A tie that other spans with the words break: two tiers against one.
        ([('flu', 'J11.1', 'document'), ('flu', 'J11.2', 'document'), ('flu', 'J11.2', 'silver')], ['J11.2']),
        # Of gold spans the words of a title beat those of another term, and these another form of a term.
        ([('high blood pressure', 'I10', 'gold'), ('high blood pressure', 'I15.9', 'gold')], ['I10']),
        ([('raised tension', 'I10', 'gold'), ('raised tension', 'I15.9', 'gold')], []),
        ([('viral pericarditis', 'B33.23', 'gold'), ('viral pericarditis', 'I30.1', 'gold')], ['B33.23']),
        # A code of no release, incomplete, is above those that complete it.
        ([('a fall', 'W19.XXX', 'document'), ('a fall', 'W19.XXXA', 'synthetic')], ['W19.XXXA']),
        # Other signs, other words.
        ([('ER+', 'Z17.0', 'gold'), ('ER-', 'Z17.1', 'gold')], ['Z17.0', 'Z17.1']),
    ],
)
def test_conflicts(spans, kept, release):
    found, dropped = _filtered([_span(*span) for span in spans], release)
    assert [span_id.split(':')[1] for span_id in found] == kept
    lost = len({code for _, code, _ in spans}) - len(kept)
    assert sum(dropped.get(filters.CONFLICT, {}).values()) == lost


def test_same_words_in_another_code_system_are_no_conflict(release):
    other = Span('pcs', 'hip', 'B2', 'document', 'doc:d', 'ICD-10-PCS')
    kept, _ = _filtered([other, _span('hip', 'M25.559', 'document')], release)
    assert sorted(kept) == ['document:M25.559:hip', 'pcs']
    # Its code stands between theirs.
    kept, _ = _filtered([_span('hip', 'A00.9', 'document'), other, _span('hip', 'M25.559', 'document')], release)
    assert kept == ['pcs']


def test_excludes1_by_words(release):
    assert 'bursitis NOS (M71.9-)' in [note for _, note in release.inherited_notes('M70.10', 'excludes1')]
    spans = [
        _span('bursitis', 'M70.10'),
        _span('Bursitis of the hand', 'M70.10'),
        _span('bursitis', 'M75.50', 'silver'),
        # The note 'basophilia (D72.824)' stands above the code that it names.
        _span('basophilia', 'D72.824'),
        # The note 'disseminated intravascular coagulation (complicating):' goes on with what it complicates.
        _span('disseminated intravascular coagulation', 'D65'),
    ]
    kept, dropped = _filtered(spans, release)
    assert 'gold:D72.824:basophilia' in kept
    assert 'gold:D65:disseminated intravascular coagulation' in kept
    assert 'gold:M70.10:bursitis' not in kept
    # What its own release sends elsewhere has no claim against another code.
    assert 'silver:M75.50:bursitis' in kept
    assert dropped == {filters.EXCLUDED: {'gold': 1}}


def test_leaks_are_refused_first(release):
    evaluation = Leakage([Document('dev1', 'She came with a dull pain in the back of the head and fever.')])
    spans = [
        _span('heart failure', 'I50.9'),
        _span('fever', 'R50.9'),
        Span('planted', 'rash', 'R21', 'document', 'doc:dev1'),
        Span('copied', 'dull pain in the back of the head', 'R51.9', 'silver', 'doc:d1'),
        # Would have won the words against the gold span.
        Span('leaking', 'heart failure', 'I50.1', 'document', 'doc:dev1'),
    ]
    kept, dropped = _filtered(spans, release, leakage=evaluation)
    assert kept == ['gold:I50.9:heart failure', 'gold:R50.9:fever']
    assert dropped == {DRAWN: {'document': 2}, SHARED: {'silver': 1}}


def test_round_trip_is_recorded_and_refuses_none(release):
    spans = [_span('Cholera, unspecified', 'A00.9'), _span('gibberish', 'A00.9', 'silver')]
    kept, report = filter_spans(spans, release, FilterSettings(round_trip_depth=5))
    assert [span.round_trip for span in kept] == [1, None]
    assert report.to_json()['round_trip'] == {'found': {'gold': 1}, 'found_first': {'gold': 1}}
    kept, report = filter_spans(spans, release, NO_ROUND_TRIP)
    assert [span.round_trip for span in kept] == [None, None]
    # Under a cap, spans that were found come first among those of one standing.
    spans = [_span('gibberish', 'A00.9', 'silver'), _span('cholera', 'A00.9', 'silver')]
    kept, _ = filter_spans(spans, release, FilterSettings(max_per_code=1))
    assert [span.text for span in kept] == ['cholera']
    assert 'round_trip' not in report.to_json()


def test_caps_keep_the_best_and_give_to_rare_codes_first(release):
    spans = [
        _span('made up', 'I10', 'synthetic'),
        _span('found', 'I10', 'silver'),
        _span('high blood pressure', 'I10'),
        _span('Essential (primary) hypertension', 'I10'),
        _span('HTN', 'I10', 'document'),
        _span('Cholera, unspecified', 'A00.9'),
        _span('rice water stool', 'A00.9', 'silver'),
        _span('Unspecified fall, initial encounter', 'W19.XXXA'),
    ]
    frequency = {'A00.9': 3, 'I10': 200}
    in_order = [
        'gold:W19.XXXA:Unspecified fall, initial encounter',
        'gold:A00.9:Cholera, unspecified',
        'silver:A00.9:rice water stool',
        'document:I10:HTN',
        'gold:I10:Essential (primary) hypertension',
        'gold:I10:high blood pressure',
        'silver:I10:found',
        'synthetic:I10:made up',
    ]

    def limited(per_code: int, overall: int):
        given = FilterSettings(round_trip_depth=0, max_per_code=per_code, max_spans=overall)
        return _filtered(spans, release, given, frequency=frequency)

    assert limited(0, 0) == (in_order, {})
    assert limited(2, 0) == (in_order[:5], {filters.CAP_PER_CODE: {'gold': 1, 'silver': 1, 'synthetic': 1}})
    # One for each code, then the second of the rarest code that has one.
    assert limited(0, 3)[0] == [in_order[0], in_order[1], in_order[3]]
    assert limited(0, 4)[0] == in_order[:4]
    assert limited(0, 2)[0] == in_order[:2]
    assert limited(0, 5)[0] == in_order[:5]
    kept, dropped = limited(1, 2)
    assert kept == in_order[:2]
    assert {reason: sum(counts.values()) for reason, counts in dropped.items()} == {
        filters.CAP_PER_CODE: 5,
        filters.CAP: 1,
    }


@pytest.mark.parametrize('name', ['min_characters', 'max_words', 'max_characters', 'max_per_code', 'max_spans'])
def test_settings_are_checked(name):
    with pytest.raises(UserError, match=f'{name} is -1; it must be at least'):
        FilterSettings(**{name: -1})


_TEXTS = st.sampled_from(['fever', 'Fever', 'hip pain', 'hip-pain', 'I10', 'x', 'a fall', 'bursitis', 'chills'])
_CODES = st.sampled_from(['R50.9', 'R50', 'M25.551', 'W19.XXXA', 'W19', 'M70.10', 'I10', 'Z99.99'])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(_TEXTS, _CODES, st.sampled_from(TIERS)), max_size=25), st.randoms(use_true_random=False))
def test_properties(drawn, source):
    release = Release.embedded()
    spans = [_span(text, code, tier, str(i)) for i, (text, code, tier) in enumerate(drawn)]
    kept, report = filter_spans(spans, release, NO_ROUND_TRIP)
    assert set(kept) <= set(spans)
    assert report.given.total() == report.kept.total() + sum(counts.total() for counts in report.dropped.values())
    # What is kept has its words for itself and passes again.
    assert len({normal_words(span.text) for span in kept}) == len(kept)
    assert filter_spans(kept, release, NO_ROUND_TRIP)[0] == kept
    # The order given decides only which of equal spans stays.
    shuffled = source.sample(spans, len(spans))
    again, _ = filter_spans(shuffled, release, NO_ROUND_TRIP)
    assert {(normal_words(s.text), s.code, s.tier) for s in again} == {
        (normal_words(s.text), s.code, s.tier) for s in kept
    }


def test_every_billable_code_keeps_its_title(release):
    """No two billable codes have a title in common, so no filter may leave one of them without."""
    codes = random.Random(0).sample(release.billable_codes(), 3000)
    spans = [_span(release.title(code), code) for code in codes]
    # Forms that all have: each would take the words from nobody.
    spans += [_span('disease', code) for code in codes]
    kept, report = filter_spans(spans, release, NO_ROUND_TRIP)
    lost = set(codes) - {span.code for span in kept}
    assert all(contains_code(release.title(code), code, release) for code in lost)
    assert len(lost) <= 3
    assert report.dropped[filters.CONFLICT]['gold'] == len(codes)
