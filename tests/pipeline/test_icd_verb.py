"""`ccl-jax icd` in process, on the embedded release."""

import json

import pytest

from ccl_jax.errors import UserError
from ccl_jax.pipeline.icd import run_icd


def _run(capsys, *codes, words=None, as_json=False, release=''):
    exit_code = run_icd(list(codes), words, release, as_json)
    output = capsys.readouterr()
    return exit_code, output.out, output.err


def test_a_code_as_text(capsys):
    exit_code, out, err = _run(capsys, 'E11.9')
    assert (exit_code, err) == (0, '')
    lines = out.splitlines()
    assert lines[0] == 'E11.9  Type 2 diabetes mellitus without complications'
    assert lines[1].startswith('billable; ICD-10-CM 2026')
    assert '  E11  Type 2 diabetes mellitus' in lines
    assert '  type 1 diabetes mellitus (E10.-)  [E11]' in lines


def test_a_code_as_json_in_any_spelling(capsys):
    exit_code, out, _ = _run(capsys, 'w19.xxxa', as_json=True)
    record = json.loads(out)
    assert exit_code == 0
    assert record['code'] == 'W19.XXXA'
    assert record['system'] == 'ICD-10-CM'
    assert (record['status'], record['billable']) == ('billable', True)
    assert record['title'] == 'Unspecified fall, initial encounter'
    assert (record['parent'], record['ancestors'], record['children']) == ('W19', ['W19'], [])
    assert record['siblings'] == ['W19.XXXD', 'W19.XXXS']
    assert record['seventh_character'] == {'character': 'A', 'meaning': 'initial encounter'}
    assert record['terms'] == [{'text': 'Unspecified fall, initial encounter', 'origin': 'title'}]
    assert record['includes'] == []
    assert set(record['inherited']) == {
        'includes',
        'excludes1',
        'excludes2',
        'use_additional',
        'code_first',
        'code_also',
    }


def test_inherited_notes_as_json(capsys):
    record = json.loads(_run(capsys, 'I21.4', as_json=True)[1])
    assert {'where': 'I21', 'note': 'cardiac infarction'} in record['inherited']['includes']
    assert record['seventh_character'] is None


@pytest.mark.parametrize(('code', 'title'), [('U07.1', 'COVID-19'), ('I10.', 'Essential (primary) hypertension')])
def test_several_codes_and_a_header(capsys, code, title):
    exit_code, out, _ = _run(capsys, code, 'e87.2')
    assert exit_code == 0
    assert out.splitlines()[0].endswith(title)
    assert 'header, not billable' in out
    assert '  E87.21  Acute metabolic acidosis' in out.splitlines()


@pytest.mark.parametrize(
    ('code', 'message', 'suggestion'),
    [
        ('nonsense', '"nonsense" is not in ICD-10-CM 2026', ''),
        ('W19.XXX', 'W19.XXX is incomplete in ICD-10-CM 2026', 'W19.XXXA (Unspecified fall, initial encounter)'),
        ('I10.9', 'I10.9 is not in ICD-10-CM 2026', 'I10 (Essential (primary) hypertension)'),
        ('401.9', '401.9 has not the form of ICD-10-CM (it has that of ICD-9-CM)', ''),
        (' ', '" " is not in ICD-10-CM 2026', ''),
    ],
)
def test_unknown_codes(capsys, code, message, suggestion):
    exit_code, out, err = _run(capsys, code, 'I10')
    assert exit_code == 2
    assert out.startswith('I10  ')
    assert err.startswith(f'ccl-jax: {message}')
    assert 'did you mean ' in err
    assert suggestion in err
    assert len(err.splitlines()) == 1


def test_search(capsys):
    exit_code, out, _ = _run(capsys, words='cardiac infarction')
    assert exit_code == 0
    assert len(out.splitlines()) == 10
    assert any(line.startswith('I21.') and line.endswith('[cardiac infarction]') for line in out.splitlines())


def test_search_as_json(capsys):
    records = [json.loads(line) for line in _run(capsys, words='covid', as_json=True)[1].splitlines()]
    assert records[0]['code'] == 'U07.1'
    assert records[0]['term'] == {'text': 'COVID-19', 'origin': 'title'}
    assert [record['score'] for record in records] == sorted((record['score'] for record in records), reverse=True)


def test_search_without_a_hit(capsys):
    exit_code, out, err = _run(capsys, words='qqqqqqqqqq')
    assert (exit_code, out) == (2, '')
    assert 'no code of ICD-10-CM 2026' in err


def test_a_release_that_is_not_there(tmp_path):
    with pytest.raises(UserError):
        run_icd(['I10'], None, str(tmp_path / 'none.xml'), False)
