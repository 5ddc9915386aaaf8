"""A channel that records requests and answers as it is told, and what replies are made of. No broker, no socket."""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from client.errors import DBError
from client.wire.codec import decode_reply, decode_request, decode_steps, encode
from client.wire.messages import (
    FAILED,
    TX_ACTIVE,
    TX_NONE,
    VERSION,
    Answer,
    Ask,
    Failure,
    ResultMessage,
    TransactionMessage,
    TransactionResult,
    Welcome,
)

ADDRESS = "ipc:///tmp/no-broker-listens-here"


@contextmanager
def raises(kind: type[BaseException], *words: str) -> Iterator[Any]:
    """As pytest.raises; all these words are in the error's text."""
    with pytest.raises(kind) as caught:
        yield caught
    assert all(each in str(caught.value) for each in words), str(caught.value)


def fields_of_result(*rows: tuple[str | None, ...], names: tuple[str, ...] = ("id",), tag: str = "SELECT") -> Any:
    """A Result's fields; the columns are int4."""
    columns = struct.pack("!H", len(names))
    for name in names:
        columns += name.encode() + b"\0" + struct.pack("!IhIhih", 0, 0, 23, 4, -1, 0)
    messages = b""
    for row in rows:
        body = struct.pack("!H", len(row))
        for cell in row:
            body += struct.pack("!i", -1) if cell is None else struct.pack("!i", len(cell)) + cell.encode()
        messages += b"D" + struct.pack("!I", len(body) + 4) + body
    return tuple(ResultMessage(0, TX_NONE, f"{tag} {len(rows)}", len(rows), columns, messages, ()))


def without_rows(tag: str = "UPDATE 1", count: int = 1, notices: tuple[str, ...] = ()) -> Any:
    return tuple(ResultMessage(0, TX_NONE, tag, count, None, b"", notices))


def failure(message: str = "duplicate key", sqlstate: str | None = "23505", **changes: Any) -> Failure:
    made = Failure(1, TX_NONE, "query", FAILED, message, sqlstate, {"severity": "ERROR"} if sqlstate else {})
    return made._replace(**changes)


class FakeChannel:
    """Takes requests that a broker would take; answers each with what `answer` gives for it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.is_usable = True
        self.welcome = Welcome(VERSION, 1, "", 0, 0, {"default": True, "interactive": False})
        self.sent: list[Any] = []
        self.patience: list[float | None] = []
        self.answer: Callable[[Any], Any] = lambda message: ResultMessage(1, TX_ACTIVE, "SELECT 0", 0, None, b"", ())
        self.error: DBError | None = None
        self._last = 0

    def next_request(self) -> int:
        self._last += 1
        return self._last

    def call(self, message: Any, patience: float | None = None, go_on: Any = None) -> Any:
        decode_request(encode(message))
        if isinstance(message, Ask) and message.what == "groups":
            return Answer(message.request, dict(self.welcome.groups))
        self.sent.append(_with_steps(message))
        self.patience.append(patience)
        reply = self.answer(message)
        if isinstance(reply, DBError):
            self.error = reply
        if isinstance(reply, BaseException):
            raise reply
        return decode_reply(encode(reply))

    def was_sent(self, request: int) -> bool:
        """All are."""
        return True

    def was_answered(self, request: int) -> bool:
        """What fails was never answered."""
        return False

    def is_unserved(self, error: BaseException) -> bool:
        """It is always there."""
        return False

    def close(self) -> None:
        """Nothing holds it."""

    def commits(self, *results: Any, tries: int = 1) -> None:
        self.answer = lambda message: TransactionResult(message.request, tries, results, None, -1)

    def fails(self, reason: Failure, step: int = -1, tries: int = 1) -> None:
        self.answer = lambda message: TransactionResult(message.request, tries, (), tuple(reason), step)


def _with_steps(message: Any) -> Any:
    """The message; a Transaction with its steps unpacked and their values in place."""
    if not isinstance(message, TransactionMessage):
        return message
    values = iter(message.values)
    steps = [
        step if isinstance(step, int) else step._replace(values=next(values)) for step in decode_steps(message.steps)
    ]
    return message._replace(steps=tuple(steps))
