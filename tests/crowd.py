"""Clients that ask all at once: what they ask has reached the broker's sockets before the broker looks at any of it."""

import signal
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from brokers import Broker

from client.channels.channel import Channel
from client.errors import DBError, error_from
from client.values.bind import bind
from client.values.result import Result
from client.wire.messages import CancelRequest, Failure, Query

# How long an answer may take; only a hang reaches it.
PATIENCE = 30.0

Question = tuple[Any, ...]  # statement, parameters, and perhaps a timeout


class Crowd:
    """So many clients in one group. A block: its end closes their connections."""

    def __init__(self, broker: Broker, count: int, group: str = "default") -> None:
        self._broker = broker
        self._group = group
        self._channels: list[Channel] = []
        self._count = count
        self._requests: dict[int, int] = {}  # of the questions that were asked last, by their clients' places
        self._cleanup = ExitStack()

    def ask(self, questions: Sequence[Question]) -> None:
        """One client each asks one question; the broker sees them together."""
        assert len(questions) <= self._count
        self._broker.signal(signal.SIGSTOP)
        try:
            self._requests = {place: self._send(place, *question) for place, question in enumerate(questions)}
        finally:
            self._broker.signal(signal.SIGCONT)

    def ask_alone(self, place: int, question: Question) -> None:
        """This client asks, whatever the others do."""
        self._requests[place] = self._send(place, *question)

    def answers(self) -> list[Result | DBError]:
        """What became of the questions."""
        return [self.answer(place) for place in self._requests]

    def answer(self, place: int) -> Result | DBError:
        """What became of one question."""
        try:
            reply = self._channels[place].reply_to(self._requests[place], PATIENCE)
        except DBError as error:
            return error
        return error_from(reply) if isinstance(reply, Failure) else Result(reply)

    def cancel(self, place: int) -> None:
        """This client does not want its answer any more."""
        self._channels[place].post(CancelRequest(self._requests[place]))

    def leave(self, place: int) -> None:
        """This client's process has ended; nobody takes its place."""
        self._channels[place].close()

    def come_back(self, place: int) -> None:
        """After `leave`: another client takes its place."""
        self._channels[place] = self._client()

    def __enter__(self) -> Self:
        self._channels = [self._client() for _ in range(self._count)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def _client(self) -> Channel:
        channel = Channel(self._broker.address)
        self._cleanup.callback(channel.close)
        return channel

    def _send(self, place: int, statement: str, params: Any = None, timeout: float | None = None) -> int:
        sql, types, values, _ = bind(statement, params)
        channel = self._channels[place]
        number = channel.next_request()
        channel.send(Query(number, self._group, 0, False, sql, types, values, True, timeout, ""))
        return number
