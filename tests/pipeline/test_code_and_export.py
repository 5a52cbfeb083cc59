"""`code` and `export` on a miniature of the demo."""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from ccl_jax.config import MeshSettings
from ccl_jax.data.tokenization import encode_target, load_tokenizer
from ccl_jax.decoding import predict
from ccl_jax.decoding.generate import Generation
from ccl_jax.pipeline.code import format_codes
from ccl_jax.pipeline.models import load_trained, open_mesh
from ccl_jax.pipeline.workdir import workdir_config
from tests.pipeline.conftest import ccl_jax

NOTE = 'A 70-year-old man. Presents with HTN and gout.\nDenies fever. Caf\u00e9 visits daily.\n'


def test_code_reads_files_and_standard_input(miniature, tmp_path):
    path = tmp_path / 'note.txt'
    path.write_text(NOTE, encoding='utf-8')
    from_file = ccl_jax('code', f'--workdir={miniature}', '--json', str(path))
    from_stdin = ccl_jax('code', f'--workdir={miniature}', '--json', stdin=NOTE)
    assert from_file.returncode == from_stdin.returncode == 0, from_file.stderr + from_stdin.stderr
    a, b = json.loads(from_file.stdout), json.loads(from_stdin.stdout)
    assert a['doc_id'] == str(path)
    assert a['codes'] == b['codes']
    for code in a['codes']:
        for evidence in code['evidence']:
            assert ' '.join(NOTE[begin:end] for begin, end in evidence['parts']) == evidence['text'] != ''
    assert 'synthetic' in from_file.stderr
    readable = ccl_jax('code', f'--workdir={miniature}', str(path))
    assert readable.stdout.startswith(f'{path}: {len(a["codes"])} code')


def test_what_the_model_writes_comes_out_with_titles_and_offsets(miniature, tmp_path):
    # The miniature model is too small to find anything, so its answer is put into its mouth.
    tokenizer = load_tokenizer(miniature / 'base' / 'hf')
    tokens = encode_target(tokenizer, '## ICD Codes\n- gout -> M10.9\n- HTN -> I10\n- made up -> Q99.999')[:-1]
    answer = Generation(tuple(tokens), (-0.5,) * len(tokens), True)
    path = tmp_path / 'note.txt'
    path.write_text(NOTE, encoding='utf-8')
    with mock.patch.object(predict, 'generate', lambda decoder, prompts, **_: [answer] * len(prompts)):
        done = ccl_jax('code', f'--workdir={miniature}', '--json', str(path))
    assert done.returncode == 0, done.stderr
    gout, htn, made_up = json.loads(done.stdout)['codes']
    assert (gout['code'], gout['title'], gout['billable']) == ('M10.9', 'Gout, unspecified', True)
    assert (htn['code'], htn['title']) == ('I10', 'Essential (primary) hypertension')
    for code, word in ((gout, 'gout'), (htn, 'HTN')):
        ((begin, end),) = code['evidence'][0]['parts']
        assert NOTE[begin:end] == word
        assert code['score'] < 0
    assert (made_up['title'], made_up['evidence'][0]) == (None, {'parts': [], 'text': 'made up'})


def test_the_table_shows_titles_offsets_and_what_was_not_found():
    shown = format_codes(
        [
            {
                'doc_id': 'n',
                'codes': [
                    {
                        'code': 'I10',
                        'title': 'Essential (primary) hypertension',
                        'score': -0.25,
                        'flags': [],
                        'evidence': [{'parts': [[3, 6]], 'text': 'HTN'}],
                    },
                    {
                        'code': 'Q99.999',
                        'title': None,
                        'score': None,
                        'flags': ['not_in_release', 'ungrounded'],
                        'evidence': [{'parts': [], 'text': 'made\nup'}],
                    },
                ],
            }
        ]
    )
    assert shown.split('\n') == [
        'n: 2 codes',
        '  I10       Essential (primary) hypertension  score -0.25',
        '            "HTN" [3-6]',
        '  Q99.999   not in the release  [not in release, ungrounded]',
        '            "made up" [not found in the note]',
    ]


@pytest.mark.parametrize(
    ('content', 'message'),
    [(None, 'cannot read'), (b'', 'empty'), (b'\xff\xfe\x00', 'not UTF-8'), (b'PK\x03\x00\x00', 'binary')],
)
def test_unusable_notes_are_refused(miniature, tmp_path, content, message):
    path = tmp_path / 'note.txt'
    if content is not None:
        path.write_bytes(content)
    done = ccl_jax('code', f'--workdir={miniature}', str(path))
    assert done.returncode == 2
    assert message in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.fixture(scope='module')
def exported(miniature, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('export') / 'hf'
    done = ccl_jax('export', f'--workdir={miniature}', f'--output={folder}')
    assert done.returncode == 0, done.stderr
    return folder


def test_an_exported_model_has_the_same_logits_in_transformers(miniature, exported):
    torch = pytest.importorskip('torch')
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = workdir_config(miniature)
    _, decoder, tokenizer = load_trained(config, miniature, open_mesh(MeshSettings()))
    ids = AutoTokenizer.from_pretrained(exported)(NOTE)['input_ids']
    assert ids == tokenizer(NOTE)['input_ids']
    tokens = np.array([ids], np.int32)
    positions = np.arange(len(ids), dtype=np.int32)[None]
    ours = decoder.logits(decoder(tokens, positions, np.ones_like(tokens)))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)(torch.tensor([ids])).logits
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


def test_export_does_not_overwrite(miniature, exported):
    done = ccl_jax('export', f'--workdir={miniature}', f'--output={exported}')
    assert done.returncode == 2
    assert 'exists already' in done.stderr


@pytest.mark.slow
def test_training_goes_on_from_an_exported_folder(exported, tmp_path):
    lines = [
        {
            'doc_id': f'd{i}',
            'text': f'Note {i}. Has HTN.',
            'codes': [{'code': 'I10', 'evidence': [{'parts': [[13, 16]]}]}],
        }
        for i in range(10, 20)
    ]
    data = tmp_path / 'own.jsonl'
    data.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    done = ccl_jax(
        'train',
        '--config=configs/jsonl.py',
        f'--config.model.path={exported}',
        '--config.model.compute_dtype=float32',
        f'--config.sources.jsonl.train={data}',
        f'--config.sources.jsonl.test={data}',
        '--config.data.buckets=(128,)',
        '--config.data.tokens_per_step=1024',
        '--config.data.steps=3',
        '--config.optimizer.warmup_steps=0',
        '--config.eval.max_new_tokens=16',
        f'--workdir={tmp_path / "own"}',
    )
    assert done.returncode == 0, done.stderr
    assert 'SYNTHETIC' not in done.stdout.upper()


def test_an_exported_folder_codes_like_its_run(miniature, exported, tmp_path):
    path = tmp_path / 'note.txt'
    path.write_text(NOTE * 3, encoding='utf-8')
    of_run, of_folder = (
        ccl_jax('code', flag, '--json', str(path)) for flag in (f'--workdir={miniature}', f'--model={exported}')
    )
    assert of_run.returncode == of_folder.returncode == 0, of_folder.stderr
    assert json.loads(of_run.stdout) == json.loads(of_folder.stdout)
    assert 'synthetic' in of_folder.stderr
    assert json.loads((exported / 'ccl_jax.json').read_text())['output_format'] == 'pairs'


def test_code_wants_one_model(miniature, exported):
    for flags in ([], [f'--workdir={miniature}', f'--model={exported}']):
        done = ccl_jax('code', *flags, 'note.txt')
        assert done.returncode == 2
        assert 'either --workdir' in done.stderr


def test_a_long_note_is_coded_in_windows_with_offsets_into_the_whole(miniature, tmp_path):
    path = tmp_path / 'note.txt'
    text = '\n'.join(f'Visit {i}. {NOTE}' for i in range(60))
    path.write_text(text, encoding='utf-8')
    done = ccl_jax('code', f'--workdir={miniature}', '--json', '--recheck', str(path))
    assert done.returncode == 0, done.stderr
    assert 'in 0 windows' not in done.stderr
    assert 'windows' in done.stderr
    for code in json.loads(done.stdout)['codes']:
        assert code['title'] is not None
        for evidence in code['evidence']:
            assert evidence['parts']
            assert ' '.join(text[begin:end] for begin, end in evidence['parts']) == evidence['text']


def test_a_label_space_holds_answers_to_it_and_free_text_is_a_choice(miniature, tmp_path):
    path, codes = tmp_path / 'note.txt', tmp_path / 'codes.txt'
    path.write_text(NOTE, encoding='utf-8')
    codes.write_text('I10\nICD-10-CM\tm109\nICD-10-PCS\t0DB60ZZ\n', encoding='utf-8')
    done = ccl_jax('code', f'--workdir={miniature}', '--json', f'--label_space={codes}', str(path))
    assert done.returncode == 0, done.stderr
    assert {code['code'] for code in json.loads(done.stdout)['codes']} <= {'I10', 'M10.9'}
    assert ccl_jax('code', f'--workdir={miniature}', '--constrain=none', str(path)).returncode == 0
    for flag, words in (
        ('--constrain=style', 'codes, evidence, format'),
        (f'--label_space={tmp_path}/no', 'cannot read'),
    ):
        done = ccl_jax('code', f'--workdir={miniature}', flag, str(path))
        assert done.returncode == 2
        assert words in done.stderr


def test_the_page_of_coded_notes_can_be_reviewed(miniature, tmp_path):
    path, page = tmp_path / 'note.txt', tmp_path / 'page.html'
    path.write_text('<script>alert(1)</script> Has HTN.', encoding='utf-8')
    assert ccl_jax('code', f'--workdir={miniature}', f'--html={page}', str(path)).returncode == 0
    assert '<script>alert' not in page.read_text(encoding='utf-8')
    assert 'Has HTN.' in page.read_text(encoding='utf-8')
