"""What the tests of the endpoint client share."""

from ccl_jax.expansion.endpoint.client import Endpoint, EndpointSettings

QUOTES = {
    'type': 'object',
    'properties': {'quotes': {'type': 'array', 'items': {'type': 'string'}}},
    'required': ['quotes'],
    'additionalProperties': False,
}
PROMPT = 'the note says mild fever today'
ANSWER = '{"quotes": ["mild fever today"]}'


def make_endpoint(server, **settings):
    return Endpoint(EndpointSettings(server.url, 'tiny', **({'timeout_seconds': 5, 'max_retries': 3} | settings)))


def numbered(count):
    return [f'{PROMPT} number {number}' for number in range(count)]


def echoes(prompts):
    return [f'echo: {prompt}' for prompt in prompts]
