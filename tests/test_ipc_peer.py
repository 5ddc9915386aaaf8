"""What becomes of what a client of ipc:// sends, state by state."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from poold.clients import ipc_peer
from poold.clients.ipc_peer import CLOSED, DROPPED, HELD, LEAVING, READING, WAITING, IpcPeer, PeerState
from poold.config.model import BrokerConfig


class Poller:
    """Remembers who is to be called."""

    def __init__(self) -> None:
        self.readers: set[int] = set()

    def add_reader(self, descriptor: int, _: Any) -> None:
        assert descriptor not in self.readers
        self.readers.add(descriptor)

    def remove_reader(self, descriptor: int) -> None:
        self.readers.remove(descriptor)

    def leave(self, _: int) -> None:
        """There is no lane."""


class Loop:
    """Calls nobody back."""

    def call_later(self, *_: Any) -> Any:
        return self

    def call_soon(self, *_: Any) -> None:
        """Never."""

    def cancel(self) -> None:
        """Nothing to do."""


class Transport:
    """As much of an IpcTransport as a peer's states need."""

    def __init__(self) -> None:
        self.config: Any = SimpleNamespace(broker=BrokerConfig())
        self.loop, self.poller = Loop(), Poller()
        self.forgotten: list[IpcPeer] = []

    def forget(self, peer: IpcPeer) -> None:
        self.forgotten.append(peer)


@pytest.fixture
def peer() -> Any:
    own, other = socket.socketpair()
    transport: Any = Transport()
    with other:
        made = IpcPeer(transport, own, 0, 0, 1)
        yield made
        made.close()
        assert transport.forgotten == [made]


@pytest.mark.parametrize("state", PeerState)
def test_from_each_state_only_its_successors_are_reached(peer: IpcPeer, state: PeerState) -> None:
    if state not in (READING, CLOSED):
        peer._become(state)
    if state is CLOSED:
        peer.close()
    for wrong in set(PeerState) - set(ipc_peer._NEXT[state]):
        with pytest.raises(AssertionError, match=f"a client that is {state.name} cannot become {wrong.name}"):
            peer._become(wrong)


def test_only_who_is_read_is_watched(peer: IpcPeer) -> None:
    readers: set[int] = peer._transport.poller.readers  # type: ignore[attr-defined]  # of this test's own
    assert (len(readers), peer.is_heard) == (1, True)
    for state in (WAITING, HELD, READING, HELD, WAITING, LEAVING, DROPPED):
        peer._become(state)
        assert (len(readers), peer.is_heard) == ((1, True) if state is READING else (0, False))
    assert not peer.send(b"to nobody")
    peer.close()
    peer.close()
    assert not readers
