"""The broker as a service: what it tells the service manager about itself, and its answers to signals.

The watchdog is told from the loop, and only after a whole turn: a broker that hangs, in whatever place, stops to do so,
and the service manager ends it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from poold.core.broker import Broker
from poold.core.pools.availability import AvailabilityState
from poold.core.state import BrokerState
from poold.system.log_file import reopen_logs
from poold.system.sd_notify import ServiceManager
from poold.system.signals import SIGNALS

# How often the status line is made; it is sent if it has changed.
STATUS_INTERVAL = 2.0
# Turns within the time after which the broker would be ended, as systemd's manual has it.
TURNS_PER_PATIENCE = 2
# Seconds beyond drain_timeout that an end may take.
LAST_STEPS = 10.0
# Characters of the reason why a group has no backend.
LONGEST_REASON = 200


class Service:
    """One broker process, as whoever runs it sees it."""

    def __init__(
        self, broker: Broker, turn: Callable[[], None], reload: Callable[[], None], reopened: Callable[[], None]
    ) -> None:
        """turn is the broker's whole turn; reload begins to read the configuration again.

        reopened is called behind a signal to open the log again.
        """
        self._broker = broker
        self._turn = turn
        self._reload = reload
        self._reopened = reopened
        self._manager = ServiceManager(os.environ)
        self._loop: asyncio.AbstractEventLoop
        self._is_stopping = False
        self._reloads = 0  # that are under way; the log's is one
        self._status = ""  # the one that was told; from READY=1 on there is one
        # The next ones of `_watch` and `_tell_status`.
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer signals from here on."""
        self._loop = loop
        SIGNALS.attach(loop, {signal.SIGHUP: self._reload_all, signal.SIGUSR1: self._reopen})

    def ready(self) -> None:
        """Clients may connect."""
        self._status = status(self._broker)
        self._manager.tell(READY=1, STATUS=self._status)
        if self._manager.is_there:
            self._later(STATUS_INTERVAL, self._tell_status)
        if self._manager.patience is not None:
            self._watch()

    @property
    def variables(self) -> dict[str, str]:
        """What a process that takes over needs in its environment to tell the service manager in its turn."""
        return self._manager.variables

    def name_main(self, pid: int) -> None:
        """Say which process the service is from here on; systemd may listen to nobody else."""
        self._manager.tell(MAINPID=pid, READY=1)

    def succeeded(self) -> None:
        """Another process is the broker: say nothing more."""
        self._stop_telling()

    def stopping(self, seconds: float) -> None:
        """The broker ends, within so many seconds."""
        self._is_stopping = True
        self._manager.tell(
            STOPPING=1, STATUS=status(self._broker), EXTEND_TIMEOUT_USEC=round((seconds + LAST_STEPS) * 1e6)
        )

    def end(self) -> None:
        """The loop ends."""
        SIGNALS.detach()
        self._stop_telling()

    def reload(self, is_begun: bool) -> None:
        """A reload of the configuration begins, or is over."""
        self._reloads += 1 if is_begun else -1
        if not self._status or self._is_stopping:
            return  # before READY=1 there is none to be taken back, and behind STOPPING=1 none is true
        if is_begun and self._reloads == 1:
            self._manager.reloading()
        elif not self._reloads:
            self._manager.tell(READY=1)

    def _stop_telling(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._manager.close()

    def _reload_all(self) -> None:
        self.reload(is_begun=True)
        self._reopen()
        self._reload()
        self.reload(is_begun=False)

    def _reopen(self) -> None:
        reopen_logs()
        self._reopened()

    def _watch(self) -> None:
        self._turn()
        self._manager.tell(WATCHDOG=1)
        assert self._manager.patience is not None
        self._later(self._manager.patience / TURNS_PER_PATIENCE, self._watch)

    def _tell_status(self) -> None:
        text = status(self._broker)
        if text != self._status:
            self._status = text
            self._manager.tell(STATUS=text)
        self._later(STATUS_INTERVAL, self._tell_status)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._timers[what] = self._loop.call_later(seconds, what)


def status(broker: Broker) -> str:
    """Return the broker's state in one line."""
    pools = [pool for group in broker.groups.values() for pool in group.pools]
    waiting = sum(len(group.queue) for group in broker.groups.values())
    groups = [group for group in broker.groups.values() if group.main is None]
    paused = [group.name for group in groups if group.is_paused]
    is_paused = broker.state is BrokerState.RUNNING and len(paused) == len(groups)
    words = [
        "paused" if is_paused else broker.state.name.lower(),
        f"groups: {len(groups)}" + (f", paused: {' '.join(paused)}" if paused and not is_paused else ""),
        f"backends: {sum(pool.open for pool in pools)}, at work: {sum(pool.busy for pool in pools)}",
        f"waiting: {waiting}",
        f"clients: {len(broker.clients)}",
    ]
    for pool in pools:
        if pool.is_serving and not pool.open and pool.availability.state is not AvailabilityState.AVAILABLE:
            reason = " ".join(pool.availability.error.split())[:LONGEST_REASON]
            words.append(f"group {pool.group.name} has no backend on {pool.endpoint.name}: {reason}")
    return ", ".join(words)
