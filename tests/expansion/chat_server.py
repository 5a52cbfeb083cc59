"""A chat endpoint on loopback that speaks POST /v1/chat/completions and misbehaves on demand.

It keeps its own books, independent of the client's: requests are told apart by a hash of their body, and for
each the server counts how often it was asked, fully answered, and how it behaved. Also a process of its own:

    python -m tests.expansion.chat_server --port 0 --script '429:0.2,500,ok'
    python -m tests.expansion.chat_server --port 0 --shares '429:0.1=0.2,500=0.1,half_body=0.1' --seed 3

It prints its URL as the first line. `GET /counts` returns the books, `POST /release` ends every hang.

Behaviours: ok · 429 or 429:SECONDS (Retry-After) · 503:SECONDS · any other status number · hang (until released,
then the connection is closed without an answer) · drip (a byte a moment, until released) · drop (closed without
an answer) · half_body (half the HTTP body's JSON) · short_body (fewer bytes than announced) · half_json (half the
JSON in the answer) · wrong_schema · false_quote (strings that are not in the prompt) · refusal (no text) · cut
(finish_reason length) · no_usage · redirect:URL.
"""

import argparse
import contextlib
import hashlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

# Answered with status 200 and a whole HTTP body: the client has paid.
PAID = frozenset(('ok', 'half_json', 'wrong_schema', 'false_quote', 'refusal', 'cut', 'no_usage'))
_FALSE = 'words that nobody wrote'


def answer_of(body: Mapping[str, Any]) -> str:
    """A lawful answer: an instance of the schema whose strings are words of the prompt, else an echo."""
    prompt = body['messages'][0]['content']
    if 'response_format' not in body:
        return f'echo: {prompt}'
    return json.dumps(instance(body['response_format']['json_schema']['schema'], prompt))


def instance(schema: Mapping[str, Any], text: str) -> Any:
    """The smallest value with every property and one item in each list; strings are `text`'s last three words."""
    if 'enum' in schema:
        return schema['enum'][0]
    kind = schema['type']
    if kind == 'object':
        return {name: instance(part, text) for name, part in schema.get('properties', {}).items()}
    if kind == 'array':
        return [instance(schema['items'], text)] * max(1, schema.get('minItems', 0))
    plain = {'string': ' '.join(text.split()[-3:]), 'integer': 1, 'number': 1.5, 'boolean': True, 'null': None}
    return plain[kind]


class Asked(NamedTuple):
    """A request in the books: hash of the body, monotonic seconds, headers (names in lower case), body."""

    key: str
    when: float
    headers: Mapping[str, str]
    body: Mapping[str, Any]


class ChatServer:
    """Serves while used as a context manager.

    Args:
        script: the behaviours of a request's first, second, ... time; the last one stays.
        shares: instead of a script, behaviour -> share of the first `patience` times that each request
            is asked, drawn by seed and request alone; 'ok' has the rest.
        hang_after: so many answers are given, then everything hangs until released; 0 for never.
        answer: body -> the answer's text where the behaviour is lawful.
        delay: seconds that each request takes.
    """

    def __init__(
        self,
        script: Sequence[str] = ('ok',),
        *,
        shares: Mapping[str, float] | None = None,
        patience: int = 2,
        seed: int = 0,
        hang_after: int = 0,
        answer: Callable[[Mapping[str, Any]], str] = answer_of,
        delay: float = 0.0,
        port: int = 0,
    ):
        self.script, self.shares, self.patience, self.seed = script, shares, patience, seed
        self.hang_after, self.answer, self.delay = hang_after, answer, delay
        self.released = threading.Event()
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.behaved: Counter[str] = Counter()
        self.tokens = 0
        self.under_way = self.most_under_way = 0
        self.connections = 0
        self.requests: list[Asked] = []
        self._http = _Listener(self, port)
        self.port = self._http.server_address[1]
        self.url = f'http://127.0.0.1:{self.port}/v1'

    def __enter__(self) -> 'ChatServer':
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def wait(self) -> None:
        """Until the server ends, which only an interrupt brings about."""
        self._thread.join()

    def arrive(self, headers: Mapping[str, str], body: dict[str, Any]) -> tuple[str, str]:
        """Writes a request into the books; returns its hash and how to behave."""
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        with self.lock:
            nth = self.asked[key]
            self.asked[key] += 1
            self.requests.append(Asked(key, time.monotonic(), {k.lower(): v for k, v in headers.items()}, body))
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            behaviour = self.behaviour(key, nth)
            if self.hang_after and self.behaved['ok'] >= self.hang_after and not self.released.is_set():
                behaviour = 'hang'
            self.behaved[behaviour] += 1
        return key, behaviour

    def leave(self, key: str, behaviour: str, tokens: int) -> None:
        """Once the last byte is written."""
        with self.lock:
            self.under_way -= 1
            if tokens:
                self.answered[key] += 1
                self.tokens += tokens

    def counts(self) -> dict[str, Any]:
        with self.lock:
            return {
                'asked': dict(self.asked),
                'answered': dict(self.answered),
                'behaved': dict(self.behaved),
                'tokens': self.tokens,
                'most_under_way': self.most_under_way,
            }

    def behaviour(self, key: str, nth: int) -> str:
        """How to behave when a request is asked for the nth time (from 0); for tests to override."""
        if self.shares is None:
            return self.script[min(nth, len(self.script) - 1)]
        drawn = random.Random(f'{self.seed}:{key}:{nth}').random()
        for behaviour, share in self.shares.items() if nth < self.patience else ():
            drawn -= share
            if drawn < 0:
                return behaviour
        return 'ok'


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, books: ChatServer, port: int):
        self.books = books
        super().__init__(('127.0.0.1', port), _Handler)

    def get_request(self):
        self.books.connections += 1
        return super().get_request()

    def handle_error(self, request, client_address):
        """A client that was killed breaks its connections: no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    # Headers and body are two writes; without this each answer waits for the client's delayed acknowledgement.
    disable_nagle_algorithm = True
    server: _Listener

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        self._write(200, self.server.books.counts())

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        books = self.server.books
        if self.path == '/release':
            books.released.set()
            return self._write(200, {})
        if not self.path.endswith('/chat/completions'):
            return self._write(404, {'error': {'message': 'no such path', 'code': 'not_found'}})
        body = json.loads(content)
        key, behaviour = books.arrive(self.headers, body)
        tokens = 0
        try:
            time.sleep(books.delay)
            tokens = self._behave(behaviour, body)
        finally:
            books.leave(key, behaviour, tokens)

    def _behave(self, behaviour: str, body: Mapping[str, Any]) -> int:
        """Returns the tokens of an answer given in full, else 0."""
        name, _, detail = behaviour.partition(':')
        if name in PAID:
            completion = self._completion(name, body)
            self._write(200, completion)
            return _usage(body)['total_tokens']
        if name.isdigit():
            headers = {'Retry-After': detail} if detail else {}
            # The message quotes the prompt, as real servers' do: it must not come up in the client's messages.
            error = {'message': body['messages'][0]['content'], 'code': f'code_{name}'}
            self._write(int(name), {'error': error}, headers)
        elif name == 'redirect':
            self._write(307, {}, {'Location': detail})
        elif name in ('half_body', 'short_body'):
            whole = json.dumps(self._completion('ok', body)).encode()
            self._send(200, whole[: len(whole) // 2], announced=len(whole) if name == 'short_body' else None)
        elif name == 'drip':
            self._send(200, b'', announced=1000)
            with contextlib.suppress(OSError):
                while not self.server.books.released.wait(0.05):
                    self.wfile.write(b' ')
        elif name == 'hang':
            self.server.books.released.wait(600)
        if name in ('hang', 'drop', 'drip', 'short_body'):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        return 0

    def _completion(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        text: str | None = self.server.books.answer(body)
        if name == 'half_json':
            text = text[: len(text) // 2]
        elif name == 'wrong_schema':
            text = json.dumps({'something': 'else'})
        elif name == 'false_quote':
            text = json.dumps(instance(body['response_format']['json_schema']['schema'], _FALSE))
        elif name == 'refusal':
            text = None
        elif name == 'cut':
            text = text[: len(text) // 2]
        choice = {
            'index': 0,
            'message': {'role': 'assistant', 'content': text},
            'finish_reason': 'length' if name == 'cut' else 'stop',
        }
        completion = {'id': 'x', 'object': 'chat.completion', 'model': body['model'], 'choices': [choice]}
        return completion if name == 'no_usage' else completion | {'usage': _usage(body)}

    def _write(self, status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(content).encode(), headers)

    def _send(
        self, status: int, content: bytes, headers: Mapping[str, str] | None = None, announced: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(content) if announced is None else announced))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


def _usage(body: Mapping[str, Any]) -> dict[str, int]:
    """A token per word read, and ten written."""
    read = sum(len(message['content'].split()) for message in body['messages'])
    return {'prompt_tokens': read, 'completion_tokens': 10, 'total_tokens': read + 10}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--port', type=int, default=0)
    parser.add_argument('--script', default='ok', help='comma-separated behaviours')
    parser.add_argument('--shares', default='', help='comma-separated behaviour=share')
    parser.add_argument('--patience', type=int, default=2)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--hang_after', type=int, default=0)
    parser.add_argument('--delay', type=float, default=0.0)
    flags = parser.parse_args()
    pairs = [pair.rsplit('=', 1) for pair in flags.shares.split(',') if pair]
    with ChatServer(
        flags.script.split(','),
        shares={behaviour: float(share) for behaviour, share in pairs} or None,
        patience=flags.patience,
        seed=flags.seed,
        hang_after=flags.hang_after,
        delay=flags.delay,
        port=flags.port,
    ) as server:
        print(server.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()


if __name__ == '__main__':
    _main()
