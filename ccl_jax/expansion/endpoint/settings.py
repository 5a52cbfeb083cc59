"""Which chat endpoint answers, how it may be asked, and what must be true before a byte leaves this machine."""

import dataclasses
import ipaddress
import os
import re
from urllib.parse import urlsplit

from ccl_jax.errors import UserError

# Neither a user name nor a query: both are where people put keys, and a URL is printed in messages.
_PLAIN_URL = re.compile(r'https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?(/[^\s@?#\\]*)?')


@dataclasses.dataclass(frozen=True)
class EndpointSettings:
    """An OpenAI-compatible chat endpoint and the limits of its use.

    Attributes:
        url: base address up to and without '/chat/completions', e.g. 'http://127.0.0.1:8000/v1'.
        allow_remote: whether prompts, which hold clinical text, may leave this machine.
        concurrency: requests under way at once, at most.
        timeout_seconds: time for one whole request, from connecting to the last byte of the answer.
        max_retries: further tries after a request that failed; a failure that cannot heal is not tried again.
        max_output_tokens: sent as `max_tokens`, the name that every local server knows.
        max_total_tokens: budget in tokens, input and output; 0 for none. It covers the answers that `cache`
            holds from earlier runs too, so that a run killed and started again spends it once.
        max_cost: budget in the unit of the prices; 0 for none.
        input_price, output_price: per million tokens.
        cache: path of the response cache (JSONL); '' keeps answers for this run only.
        api_key_env: environment variable that holds the key; it may be missing for a loopback URL.
    """

    url: str = ''
    model: str = ''
    allow_remote: bool = False
    concurrency: int = 8
    timeout_seconds: float = 120.0
    max_retries: int = 6
    max_output_tokens: int = 512
    max_total_tokens: int = 0
    max_cost: float = 0.0
    input_price: float = 0.0
    output_price: float = 0.0
    cache: str = ''
    temperature: float = 0.0
    api_key_env: str = 'OPENAI_API_KEY'

    def __post_init__(self) -> None:
        for name, least in (('concurrency', 1), ('max_retries', 0), ('max_output_tokens', 1), ('max_total_tokens', 0)):
            if getattr(self, name) < least:
                raise UserError(f'endpoint.{name} is {getattr(self, name)}; it must be at least {least}')
        for name in ('max_cost', 'input_price', 'output_price', 'temperature'):
            # Written this way round, NaN is refused too.
            if not getattr(self, name) >= 0:
                raise UserError(f'endpoint.{name} is {getattr(self, name)}; it must be at least 0')
        if not self.timeout_seconds > 0:
            raise UserError(f'endpoint.timeout_seconds is {self.timeout_seconds}; it must be more than 0')
        if self.max_cost and not (self.input_price or self.output_price):
            raise UserError('endpoint.max_cost needs prices; set endpoint.input_price and endpoint.output_price')


def check_address(settings: EndpointSettings) -> None:
    """Refuses a missing model or address, one that is no plain URL, and one off this machine without `allow_remote`.

    Raises:
        UserError: as said. Nothing is resolved, opened or sent to find out.
    """
    if not settings.model:
        raise UserError('endpoint.model is empty; set it to a model that the endpoint serves')
    if not settings.url:
        raise UserError("endpoint.url is empty; set it to the endpoint's address, e.g. http://127.0.0.1:8000/v1")
    if not _is_plain(settings.url):
        # Not quoted: it may hold a key.
        raise UserError(
            'endpoint.url must look like http://host:port/v1, without a user name, query or fragment; '
            f'a key belongs in the environment variable {settings.api_key_env}'
        )
    if not is_loopback(settings.url) and not settings.allow_remote:
        raise UserError(
            f'endpoint.url names "{urlsplit(settings.url).hostname}", which is not this machine; '
            'set allow_remote to true if clinical text may leave it, else serve a model on 127.0.0.1'
        )


def is_loopback(url: str) -> bool:
    """Whether the host is 'localhost', in 127.0.0.0/8, or ::1. Another name is not, whatever it resolves to."""
    host = urlsplit(url).hostname or ''
    if host == 'localhost':
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def api_key(settings: EndpointSettings) -> str:
    """The key from the environment; a word in its place for a loopback URL without one.

    Raises:
        UserError: no key for a remote URL, or one that no HTTP header can carry.
    """
    key = os.environ.get(settings.api_key_env, '').strip()
    if key and not (key.isascii() and key.isprintable()):
        raise UserError(f'the key in {settings.api_key_env} has characters that no header carries; set it again')
    if not key and not is_loopback(settings.url):
        raise UserError(f'there is no key for the endpoint; set the environment variable {settings.api_key_env}')
    return key or 'none'


def _is_plain(url: str) -> bool:
    try:
        return bool(_PLAIN_URL.fullmatch(url) and urlsplit(url).hostname and urlsplit(url).port != 0)
    except ValueError:  # a port that is no number, half an IPv6 address
        return False
