"""Synthetic spans by rules and by a model, on the embedded release and spans made by hand."""

import json
from collections import Counter

import pytest

from ccl_jax.expansion.synthetic import prompt_spans, rule_spans
from ccl_jax.expansion.synthetic_prompts import PHRASES_SCHEMA, parse_phrases, synthetic_prompt
from ccl_jax.icd.release import Release
from ccl_jax.records import Span


@pytest.fixture(scope='module')
def release():
    return Release.embedded()


def span(code, text, tier='gold', provenance='release: title'):
    return Span(f'{tier}:{code}:{text}', text, code, tier=tier, provenance=provenance)


def evidence(*spans):
    found = {}
    for one in spans:
        found.setdefault(one.code, []).append(one)
    return found


def by_rules(release, codes, spans, wanted):
    return [(one.code, one.text) for one in rule_spans(release, codes, evidence(*spans), wanted=wanted)]


def test_a_rule_span_says_where_it_comes_from(release):
    known = evidence(
        span('M25.562', 'L knee arthralgia', 'silver', 'doc:note, 7, silver: terms: title'),
        span('M25.562', 'left gonalgia'),
    )
    first, second = rule_spans(release, ['M25.561'], known, wanted=3)
    assert first == Span(
        'synthetic:M25.561:0',
        'R knee arthralgia',
        'M25.561',
        tier='synthetic',
        provenance='doc:note, 7, silver: terms: title, edited from M25.562: left -> right',
    )
    assert second.text == 'right gonalgia'
    assert second.provenance == 'edited from M25.562: left -> right; release: title'


def test_only_what_a_code_lacks(release):
    spans = [span('M25.562', f'left gonalgia {n}') for n in range(5)] + [span('M25.561', 'right gonalgia 0')]
    made = by_rules(release, ['M25.561'], spans, wanted=3)
    assert made == [('M25.561', 'right gonalgia 1'), ('M25.561', 'right gonalgia 2')]
    assert by_rules(release, ['M25.561'], spans, wanted=1) == []


def test_no_wording_twice_whatever_its_brackets(release):
    spans = [
        span('M25.561', 'Right knee pain'),
        span('M25.562', 'left knee pain'),
        span('M25.562', 'left (inner) knee pain'),
        span('M25.562', 'left KNEE pain, unspecified'),
        span('M25.562', 'sore left knee'),
        span('M25.562', 'Sore left knee.'),
    ]
    assert by_rules(release, ['M25.561'], spans, wanted=9) == [('M25.561', 'sore right knee')]


def test_documents_before_terms_and_each_neighbour_before_the_second_span_of_one(release):
    spans = [
        span('M25.562', 'left knee pain'),
        span('M25.562', 'left gonalgia'),
        span('M25.551', 'pain of R hip'),
        span('M25.551', 'right hip sore', 'document', 'doc:a'),
    ]
    assert [text for _, text in by_rules(release, ['M25.561'], spans, wanted=9)] == [
        'right knee sore',
        'right knee pain',
        'pain of R knee',
        'right gonalgia',
    ]


def test_nothing_from_spans_that_say_nothing_of_the_difference_from_synthetic_ones_or_for_unknown_codes(release):
    spans = [span('M25.562', 'gonalgia'), span('M25.562', 'left gonalgia', 'synthetic')]
    assert by_rules(release, ['M25.561', 'Q00.XX', 'I10'], spans, wanted=3) == []


def test_titles_of_a_family_turn_into_each_other(release):
    """From the title of a right-sided code alone, its left-sided neighbour gets its own title."""
    pairs = [('S80.01XA', 'S80.02XA'), ('H60.331', 'H60.332'), ('M17.11', 'M17.12'), ('C50.111', 'C50.112')]
    for right, left in pairs:
        made = by_rules(release, [left], [span(right, release.title(right))], wanted=1)
        assert made == [(left, release.title(left))]


class Model:
    """Answers prompts in order, and keeps them."""

    def __init__(self, *answers):
        self.answers, self.prompts = list(answers), []

    def __call__(self, prompts):
        self.prompts += prompts
        return [self.answers.pop(0) for _ in prompts]


def written(model, release, codes, known, per_code=2):
    counts = Counter()
    return list(prompt_spans(model, release, codes, known, per_code=per_code, counts=counts)), counts


def test_one_bad_answer_costs_only_itself(release):
    known = evidence(span('M25.562', 'left knee pain'), span('M25.561', 'right knee pain'))
    answers = [
        '{"phrases": ["R  knee\\narthralgia", "Right knee pain"]}',
        'Sure! {"phrases": ["x"]}',
        None,
        '{"phrases": ["Knee pain NOS", " ", "third"]}',
        '{"phrases": ["a\\ud800b", "L knee pain."]}',
    ]
    codes = ['M25.561', 'M25.551', 'M25.552', 'M25.569', 'M25.562']
    spans, counts = written(Model(*answers), release, codes, known)
    assert [(one.span_id, one.text, one.tier) for one in spans] == [
        ('synthetic:M25.561:written:0', 'R knee arthralgia', 'synthetic'),
        ('synthetic:M25.569:written:0', 'Knee pain NOS', 'synthetic'),
        ('synthetic:M25.562:written:0', 'L knee pain.', 'synthetic'),
    ]
    assert counts == {
        'prompts asked': 5,
        'phrases kept': 3,
        'no answer': 1,
        'answer is not the JSON asked for': 1,
        'phrase repeats a known span': 1,
        'phrase has no words or cannot be printed': 2,
        'phrase beyond the number asked for': 1,
    }


def test_a_code_without_neighbours_with_evidence_is_not_asked_for(release):
    model = Model()
    spans, counts = written(model, release, ['M25.561', 'Q00.XX'], {})
    assert (spans, model.prompts, counts) == ([], [], {'no neighbour with evidence': 1})


def test_the_neighbour_of_a_small_difference_is_taken_before_the_others(release):
    known = evidence(span('M25.50', 'joint pain'), span('M25.511', 'omalgia'), span('M25.551', 'coxalgia'))
    model = Model('{"phrases": ["gonalgia"]}')
    ((made,), _) = written(model, release, ['M25.561'], known)
    assert made.provenance.startswith('written by a model after M25.5')
    assert 'coxalgia' in model.prompts[0] or 'omalgia' in model.prompts[0]
    assert 'joint pain' not in model.prompts[0]


def test_at_most_one_document_is_shown_and_it_stands_first_in_the_provenance(release):
    known = evidence(
        span('M25.562', 'Pain in left knee'),
        span('M25.562', 'L gonalgia', 'document', 'doc:a'),
        span('M25.562', 'sore L knee', 'silver', 'doc:b, silver: terms: title'),
    )
    model = Model('{"phrases": ["R gonalgia"]}')
    ((made,), _) = written(model, release, ['M25.561'], known)
    assert made.provenance == 'doc:a, written by a model after M25.562'
    assert '- Pain in left knee\n' in model.prompts[0]
    assert '- L gonalgia\n' in model.prompts[0]
    assert 'sore L knee' not in model.prompts[0]


def test_many_codes_come_in_batches_and_answers_find_their_codes(release):
    codes = [code for code in release.billable_codes() if code.startswith('S52')][:300]
    known = {code: [span(code, release.title(code))] for code in codes}
    calls = []

    def generate(prompts):
        calls.append(len(prompts))
        asked = [prompt.split('Code A, ')[1].split(':')[0] for prompt in prompts]
        return [json.dumps({'phrases': [f'about {code}']}) for code in asked]

    spans, _ = written(generate, release, codes, known)
    assert sum(calls) == len(codes)
    assert len(calls) > 1
    assert [one.text for one in spans] == [f'about {one.code}' for one in spans]
    assert [one.code for one in spans] == codes


def test_a_model_that_loses_an_answer_is_refused(release):
    with pytest.raises(ValueError, match='shorter'):
        written(lambda prompts: [], release, ['M25.561'], evidence(span('M25.562', 'left knee pain')))


def test_a_prompt_tells_both_codes_and_their_difference(release):
    prompt = synthetic_prompt(release, 'M25.561', 'M25.562', [span('M25.562', 'L gonalgia')], 4)
    assert 'Code B, M25.562: Pain in left knee\nOnly in the title of B: left\n' in prompt
    assert 'Code A, M25.561: Pain in right knee\nOnly in the title of A: right\n' in prompt
    assert 'Write 4 short phrases' in prompt
    assert '- L gonalgia\n' in prompt
    assert '{"phrases": ["...", "..."]}' in prompt


def test_a_prompt_carries_the_notes_of_its_code(release):
    notes = (*release.inclusion_terms('F32.A'), *release.excludes1('F32.A'))
    assert notes
    prompt = synthetic_prompt(release, 'F32.A', 'F32.9', [span('F32.9', 'major depression')], 2)
    assert all(note in prompt for note in notes)


@pytest.mark.parametrize(
    'answer',
    [
        '',
        'null',
        '[]',
        '["a"]',
        '{}',
        '{"phrases": "a"}',
        '{"phrases": ["a", 1]}',
        '{"phrases": ["a"], "note": ""}',
        '{"phrases": ["a"',
        '```json\n{"phrases": ["a"]}\n```',
        '[' * 100_000,
        '{"phrases": [' + '1' * 5000 + ']}',
    ],
)
def test_an_answer_is_the_json_asked_for_or_nothing(answer):
    assert parse_phrases(answer) is None


def test_a_good_answer():
    assert PHRASES_SCHEMA['required'] == ['phrases']
    assert parse_phrases(' {"phrases": [" a\\tb ", "", "c\\u0000"]}\n') == ('a b', '', '')
    assert parse_phrases('{"phrases": []}') == ()
