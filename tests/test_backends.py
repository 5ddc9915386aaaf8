"""The shell of the backends where no PostgreSQL is needed to show it."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

from poold.config.current import CurrentConfig
from poold.config.model import BrokerConfig, Config, EndpointConfig, GroupConfig
from poold.core.effects import SimpleQuery
from poold.postgres.backend import Unread
from poold.postgres.backends import BackendConnection, Backends
from poold.system.poller import Poller

SMALL, LARGE = (SimpleQuery(b"SELECT 1"),), (SimpleQuery(b"x" * 10_000_000),)


class Shell:
    """Backends of a core that takes everything to heart, and what it was told."""

    def __init__(self) -> None:
        config = Config(
            broker=BrokerConfig(address="ipc:///tmp/x"),
            endpoints={"main": EndpointConfig(host="/tmp", dbname="db", user="user")},
            groups={"default": GroupConfig(endpoints=("main",))},
        )
        self._config = CurrentConfig(config)
        self._lost: asyncio.Future[tuple[Any, ...]] = asyncio.get_running_loop().create_future()
        self.woken = 0
        self.poller = Poller()
        core: Any = SimpleNamespace(
            lost=lambda *told: self._lost.set_result(told), copying=SimpleNamespace(fed=lambda *_: None)
        )
        self.backends = Backends(self._config, core, self._wake, self.poller)

    def open(self, number: int) -> socket.socket:
        """A backend that is open; the server's end of its connection."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        connection = SimpleNamespace(
            fileno=ours.fileno,
            close=ours.close,
            pgconn_ptr=None,
            get_parameter_status=lambda _: "",
            get_backend_pid=lambda: 1,
        )
        self.backends._open[number] = BackendConnection(number, connection, self._config, False, self.backends)
        return theirs

    def give(self, number: int, *units: Any) -> None:
        """A turn in which the backend is given these."""
        for unit in units:
            self.backends.execute(number, unit)
        self.backends.flush()

    async def unsent(self) -> int:
        """How many units count as unsent when the core is told of the loss."""
        told = await self._lost
        self.close()
        return int(told[1].unsent)

    def close(self) -> None:
        self.backends.close_all()
        self.poller.close()

    def _wake(self) -> None:
        self.woken += 1


async def carry_out_effects_for_nobody() -> int:
    shell = Shell()
    shell.give(23, SMALL)
    shell.backends.cancel(23)
    shell.backends.close(23, "gone")
    shell.close()
    return shell.woken


def test_effects_for_a_backend_that_was_lost_meanwhile_are_void() -> None:
    assert asyncio.run(carry_out_effects_for_nobody()) == 0


async def lose(*turns: tuple[Any, ...], reads: int) -> int:
    """The server reads so many bytes of what it is given, and goes; how many units count as unsent."""
    shell = Shell()
    server = shell.open(1)
    for units in turns:
        shell.give(1, *units)
    while reads > 0:
        await asyncio.sleep(0)
        reads -= len(server.recv(65536))
    await asyncio.sleep(0)
    server.close()
    return await shell.unsent()


def test_what_has_begun_to_be_sent_may_run_and_what_waits_behind_it_does_not() -> None:
    assert asyncio.run(lose((SMALL,), reads=1)) == 0
    assert asyncio.run(lose((LARGE,), reads=1)) == 0
    assert asyncio.run(lose((LARGE,), (SMALL,), reads=1)) == 1
    # Of one turn, as they go in one piece.
    assert asyncio.run(lose((LARGE, SMALL), reads=1)) == 0
    assert asyncio.run(lose((LARGE,), (SMALL,), (SMALL, SMALL), reads=2_000_000)) == 3


def test_what_waits_behind_a_large_unit_is_sent_when_that_is() -> None:
    async def sent() -> bytes:
        shell = Shell()
        server = shell.open(1)
        server.setblocking(False)
        shell.give(1, LARGE)
        shell.give(1, SMALL)
        received = bytearray()
        while not received.endswith(b"SELECT 1\0"):
            try:
                received += server.recv(1 << 20)
            except BlockingIOError:
                await asyncio.sleep(0)
        server.close()
        shell.close()
        return bytes(received)

    assert asyncio.run(sent()) == b"".join(
        b"Q" + (len(unit[0].sql) + 5).to_bytes(4, "big") + unit[0].sql + b"\0" for unit in (LARGE, SMALL)
    )


async def readings(*steps: tuple[str, Unread]) -> list[str]:
    """When a backend that is paused and resumed for these reasons is no longer read from, and again."""
    shell = Shell()
    theirs = shell.open(1)
    backend, seen = shell.backends._open[1], list[str]()
    poller, backend._poller = (
        backend._poller,
        SimpleNamespace(  # type: ignore[assignment]
            remove_reader=lambda *_: seen.append("not read"), add_reader=lambda *_: seen.append("read")
        ),
    )
    for step, why in steps:
        getattr(backend, step)(why)
    backend._poller = poller
    shell.close()
    theirs.close()
    return seen


def test_a_backend_is_read_from_again_when_no_reason_is_left_not_to() -> None:
    both = ("pause", Unread.UNFINISHED), ("pause", Unread.HELD)
    first, second = ("resume", Unread.HELD), ("resume", Unread.UNFINISHED)
    assert asyncio.run(readings(*both, first)) == ["not read"]
    assert asyncio.run(readings(*both, first, second)) == ["not read", "read"]
    assert asyncio.run(readings(*both, second, second, first, first)) == ["not read", "read"]
    assert asyncio.run(readings(first, second)) == []


COPY = (SimpleQuery(b"COPY t FROM STDIN", is_in=True),)
COPY_BEGINS = b"G\0\0\0\7\0\0\0"


def heard_while(*, large: int, then: str = "") -> list[bool]:
    """Whether a server that waits for this side is heard, asked twice, behind a COPY's start and so much data."""

    async def run() -> list[bool]:
        shell = Shell()
        server = shell.open(1)
        backend = shell.backends._open[1]
        shell.give(1, COPY)
        backend.wire.received(COPY_BEGINS)
        backend.feed(b"x" * large)
        backend.flush()
        told = [backend.is_heard()]
        if then == "it reads":
            passed = backend._passed
            while backend._passed == passed:
                server.recv(65536)
                await asyncio.sleep(0)
        elif then == "end":
            backend.wire.end_feed(None)
            backend.flush()
            told = [backend.is_heard()]
        elif then == "paused":
            backend.pause(Unread.HELD)
        told.append(backend.is_heard())
        shell.close()
        server.close()
        return told

    return asyncio.run(run())


def test_a_server_that_waits_for_what_need_not_come_is_heard() -> None:
    assert heard_while(large=1) == [True, True], "its client gives nothing"
    assert heard_while(large=5_000_000, then="paused") == [True, True], "nobody takes anything"


def test_a_server_that_waits_for_what_has_been_sent_is_heard_while_bytes_pass() -> None:
    assert heard_while(large=5_000_000) == [True, False]
    assert heard_while(large=1, then="end") == [True, False]
    assert heard_while(large=5_000_000, then="it reads") == [True, True]
