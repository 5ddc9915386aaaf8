"""The start of a broker that takes over from another one: when it is ready, and not before, it serves the address."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from poold.clients.frontend import Frontend
from poold.metrics.server import MetricsServer
from poold.predecessors import Predecessors
from poold.system.address_claim import AddressClaim
from poold.system.conversation import Conversation
from poold.system.log_file import reopen_moved_logs
from poold.system.poller import Poller
from poold.system.succession import Inheritance

log = logging.getLogger(__name__)


class NotTakenOver(RuntimeError):
    """The broker before this one goes on, or has stopped; the text says why this one ends."""


class Inheriting:
    """What is done with an inheritance. Without one the address is this broker's from the beginning."""

    def __init__(
        self,
        inheritance: Inheritance | None,
        claim: AddressClaim,
        frontend: Frontend,
        metrics: MetricsServer,
        predecessors: Predecessors,
        poller: Poller,
        stopped: asyncio.Future[None],
    ) -> None:
        """stopped is done when this broker is to end; it is NotTakenOver that the one before it wants that."""
        self._inheritance = inheritance
        self._claim = claim
        self._frontend = frontend
        self._metrics = metrics
        self._predecessors = predecessors
        self._poller = poller
        self._stopped = stopped
        self._taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_decided = False  # whether the address is this broker's, or never will be

    def begin(self) -> None:
        """Serve from here on, or from the moment on when the broker before this one leaves the address."""
        if self._inheritance is None:
            self._take()
        else:
            self._poller.add_reader(self._inheritance.control.descriptor, self._hear)
            self._hear()

    async def take_over(self, unready: Mapping[str, str]) -> None:
        """Say that this broker is ready, but for these groups, and wait for the address."""
        if self._inheritance is not None and not self._is_decided:
            exposure = self._claim.exposure()
            self._inheritance.control.say(
                say="ready", unready=unready, mode=self._claim.mode, warnings=[exposure] if exposure else []
            )
            await asyncio.wait([self._taken, self._stopped], return_when=asyncio.FIRST_COMPLETED)

    def close(self) -> None:
        """The loop ends."""
        if self._inheritance is not None and not self._is_decided:
            self._leave_control()

    def _hear(self) -> None:
        assert self._inheritance is not None
        control, pid = self._inheritance.control, self._inheritance.estate.pid
        for message in control.hear():
            if message["say"] == "go":
                self._inherit(self._inheritance)
                return
            if message["say"] == "give up":
                self._leave_control()
                if not self._stopped.done():
                    why = f"not taken over from process {pid}: {message['why']}"
                    self._stopped.set_exception(NotTakenOver(why))
                return
        if control.is_over:
            log.warning(
                "the broker before this one has ended without leaving the address, this one goes on pid=%d", pid
            )
            self._inherit(self._inheritance)

    def _inherit(self, inheritance: Inheritance) -> None:
        """The broker before this one has left."""
        self._leave_control()
        self._predecessors.add(inheritance.estate.pid, inheritance.control)
        for pid, descriptor in inheritance.estate.earlier:
            self._predecessors.add(pid, Conversation(descriptor))
        self._take()
        # While this one started, whoever has moved the log has told the broker that had the address.
        reopen_moved_logs()

    def _leave_control(self) -> None:
        assert self._inheritance is not None
        self._is_decided = True
        self._poller.remove_reader(self._inheritance.control.descriptor)

    def _take(self) -> None:
        """Serve."""
        self._claim.own()
        self._frontend.begin()
        self._metrics.start()
        self._taken.set_result(None)
