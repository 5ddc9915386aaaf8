"""The listening socket that a service manager has opened for the broker, as systemd's sd_listen_fds.

It is there before the broker and after it: whoever connects while no broker runs waits in its queue.

https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import MutableMapping

from client.wire.address import ipc_path

FIRST = 3  # SD_LISTEN_FDS_START
_COUNT, _PROCESS, _OTHERS = "LISTEN_FDS", "LISTEN_PID", ("LISTEN_FDNAMES", "LISTEN_PIDFDID")


def inherited_socket(address: str, environment: MutableMapping[str, str]) -> socket.socket | None:
    """Return the socket that this process was given for the address; None if it was given none.

    The variables are taken out of the environment, and no child gets the socket. Raises ValueError if what was given is
    not exactly this address's socket.
    """
    count, process = environment.pop(_COUNT, ""), environment.pop(_PROCESS, "")
    for name in _OTHERS:
        environment.pop(name, None)
    if process != str(os.getpid()) or not count.isascii() or not count.isdigit() or not int(count):
        return None
    descriptors = range(FIRST, FIRST + int(count))
    try:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
    except OSError:
        raise ValueError(
            f"{_COUNT} is {count}, as a service manager sets it, and there is no descriptor {descriptor}: whoever "
            f"starts the broker has to leave its sockets open, or to unset {_COUNT}"
        ) from None
    path = ipc_path(address)
    given = [_described(descriptor) for descriptor in descriptors]
    if path is None or len(given) != 1 or given[0] != os.path.realpath(path):
        for descriptor in descriptors:
            os.close(descriptor)
        expected = f"ListenStream={path} alone" if path is not None else "none: sockets are taken over for ipc:// only"
        raise ValueError(
            f"the service manager has given the broker {', '.join(given)}, and its address is {address}: in the socket "
            f"unit expected {expected}"
        )
    listener = socket.socket(fileno=FIRST)
    listener.setblocking(False)
    return listener


def taken_over(descriptor: int) -> socket.socket:
    """Return the listening socket that the broker before this one leaves."""
    os.set_inheritable(descriptor, False)
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return listener


def _described(descriptor: int) -> str:
    """Return the path of a listening unix socket, else in words what the descriptor is."""
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return "something that is no socket"
    with socket.socket(fileno=os.dup(descriptor)) as found:
        name = found.getsockname()
        if found.family != socket.AF_UNIX or found.type != socket.SOCK_STREAM:
            return f"a socket of another kind at {name!r}"
        if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "a connection (Accept=yes)"
        return os.path.realpath(name) if isinstance(name, str) and name else f"a socket without a path, {name!r}"
