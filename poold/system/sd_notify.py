"""Messages to the service manager that started this process, as systemd's sd_notify: a datagram of NAME=value lines.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from time import monotonic_ns

log = logging.getLogger(__name__)

_SOCKET, _INTERVAL, _WATCHED = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
# The first character of a socket's name that is not in the file system (man 7 unix), in the variable and in fact.
_ABSTRACT = {"@": "\0"}


class ServiceManager:
    """The service manager, or nobody: then nothing is sent."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Take its variables out of the environment, so that no child takes them for its own."""
        name = environment.pop(_SOCKET, "")
        watched = environment.pop(_WATCHED, str(os.getpid()))
        interval = environment.pop(_INTERVAL, "") if watched == str(os.getpid()) else ""
        # What another process has to be given to take this one's part; WATCHDOG_PID is not, as it names this one.
        given = {_SOCKET: name, _INTERVAL: interval}
        self.variables = {name: value for name, value in given.items() if value}
        # Seconds without WATCHDOG=1 after which the process is taken for one that hangs; None: nobody watches.
        self.patience = _seconds(interval)
        self._address = _ABSTRACT.get(name[:1], name[:1]) + name[1:]
        self._socket: socket.socket | None = None
        self._has_failed = False
        if name[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        elif name:
            log.warning("service manager not told name=%s expected=a path, or @ and a name", name)
        if self._socket is None:
            self.patience = None

    @property
    def is_there(self) -> bool:
        """Whether somebody is told."""
        return self._socket is not None

    def tell(self, **values: str | int) -> None:
        """Send these. If they cannot be sent that is logged, the first time."""
        if self._socket is None:
            return
        text = "\n".join(f"{name}={value}" for name, value in values.items())
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._has_failed:
                log.warning("service manager not told error=%s", error.strerror)
            self._has_failed = True
        else:
            self._has_failed = False

    def reloading(self) -> None:
        """Say that the configuration is being read again; READY=1 has to follow."""
        self.tell(RELOADING=1, MONOTONIC_USEC=monotonic_ns() // 1000)

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _seconds(microseconds: str) -> float | None:
    return int(microseconds) / 1e6 if microseconds.isascii() and microseconds.isdigit() and int(microseconds) else None
