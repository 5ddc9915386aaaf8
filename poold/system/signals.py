"""Signals that do not end the broker: what is done about them, or that they are ignored.

By default nearly every signal ends a process, and all clients would lose what runs because somebody mistook the broker
for a program that does something useful on SIGUSR2. SIGHUP also comes from a terminal that is closed. So all of them
have handlers from the start on, before there is a loop. A handler only takes note: Python runs it between any two
instructions, in the middle of another log line too.

Left alone are SIGKILL and those that tell of a crash (SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV): for these faulthandler
says where it was. SIGPIPE and SIGXFSZ are ignored by Python itself. Ignored is not SIG_IGN, which children would
inherit, as PostgreSQL.

Python has all handlers run on the signal stack that faulthandler makes, and lets each be interrupted by all others. So
signals that come at once, or have waited while the process was stopped, need room for all of them there; faulthandler's
own stack has enough for five or for twenty, as the processor has more or fewer registers to save.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping

from poold.system.early_signals import harmless, let_through
from poold.system.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

# What whoever reads the log should know of one that means something.
_MEANINGS = {
    "SIGXCPU": "the soft limit of processor time is reached (LimitCPU= in systemd); at the hard one it is killed"
}

# Bytes of stack for each signal, more than any processor's registers need; what is not used takes no memory.
_STACK_PER_SIGNAL = 64 * 1024


class _Stack(ctypes.Structure):
    """A signal stack as Linux's `sigaltstack` knows it."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


class Signals:
    """The harmless signals of this process: kept from the moment of `catch`, handled as soon as there is a loop."""

    def __init__(self) -> None:
        # Enter in a handler, leave when they have been handled, in the loop.
        self._come: deque[int] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answers: Mapping[int, Callable[[], None]] = {}
        self._log = RateLimitedLog(log)

    def catch(self) -> None:
        """From now on none of them ends the process; those that were held back come. For the main thread.

        A crash, and a hang that a watchdog ends, are reported to stderr.
        """
        faulthandler.enable()
        _make_room()  # after that, which puts a stack of its own in place
        for number in harmless():
            signal.signal(number, self._caught)
        let_through()

    def attach(self, loop: asyncio.AbstractEventLoop, answers: Mapping[int, Callable[[], None]]) -> None:
        """Handle them in the loop, also those that have come; what is not in answers is logged and ignored."""
        self._answers = answers
        self._loop = loop
        loop.call_soon(self._handle)

    def detach(self) -> None:
        """The loop ends. Signals that come are ignored."""
        self._loop = None

    def _caught(self, number: int, _: object) -> None:
        self._come.append(number)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._handle)

    def _handle(self) -> None:
        while self._come:
            number = self._come.popleft()
            answer = self._answers.get(number)
            if answer is None:
                name = name_of(number)
                if name in _MEANINGS:
                    self._log.warning("signal ignored name=%s meaning=%s", name, _MEANINGS[name])
                else:
                    self._log.warning("signal ignored name=%s", name)
            else:
                log.info("signal received name=%s", name_of(number))
                answer()


def _make_room() -> None:
    """Give this thread a signal stack on which handlers of all signals can interrupt each other; raises OSError.

    Elsewhere than on Linux there are no real-time signals, and faulthandler's stack has room for the others.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    size = _STACK_PER_SIGNAL * len(signal.valid_signals())
    # Never freed: a signal may come as long as there is a process.
    stack = _Stack(libc.malloc(size), 0, size)
    if stack.start is None or libc.sigaltstack(ctypes.byref(stack), None):
        raise OSError(ctypes.get_errno(), f"no stack for signals: {os.strerror(ctypes.get_errno())}")


def name_of(number: int) -> str:
    """Return a signal's name, as SIGHUP or SIGRTMIN+3."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else f"signal {number}"


# The process has one set of signals.
SIGNALS = Signals()
