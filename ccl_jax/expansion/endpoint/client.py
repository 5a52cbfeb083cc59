"""A chat endpoint as `generate(prompts) -> texts`: any server that speaks OpenAI's chat completions API.

Prompts and answers hold clinical text: they go to the endpoint and into the response cache, and nowhere else.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.expansion.endpoint.budget import Budget
from ccl_jax.expansion.endpoint.cache import AnswerCache
from ccl_jax.expansion.endpoint.requests import Sender, make_request
from ccl_jax.expansion.endpoint.schema import check_schema, read_json
from ccl_jax.expansion.endpoint.settings import EndpointSettings, api_key, check_address
from ccl_jax.expansion.endpoint.wire import import_openai

__all__ = ['Endpoint', 'EndpointSettings']

_REPAIR = 'That answer cannot be used: {problem}. Answer again, with nothing but JSON that follows the schema.'
_CUT = 'it was cut off; it must be shorter'


class Endpoint:
    """Asks `settings.model` at `settings.url`, with the limits of `settings`.

    A request counts as paid once it is answered, and its answer is on the disk (where a cache is set) before the
    next one is sent in its place. A kill thus loses at most the answers under way, `concurrency` of them; these
    carry the same Idempotency-Key when they are asked again.

    Raises:
        UserError: an address off this machine without `allow_remote`, no key for it, a cache that is none, or
            no openai library. Nothing has been sent then.
    """

    def __init__(self, settings: EndpointSettings):
        check_address(settings)
        key = api_key(settings)
        import_openai()
        self._settings = settings
        self._cache = AnswerCache(settings.cache)
        self._budget = Budget(settings, before=self._cache.paid)
        self._counts: Counter[str] = Counter()
        self._sender = Sender(settings, key, self._cache, self._budget, self._counts)

    @property
    def stopped(self) -> str:
        """Why the endpoint is not asked any more (budget, a long pause, no answers); '' while it is."""
        return self._sender.stopped

    def generate(self, prompts: Sequence[str], schema: Mapping[str, Any] | None = None) -> list[str | None]:
        """The answers in the order of the prompts, None where there is none; `report` counts why.

        Equal prompts are asked once. With a schema every answer is JSON that satisfies it: one that does not is
        repaired by a single further request, which says what was wrong. Endpoints that enforce the schema ask
        for `additionalProperties: false` and all properties `required` in every object.

        Raises:
            UserError: a mistake in url, model or key that no request survives, or a cache that cannot be
                written; what was answered is in the cache.
            jsonschema.SchemaError: `schema` is no JSON Schema.
        """
        if schema is not None:
            check_schema(schema)
        answers: dict[str, str | None] = dict.fromkeys(prompts)
        if answers:
            asyncio.run(self._fill(answers, schema))
        if self._sender.mend:
            raise UserError(self._sender.mend)
        self._counts['prompts'] += len(prompts)
        self._counts['prompts without an answer'] += sum(answers[prompt] is None for prompt in prompts)
        return [answers[prompt] for prompt in prompts]

    def report(self) -> dict[str, Any]:
        """Counts by reason, tokens and cost, and why the run stopped; no clinical text."""
        return {
            'counts': {name: count for name, count in sorted(self._counts.items()) if count},
            'usage': self._budget.report(),
            'torn_cache_lines': self._cache.torn,
            'stopped': self.stopped,
        }

    async def _fill(self, answers: dict[str, str | None], schema: Mapping[str, Any] | None) -> None:
        todo = iter(list(answers))
        async with self._sender.connected():
            await asyncio.gather(*(self._work(todo, answers, schema) for _ in range(self._settings.concurrency)))

    async def _work(
        self, todo: Iterator[str], answers: dict[str, str | None], schema: Mapping[str, Any] | None
    ) -> None:
        """Takes prompts until none is left; as many of these run as requests may be under way."""
        for prompt in todo:
            answers[prompt] = await self._answer(prompt, schema)

    async def _answer(self, prompt: str, schema: Mapping[str, Any] | None) -> str | None:
        # Half a surrogate pair, as broken JSON data has it, cannot be sent.
        messages = [{'role': 'user', 'content': prompt.encode('utf-8', 'replace').decode()}]
        answer = await self._sender.ask(make_request(self._settings, messages, schema))
        if answer is None:
            return None
        if answer.text is None:
            self._counts['answers without text'] += 1
            return None
        self._counts['answers cut at max_output_tokens'] += answer.cut
        if schema is None:
            return answer.text
        text, problem = read_json(answer.text, schema)
        return text if text is not None else await self._repaired(messages, answer.text, problem, answer.cut, schema)

    async def _repaired(
        self, messages: list[dict[str, str]], wrong: str, problem: str, cut: bool, schema: Mapping[str, Any]
    ) -> str | None:
        self._counts['answers that were not the JSON asked for'] += 1
        question = _REPAIR.format(problem=_CUT if cut else problem)
        again = [*messages, {'role': 'assistant', 'content': wrong}, {'role': 'user', 'content': question}]
        answer = await self._sender.ask(make_request(self._settings, again, schema))
        if answer is None or answer.text is None:
            return None
        text, _ = read_json(answer.text, schema)
        self._counts['answers repaired' if text is not None else 'answers not repaired'] += 1
        return text
