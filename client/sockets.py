"""The sockets that channels use: how one is connected.

A plain one carries ZMTP as it is. With keys it is a `client.curve.CurveSocket`, which looks the same to a channel.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

from client.address import folder_trap, ipc_path, runtime_dir
from client.errors import connection_error
from client.keys import Keys
from client.protocol import NOT_EXECUTED

if TYPE_CHECKING:
    from client.curve import CurveSocket

# How long to wait for a broker to be there: short enough for an error within a second, long enough for its restart.
CONNECT_TIMEOUT = 0.8
CONNECT_AGAIN = 0.02
# Where one listens, how long it may take to say Welcome: many workers may start at once on a busy machine.
WELCOME_TIMEOUT = 10.0
# After so long a silence in a wait the broker is asked with PING; without any answer for so long it counts as gone.
PING_AFTER = 10.0
GONE_AFTER = 30.0

# Also a broker whose backlog is full for the moment.
_NOBODY_THERE = (ConnectionRefusedError, FileNotFoundError, BlockingIOError)


class PlainSocket(socket.socket):
    """A blocking socket."""

    def wait_at_most(self, seconds: float) -> None:
        """How long recv waits from here on before it raises BlockingIOError."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))

    def __del__(self) -> None:
        # Handlers are let go of, not closed; in a cycle the socket may be collected before its channel, which would
        # have closed it, and Python would warn.
        self.close()


def connected(address: str, keys: Keys | None = None) -> PlainSocket | CurveSocket:
    """A socket connected to address; tries again for CONNECT_TIMEOUT where nobody listens."""
    deadline = time.monotonic() + CONNECT_TIMEOUT
    while True:
        try:
            return _plain(address) if keys is None else _encrypted(address, keys)
        except OSError as error:
            if time.monotonic() + CONNECT_AGAIN < deadline and isinstance(error, _NOBODY_THERE):
                time.sleep(CONNECT_AGAIN)
                continue
            # Nobody there is the usual reason and needs no words; a closed folder, say, does.
            why = "" if isinstance(error, _NOBODY_THERE) else f" ({error.strerror or error})"
            raise connection_error(
                f"no poold broker answers at {address}{why}; start one there with: poold start --address {address}",
                NOT_EXECUTED,
            ) from None


def _plain(address: str) -> PlainSocket:
    path = ipc_path(address)
    if path is not None and path.parent == runtime_dir() and (trap := folder_trap(path.parent)) is not None:
        raise connection_error(f"not connected to {address}: {trap}", NOT_EXECUTED)
    made = PlainSocket(_family(address) if path is None else socket.AF_UNIX)
    try:
        if path is None:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.settimeout(CONNECT_TIMEOUT)
        made.connect(_host_and_port(address) if path is None else str(path))
        made.setblocking(True)
        # A broker that reads nothing for so long hangs.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(GONE_AFTER))
    except BaseException:
        made.close()
        raise
    return made


def _encrypted(address: str, keys: Keys) -> CurveSocket:
    # Only here, because libzmq is no light import and has threads of its own.
    from client.curve import CurveSocket

    # libzmq would look a name up in a thread of its own, and keep its failure to itself.
    host, port = _host_and_port(address)
    found = socket.getaddrinfo(host, port, _family(address), socket.SOCK_STREAM)[0][4]
    numeric = f"tcp://[{found[0]}]:{port}" if "[" in address else f"tcp://{found[0]}:{port}"
    return CurveSocket(address, numeric, keys)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if "[" in address else socket.AF_INET


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
