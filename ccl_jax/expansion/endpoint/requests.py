"""Chat requests that are paid once: cache first, then the budget, then tries with pauses between them."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from ccl_jax.expansion.endpoint.budget import NOTHING, Budget, Tokens
from ccl_jax.expansion.endpoint.cache import Answer, AnswerCache
from ccl_jax.expansion.endpoint.settings import EndpointSettings
from ccl_jax.expansion.endpoint.wire import Failure, Reply, Wire, connect

# Seconds. Doubled at each try, up to the longest; the jitter keeps clients from coming back all at once.
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 30.0
# An endpoint that asks for a longer pause is done for this run.
LONGEST_PAUSE = 600.0
# So many requests given up one after the other, without an answer between, and the endpoint is taken for dead.
GIVEN_UP_IN_A_ROW = 16


@dataclasses.dataclass(frozen=True)
class Request:
    """The body of a chat completion request.

    Attributes:
        key: hash of the whole body: model, messages, parameters and schema. The address is left out,
            so that a model served on another port still finds its answers.
        bound: tokens that it can cost at most: a token is at least one byte.
    """

    body: Mapping[str, Any]
    key: str
    bound: Tokens


def make_request(
    settings: EndpointSettings, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any] | None
) -> Request:
    body: dict[str, Any] = {
        'model': settings.model,
        'messages': [dict(message) for message in messages],
        'temperature': settings.temperature,
        'max_tokens': settings.max_output_tokens,
    }
    if schema is not None:
        form = {'name': 'answer', 'strict': True, 'schema': schema}
        body['response_format'] = {'type': 'json_schema', 'json_schema': form}
    encoded = json.dumps(body, ensure_ascii=False).encode()
    return Request(body, hashlib.sha256(encoded).hexdigest(), Tokens(len(encoded), settings.max_output_tokens))


class Sender:
    """Asks; all its waiting ends.

    Attributes:
        stopped: why nothing more is asked, '' while it is; answers from the cache still come.
        mend: the user's mistake that makes every request fail, '' if there is none.
    """

    def __init__(self, settings: EndpointSettings, key: str, cache: AnswerCache, budget: Budget, counts: Counter[str]):
        self._settings = settings
        self._key = key
        self._cache = cache
        self._budget = budget
        self._counts = counts
        self._given_up_in_a_row = 0
        self._pause_ends = 0.0
        self._wire: Wire | None = None
        self.stopped = ''
        self.mend = ''

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """The time in which `ask` may be called, in one event loop."""
        async with connect(self._settings, self._key) as self._wire:
            self._settled = asyncio.Condition()
            yield
        self._wire = None

    async def ask(self, request: Request) -> Answer | None:
        """The answer, from the cache or the endpoint; None, counted by reason, where none can be had.

        Raises:
            UserError: the cache cannot be written.
        """
        cached = self._cache.get(request.key)
        if cached is not None:
            self._counts['requests answered from the cache'] += 1
            return cached
        tried = 0
        while True:
            if not await self._may_send(request.bound):
                self._counts['requests not sent, the run had stopped'] += 1
                return None
            outcome = await self._send(request)
            if isinstance(outcome, Answer):
                self._counts['requests answered by the endpoint'] += 1
                self._given_up_in_a_row = 0
                return outcome
            if not outcome.heals or tried == self._settings.max_retries:
                self._give_up(outcome)
                return None
            self._counts[f'tries repeated: {outcome.reason}'] += 1
            await self._wait(outcome, tried)
            tried += 1

    async def _send(self, request: Request) -> Answer | Failure:
        """One try; its reservation is settled and its answer on the disk when this returns."""
        assert self._wire is not None, 'ask outside connected()'
        outcome: Reply | Failure | None = None
        try:
            outcome = await self._wire.send(request.body, request.key)
        finally:
            used = outcome.used if isinstance(outcome, Reply) else None
            if isinstance(outcome, Failure) and not outcome.maybe_paid:
                used = NOTHING
            charged = self._budget.settle(request.bound, used)
        if isinstance(outcome, Reply):
            answer = Answer(outcome.text, outcome.cut, charged)
            self._cache.put(request.key, answer)
        async with self._settled:
            self._settled.notify_all()
        return answer if isinstance(outcome, Reply) else outcome

    async def _may_send(self, bound: Tokens) -> bool:
        """Waits for the endpoint's pause and for the budget; reserves `bound`, or says that the run has stopped."""
        while not self.stopped and (pause := self._pause_ends - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        async with self._settled:
            # What is under way may cost less than its bound, so only with nothing under way is the budget used up.
            while not self.stopped and not self._budget.fits(bound) and any(self._budget.reserved):
                await self._settled.wait()
            if not self.stopped and not self._budget.fits(bound):
                self.stopped = self._budget.why_stopped()
            if self.stopped:
                return False
            self._budget.reserve(bound)
            return True

    async def _wait(self, failure: Failure, tried: int) -> None:
        if failure.wait is None:
            backoff = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2**tried)
            await asyncio.sleep(backoff * random.uniform(0.5, 1))
        elif failure.wait > LONGEST_PAUSE:
            self.stopped = self.stopped or (
                f'the endpoint asks to wait {failure.wait:.0f} seconds ({failure.reason}); run again then to go on'
            )
        else:
            # The endpoint speaks to all of us: nobody sends before the pause ends.
            self._pause_ends = max(self._pause_ends, time.monotonic() + failure.wait)

    def _give_up(self, failure: Failure) -> None:
        self._counts[f'requests given up: {failure.reason}'] += 1
        self._given_up_in_a_row += 1
        self.mend = self.mend or failure.mend
        if self._given_up_in_a_row >= GIVEN_UP_IN_A_ROW and not failure.stop:
            self.stopped = self.stopped or (
                f'{GIVEN_UP_IN_A_ROW} requests in a row got no answer (the last: {failure.reason}); '
                'look after the endpoint and run again to go on'
            )
        self.stopped = self.stopped or failure.stop or failure.mend
