"""Signals that come before a broker has handlers wait for these, instead of ending it.

A signal mask outlives exec, so whoever starts a broker holds them back ahead of that, and there is no moment in which
they would end it. A broker that a user or a service manager starts holds them back by itself, before it imports what
takes most of the time of a start; so this module imports next to nothing. A signal that is held back is not lost, as an
ignored one would be.

Ctrl-C meanwhile ends the process as any other one, without a traceback: imports have nothing to clean up, and some of
them take an exception in their midst for another one, or for none.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# Those of them that this system has, as a Mac knows no SIGPWR; and all real-time signals.
_NAMES = (
    "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSTKFLT", "SIGTRAP",
    "SIGSYS", "SIGXCPU",
)  # fmt: skip


def harmless() -> list[int]:
    """Return the signals that must not end the broker, though by default they would."""
    named = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]
    real_time = range(signal.SIGRTMIN, signal.SIGRTMAX + 1) if hasattr(signal, "SIGRTMIN") else ()
    return [*named, *real_time]


def hold_back() -> None:
    """Let the harmless signals wait until `let_through`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, harmless())


def let_through() -> None:
    """Let those come that were held back, and all later ones."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, harmless())


@contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """SIGINT ends the process meanwhile, if it is not ignored, and raises nothing."""
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def held_back_for_child() -> Iterator[None]:
    """A process that is started meanwhile has them held back from its beginning; here they come right after that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, harmless())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
