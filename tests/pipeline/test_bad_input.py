"""What a user can get wrong ends in one sentence and exit code 2."""

import json

import pytest

from tests.pipeline.conftest import MINIATURE, ccl_jax, ccl_jax_process

GOOD = {'doc_id': 'a', 'text': 'Has HTN.', 'codes': [{'code': 'I10', 'evidence': [{'parts': [[4, 7]]}]}]}
OUTSIDE = {'doc_id': 'b', 'text': 'Short note.', 'codes': [{'code': 'I10', 'evidence': [{'parts': [[4, 700]]}]}]}


def assert_refused(done, *words: str) -> None:
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('ccl-jax: ')
    for word in words:
        assert word in last
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['trian'], ['trian', 'train']),
        (['train'], ['--workdir']),
        (['train', '--workdir=w'], ['--config']),
        (['train', '--workdir=w', '--config=configs/demo.py', '--config.data.step=3'], ['data.step', 'data.steps']),
        (['train', '--workdir=w', '--config=configs/demo.py', '--config.data=3'], ['section']),
        (['train', '--workdir=w', '--config=configs/demo.py', '--config.data.steps=many'], ['data.steps']),
        (['train', '--workdir=w', '--config=configs/demo.py:huge'], ['huge', 'ci']),
        (['train', '--workdir=w', '--config=configs/nowhere.py'], ['nowhere.py']),
        (['train', '--workdir=w', '--confg=x'], ['--confg']),
        (['train', '--workdir=w', '--config=configs/demo.py', 'stray'], ['stray']),
        (['eval', '--workdir=nowhere'], ['nowhere']),
        (['code', '--workdir=nowhere', 'README.md'], ['nowhere']),
        (['export', '--workdir=nowhere'], ['--output']),
        (['export', '--workdir=w', '--output=o', '--form=lora'], ['lora', 'merged', 'adapter']),
        (['score'], ['--model']),
        (['bench'], ['bench plan', 'bench loader', 'bench load', 'bench parity']),
        (['plan', '--workdir=w'], ['--config']),
    ],
    ids=lambda value: ' '.join(value)[-40:] if isinstance(value, list) else None,
)
def test_flags(arguments, words):
    assert_refused(ccl_jax(*arguments), *words)


def test_what_an_experiment_file_refuses_is_its_own_sentence():
    done = ccl_jax('train', '--workdir=w', '--config=configs/demo.py:huge')
    assert done.stderr.startswith('ccl-jax: configs/demo.py has no variant "huge"')


def test_the_process_ends_with_code_2_and_no_traceback():
    assert_refused(ccl_jax_process('code', '--workdir=nowhere', 'README.md'), 'nowhere')


def test_a_missing_file(tmp_path):
    assert_refused(_train_on(tmp_path, tmp_path / 'missing.jsonl'), 'missing.jsonl')


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        (json.dumps(OUTSIDE), ['line 2', '700', 'on_bad_record=skip']),
        ('{"doc_id": "b"', ['line 2', 'JSON']),
        (json.dumps({'doc_id': 'b', 'codes': []}), ['line 2', 'text']),
        (json.dumps(GOOD), ['line 2', 'doc_id']),
    ],
    ids=['offsets', 'json', 'no text', 'twice'],
)
def test_a_bad_line(tmp_path, line, words):
    path = tmp_path / 'own.jsonl'
    path.write_text(json.dumps(GOOD) + '\n' + line + '\n')
    done = _train_on(tmp_path, path)
    assert_refused(done, *words)
    assert 'Short note' not in done.stderr


def test_bad_lines_can_be_skipped_and_are_listed(tmp_path):
    path = tmp_path / 'own.jsonl'
    path.write_text(json.dumps(GOOD) + '\n' + json.dumps(OUTSIDE) + '\n')
    done = _train_on(tmp_path, path, '--config.sources.jsonl.on_bad_record=skip', verb='prepare')
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / 'w' / 'data' / 'rejected.jsonl').read_text().splitlines()
    rejected = [json.loads(line) for line in lines]
    # Once as a training file, once as a test file.
    assert [record['record_id'] for record in rejected] == ['b', 'b']
    assert 'Short note' not in ''.join(lines)
    assert '1 of the 1 documents of test have the text of a training document' in done.stderr


def _train_on(tmp_path, path, *more, verb='train'):
    return ccl_jax(
        verb,
        '--config=configs/jsonl.py:tiny',
        f'--config.sources.jsonl.train={path}',
        f'--config.sources.jsonl.test={path}',
        f'--workdir={tmp_path / "w"}',
        *more,
    )


def test_a_workdir_of_another_config(miniature):
    changed = [argument for argument in MINIATURE if 'train=60' not in argument]
    assert_refused(ccl_jax(*changed, f'--workdir={miniature}'), 'sources.synthetic_notes.train', '60', '120')


def test_a_mistyped_path_does_not_cost_the_workdir(tmp_path):
    path = tmp_path / 'own.jsonl'
    path.write_text(json.dumps(GOOD) + '\n')
    assert_refused(_train_on(tmp_path, tmp_path / 'owm.jsonl', verb='prepare'), 'owm.jsonl')
    # The right path, and then a prepared but untrained workdir under a setting that changes its data.
    assert_refused(_train_on(tmp_path, path, '--config.base.num_attention_heads=7', verb='prepare'), '(7)')
    former = (tmp_path / 'w' / 'data' / 'spans.jsonl').read_text()
    done = _train_on(tmp_path, path, "--config.expansion.forms=('printed',)", verb='prepare')
    assert done.returncode == 0, done.stderr
    spans = (tmp_path / 'w' / 'data' / 'spans.jsonl').read_text()
    assert ('Essential (primary) hypertension' in spans, 'Essential (primary) hypertension' in former) == (True, True)
    assert ('"HTN"' in spans, '"HTN"' in former) == (False, True)
    # From here on there are weights in the workdir, and it belongs to its config.
    assert_refused(_train_on(tmp_path, path, verb='prepare'), 'expansion.forms')


@pytest.mark.parametrize('verb', ['eval', 'code', 'export'])
def test_verbs_that_need_a_trained_model_say_so(tmp_path, verb):
    path = tmp_path / 'own.jsonl'
    path.write_text(json.dumps(GOOD) + '\n')
    assert _train_on(tmp_path, path, verb='prepare').returncode == 0
    more = {'code': [str(path)], 'export': [f'--output={tmp_path / "out"}']}.get(verb, [])
    assert_refused(ccl_jax(verb, f'--workdir={tmp_path / "w"}', *more), 'ccl-jax train')


def test_model_folders(tmp_path):
    def with_model(folder):
        data = tmp_path / 'own.jsonl'
        data.write_text(json.dumps(GOOD) + '\n')
        return ccl_jax(
            'train',
            '--config=configs/jsonl.py',
            f'--config.model.path={folder}',
            f'--config.sources.jsonl.train={data}',
            f'--config.sources.jsonl.test={data}',
            f'--workdir={tmp_path / folder.name}-run',
        )

    assert_refused(with_model(tmp_path / 'nowhere'), 'nowhere')
    empty = tmp_path / 'no_weights'
    empty.mkdir()
    config = {'model_type': 'llama', 'architectures': ['LlamaForCausalLM']}
    sizes = {
        'vocab_size': 300,
        'hidden_size': 8,
        'intermediate_size': 8,
        'num_hidden_layers': 1,
        'num_attention_heads': 2,
    }
    (empty / 'config.json').write_text(json.dumps(config | sizes))
    assert_refused(with_model(empty), 'safetensors')
    (empty / 'pytorch_model.bin').write_bytes(b'pickled')
    assert_refused(with_model(empty), 'safetensors')
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'config.json').write_text(json.dumps({'model_type': 'mamba', 'architectures': ['MambaForCausalLM']}))
    assert_refused(with_model(other), 'mamba')
