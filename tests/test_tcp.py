"""Clients over tcp:// whose descriptors are used again before all that they sent has been taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import zmq
from postgres import free_port
from waiting import wait_until

from poold.clients.tcp import TcpPeer, TcpTransport
from poold.clients.transport import Peer
from poold.config.current import CurrentConfig
from poold.config.model import BrokerConfig, Config


class Told:
    """What a transport tells of its peers."""

    dropped = 0

    def __init__(self) -> None:
        self.messages: list[tuple[Peer, bytes]] = []
        self.ended: list[Peer] = []

    def message(self, peer: Peer, payload: bytes) -> None:
        self.messages.append((peer, payload))

    def gone(self, peer: Peer) -> None:
        self.ended.append(peer)

    def violated(self, peer: Peer, why: str) -> None:
        raise AssertionError(why)

    def stalled(self, peer: Peer) -> None:
        raise AssertionError("libzmq keeps what is unread")

    def reads(self, peer: Peer) -> None:
        raise AssertionError("libzmq keeps what is unread")

    def wake(self) -> None:
        """Nothing."""


def current(broker: BrokerConfig) -> CurrentConfig:
    return CurrentConfig(Config(broker=broker, endpoints={}, groups={}))


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[TcpTransport, Told]]:
    told = Told()
    transport = TcpTransport(current(BrokerConfig(address=f"tcp://127.0.0.1:{free_port()}")), told)
    try:
        yield transport, told
    finally:
        transport.close()


async def until(is_so: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, is_so, what=what)


def test_a_client_that_is_gone_takes_no_other_with_it_whose_descriptor_was_its() -> None:
    async def play() -> None:
        async with listening() as (transport, told):
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            dealer = context.socket(zmq.DEALER)
            dealer.connect(transport.address)
            dealer.send(b"hello")
            await until(lambda: len(told.messages) == 1, "the message")
            living = told.messages[0][0]
            assert isinstance(living, TcpPeer)
            # What the one before on this descriptor sent is taken only now; who it came from is gone.
            frame = _frame_from(living.descriptor)
            late = transport._arrived(b"gone", frame)
            assert late is not None
            assert not late.send(b"welcome")
            assert told.ended == [late]
            assert living.send(b"still here")
            dealer.close(linger=0)
            await until(lambda: told.ended == [late, living], "the end of the other")
            late.drop()
            living.drop()
            assert told.ended == [late, living]
            context.term()

    asyncio.run(play())


class _Frame:
    """As libzmq's, of what it says only where it came from."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def get(self, what: object) -> int:
        assert what == zmq.SRCFD
        return self._descriptor


def _frame_from(descriptor: int) -> zmq.Frame:
    return _Frame(descriptor)  # type: ignore[return-value]  # as much of one as is looked at
