"""What leaves this machine, and what comes up in messages: refusals before a byte is sent, keys, logs."""

import logging
import sys

import pytest

pytest.importorskip('openai')

from ccl_jax.errors import UserError
from ccl_jax.expansion.endpoint import requests as endpoint_requests
from ccl_jax.expansion.endpoint.client import Endpoint, EndpointSettings
from ccl_jax.expansion.endpoint.settings import is_loopback
from tests.expansion.chat_server import ChatServer
from tests.expansion.endpoint_helpers import PROMPT, echoes, make_endpoint

LOOPBACK = ('localhost', '127.0.0.1', '127.8.9.1', '[::1]', 'LOCALHOST')
REMOTE = (
    'api.openai.com',
    'localhost.example.com',
    '127.0.0.1.example.com',
    '0.0.0.0',
    '10.0.0.1',
    '127.1',
    '2130706433',
    '[::2]',
)
_watched: list[str] | None = None


def _watch(event, arguments):
    if _watched is not None and event.startswith('socket.'):
        _watched.append(event)


sys.addaudithook(_watch)


@pytest.fixture
def socket_events():
    """Every use of a socket or resolver by this process, as the interpreter itself reports it."""
    global _watched
    _watched = []
    yield _watched
    _watched = None


@pytest.mark.parametrize('host', LOOPBACK)
def test_loopback_hosts(host):
    assert is_loopback(f'http://{host}:80/v1')


@pytest.mark.parametrize('host', REMOTE)
def test_a_remote_host_is_refused_before_a_socket_is_touched(monkeypatch, socket_events, host):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-secret')
    with pytest.raises(UserError, match='allow_remote'):
        Endpoint(EndpointSettings(f'http://{host}:8000/v1', 'm')).generate([PROMPT])
    assert socket_events == []


def test_a_listener_that_is_not_called_loopback_gets_no_byte_without_the_flag(monkeypatch, socket_events):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-secret')
    monkeypatch.setenv('NO_PROXY', '*')
    with ChatServer() as server:
        # The kernel takes 0.0.0.0 to this very server, but by name it is not this machine.
        remote = f'http://0.0.0.0:{server.port}/v1'
        socket_events.clear()
        with pytest.raises(UserError):
            Endpoint(EndpointSettings(remote, 'm')).generate([PROMPT])
        assert socket_events == []
        assert server.connections == 0
        # The same address with the flag: so the checks above could have failed.
        allowed = Endpoint(EndpointSettings(remote, 'm', allow_remote=True, max_retries=0))
        assert allowed.generate([PROMPT]) == echoes([PROMPT])
        assert 'socket.connect' in socket_events
        assert server.connections == 1


@pytest.mark.parametrize(
    'url',
    [
        'http://sk-secret@127.0.0.1/v1',
        'http://127.0.0.1/v1?key=sk-secret',
        'http://evil.example\\@127.0.0.1/sk-secret',
        'ftp://127.0.0.1/sk-secret',
        'http://127.0.0.1:sk-secret/v1',
        'http://127.0.0.1:99999/sk-secret',
        'sk-secret',
        '',
    ],
)
def test_an_odd_address_is_refused_and_not_repeated(url):
    with pytest.raises(UserError, match=r'endpoint\.url') as caught:
        Endpoint(EndpointSettings(url, 'm'))
    assert 'secret' not in str(caught.value)


def test_redirects_are_not_followed():
    with ChatServer() as elsewhere, ChatServer([f'redirect:{elsewhere.url}/chat/completions']) as server:
        with pytest.raises(UserError, match='redirects'):
            make_endpoint(server).generate([PROMPT])
        assert elsewhere.connections == 0


def test_proxies_of_the_environment_do_not_see_loopback(monkeypatch):
    with ChatServer() as server, ChatServer() as proxy:
        for name in ('HTTP_PROXY', 'http_proxy', 'ALL_PROXY', 'all_proxy'):
            monkeypatch.setenv(name, f'http://127.0.0.1:{proxy.port}')
        for name in ('NO_PROXY', 'no_proxy'):
            monkeypatch.delenv(name, raising=False)
        assert make_endpoint(server).generate([PROMPT]) == echoes([PROMPT])
        assert proxy.connections == 0


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(endpoint_requests, 'FIRST_BACKOFF', 0.01)
    monkeypatch.setenv('MY_KEY', ' sk-secret\n')
    caplog.set_level(logging.DEBUG)
    cache = tmp_path / 'cache.jsonl'
    with ChatServer(['500', '429:0', 'half_body', 'ok']) as server:
        endpoint = make_endpoint(server, api_key_env='MY_KEY', cache=str(cache))
        assert endpoint.generate([PROMPT]) == echoes([PROMPT])
        assert server.requests[-1].headers['authorization'] == 'Bearer sk-secret'
    with ChatServer(['401']) as server, pytest.raises(UserError) as caught:
        make_endpoint(server, api_key_env='MY_KEY').generate([PROMPT])
    with ChatServer(['400']) as server:
        refused = make_endpoint(server, api_key_env='MY_KEY')
        refused.generate([PROMPT])
    said = caplog.text + str(caught.value) + str(endpoint.report()) + str(refused.report()) + str(refused.stopped)
    for private in ('sk-secret', 'fever', 'echo'):
        assert private not in said
    # The libraries beneath log nothing at all: openai 1.x writes whole requests at level DEBUG.
    assert not {record.name.split('.')[0] for record in caplog.records} & {'openai', 'httpx', 'httpx2', 'httpcore2'}
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert 'sk-secret' not in cache.read_text()


def test_a_missing_key_is_fine_on_loopback_alone(monkeypatch):
    monkeypatch.delenv('OPENAI_API_KEY', raising=False)
    with ChatServer() as server:
        assert make_endpoint(server).generate([PROMPT]) == echoes([PROMPT])
    with pytest.raises(UserError, match='OPENAI_API_KEY'):
        Endpoint(EndpointSettings('https://api.openai.com/v1', 'm', allow_remote=True))
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-\u2019secret')
    with pytest.raises(UserError, match='set it again') as caught:
        Endpoint(EndpointSettings('http://127.0.0.1/v1', 'm'))
    assert 'secret' not in str(caught.value)


@pytest.mark.parametrize(
    'setting',
    [
        {'concurrency': 0},
        {'max_retries': -1},
        {'max_output_tokens': 0},
        {'timeout_seconds': 0},
        {'timeout_seconds': float('nan')},
        {'max_cost': float('nan')},
        {'max_cost': 1.0},
        {'max_total_tokens': -1},
    ],
)
def test_a_setting_out_of_range_is_refused(setting):
    with pytest.raises(UserError, match=f'endpoint.{next(iter(setting))}'):
        EndpointSettings(**({'url': 'http://127.0.0.1/v1', 'model': 'm'} | setting))


@pytest.mark.parametrize('setting', ['url', 'model'])
def test_an_endpoint_needs_an_address_and_a_model(setting):
    with pytest.raises(UserError, match=f'endpoint.{setting} is empty'):
        Endpoint(EndpointSettings(**({'url': 'http://127.0.0.1/v1', 'model': 'm'} | {setting: ''})))
