"""COPY in the model: data in pieces, between clients that keep the rules of the flow and servers at their own pace.

What each side has of the data is kept for every COPY, so that it can be told whether all of it came, once and in order.
The windows are a few bytes, so that they are full at once; `small_windows` tells the core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from client.wire.messages import CopyBegun, CopyEnd, CopyIn, CopyOut, CopyTaken, CopyWanted, ResultMessage
from poold.core import effects
from poold.core.effects import SimpleQuery
from poold.core.requests import copying
from poold.core.state import RequestState

if TYPE_CHECKING:
    from model.books import Job
    from model.lines import Line
    from model.postgres import Fate, Order
    from model.shell import Shell

WINDOW = 8
HOLD_FROM = 4
# What a server sends for a COPY to its client.
WHOLE = b"0123456789abcdef"
# What strikes a statement while its data passes; the others show at its end.
STRIKES = ("error", "bad value", "timeout", "cancelled", "lost race", "deadlock", "locked")


@contextmanager
def small_windows() -> Iterator[None]:
    """Let the core's windows be the model's."""
    with patch.object(copying, "COPY_WINDOW", WINDOW), patch.object(copying, "HOLD_FROM", HOLD_FROM):
        yield


@dataclass(eq=False)
class Passing:
    """One COPY, and what everybody has of its data."""

    job: Job
    is_in: bool
    # The client, and what it was told.
    is_begun: bool = False  # it has got CopyBegun
    room: int = WINDOW
    given: bytes = b""
    end: str = ""  # done, or error
    received: int = 0  # bytes that it has got and not said so
    is_closed: bool = False  # it has got its reply, or is gone
    # What the core has decided.
    was_told: bool = False
    out: bytes = b""
    taken: int = 0
    fed: bytes = b""
    wanted: int = 0
    was_ended: bool = False
    # The server.
    line: int = 0  # where it has begun
    inbox: bytes = b""
    stored: bytes = b""
    last: str = ""  # done, or error: no more data comes
    sent: int = 0
    is_acting: bool = False  # its client is about to, where that takes time

    def may_complete(self) -> bool:
        """Whether the server may end it with success if nobody is there any more."""
        return not self.is_in or (self.last == "done" and not self.inbox)


class Copies:
    """All of them, by request."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._broker = shell.broker
        self._books = shell.books
        self.all: dict[int, Passing] = {}

    def of(self, order: Order) -> Passing | None:
        """The COPY that this unit runs, None if it runs none."""
        last = order.unit[-1]
        if type(last) is not SimpleQuery or last.is_in is None:
            return None
        return self.all[int(last.sql.split(b"/* ")[1].split()[0]) // 100]

    def at(self, number: int) -> Passing:
        """The COPY whose data passes in this line, as far as the core was told."""
        line = self._shell.lines[number]
        found = self.of(line.orders[0]) if line.orders else None
        assert found is not None, f"{number} runs no COPY"
        assert found.line == number, f"{found.job} has not begun"
        return found

    # What the core decides.

    def decided(self, effect: effects.Effect) -> None:
        """Check an effect that is about data."""
        match effect:
            case effects.Tell(client, body):
                self._told(client, body)
            case effects.Feed(number, data):
                passing = self.at(number)
                assert not passing.was_ended, "data behind the end"
                passing.fed += data
                assert passing.given.startswith(passing.fed), f"{passing.job} gave {passing.given!r}: {passing.fed!r}"
                assert len(passing.fed) - len(passing.stored) <= WINDOW
            case effects.EndFeed(number, error):
                passing = self.at(number)
                assert passing.is_in
                assert not passing.was_ended, "it was ended before"
                passing.was_ended = True
                is_all = passing.end == "done" and passing.fed == passing.given
                assert error is not None or is_all, f"{passing.job} is ended as if all data had come"
            case effects.Hold(number, is_held):
                line = self._shell.lines[number]
                assert line.is_held is not is_held
                line.is_held = is_held

    def _told(self, client: int, body: CopyBegun | CopyOut | CopyWanted) -> None:
        passing = self.all[body.request]
        assert passing.job.client == client
        assert passing.job.reply is None, f"{passing.job} is told {body} behind its reply"
        assert body.request in self._books.owed.get(client, ()), f"{passing.job} has no client that waits for it"
        if isinstance(body, CopyBegun):
            assert not passing.was_told, f"{passing.job} begins twice"
            assert passing.line, f"{passing.job} is told to begin, and PostgreSQL does not wait"
            passing.was_told = True
            return
        assert passing.was_told, f"{passing.job} is told {body} before it has begun"
        if isinstance(body, CopyWanted):
            passing.wanted += body.size
            assert passing.wanted <= len(passing.stored), f"{passing.job}: more is wanted than was taken"
        else:
            assert len(passing.out) - passing.taken < HOLD_FROM or self._shell.lines[passing.line].is_held
            passing.out += body.data
            assert WHOLE.startswith(passing.out), f"{passing.job} gets {passing.out!r}"

    def replied(self, job: Job) -> None:
        """The core has decided the reply: of a success all data has passed."""
        passing = self.all.get(job.number)
        if passing is None or not isinstance(job.reply, ResultMessage):
            return
        if passing.is_in:
            assert passing.end == "done", f"{job} is done, its client did not end its data"
            assert passing.stored == passing.given, f"{job} is done, PostgreSQL has {passing.stored!r}"
        elif job.client in self._books.owed:
            assert passing.out == WHOLE, f"{job} is done, its client got {passing.out!r}"

    def check(self) -> None:
        """Nobody is held, or fed, whose COPY has ended or is cancelled."""
        for number, backend in self._broker.backends.items():
            request = backend.request
            passing = self.all.get(request.number) if request is not None and request.transfer is not None else None
            is_wanted = request is not None and request.state is RequestState.RUNNING
            if self._shell.lines[number].is_held:
                assert passing is not None, f"{number} is held, and runs no COPY"
                assert is_wanted, f"{number} is held for {passing.job}, which nobody wants"
                assert len(passing.out) - passing.taken >= HOLD_FROM, f"{number} is held for nothing"
            is_begun = request is not None and request.transfer is not None and request.transfer.is_begun
            if passing is not None and passing.is_in and is_begun and not is_wanted:
                assert passing.was_ended, f"PostgreSQL waits for data of {passing.job}, which nobody wants"

    # What comes to the client, and to the server.

    def carry_out(self, effect: effects.Effect) -> None:
        """What was decided is done."""
        match effect:
            case effects.Tell(_, CopyBegun(request)):
                self.all[request].is_begun = True
            case effects.Tell(_, CopyWanted(request, size)):
                self.all[request].room += size
            case effects.Tell(_, CopyOut(request, data)):
                self.all[request].received += len(data)
            case effects.Feed(number, data) if number in self._shell.lines:
                if (passing := self._passing_in(number)) is not None:
                    passing.inbox += data
            case effects.EndFeed(number, error) if number in self._shell.lines:
                if (passing := self._passing_in(number)) is not None:
                    passing.last = "done" if error is None else "error"
            case effects.Hold(number, is_held) if number in self._shell.lines:
                self._shell.lines[number].is_paused = is_held
            case effects.Reply(_, body) if body.request in self.all:
                self.all[body.request].is_closed = True

    def _passing_in(self, number: int) -> Passing | None:
        """The COPY whose data the server waits for there, None if it has ended."""
        line = self._shell.lines[number]
        passing = self.of(line.orders[0]) if line.orders else None
        return passing if passing is not None and passing.line == number and passing.is_in else None

    def goes_on(self, line: Line, order: Order, fate: Fate) -> bool:
        """The server does the next part of a COPY; whether its unit ends with that."""
        passing, session = self.of(order), line.session
        assert session is not None
        if line.leftover:  # of an earlier COPY: the connection takes it, and the server ignores it
            size, line.leftover = line.leftover, 0
            self.tell(line, self._broker.copying.fed, size)
        if passing is None:
            return True
        if order.fate.ending == "ok":
            order.fate = fate
        is_struck = order.fate.ending in STRIKES
        if passing.line != line.number:
            if is_struck or (session.work is not None and session.work.has_failed):
                return True
            assert not passing.line, f"data of {passing.job} has passed, it is run again"
            passing.line = line.number
            self.tell(line, self._broker.copying.begun)
            return False
        return self._takes(passing, line, order, is_struck) if passing.is_in else self._sends(passing, line, is_struck)

    def tell(self, line: Line, call: Callable[..., None], *args: Any) -> None:
        """The core is told this about the line."""
        self._shell.fact(call, line.number, *args, self._shell.world.now)

    def _takes(self, passing: Passing, line: Line, order: Order, is_struck: bool) -> bool:
        # Who waits for its client takes no cancel.
        if is_struck and (order.fate.ending != "cancelled" or passing.inbox or passing.last):
            line.leftover, passing.inbox = len(passing.inbox), b""
            return True
        if passing.inbox:
            size = 1 + order.fate.place % len(passing.inbox)
            passing.stored, passing.inbox = passing.stored + passing.inbox[:size], passing.inbox[size:]
            self.tell(line, self._broker.copying.fed, size)
            return False
        if passing.last == "error":
            from model.postgres import Fate

            order.fate = Fate("cancelled")
            passing.job.timed_out = True
        return passing.last != ""

    def _sends(self, passing: Passing, line: Line, is_struck: bool) -> bool:
        if line.is_paused:
            return False
        if is_struck:
            return True
        size = 1 + (passing.job.number + passing.sent) % 5
        data = WHOLE[passing.sent : passing.sent + size]
        passing.sent += len(data)
        if data:
            self.tell(line, self._broker.copying.came, data)
        return passing.sent == len(WHOLE)

    # What clients do.

    def _note(self, message: CopyIn | CopyEnd | CopyTaken) -> None:
        """The core is about to be told this."""
        if isinstance(message, CopyTaken):
            self.all[message.request].taken += message.size

    def open(self, client: int | None = None) -> list[Passing]:
        """Those whose clients may give or take."""
        return [
            each
            for each in self.all.values()
            if each.is_begun
            and not each.is_closed
            and each.job.client in self._books.owed
            and client in (None, each.job.client)
            and not each.end
        ]

    def act(self, passing: Passing, what: str) -> None:
        """The client gives data, or its end, or says that it has taken some."""
        number = passing.job.number
        if not passing.is_in:
            if passing.received:
                size = passing.received if what != "some" else 1
                passing.received -= size
                self._say(passing, CopyTaken(number, size))
        elif what in ("done", "error"):
            passing.end = what
            self._say(passing, CopyEnd(number, None if what == "done" else "the program's"))
        elif passing.room:
            size = passing.room if what == "all" else 1
            place = len(passing.given)
            data = bytes((number + place + each) % 256 for each in range(size))
            passing.room -= size
            passing.given += data
            self._say(passing, CopyIn(number, data))

    def _say(self, passing: Passing, message: CopyIn | CopyEnd | CopyTaken) -> None:
        self._note(message)
        self._shell.fact(self._broker.copying.message, passing.job.client, message, self._shell.world.now)
