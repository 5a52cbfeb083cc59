"""One HTTP exchange with a chat endpoint through the `openai` library: an answer, or what went wrong.

The library's own retries are off: it ignores a Retry-After of 0 and gives up on one above two minutes (versions
before 3: ignores it above one), and it has no limit for a whole request, only for each read. Exceptions of the
library hold the request, so none of them leaves this module, not even as the cause of another.
"""

import asyncio
import contextlib
import dataclasses
import email.utils
import json
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.expansion.endpoint.budget import Tokens
from ccl_jax.expansion.endpoint.settings import EndpointSettings, is_loopback

# They write a line per request, and openai 1.x writes the whole request at level DEBUG.
_LOUD = ('openai', 'httpx', 'httpx2', 'httpcore', 'httpcore2')
_HEALING_STATUSES = frozenset((408, 409, 429))
_NO_CONNECTION = frozenset(('ConnectError', 'ConnectTimeout', 'PoolTimeout', 'ProxyError', 'UnsupportedProtocol'))
_MACHINE_WORD = re.compile(r'[a-z0-9_]{1,40}')


@dataclasses.dataclass(frozen=True)
class Reply:
    """A complete answer. `used` is None where the endpoint reported no usage."""

    text: str | None
    cut: bool
    used: Tokens | None


@dataclasses.dataclass(frozen=True)
class Failure:
    """No answer.

    Attributes:
        reason: a few words, for counting.
        heals: whether the same request may succeed later.
        wait: seconds that the endpoint asks to wait; None if it does not say.
        maybe_paid: whether the endpoint may have worked, and billed, all the same.
        mend: the sentence for the user where no request can succeed.
        stop: the sentence where no further request can succeed, but what is done is good.
    """

    reason: str
    heals: bool = False
    wait: float | None = None
    maybe_paid: bool = False
    mend: str = ''
    stop: str = ''


class Wire:
    """An open client; made by `connect`."""

    def __init__(self, client: Any, settings: EndpointSettings):
        self._client = client
        self._settings = settings

    async def send(self, body: Mapping[str, Any], key: str) -> Reply | Failure:
        """Sends one chat completion request; ends within `timeout_seconds`."""
        import openai

        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                raw = await self._client.chat.completions.with_raw_response.create(
                    **body, extra_headers={'Idempotency-Key': key}
                )
                return _reply(raw.text)
        except openai.APIStatusError as error:
            return _status_failure(error.response, error.code, self._settings)
        except openai.APITimeoutError as error:
            return Failure('timed out', heals=True, maybe_paid=_was_sent(error))
        except TimeoutError:
            return Failure('timed out', heals=True, maybe_paid=True)
        except openai.APIConnectionError as error:
            return Failure('no connection, or it broke', heals=True, maybe_paid=_was_sent(error))
        except openai.OpenAIError:
            return Failure('broken answer', heals=True, maybe_paid=True)


@contextlib.asynccontextmanager
async def connect(settings: EndpointSettings, key: str) -> AsyncIterator[Wire]:
    """A client without retries and redirects, and without the environment's proxies on loopback."""
    openai = import_openai()
    # A redirect would carry clinical text, and the key, to a host that nobody allowed.
    transport = openai.DefaultAsyncHttpxClient(trust_env=not is_loopback(settings.url), follow_redirects=False)
    async with openai.AsyncOpenAI(
        api_key=key,
        base_url=settings.url,
        max_retries=0,
        timeout=settings.timeout_seconds,
        http_client=transport,
    ) as client:
        yield Wire(client, settings)


def import_openai() -> Any:
    """The library, with its log lines of every request switched off.

    Raises:
        UserError: it is not installed.
    """
    try:
        import openai
    except ImportError:
        raise UserError("the endpoint needs the openai library; pip install 'ccl-jax[llm]'") from None
    for name in _LOUD:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    return openai


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for (RFC 9110, 10.2.3: seconds or a date), None without a usable one.

    'retry-after-ms' is the finer one that several endpoints send.
    """
    for name, per_second in (('retry-after-ms', 1000), ('retry-after', 1)):
        with contextlib.suppress(ValueError, KeyError):
            seconds = float(headers[name]) / per_second
            return None if math.isnan(seconds) else max(0.0, seconds)
    with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(headers['retry-after']).timestamp() - time.time())
    return None


def _reply(body: str) -> Reply | Failure:
    """The first choice of a chat completion. Our own reading: half a JSON must not be an exception that quotes it."""
    try:
        completion = json.loads(body)
        choice = completion['choices'][0]
        text = choice['message'].get('content')
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return Failure('broken answer', heals=True, maybe_paid=True)
    used = _tokens(completion.get('usage'))
    if not isinstance(text, str) or choice.get('finish_reason') == 'content_filter':
        return Reply(None, False, used)
    # Half a surrogate pair cannot be written to any file.
    return Reply(text.encode('utf-8', 'replace').decode(), choice.get('finish_reason') == 'length', used)


def _tokens(usage: Any) -> Tokens | None:
    if not isinstance(usage, dict):
        return None
    tokens = Tokens(usage.get('prompt_tokens', 0), usage.get('completion_tokens', 0))
    whole = all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in tokens)
    return tokens if whole and any(tokens) else None


def _status_failure(response: Any, code: str | None, settings: EndpointSettings) -> Failure:
    status = response.status_code
    # The body may quote the prompt; its error code is a word for machines, if it is one.
    word = f' ({code})' if code and _MACHINE_WORD.fullmatch(code) else ''
    reason = f'status {status}{word}'
    if 300 <= status < 400:
        mend = 'the endpoint redirects, which is not followed; set endpoint.url to the final address'
    elif status == 401:
        mend = f'the endpoint refuses the key; set the environment variable {settings.api_key_env}'
    elif status in (404, 405):
        mend = f'the endpoint does not know the path or the model ({reason}); correct endpoint.url or endpoint.model'
    else:
        mend = ''
    no_money = status == 402 or code == 'insufficient_quota'
    stop = f'the endpoint says that the account has no money left ({reason}); top it up and run again' * no_money
    healing = status in _HEALING_STATUSES or status >= 500
    heals = healing and not mend and not stop and response.headers.get('x-should-retry') != 'false'
    return Failure(reason, heals=heals, wait=seconds_to_wait(response.headers), mend=mend, stop=stop)


def _was_sent(error: BaseException) -> bool:
    """Whether the request may have reached the endpoint; by name, as two HTTP libraries serve openai's versions."""
    return type(error.__cause__).__name__ not in _NO_CONNECTION
