"""One connection through the proxy: what comes from one end, what it suffers on the way, and the other end.

A connection is two flows. What a flow takes in goes on in its order, never before its time; a flow that has lost a byte
never passes another one, as in TCP, where a stream has no gaps.
"""

import contextlib
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

CHUNK = 65536
# A flow that holds so much takes in no more: its source waits, as it would for a full network.
MOST_HELD = 4 * CHUNK
# SO_LINGER with no time left: close() sends RST.
AT_ONCE = struct.pack("ii", 1, 0)
HEADER = 5  # of a message from PostgreSQL: its type and four bytes of length


class Direction(Enum):
    """Which way bytes go."""

    TO_SERVER = "to the server"
    TO_BROKER = "to the broker"


BOTH = (Direction.TO_SERVER, Direction.TO_BROKER)


@dataclass(frozen=True, slots=True)
class Toxic:
    """What a flow suffers."""

    latency: float = 0.0  # seconds until a byte goes on
    slice: int = 0  # bytes sent at a time; 0: as they came
    holds: bool = False  # nothing goes on, and nothing is lost
    swallows: bool = False  # what comes is lost, an end of the connection as well


HEALTHY = Toxic()
SLOW = Toxic(latency=0.2)
SLICED = Toxic(slice=1)
BLACK_HOLE = Toxic(swallows=True)


class Messages:
    """Where a server's messages begin, in what it sends piece by piece."""

    def __init__(self) -> None:
        self._header = b""
        self._rest = 0  # bytes of the current message that have not come

    def middle(self, data: bytes, kinds: bytes) -> int | None:
        """The place in data that is in the middle of its first message of these kinds; None where there is none."""
        position, found = 0, None
        while position < len(data):
            if self._rest:
                step = min(self._rest, len(data) - position)
                self._rest -= step
            else:
                step = min(HEADER - len(self._header), len(data) - position)
                self._header += data[position : position + step]
                if len(self._header) == HEADER:
                    kind, self._rest = self._header[0], int.from_bytes(self._header[1:]) - (HEADER - 1)
                    if found is None and kind in kinds:
                        found = min(position + step + self._rest // 2, len(data))
                    self._header = b""
            position += step
        return found


class Aborted(Exception):
    """A flow's end is gone: the connection is to be broken off."""


class Severed(Exception):
    """The place where the connection is to be cut has come."""


@dataclass(slots=True, eq=False)
class Flow:
    """One direction of a connection."""

    direction: Direction
    source: socket.socket
    sink: socket.socket
    toxic: Toxic = HEALTHY
    # What came and has not gone on, with the time when it may; b"" is the end, None the place to cut.
    held: deque[tuple[float, bytes | None]] = field(default_factory=deque)
    size: int = 0  # bytes in held
    has_lost: bool = False
    has_ended: bool = False  # its source has sent the last byte, or its end was made up (slow close)
    is_over: bool = False  # the sink was told so
    is_blocked: bool = False  # the sink takes no more for now
    severs: bytes = b""  # the kinds of messages in whose middle it is cut
    messages: Messages = field(default_factory=Messages)
    sends: int = 0

    @property
    def wants_input(self) -> bool:
        return not self.has_ended and self.size < MOST_HELD

    @property
    def due(self) -> float | None:
        """When something can go on; None where nothing can, or the sink has to take something first."""
        if not self.held or self.toxic.holds or self.is_blocked:
            return None
        return self.held[0][0]

    def take_in(self, now: float) -> None:
        """The source can be read; raises Aborted where it broke off."""
        try:
            data = self.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if not self.toxic.swallows:
                raise Aborted from error
            data = b""
        self.has_ended = not data
        place = self.messages.middle(data, self.severs) if self.direction is Direction.TO_BROKER else None
        if self.toxic.swallows or self.has_lost:
            self.has_lost = True
            return
        due = now + self.toxic.latency
        self.held.append((due, data if place is None else data[:place]))
        if place is not None:
            self.held.append((due, None))
            self.has_ended = True
        self.size += len(data)

    def pass_on(self, now: float) -> int:
        """Send what may go on; how many bytes went. Raises Severed or Aborted where the connection is over."""
        passed = 0
        while (due := self.due) is not None and due <= now:
            data = self.held.popleft()[1]
            if data is None:
                raise Severed
            if not data:
                self.finish()
                break
            sent = self._send(data[: self.toxic.slice or len(data)])
            passed += sent
            self.size -= sent
            if sent < len(data):
                self.held.appendleft((due, data[sent:]))
                break
        return passed

    def drop(self) -> None:
        """Forget what has not gone on, and take nothing more in."""
        self.held.clear()
        self.size = 0
        self.has_ended = True

    def finish(self) -> None:
        """Tell the sink that nothing more comes."""
        self.is_over = True
        with contextlib.suppress(OSError):  # it is gone itself
            self.sink.shutdown(socket.SHUT_WR)

    def _send(self, data: bytes) -> int:
        try:
            sent = self.sink.send(data)
        except BlockingIOError:
            self.is_blocked = True
            return 0
        except OSError as error:
            raise Aborted from error
        self.sends += 1
        return sent


def break_off(end: socket.socket) -> None:
    """Close it with RST."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    end.close()
