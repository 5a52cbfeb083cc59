"""Answers already paid for, on disk: a run that is killed and started again asks only for the rest.

One JSON object a line: `{"key", "text", "cut", "charged": [input tokens, output tokens]}`. `key` is the hash of
the request; the prompt itself is not stored, but answers may quote clinical text, so only the owner may read
the file. Lines are only ever appended.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.expansion.endpoint.budget import NOTHING, Tokens


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model wrote.

    Attributes:
        text: None where the model gave none (refused, or filtered by the server).
        cut: whether the answer ran into `max_output_tokens`.
        charged: what it cost, or its upper bound where the endpoint did not say.
    """

    text: str | None
    cut: bool
    charged: Tokens


class AnswerCache:
    """The answers of `path`, which need not exist; '' keeps them in memory only.

    Attributes:
        torn: lines that a kill or a full disk cut short; each costs one answer, and nothing else.
        paid: what all answers read from the file cost.

    Raises:
        UserError: the path cannot be read, or holds something else.
    """

    def __init__(self, path: str):
        self._path = Path(path) if path else None
        self._answers: dict[str, Answer] = {}
        self._torn_end = False
        self.torn = 0
        self.paid = NOTHING
        if self._path is not None and self._path.exists():
            self._load(self._path)

    def get(self, key: str) -> Answer | None:
        return self._answers.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Stores an answer; on return it is on the disk.

        Raises:
            UserError: the file cannot be written.
        """
        self._answers[key] = answer
        if self._path is None:
            return
        line = json.dumps({'key': key, 'text': answer.text, 'cut': answer.cut, 'charged': answer.charged}) + '\n'
        # The torn line gets its end here, not on loading: reading a cache does not change it.
        line = '\n' + line if self._torn_end else line
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, 'ab', opener=_open_private) as out:
                out.write(line.encode())
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise UserError(
                f'cannot write the response cache {self._path}: {error.strerror}; free it or set endpoint.cache'
            ) from None
        self._torn_end = False

    def _load(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f'cannot read the response cache {path}: {error.strerror}; set endpoint.cache') from None
        *lines, end = content.split(b'\n')
        self._torn_end = bool(end)
        for number, line in enumerate([*lines, end] if end else lines, start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):  # half an object is never JSON
                self.torn += 1
                continue
            self._add(record, f'{path}, line {number}')
        if self.torn > 1 and not self._answers:
            raise UserError(f'{path} is not a response cache; set endpoint.cache to another path')

    def _add(self, record: Any, place: str) -> None:
        try:
            key, text, cut, charged = record['key'], record['text'], record['cut'], Tokens(*record['charged'])
            if not (isinstance(key, str) and isinstance(text, str | None) and isinstance(cut, bool)):
                raise TypeError
            self.paid = self.paid.plus(charged)
        except (TypeError, KeyError):
            raise UserError(f'{place} is no cached answer; set endpoint.cache to another path') from None
        self._answers[key] = Answer(text, cut, charged)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
