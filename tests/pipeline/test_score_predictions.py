"""`eval --predictions`: from files to numbers, and what it says of bad ones."""

import json
import re

import pytest

from ccl_jax.cli import main

NOTE = 'Hypertension, and pain since 3 days.'
GOLD = [
    {
        'doc_id': 'a',
        'group_id': 'stay',
        'text': NOTE,
        'codes': [{'code': 'i10', 'evidence': [{'parts': [[0, 12]]}]}, {'code': 'R52'}],
    },
    {'doc_id': 'b', 'group_id': 'stay', 'text': NOTE, 'codes': [{'code': 'E119'}]},
    {'doc_id': 'c', 'text': '', 'codes': [{'code': 'I10'}]},
]
PREDICTIONS = [
    {
        'doc_id': 'a',
        'codes': [
            {'code': 'E11.9', 'score': 0.1},
            {'code': 'I10', 'score': 0.9, 'evidence': [{'parts': [[0, 13]], 'text': 'Hypertension,'}]},
            {'code': 'I10'},
            {'code': 'ZZZ9'},
        ],
    },
    {'doc_id': 'c', 'codes': [{'code': 'I10'}]},
    {'doc_id': 'elsewhere', 'codes': [{'code': 'R52'}]},
]


def write(path, records):
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return path


@pytest.fixture
def files(tmp_path):
    return [
        f'--predictions={write(tmp_path / "predictions.jsonl", PREDICTIONS)}',
        f'--gold={write(tmp_path / "gold.jsonl", GOLD)}',
    ]


@pytest.fixture
def scored(files, capsys):
    def run(*arguments):
        assert main(['eval', *files, *arguments, '--json']) == 0
        return json.loads(capsys.readouterr().out)

    return run


def value(result, name):
    return result['metrics'][name]['value']


def test_the_numbers(scored):
    result = scored()
    # Pairs: gold a-I10 a-R52 b-E11.9 c-I10; predicted a-E11.9 a-I10 a-ZZZ9 c-I10; two hits.
    assert value(result, 'micro_precision') == value(result, 'micro_recall') == pytest.approx(2 / 4)
    assert value(result, 'invalid_code_rate') == pytest.approx(1 / 4)
    # Average precision: a (1/2)/2, b 0, c 1; CodiEsp leaves b out.
    assert value(result, 'map') == pytest.approx((1 / 4 + 0 + 1) / 3)
    assert value(result, 'map_codiesp') == pytest.approx((1 / 4 + 1) / 2)
    # F1: I10 1; R52, E11.9 and ZZZ9 0. Labels are the four.
    assert value(result, 'macro_f1_active') == pytest.approx(1 / 4)
    assert value(result, 'macro_f1_gold') == pytest.approx(1 / 3)
    assert value(result, 'macro_f1_caml') == pytest.approx(1 / 4)
    assert value(result, 'evidence_span_exact_f1') == 0
    assert value(result, 'evidence_codiesp_x_f1') == value(result, 'grounding_rate') == 1
    assert all(set(metric) == {'value', 'low', 'high'} for metric in result['metrics'].values())
    assert result['documents'] == 3
    counts = result['counts']
    assert counts['documents_without_prediction'] == counts['predictions_without_document'] == 1
    assert counts['codes_listed_again'] == counts['predictions_not_in_order_of_score'] == 1
    assert result['options']['group'] == 'note'
    assert scored() == result


def test_the_options_reach_the_metrics(scored, tmp_path):
    assert value(scored('--trim'), 'evidence_span_exact_f1') == 1
    # Of the stay: gold I10 R52 E11.9, predicted E11.9 I10 ZZZ9; with c three hits of four and four.
    assert value(scored('--group=group'), 'micro_f1') == pytest.approx(3 / 4)
    labels = tmp_path / 'labels.txt'
    labels.write_text('I10\nZZZ9\nA00\nB00\n')
    result = scored(f'--label_space={labels}')
    # Labels: these four, and R52 and E11.9, which occur.
    assert value(result, 'macro_f1_caml') == pytest.approx(1 / 6)
    assert value(result, 'invalid_code_rate') == 0


def test_strata_and_frequency_buckets(scored, tmp_path):
    training = [{'doc_id': f't{i}', 'text': 'x', 'codes': [{'code': 'I10'}]} for i in range(6)]
    spans = [{'span_id': 's', 'text': 'ache', 'code': 'R52', 'tier': 'gold', 'provenance': 'title'}]
    result = scored(
        f'--training={write(tmp_path / "training.jsonl", training)}',
        f'--spans={write(tmp_path / "spans.jsonl", spans)}',
    )
    micro = {name: section['metrics']['micro_f1']['value'] for name, section in result['strata'].items()}
    # S3: E11.9 (missed in b, false in a) and ZZZ9.
    assert micro == {'S0': 1, 'S1': 0, 'S3': 0}
    buckets = {name: value(section, 'micro_recall') for name, section in result['training_frequency'].items()}
    assert buckets == {'0': 0, '6-20': 1}
    # In a part, documents without its codes are no exact match.
    assert value(result['strata']['S0'], 'exact_match_ratio') == 1
    assert result['strata']['S1']['metrics']['map']['value'] == 0


def test_what_is_undefined_says_why(capsys, tmp_path):
    gold = write(tmp_path / 'gold.jsonl', [{'doc_id': 'a', 'text': NOTE}])
    predictions = write(tmp_path / 'predictions.jsonl', [{'doc_id': 'a', 'codes': [{'code': 'I10'}]}])
    assert main(['eval', f'--predictions={predictions}', f'--gold={gold}', '--json']) == 0
    result = json.loads(capsys.readouterr().out)
    assert result['metrics']['micro_recall'] == {'value': None, 'low': None, 'high': None}
    assert value(result, 'micro_precision') == 0
    assert 'no gold codes' in result['undefined']['micro_recall']
    assert 'no evidence' in result['undefined']['evidence_span_exact_f1']
    assert set(result['undefined']) == {name for name, metric in result['metrics'].items() if metric['value'] is None}


def test_the_table(files, capsys):
    assert main(['eval', *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ['micro_f1', '0.500'] for line in lines)
    assert any(line.split() == ['predictions_without_document', '1'] for line in lines)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--predictions={p}'], '--gold is missing'),
        (['--gold={g}'], 'give --predictions too'),
        (['--gold={g}', '--workdir=w'], 'give --predictions too'),
        (['--predictions={p}', '--gold={g}', '--workdir=w'], 'give one'),
        (['--predictions={p}', '--gold={g}', '--split=dev'], 'give one'),
        (['--predictions={p}', '--gold={g}', '--group=stay'], 'take note or group'),
        (['--predictions={p}', '--gold={g}', '--spans={p}'], 'give --training too'),
        (['--predictions={absent}', '--gold={g}'], 'cannot read'),
        (['--predictions={bad}', '--gold={g}'], 'line 2'),
        (['--predictions={twice}', '--gold={g}'], 'line 2 .*same doc_id as line 1'),
        (['--predictions={other}', '--gold={g}'], 'doc_ids agree'),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, tmp_path, capsys):
    (tmp_path / 'bad').write_text('{"doc_id": "a", "codes": []}\n{"doc_id": "b", "codes": ["I10"]}\n')
    names = {
        'p': write(tmp_path / 'p', PREDICTIONS),
        'g': write(tmp_path / 'g', GOLD),
        'absent': tmp_path / 'absent',
        'bad': tmp_path / 'bad',
        'twice': write(tmp_path / 'twice', [PREDICTIONS[0], PREDICTIONS[0]]),
        'other': write(tmp_path / 'other', PREDICTIONS[2:]),
    }
    assert main(['eval', *(argument.format(**names) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert re.search(words, error), error
