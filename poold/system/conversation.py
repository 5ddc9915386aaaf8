"""Short messages between two broker processes that share a pair of sockets: each arrives whole, or not at all."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

# Bytes: beyond the largest message, and less than what the kernel gives a socket.
LONGEST = 150_000

Message = dict[str, Any]


def pair() -> tuple[Conversation, int]:
    """Return one end of a conversation, and the descriptor of the other one, which is for another process."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Conversation(own.detach()), other.detach()


class Conversation:
    """One end. It is over when the other process says no more, or has ended in whatever way."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor; no child gets it unless it is told so."""
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self.is_over = False

    @property
    def descriptor(self) -> int:
        """The descriptor of this end; -1 after `close`."""
        return self._socket.fileno()

    def say(self, **message: Any) -> bool:
        """Send a message without waiting; returns whether it was sent."""
        packed = json.dumps(message).encode()
        if self.descriptor < 0 or len(packed) > LONGEST:
            return False
        try:
            self._socket.send(packed)
        except OSError:  # nobody is there any more, or so much is unread that there is no room
            return False
        return True

    def hear(self) -> list[Message]:
        """Return all that has been said; take note if that was the last of it."""
        found: list[Message] = []
        while not self.is_over:
            try:
                packed = self._socket.recv(2 * LONGEST)
            except BlockingIOError:
                break
            except OSError:  # the other one has ended without reading everything
                packed = b""
            if packed:
                found.append(json.loads(packed))
            else:
                self.is_over = True
        return found

    def close(self) -> None:
        """Say and hear nothing more."""
        self.is_over = True
        self._socket.close()
