"""A listening TCP socket at HOST:PORT, which may be the one that another process of this broker's has left."""

from __future__ import annotations

import contextlib
import os
import re
import socket

_FORM = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", re.ASCII)
BACKLOG = 64


def host_and_port(address: str) -> tuple[str, int]:
    """Return the two parts of HOST:PORT, [HOST]:PORT for IPv6; raises ValueError that says what is expected."""
    found = _FORM.fullmatch(address)
    if found is None or not 0 < int(found[3]) < 65536:
        raise ValueError("expected HOST:PORT, as in 127.0.0.1:9127 or [::1]:9127")
    return found[1] or found[2], int(found[3])


def listening_socket(name: str, address: str, inherited: int = -1) -> socket.socket:
    """Return a socket that listens at the address, and does not block.

    inherited is a descriptor of one that listens already, -1 for none; if it listens elsewhere it is closed. name is
    the setting that has the address, for the OSError that says why there can be no socket.
    """
    host, port = host_and_port(address)
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise _unusable(name, address, error) from None
    if inherited >= 0:
        listener = socket.socket(fileno=inherited)
        if listener.family == family and listener.getsockname()[:2] == where[:2]:
            os.set_inheritable(inherited, False)
            listener.setblocking(False)
            return listener
        listener.close()
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of an earlier broker that are in TIME_WAIT do not keep it from listening.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        with contextlib.suppress(OSError):
            listener.close()
        raise _unusable(name, address, error) from None
    return listener


def _unusable(name: str, address: str, error: OSError) -> OSError:
    return OSError(f"{name} = {address!r} cannot be used: {(error.strerror or str(error)).lower()}; choose another one")
