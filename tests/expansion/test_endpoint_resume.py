"""Nothing is paid twice, and never more than the budget: the cache, kills, and limits over several runs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip('openai')

from ccl_jax.errors import UserError
from ccl_jax.expansion.endpoint.budget import Budget, Tokens
from ccl_jax.expansion.endpoint.cache import Answer, AnswerCache
from ccl_jax.expansion.endpoint.client import Endpoint, EndpointSettings
from tests.expansion.chat_server import ChatServer
from tests.expansion.endpoint_helpers import PROMPT, QUOTES, echoes, make_endpoint, numbered

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    'limit', [{'max_total_tokens': 1000}, {'max_cost': 0.001, 'input_price': 1.0, 'output_price': 1.0}]
)
def test_the_budget_stops_cleanly_and_holds_over_runs(tmp_path, limit):
    common = {'max_output_tokens': 12, 'cache': str(tmp_path / 'cache.jsonl')}
    prompts = numbered(70)
    with ChatServer() as server:
        endpoint = make_endpoint(server, **common, **limit)
        answers = endpoint.generate(prompts)
        done = sum(answer is not None for answer in answers)
        # A request costs 17 or 18 tokens, its upper bound is some 200: no limit is passed, and little is left.
        assert 750 < server.tokens <= 1000
        assert 'budget is used up' in endpoint.stopped
        assert all(answer in (None, f'echo: {prompt}') for prompt, answer in zip(prompts, answers, strict=True))
        usage = endpoint.report()['usage']
        assert usage['input_tokens'] + usage['output_tokens'] == server.tokens
        if 'max_cost' in limit:
            assert usage['cost'] == pytest.approx(server.tokens / 1e6)
        assert endpoint.generate(prompts) == answers  # stopped, not broken
        again = make_endpoint(server, **common, **limit)
        assert again.generate(prompts) == answers
        assert len(server.requests) == done
        assert again.report()['usage']['tokens_of_earlier_runs'] == server.tokens
        unlimited = make_endpoint(server, **common)
        assert unlimited.generate(prompts) == echoes(prompts)
    assert set(server.asked.values()) == {1}


def test_answers_without_usage_are_charged_with_their_bound():
    with ChatServer(['no_usage']) as server:
        endpoint = make_endpoint(server, max_total_tokens=2000, max_output_tokens=12)
        answers = endpoint.generate(numbered(100))
    assert 5 <= sum(answer is not None for answer in answers) < 20
    assert 'budget' in endpoint.stopped


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1), st.booleans()), max_size=40))
def test_reserved_requests_never_pass_the_limit(requests):
    settings = EndpointSettings('http://127.0.0.1/v1', 'm', max_total_tokens=1000)
    budget, under_way = Budget(settings, before=Tokens(100, 50)), []
    for read, written, share, ends_now in requests:
        bound = Tokens(read, written)
        if budget.fits(bound):
            budget.reserve(bound)
            under_way.append((bound, Tokens(int(read * share), int(written * share)) if share < 0.9 else None))
        if under_way and (ends_now or not budget.fits(bound)):
            budget.settle(*under_way.pop(0))
        spent = sum(budget.before) + sum(budget.metered) + sum(budget.assumed)
        assert spent + sum(sum(bound) for bound, _ in under_way) <= 1000


CLIENT = """
import sys
from ccl_jax.expansion.endpoint.client import Endpoint, EndpointSettings
url, cache, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
prompts = [f'{sys.argv[4]} number {number}' for number in range(count)]
Endpoint(EndpointSettings(url, 'tiny', concurrency=4, timeout_seconds=60, cache=cache)).generate(prompts)
print('done')
"""


def start_client(server, cache, count):
    command = [sys.executable, '-c', CLIENT, server.url, str(cache), str(count), PROMPT]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def kill_when(process, condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert process.poll() is None, 'the client ended before it was killed'
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def cached_keys(cache):
    *lines, _ = cache.read_text().split('\n') if cache.exists() else ['']
    return {json.loads(line)['key'] for line in lines}


def test_a_killed_run_pays_nothing_twice(tmp_path):
    cache = tmp_path / 'cache.jsonl'
    with ChatServer(hang_after=12) as server:
        client = start_client(server, cache, 30)
        # Twelve answers are delivered, and the next four requests hang.
        kill_when(client, lambda: len(cached_keys(cache)) == 12 and len(server.requests) == 16)
        assert sum(server.answered.values()) == 12
        before = Counter(server.asked)
        delivered = set(server.answered)
        server.released.set()
        endpoint = make_endpoint(server, concurrency=4, cache=str(cache))
        assert endpoint.generate(numbered(30)) == echoes(numbered(30))
        after = Counter(server.asked)
    assert {after[key] for key in delivered} == {1}
    assert {after[key] for key in set(before) - delivered} == {2}  # asked again: they had no answer
    assert len(after) == 30
    assert set(server.answered.values()) == {1}
    assert endpoint.report()['counts']['requests answered from the cache'] == 12
    assert sum(AnswerCache(str(cache)).paid) == server.tokens
    assert cache.stat().st_mode & 0o077 == 0  # it may quote clinical text


def test_kills_at_any_moment_lose_at_most_what_is_under_way(tmp_path):
    cache = tmp_path / 'cache.jsonl'
    with ChatServer(delay=0.02) as server:
        known = {}
        for enough in (10, 30):
            kill_when(start_client(server, cache, 60), lambda enough=enough: len(cached_keys(cache)) >= enough)
            hashes = {request.headers['idempotency-key']: request.key for request in server.requests}
            known |= {hashes[key]: server.asked[hashes[key]] for key in cached_keys(cache)}
        assert make_endpoint(server, cache=str(cache)).generate(numbered(60)) == echoes(numbered(60))
        # No answer on the disk was asked for after its kill.
        assert {key: server.asked[key] for key in known} == known
    assert len(server.asked) == 60
    assert sum(server.asked.values()) <= 60 + 2 * 4


def test_a_cache_torn_at_any_byte_keeps_every_whole_line(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda descriptor: None)  # hundreds of them would take seconds
    path = tmp_path / 'cache.jsonl'
    whole = AnswerCache(str(path))
    answers = {'a': Answer('one', False, Tokens(3, 4)), 'b': Answer('zwei é\n', True, Tokens(5, 6))}
    answers['c'] = Answer(None, False, Tokens(7, 8))
    for key, answer in answers.items():
        whole.put(key, answer)
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        torn = AnswerCache(str(path))
        ends = [end for end, byte in enumerate(content) if byte == ord('\n')]
        expected = {key for key, end in zip(answers, ends, strict=True) if end <= length}
        assert {key for key in answers if torn.get(key) == answers[key]} == expected
        torn.put('d', Answer('four', False, Tokens(1, 1)))
        assert path.read_bytes().startswith(content[:length])  # append-only
        again = AnswerCache(str(path))
        assert {key for key in [*answers, 'd'] if again.get(key)} == expected | {'d'}
        assert again.torn <= 1


@pytest.mark.parametrize('content', ['{"doc_id": "1", "text": "x"}\n', 'a,b\n1,2\n', '[]\n', '"x"\n'])
def test_a_file_that_is_no_cache_is_refused_and_not_touched(tmp_path, content):
    path = tmp_path / 'mine.jsonl'
    path.write_text(content)
    with pytest.raises(UserError, match=r'endpoint\.cache'):
        Endpoint(EndpointSettings('http://127.0.0.1/v1', 'm', cache=str(path)))
    assert path.read_text() == content


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / 'file').write_text('')
    with ChatServer() as server, pytest.raises(UserError, match='cannot write the response cache'):
        make_endpoint(server, cache=str(tmp_path / 'file' / 'cache.jsonl')).generate(numbered(5))


def test_what_is_asked_decides_the_cache_not_where(tmp_path):
    cache = str(tmp_path / 'cache.jsonl')
    with ChatServer() as server, ChatServer() as elsewhere:
        make_endpoint(server, cache=cache).generate([PROMPT])
        make_endpoint(elsewhere, cache=cache).generate([PROMPT])
        assert not elsewhere.requests
        make_endpoint(elsewhere, cache=cache).generate([PROMPT], QUOTES)
        make_endpoint(elsewhere, cache=cache, temperature=0.5).generate([PROMPT])
        make_endpoint(elsewhere, cache=cache, max_output_tokens=9).generate([PROMPT])
        assert len(elsewhere.requests) == 3
