"""What carries messages between clients and the frontend: `poold.clients.ipc` on a unix socket, `.tcp` with libzmq.

A transport makes a Peer of each client that connects, and gives the client's messages to its receiver, the frontend;
the frontend sends replies through the Peer.
"""

from __future__ import annotations

import os
from typing import Protocol

from poold.clients.ledger import Entry
from poold.core.clients.access import Caller


class Peer:
    """The broker's end of one client's connection, made by its transport. uid and gid are None if they are unknown."""

    __slots__ = ("cancel_key", "entry", "gid", "key", "pid", "uid", "violations")
    shares_memory = False  # whether a descriptor can be sent to it

    def __init__(self, uid: int | None, gid: int | None, pid: int) -> None:
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.key = 0  # the core's number of the client, from its Hello on
        self.cancel_key = b""  # from its Hello on
        self.violations = 0  # messages that broke the protocol
        self.entry: Entry | None = None  # where it can read which of its requests have begun

    def caller(self) -> Caller:
        """Return who the client is, for decisions about what it may do."""
        return Caller(self.uid, self.uid in (0, os.getuid()))

    def send(self, message: bytes) -> bool:
        """Send without waiting; False if the client is gone."""
        raise NotImplementedError

    def welcome(self, message: bytes) -> None:
        """Send the first message, and along with it the descriptor of the client's entry, if it has one."""
        self.send(message)

    def greeted(self, client: object) -> None:
        """Take note that Hello and Welcome were said; client is what the core knows it by."""

    def drop(self) -> None:
        """End the conversation soon, as if the client had done so; what was sent before still arrives."""
        raise NotImplementedError


class Transport(Protocol):
    """Carries messages; it listens from its creation on, and accepts clients from `begin` on."""

    @property
    def address(self) -> str:
        """The address, as clients are told it."""

    def begin(self) -> None:
        """Accept clients from here on."""

    def after_turn(self) -> None:
        """Called when the turn has sent all that it had to send."""

    def draining(self) -> None:
        """Called when the broker begins to end."""

    def accept_all(self) -> None:
        """Accept, or refuse, whoever has connected by now."""

    def leave(self) -> None:
        """Accept nobody any more: another broker does, at the same socket."""

    @property
    def listener(self) -> int:
        """The descriptor of the listening socket; -1 if no other broker can have it."""

    def read_last(self) -> None:
        """Take what has come, and nothing later: what a client sends from here on, it learns, has not arrived."""

    @property
    def unread_bytes(self) -> int:
        """How much clients leave unread, as far as it is known; 0 if it is not."""

    async def finish(self) -> None:
        """Return when all replies are on their way."""

    def close(self) -> None:
        """Send what is still held, then close."""


class Receiver(Protocol):
    """Takes what a transport reports of its peers; the frontend is one."""

    dropped: int  # replies that no client takes any more

    def message(self, peer: Peer, payload: bytes) -> None:
        """A message of one frame has come."""

    def violated(self, peer: Peer, why: str) -> None:
        """A message has come that breaks the protocol."""

    def gone(self, peer: Peer) -> None:
        """The connection has ended."""

    def stalled(self, peer: Peer) -> None:
        """The client leaves replies unread."""

    def reads(self, peer: Peer) -> None:
        """The client has read all replies."""

    def wake(self) -> None:
        """Messages were taken: there may be effects."""
