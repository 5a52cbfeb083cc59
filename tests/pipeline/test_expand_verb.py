"""`expand` from the command line: files, coverage, leakage, an endpoint on loopback, and what is refused."""

import json

import pytest

from ccl_jax.records import read_jsonl, span_from_json
from tests.expansion.chat_server import ChatServer
from tests.pipeline.conftest import ccl_jax

TRAIN = [
    {'doc_id': 'a', 'text': 'Denies cough. Has essential hypertension.', 'codes': [{'code': 'I10'}, {'code': 'R05.9'}]},
    {'doc_id': 'b', 'text': 'Known HTN.', 'codes': [{'code': 'I10', 'evidence': [{'parts': [[6, 9]]}]}]},
]
WORDS = 'swelling of both ankles since the evening of the fifth day'
DEV = [{'doc_id': 'e', 'text': f'There was {WORDS}. Heart failure.', 'codes': [{'code': 'I50.9'}]}]
PLANTED = [
    ('drawn', 'ankle swelling', 'I50.9', 'doc:e'),
    ('shared', f'{WORDS} at home', 'I50.9', 'doc:elsewhere'),
    ('kept', 'Heart failure', 'I50.9', 'mine'),
]


def _write(path, records):
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))


@pytest.fixture
def corpus(tmp_path):
    _write(tmp_path / 'train.jsonl', TRAIN)
    _write(tmp_path / 'dev.jsonl', DEV)
    planted = [
        {'span_id': name, 'text': text, 'code': code, 'tier': 'silver', 'provenance': provenance}
        for name, text, code, provenance in PLANTED
    ]
    _write(tmp_path / 'planted.jsonl', planted)
    return [
        '--config=configs/jsonl.py',
        f'--config.sources.jsonl.train={tmp_path / "train.jsonl"}',
        f'--config.sources.jsonl.dev={tmp_path / "dev.jsonl"}',
    ]


def _spans(out):
    return [span_from_json(record) for _, record in read_jsonl(out / 'spans.jsonl')]


def test_what_is_written(corpus, tmp_path):
    out = tmp_path / 'out'
    tiers = '--tiers=gold,document,silver,synthetic'
    done = ccl_jax('expand', *corpus, tiers, f'--out={out}', '--config.expansion.held_out_share=0.4', '--sample=3')
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} >= {'spans.jsonl', 'held_out.json', 'coverage.json', 'coverage.html'}
    spans = _spans(out)
    found = {(span.tier, span.text, span.code) for span in spans}
    assert {('document', 'HTN', 'I10'), ('silver', 'essential hypertension', 'I10')} & found
    assert 'cough' not in {span.text.lower() for span in spans if span.tier == 'silver'}
    held_out = set(json.loads((out / 'held_out.json').read_text())['codes'])
    assert len(held_out) > 30_000
    assert held_out.isdisjoint({span.code for span in spans} | {'I10', 'R05.9'})
    coverage = json.loads((out / 'coverage.json').read_text())
    assert sum(coverage['spans'].values()) == len(spans)
    assert 'gold: 3 of' in done.stdout
    # The same command makes the same spans.
    again = tmp_path / 'again'
    ccl_jax('expand', *corpus, tiers, f'--out={again}', '--config.expansion.held_out_share=0.4')
    assert (again / 'spans.jsonl').read_bytes() == (out / 'spans.jsonl').read_bytes()


def test_what_comes_from_evaluation_documents_is_refused(corpus, tmp_path):
    out = tmp_path / 'out'
    planted = f'--config.expansion.spans_file={tmp_path / "planted.jsonl"}'
    done = ccl_jax('expand', *corpus, '--tiers=silver', planted, f'--out={out}')
    assert done.returncode == 0, done.stderr
    assert {span.span_id for span in _spans(out)} & {name for name, *_ in PLANTED} == {'kept'}
    dropped = json.loads((out / 'coverage.json').read_text())['filters']['dropped']
    assert sorted(sum(counts.values()) for counts in dropped.values()) == [1, 1]


def test_what_expand_wrote_serves_a_training(corpus, tmp_path):
    out = tmp_path / 'out'
    assert ccl_jax('expand', *corpus, '--tiers=document', f'--out={out}').returncode == 0
    done = ccl_jax(
        'prepare',
        '--config=configs/jsonl.py:tiny',
        *corpus[1:],
        '--config.eval.split=dev',
        '--config.expansion.tiers=()',
        f'--config.expansion.spans_file={out / "spans.jsonl"}',
        f'--config.expansion.held_out_file={out / "held_out.json"}',
        f'--workdir={tmp_path / "w"}',
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'w' / 'data' / 'spans.jsonl').read_text() == (out / 'spans.jsonl').read_text()


def test_an_endpoint_finds_and_writes(corpus, tmp_path):
    with ChatServer() as server:
        arguments = [
            'expand',
            *corpus,
            '--tiers=gold,silver,synthetic',
            '--finder=endpoint',
            '--generator=endpoint',
            f'--config.expansion.endpoint.url={server.url}',
            '--config.expansion.endpoint.model=m',
            '--config.expansion.spans_per_code=30',
            f'--out={tmp_path / "out"}',
        ]
        done = ccl_jax(*arguments)
        assert done.returncode == 0, done.stderr
        asked = len(server.requests)
        assert asked > 0
        report = json.loads((tmp_path / 'out' / 'coverage.json').read_text())['endpoint']
        assert report['usage']
        assert (tmp_path / 'out' / 'answers.jsonl').exists()
        # Every answer is in the cache: nothing is asked again.
        assert ccl_jax(*arguments).returncode == 0
        assert len(server.requests) == asked


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['expand'], ['--out']),
        (['expand', '--out=o', '--tiers=bronze'], ['bronze', 'synthetic']),
        (['expand', '--out=o', '--tiers=silver'], ['--config']),
        (['expand', '--out=o', '--tiers=synthetic', '--generator=magic'], ['magic', 'rules']),
        (['expand', '--out=o', '--tiers=gold,synthetic', '--generator=endpoint'], ['endpoint.model']),
        (['expand', '--out=o', '--tiers=gold,synthetic', '--generator=model'], ['model.path']),
        (['expand', '--out=o', '--release=nowhere'], ['nowhere']),
        (
            [
                'expand',
                '--out=o',
                '--tiers=gold,synthetic',
                '--generator=endpoint',
                '--config=configs/jsonl.py',
                '--config.sources.jsonl.train=README.md',
                '--config.expansion.endpoint.url=https://api.example.com/v1',
                '--config.expansion.endpoint.model=m',
            ],
            ['api.example.com', 'allow_remote'],
        ),
    ],
)
def test_what_is_refused(arguments, words, tmp_path, monkeypatch):
    arguments = [argument.replace('--out=o', f'--out={tmp_path / "o"}') for argument in arguments]
    done = ccl_jax(*arguments)
    assert done.returncode == 2
    assert all(word in done.stderr.splitlines()[-1] for word in words), done.stderr
    assert not (tmp_path / 'o' / 'spans.jsonl').exists()
