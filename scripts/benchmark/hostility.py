"""Clients that mean no good, each a program: what one of them does until it is ended.

    .venv/bin/python scripts/benchmark/hostility.py NAME SOCKET [UID]

With UID it becomes that user first. It says "begun" on its standard output when it is at it, and comes back whenever
the broker has thrown it out. scripts/hostile measures what it does to others; tests/integration/test_hostile.py that
the broker gets over it.
"""

import contextlib
import os
import resource
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import Any

from client.wire.codec import encode, split_steps
from client.wire.messages import VERSION, Ask, CancelRequest, Hello, Query, Step, TransactionMessage
from client.wire.zmtp import GREETING, ZmtpConnection, ZmtpError

RECEIVE_BYTES = 65536
MAX_REPLY_BYTES = 100_000_000
HELLO = encode(Hello(VERSION, 1, "hostile", "0"))
# The group of interactive transactions, here and in the tests.
LEASING_GROUP = "transactions"
# Connections of one that does it with many.
MANY = 200
VERY_MANY = 10_000
# Of max_request_bytes, which is 16 MiB unless configured otherwise.
ALMOST_ALL = 16 * 1024 * 1024 - 1024


class Thrown(Exception):
    """The broker has closed the connection."""


class Connection:
    """One connection; raises Thrown at its end."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise Thrown from None
        self.zmtp = ZmtpConnection(MAX_REPLY_BYTES)
        self.numbers = count(1)

    def greet(self) -> "Connection":
        """As any client."""
        while not self.zmtp.is_ready:
            self.flush()
            self.receive()
        self.flush()
        self.send(HELLO)
        while not self.zmtp.inbox:
            self.receive()
        self.zmtp.inbox.clear()
        return self

    def send(self, *messages: bytes) -> None:
        """Send them, and read nothing."""
        self.write(b"".join(map(self.zmtp.encoded, messages)))

    def call(self, *messages: bytes) -> None:
        """Send them, and read as many replies."""
        self.send(*messages)
        for _ in messages:
            while not self.zmtp.inbox:
                self.receive()
            self.zmtp.inbox.popleft()

    def write(self, data: bytes) -> None:
        """Bytes of any kind."""
        try:
            self.socket.sendall(data)
        except OSError:
            raise Thrown from None

    def flush(self) -> None:
        """What ZMTP has to say."""
        self.write(bytes(self.zmtp.outbox))
        self.zmtp.outbox.clear()

    def receive(self) -> None:
        """Take what comes next."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        if not data:
            raise Thrown
        try:
            self.zmtp.received(data)
        except ZmtpError:
            raise Thrown from None  # told why

    def drain(self) -> None:
        """Take what is there."""
        try:
            while self.socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        raise Thrown


def query(connection: Connection, sql: bytes, *values: bytes, group: str = "default", lease: int = 0) -> bytes:
    packed = b"".join(len(value).to_bytes(4, "big") + value for value in values)
    types = bytes(4 * len(values))
    message = Query(next(connection.numbers), group, lease, bool(lease), sql, types, packed, True, None, "")
    return encode(message)


# Each does its worst once, and is called again and again with the same dice; what it yields are moments to go on.


def garbage(path: str, dice: Random) -> None:
    """Bytes that are no ZMTP, from one connection after the other."""
    connection = Connection(path)
    connection.write(dice.randbytes(dice.randrange(1, 4000)))
    connection.socket.close()


def knocks(path: str, dice: Random) -> None:
    """Connects and leaves."""
    Connection(path).socket.close()


def violations(path: str, dice: Random) -> None:
    """Messages of random bytes after a sound greeting."""
    connection = Connection(path).greet()
    while True:
        connection.send(*(dice.randbytes(dice.randrange(1, 60)) for _ in range(50)))
        connection.drain()


def nesting(path: str, dice: Random) -> None:
    """Messages of arrays in arrays, deep and wide."""
    connection = Connection(path).greet()
    tree = b"\x91\xc0"
    while len(tree) < 1_000_000:
        tree = b"\x9b" + tree * 11
    while True:
        connection.send(b"\x91" * 60_000, tree[:60_000], b"\xdc\xff\xff" * 1000, tree)
        connection.drain()


def halves(path: str, dice: Random) -> None:
    """Promises messages of 16 MB on many connections, on some sends nearly all of it, and then nothing more."""
    kept = [Connection(path).greet() for _ in range(MANY)]
    for number, connection in enumerate(kept):
        connection.write(b"\x02" + (16 * 1024 * 1024).to_bytes(8, "big") + bytes(ALMOST_ALL if number < 8 else 1000))
    _wait(kept)


def slow(path: str, dice: Random) -> None:
    """A byte a second on many connections: half of them in the greeting, half in a message."""
    half = MANY // 2
    kept = [Connection(path) for _ in range(half)] + [Connection(path).greet() for _ in range(half)]
    said = GREETING + bytes(1000)
    for at in range(len(said)):
        for connection in kept[half:]:
            connection.write((b"\x02" + (1_000_000).to_bytes(8, "big") + bytes(1000))[at : at + 1])
        for number in range(half):
            try:
                kept[number].write(said[at : at + 1])
            except Thrown:
                kept[number] = Connection(path)
        time.sleep(1)


def deaf(path: str, dice: Random) -> None:
    """Asks for much and reads nothing."""
    connection = Connection(path).greet()
    while True:
        connection.send(query(connection, b"SELECT repeat('x', 1000000)"))


def connections(path: str, dice: Random) -> None:
    """Ten thousand connections, or as many as it gets, that greet and stay."""
    kept = []
    with contextlib.suppress(Thrown):
        for _ in range(VERY_MANY):
            kept.append(Connection(path).greet())
    _wait(kept)


def silent(path: str, dice: Random) -> None:
    """As many connections as it gets that say nothing."""
    kept = []
    with contextlib.suppress(Thrown):
        for _ in range(VERY_MANY):
            kept.append(Connection(path))
    _wait(kept)


def tiny(path: str, dice: Random) -> None:
    """The smallest requests, as fast as they are answered."""
    connection = Connection(path).greet()
    while True:
        connection.call(*(encode(Ask(next(connection.numbers), "ping")) for _ in range(100)))


def stats(path: str, dice: Random) -> None:
    """Asks how the broker is, all the time."""
    connection = Connection(path).greet()
    while True:
        connection.call(*(encode(Ask(next(connection.numbers), "stats")) for _ in range(100)))


def cancels(path: str, dice: Random) -> None:
    """Withdraws requests that there never were."""
    connection = Connection(path).greet()
    while True:
        connection.send(*(encode(CancelRequest(dice.randrange(1, 2**63))) for _ in range(100)))
        connection.call(encode(Ask(next(connection.numbers), "ping")))


def huge(path: str, dice: Random) -> None:
    """Requests as large as they may be."""
    connection = Connection(path).greet()
    while True:
        connection.call(query(connection, b"SELECT length(\0)", b"x" * (ALMOST_ALL - 1000)))


def texts(path: str, dice: Random) -> None:
    """Transactions that have to be read: texts of very many tokens, another one each time."""
    connection = Connection(path).greet()
    while True:
        number = next(connection.numbers)
        text = b"SELECT %d" % number + b",1" * 400_000 + b" FROM a"
        steps, values = split_steps([Step(text, b"", b"", True, (), 0, None)])
        connection.call(encode(TransactionMessage(number, "default", None, None, None, 0, steps, values, None, "")))


def leases(path: str, dice: Random) -> None:
    """Opens transactions, does nothing in them, and begins again."""
    connection = Connection(path).greet()
    for lease in range(1, 50):
        connection.send(query(connection, b"SELECT 1", group=LEASING_GROUP, lease=lease))
    time.sleep(0.2)
    connection.socket.close()


def _wait(kept: list[Connection]) -> None:
    """Until the broker has closed all of them. Reads nothing."""
    with selectors.DefaultSelector() as selector:
        for connection in kept:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        _begun()
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    key.data.drain()
                except Thrown:
                    selector.unregister(key.fileobj)
                    key.data.socket.close()


BEHAVIOURS: dict[str, Callable[[str, Random], None]] = {
    each.__name__: each
    for each in (
        garbage, knocks, violations, nesting, halves, slow, deaf, connections, silent, tiny, stats, cancels, huge,
        texts, leases,
    )
}  # fmt: skip
# Of those that only begin when all of their connections are there.
_GATHERING = ("halves", "connections", "silent")
_has_begun: list[Any] = []


def _begun() -> None:
    """Say so once."""
    if not _has_begun:
        _has_begun.append(True)
        print("begun", flush=True)


def _rounds() -> Iterator[int]:
    """For ever, and not too fast where nothing comes of it."""
    for number in count():
        began = time.monotonic()
        yield number
        if time.monotonic() - began < 0.0001:
            time.sleep(0.0001)


def main() -> None:
    """Behave badly until the end."""
    behave, path = BEHAVIOURS[sys.argv[1]], sys.argv[2]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if len(sys.argv) > 3:
        os.setuid(int(sys.argv[3]))
    dice = Random(1)
    for _ in _rounds():
        if behave.__name__ not in _GATHERING:
            _begun()
        with contextlib.suppress(Thrown):
            behave(path, dice)


if __name__ == "__main__":
    main()
