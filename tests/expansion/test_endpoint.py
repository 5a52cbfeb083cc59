"""The endpoint client against a real HTTP server on loopback that misbehaves and keeps its own books."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip('openai')

from ccl_jax.errors import UserError
from ccl_jax.expansion.endpoint import requests as endpoint_requests
from ccl_jax.expansion.endpoint.client import Endpoint, EndpointSettings
from ccl_jax.expansion.endpoint.wire import seconds_to_wait
from tests.expansion.chat_server import ChatServer, instance
from tests.expansion.endpoint_helpers import ANSWER, PROMPT, QUOTES, echoes, make_endpoint, numbered

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch):
    monkeypatch.setattr(endpoint_requests, 'FIRST_BACKOFF', 0.01)


def test_answers_come_in_the_order_of_the_prompts_and_equal_prompts_are_asked_once():
    prompts = [*numbered(9), *numbered(3)]
    with ChatServer() as server:
        endpoint = make_endpoint(server)
        assert endpoint.generate(prompts) == echoes(prompts)
        assert endpoint.generate(prompts[:2]) == echoes(prompts[:2])
        assert endpoint.generate([]) == []
    assert list(server.asked.values()) == [1] * 9
    assert endpoint.report()['usage']['input_tokens'] + endpoint.report()['usage']['output_tokens'] == server.tokens
    body = server.requests[0].body
    assert {name: body[name] for name in ('model', 'temperature', 'max_tokens')} == {
        'model': 'tiny',
        'temperature': 0.0,
        'max_tokens': 512,
    }
    assert len({request.headers['idempotency-key'] for request in server.requests}) == 9


@pytest.mark.parametrize('fault', ['429', '500', '503', 'half_body', 'short_body', 'drop', 'hang', 'drip'])
def test_a_fault_that_heals_is_tried_again(fault):
    with ChatServer([fault, fault, 'ok']) as server:
        endpoint = make_endpoint(server, timeout_seconds=0.4 if fault in ('hang', 'drip') else 5)
        assert endpoint.generate([PROMPT], QUOTES) == [ANSWER]
    assert server.behaved == {fault: 2, 'ok': 1}
    assert len({request.headers['idempotency-key'] for request in server.requests}) == 1
    # What a server may have billed counts with its upper bound, what it refused does not count.
    unknown = endpoint.report()['usage']['requests_of_unknown_cost']
    assert unknown == (0 if fault.isdigit() else 2)


@pytest.mark.parametrize('fault', ['hang', 'drip'])
def test_a_hang_ends_by_the_time_out(fault):
    with ChatServer([fault]) as server:
        endpoint = make_endpoint(server, timeout_seconds=0.2, max_retries=1)
        begun = time.monotonic()
        assert endpoint.generate([PROMPT]) == [None]
        assert 0.4 <= time.monotonic() - begun < 5
    assert server.behaved == {fault: 2}
    assert endpoint.report()['counts']['requests given up: timed out'] == 1


@pytest.mark.parametrize('seconds', [0, 0.4])
def test_retry_after_is_kept_exactly(monkeypatch, seconds):
    monkeypatch.setattr(endpoint_requests, 'FIRST_BACKOFF', 5.0)  # must not be used
    with ChatServer([f'429:{seconds}', 'ok']) as server:
        assert make_endpoint(server).generate([PROMPT]) == echoes([PROMPT])
    first, second = (request.when for request in server.requests)
    assert seconds <= second - first < seconds + 2


def test_a_pause_holds_for_all_workers():
    class FirstIsTooMany(ChatServer):
        def behaviour(self, key, nth):
            return '429:0.8' if sum(self.asked.values()) == 1 else 'ok'

    with FirstIsTooMany(delay=0.02) as server:
        assert make_endpoint(server, concurrency=2).generate(numbered(8)) == echoes(numbered(8))
    times = [request.when - server.requests[0].when for request in server.requests]
    # The other worker may send until the news arrives, but not in the pause.
    assert not [when for when in times if 0.4 < when < 0.8]
    assert sum(when > 0.8 for when in times) > 2


def test_an_endless_pause_stops_the_run():
    with ChatServer(['429:86400']) as server:
        endpoint = make_endpoint(server, concurrency=1)
        assert endpoint.generate(numbered(5)) == [None] * 5
    assert len(server.requests) == 1
    assert 'wait 86400 seconds' in endpoint.stopped


@pytest.mark.parametrize(
    ('headers', 'wait'),
    [
        ({}, None),
        ({'retry-after': '7'}, 7.0),
        ({'retry-after': '0.5'}, 0.5),
        ({'retry-after': '-3'}, 0.0),
        ({'retry-after': 'soon'}, None),
        ({'retry-after': 'nan'}, None),
        ({'retry-after': 'inf'}, float('inf')),
        ({'retry-after': '9', 'retry-after-ms': '250'}, 0.25),
        ({'retry-after': 'Wed, 21 Oct 2015 07:28:00 GMT'}, 0.0),
    ],
)
def test_retry_after_is_read(headers, wait):
    assert seconds_to_wait(headers) == wait


def test_retry_after_may_be_a_date(monkeypatch):
    monkeypatch.setattr(time, 'time', lambda: 1445412480.0 - 90)  # 90 s before the date below
    assert seconds_to_wait({'retry-after': 'Wed, 21 Oct 2015 07:28:00 GMT'}) == 90


@pytest.mark.parametrize('fault', ['400', '403', '422'])
def test_what_cannot_heal_is_not_tried_again(fault):
    with ChatServer([fault]) as server:
        endpoint = make_endpoint(server)
        assert endpoint.generate([PROMPT]) == [None]
    assert len(server.requests) == 1
    assert endpoint.report()['counts'][f'requests given up: status {fault} (code_{fault})'] == 1
    assert not endpoint.stopped


@pytest.mark.parametrize(('fault', 'mend'), [('401', 'OPENAI_API_KEY'), ('404', 'endpoint.model')])
def test_a_mistake_of_the_user_ends_the_run(fault, mend):
    with ChatServer([fault]) as server, pytest.raises(UserError, match=mend):
        make_endpoint(server, concurrency=1).generate(numbered(5))
    assert len(server.requests) == 1


def test_an_account_without_money_stops_the_run():
    with ChatServer(['402']) as server:
        endpoint = make_endpoint(server, concurrency=1)
        assert endpoint.generate(numbered(5)) == [None] * 5
    assert len(server.requests) == 1
    assert 'money' in endpoint.stopped


def test_a_dead_endpoint_stops_the_run():
    with ChatServer() as server:
        pass
    endpoint = make_endpoint(server, max_retries=1, concurrency=2)
    assert endpoint.generate(numbered(50)) == [None] * 50
    assert '16 requests in a row got no answer' in endpoint.stopped
    assert endpoint.report()['usage']['requests_of_unknown_cost'] == 0


def test_a_wrong_answer_is_repaired_once_and_told_why():
    class RepairsWell(ChatServer):
        def behaviour(self, key, nth):
            return ('wrong_schema', 'ok')[len(self.requests) - 1]

    with RepairsWell() as server:
        endpoint = make_endpoint(server)
        assert endpoint.generate([PROMPT], QUOTES) == [ANSWER]
    asked, wrong, told = server.requests[1].body['messages']
    assert asked['content'] == PROMPT
    assert wrong == {'role': 'assistant', 'content': '{"something": "else"}'}
    assert "('something' was unexpected)" in told['content']
    assert server.requests[1].body['response_format']['json_schema']['schema'] == QUOTES


@pytest.mark.parametrize('fault', ['half_json', 'wrong_schema', 'cut'])
def test_an_answer_that_stays_wrong_costs_two_requests_and_never_more(tmp_path, fault):
    with ChatServer([fault]) as server:
        for _ in range(2):  # the second run finds both answers in the cache
            endpoint = make_endpoint(server, cache=str(tmp_path / 'cache.jsonl'))
            assert endpoint.generate([PROMPT], QUOTES) == [None]
            assert endpoint.report()['counts']['answers not repaired'] == 1
    assert server.behaved == {fault: 2}


def test_answers_without_text_and_false_quotes():
    with ChatServer(['refusal']) as server:
        endpoint = make_endpoint(server)
        assert endpoint.generate([PROMPT], QUOTES) == [None]
        assert endpoint.report()['counts']['answers without text'] == 1
    with ChatServer(['false_quote']) as server:
        # Lawful JSON: whether a quote stands in the document is the finder's affair.
        assert make_endpoint(server).generate([PROMPT], QUOTES) == ['{"quotes": ["that nobody wrote"]}']


def test_half_a_surrogate_pair_neither_stops_the_request_nor_comes_back():
    with ChatServer(answer=lambda body: 'odd \ud800 text') as server:
        assert make_endpoint(server).generate(['a \ud800 prompt']) == ['odd ? text']
    assert server.requests[0].body['messages'][0]['content'] == 'a ? prompt'


def test_all_work_ends_whatever_the_server_does():
    shares = dict.fromkeys(('429:0.05', '500', 'half_body', 'drop', 'wrong_schema', 'half_json'), 0.1) | {'hang': 0.05}
    prompts = numbered(60)
    with ChatServer(shares=shares, seed=5) as server:
        endpoint = make_endpoint(server, timeout_seconds=1, concurrency=8)
        answers = endpoint.generate(prompts, QUOTES)
    counts = Counter(endpoint.report()['counts'])
    assert set(shares) <= set(server.behaved)  # each of them happened
    assert all(answer in (None, instance_text(prompt)) for prompt, answer in zip(prompts, answers, strict=True))
    # An answer that is wrong twice is the one way to have none.
    assert answers.count(None) == counts['answers not repaired'] == counts['prompts without an answer']
    assert counts['answers repaired'] > answers.count(None)
    # Nothing that was answered in full was asked again.
    assert set(server.answered.values()) == {1}


def instance_text(prompt):
    return json.dumps(instance(QUOTES, prompt))


@pytest.mark.parametrize('concurrency', [1, 4])
def test_no_more_requests_under_way_than_allowed(concurrency):
    with ChatServer(delay=0.03) as server:
        make_endpoint(server, concurrency=concurrency).generate(numbered(12))
    assert server.most_under_way == concurrency


def test_the_server_runs_as_a_process():
    command = [sys.executable, '-m', 'tests.expansion.chat_server', '--script', '500,ok']
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        url = process.stdout.readline().strip()
        endpoint = Endpoint(EndpointSettings(url, 'm'))
        assert endpoint.generate([PROMPT]) == echoes([PROMPT])
        counts = json.load(urllib.request.urlopen(url.removesuffix('/v1') + '/counts'))
        assert counts['behaved'] == {'500': 1, 'ok': 1}
        assert list(counts['asked'].values()) == [2]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with pytest.raises(OSError, match='refused'):
        socket.create_connection(('127.0.0.1', int(url.split(':')[2].split('/')[0])), timeout=1)
