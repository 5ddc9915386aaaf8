"""A server process that is started for a run and ends with it, whatever becomes of its owner."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0
POLL_INTERVAL = 0.01
LOG_LINES = 12
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class ServiceError(RuntimeError):
    """The server did not start, or ended too early; the text has the end of its log."""


class Service:
    """One process. Its output goes to a file, which the errors quote."""

    def __init__(self, name: str, command: Sequence[str], log: Path, identity: Mapping[str, Any]) -> None:
        """identity is what Popen wants to start it as another user; {} for the owner's own."""
        self._name = name
        self._command = command
        self._log = log
        self._identity = identity
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, after start."""
        assert self._process is not None
        return self._process.pid

    def start(self, is_ready: Callable[[], bool]) -> None:
        """Start it and wait until is_ready says that it can be used; ServiceError where that does not come."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is the owner's, who stops everything in order.
                start_new_session=True,
                preexec_fn=_end_with_owner(),
                **self._identity,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise ServiceError(f"{self._name} is not ready after {START_TIMEOUT:g} s. {self.last_words()}")
            time.sleep(POLL_INTERVAL)

    def check(self) -> None:
        """ServiceError if the process has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise ServiceError(f"{self._name} ended with status {self._process.returncode}. {self.last_words()}")

    def stop(self) -> int | None:
        """SIGTERM, after STOP_TIMEOUT SIGKILL; the exit status, None where it was never started."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def last_words(self) -> str:
        """The end of the log, for people."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n  ".join(["Its last words:", *(text.splitlines()[-LOG_LINES:] or ["(none)"])])


def _end_with_owner() -> Callable[[], None] | None:
    """What the child does before it becomes the program: ask for SIGTERM when its owner is gone, even by SIGKILL.

    Popen calls it after the change of user, which would undo the request. The function is looked up before the fork:
    after it hardly anything is safe.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong]
    terminate, owner = int(signal.SIGTERM), os.getpid()

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, terminate)
        if os.getppid() != owner:  # gone before the request: no signal will come
            os._exit(1)

    return in_child
