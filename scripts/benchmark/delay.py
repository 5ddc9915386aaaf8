"""A network that takes time: a program that relays connections and delivers later what it gets.

    python delay.py LISTEN TARGET MILLISECONDS

LISTEN and TARGET are paths of unix sockets, as everything here talks through those. MILLISECONDS are added to a round
trip: half of them in each direction. What is read is stamped and written when its time has come; nothing waits for
anything else, so what arrives together leaves together and there is no limit to how much is under way, but the one
that bounds memory. As everything is delayed equally, one queue for all connections is in the order of delivery.

It runs in a process of its own and imports nothing of the project. What it takes of a processor, which a real
network would not, the benchmark shows apart.
"""

import os
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path

CHUNK_BYTES = 65536
BACKLOG = 1024
# Per connection and direction; with 1 ms of delay it still lets 32 gigabytes a second through.
MAX_BYTES_UNDER_WAY = 16 * 1024 * 1024
# Else the kernel lets a sleeper wake up to 50 microseconds late, to wake several at once.
# https://man7.org/linux/man-pages/man5/proc_pid_timerslack_ns.5.html
TIMER_SLACK = Path("/proc/self/timerslack_ns")


class End:
    """One end of a relayed connection: what is read here is written to peer."""

    __slots__ = ("events", "is_open", "peer", "socket", "under_way", "unsent")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.peer: End = self
        self.is_open = True
        # What epoll watches it for; 0: it is not registered, as a registered one reports hang-ups unasked.
        self.events = 0
        # Bytes read here and not yet written to peer.
        self.under_way = 0
        # Bytes whose time has come, but whose reader is slow.
        self.unsent = bytearray()


class Relay:
    """All connections of one listening socket."""

    def __init__(self, listen: str, target: str, delay: float) -> None:
        """delay is that of one direction, in seconds."""
        self._target = target
        self._delay = delay
        self._epoll = select.epoll()
        # By descriptor; from accept to close.
        self._ends: dict[int, End] = {}
        # When, where and what to write; b"" stands for the end of the connection.
        self._queue: deque[tuple[float, End, bytes]] = deque()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.setblocking(False)
        self._listener.bind(listen)
        # The folder decides who gets here.
        Path(listen).chmod(0o777)
        self._listener.listen(BACKLOG)
        self._epoll.register(self._listener, select.EPOLLIN)

    def run(self) -> None:
        """For ever."""
        epoll, listener = self._epoll, self._listener.fileno()
        while True:
            wait = self._deliver()
            # epoll_wait counts in milliseconds, select in microseconds, and it can wait for an epoll.
            if not select.select((epoll,), (), (), wait)[0]:
                continue
            for descriptor, events in epoll.poll(0):
                if descriptor == listener:
                    self._accept()
                    continue
                end = self._ends.get(descriptor)
                if end is None:
                    continue  # closed a moment ago
                if events & select.EPOLLOUT:
                    self._flush(end)
                if end.is_open and events & ~select.EPOLLOUT:
                    self._read(end)

    def _accept(self) -> None:
        try:
            client = self._listener.accept()[0]
        except OSError:
            return  # it has gone again
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self._target)
        except OSError as error:
            print(f"cannot connect to {self._target}: {error}", file=sys.stderr, flush=True)
            client.close()
            return
        ends = End(client), End(server)
        for end, peer in (ends, ends[::-1]):
            end.peer = peer
            end.socket.setblocking(False)
            self._ends[end.socket.fileno()] = end
            self._watch(end, select.EPOLLIN)

    def _read(self, end: End) -> None:
        try:
            chunk = end.socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        self._queue.append((time.monotonic() + self._delay, end.peer, chunk))
        end.under_way += len(chunk)
        if not chunk or end.under_way > MAX_BYTES_UNDER_WAY:
            self._watch(end, end.events & ~select.EPOLLIN)

    def _deliver(self) -> float | None:
        """Write what is due; returns the time until the next is, None where nothing is under way."""
        queue = self._queue
        while queue:
            due, end, chunk = queue[0]
            wait = due - time.monotonic()
            if wait > 0:
                return wait
            queue.popleft()
            if not end.is_open:
                continue
            if not chunk:
                self._close(end)
            elif end.unsent:
                end.unsent += chunk
            else:
                self._write(end, chunk)
        return None

    def _write(self, end: End, chunk: bytes) -> None:
        try:
            sent = end.socket.send(chunk)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(end)
            return
        self._arrived(end, sent)
        if sent < len(chunk):
            end.unsent += chunk[sent:]
            self._watch(end, end.events | select.EPOLLOUT)

    def _flush(self, end: End) -> None:
        try:
            sent = end.socket.send(end.unsent)
        except BlockingIOError:
            return
        except OSError:
            self._close(end)
            return
        del end.unsent[:sent]
        self._arrived(end, sent)
        if not end.unsent:
            self._watch(end, end.events & ~select.EPOLLOUT)

    def _arrived(self, end: End, count: int) -> None:
        reader = end.peer
        was_full = reader.under_way > MAX_BYTES_UNDER_WAY
        reader.under_way -= count
        if was_full and reader.under_way <= MAX_BYTES_UNDER_WAY:
            self._watch(reader, reader.events | select.EPOLLIN)

    def _watch(self, end: End, events: int) -> None:
        if not events:
            self._epoll.unregister(end.socket)
        elif end.events:
            self._epoll.modify(end.socket, events)
        else:
            self._epoll.register(end.socket, events)
        end.events = events

    def _close(self, end: End) -> None:
        """Both ends: where one says no more, PostgreSQL's protocol has nothing more to say to the other."""
        for each in (end, end.peer):
            if each.is_open:
                each.is_open = False
                if each.events:
                    self._watch(each, 0)
                del self._ends[each.socket.fileno()]
                each.socket.close()


def main() -> None:
    """See the module."""
    listen, target, milliseconds = sys.argv[1:]
    if os.access(TIMER_SLACK, os.W_OK):
        TIMER_SLACK.write_text("1")
    Relay(listen, target, float(milliseconds) / 2 / 1000).run()


if __name__ == "__main__":
    main()
