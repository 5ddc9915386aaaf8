"""The start of a broker that takes over from a running one: it gets the listening socket and the claim on the address.

Both listen until the new one is ready; only then the old one ends. If the new one fails, nothing has changed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
from collections.abc import Callable, Sequence
from typing import NamedTuple

log = logging.getLogger(__name__)

# Bytes of what the new broker says when it is ready, read at a time.
_READ_BYTES = 65536


class Estate(NamedTuple):
    """What a broker gets from the one before it: descriptors, and whether the service manager has made the socket."""

    listener: int
    lock: int
    is_managed: bool
    metrics: int = -1  # where the one before it serves its metrics; -1 if it does not

    def __str__(self) -> str:
        # Left out if there is none: an older release, which may be the one that takes over, knows three words.
        metrics = f",{self.metrics}" if self.metrics >= 0 else ""
        return f"{self.listener},{self.lock},{int(self.is_managed)}{metrics}"

    @property
    def descriptors(self) -> list[int]:
        """All of them."""
        return [each for each in (self.listener, self.lock, self.metrics) if each >= 0]


def estate_from(text: str) -> Estate:
    """Return the estate that the text, an estate's str, names; raises ValueError if it is none."""
    listener, lock, is_managed, *metrics = (int(each) for each in text.split(","))
    return Estate(listener, lock, bool(is_managed), *metrics[:1])


class Succession:
    """The restart of this broker, as often as it is tried."""

    def __init__(self, command: Sequence[str], succeeded: Callable[[int], None]) -> None:
        """command starts a broker like this one; succeeded is told the process that is ready to serve."""
        self._command = command
        self._succeeded = succeeded
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._heard = b""

    @property
    def is_under_way(self) -> bool:
        """Whether a new broker is starting, or has taken over."""
        return self._process is not None

    def begin(self, estate: Estate) -> int:
        """Start the new broker and return its process; raises OSError if there is no program to start."""
        self._heard = b""
        self._pipe, end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*self._command, f"--estate={estate}", f"--ready-fd={end}"],
                stdin=subprocess.DEVNULL,
                pass_fds=[end, *estate.descriptors],
            )
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(end)
        asyncio.get_running_loop().add_reader(self._pipe, self._hear)
        log.info("restart begun pid=%d", self._process.pid)
        return self._process.pid

    def _hear(self) -> None:
        """The new broker says that it is ready, or its end of the pipe is closed without a word."""
        data = os.read(self._pipe, _READ_BYTES)
        self._heard += data
        if data:
            return
        self.close()
        assert self._process is not None
        if self._heard:
            log.info("restart done pid=%d", self._process.pid)
            self._process.returncode = 0  # it goes on running: nobody waits for it here
            self._succeeded(self._process.pid)
        else:
            log.error("restart failed, this broker goes on code=%d", self._process.wait())
            self._process = None

    def close(self) -> None:
        """Listen to the new broker no more."""
        if self._pipe >= 0:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
