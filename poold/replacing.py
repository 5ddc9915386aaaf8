"""`poold restart`: another process takes over the address, and this one finishes what it has begun and ends."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from enum import Enum
from time import monotonic
from typing import Any

from client.wire.arguments import unpacked_arguments
from client.wire.messages import NOT_EXECUTED, Ask, Failure, plain_failure
from poold.clients.frontend import Frontend
from poold.clients.transport import Peer
from poold.core.broker import Broker
from poold.core.sections.wanted import GROUPS, Wanted
from poold.metrics.server import MetricsServer
from poold.predecessors import Predecessors, work_of
from poold.readiness import serving_groups
from poold.service import Service
from poold.system.address_claim import OPEN_SOCKET, AddressClaim, set_mode
from poold.system.conversation import Message
from poold.system.log_file import reopen_logs
from poold.system.poller import Poller
from poold.system.succession import Estate, Succession

log = logging.getLogger(__name__)

# How often the broker that has taken over is told what is left to do here, in seconds.
REPORT_INTERVAL = 0.2
FORCE = "force"
GIVEN_UP = "it was told to stop meanwhile"
# Orders whose effect would be forgotten with this broker while a new one starts, which has read its configuration and
# opened backends by then; and those that nobody would notice here once that one has taken over.
_FORGOTTEN = frozenset(("reload", "pause", "drain", "reconnect"))
_MISSED = _FORGOTTEN | {"resume", "restart", "stop", "stop-now"}


class _State(Enum):
    SERVING = "nobody is to take over"
    STARTING = "a new broker starts"
    LEFT = "a new broker has taken over"


class Replacing:
    """The restarts of one broker process, as often as one is tried."""

    def __init__(
        self,
        command: Sequence[str],
        claim: AddressClaim,
        broker: Broker,
        frontend: Frontend,
        metrics: MetricsServer,
        service: Service,
        predecessors: Predecessors,
        poller: Poller,
        end: Callable[[bool], None],
    ) -> None:
        """command starts a broker like this one, () if none can take over; end begins this one's end, True: at once."""
        self._command = command
        self._claim = claim
        self._broker = broker
        self._frontend = frontend
        self._metrics = metrics
        self._service = service
        self._predecessors = predecessors
        self._poller = poller
        self._end = end
        self._state = _State.SERVING
        self._succession: Succession | None = None
        self._asker: tuple[Peer, int] | None = None  # who waits to hear what came of it
        self._is_forced = False
        self._reports: asyncio.TimerHandle | None = None

    def restart(self, peer: Peer, message: Ask) -> Failure | None:
        """Start the broker that is to take over. None: who asks is told later what came of it."""
        arguments = unpacked_arguments(message.arguments)
        if unknown := arguments.keys() - {FORCE}:
            why = f"restart has no {min(unknown)!r}; it has {FORCE}"
        elif not self._command:
            why = "a private PostgreSQL ends with its broker; use poold stop and poold start"
        elif self._frontend.listener < 0:
            why = "the socket of a tcp:// address cannot be handed over; stop the broker and start it again"
        elif missed := self.objection("restart"):
            why = missed
        elif self._state is not _State.SERVING or self._broker.state.name in ("DRAINING", "STOPPED"):
            why = "a restart or a stop is under way already"
        else:
            estate = Estate(
                self._frontend.listener,
                self._claim.lock,
                self._claim.is_managed,
                os.getpid(),
                metrics=self._metrics.descriptor,
                earlier=self._predecessors.conversations,
            )
            self._succession = Succession(self._poller, self._heard, self._failed)
            try:
                self._succession.begin(self._command, estate, self._service.variables)
            except OSError as error:
                why = f"no process can be started: {error.strerror}"
            else:
                self._state = _State.STARTING
                self._asker, self._is_forced = (peer, message.request), FORCE in arguments
                return None
        log.warning("restart refused pid=%d uid=%s reason=%s", peer.pid, peer.uid, why)
        return plain_failure("usage", NOT_EXECUTED, f"not restarted: {why}")

    def objection(self, what: str) -> str:
        """Return why an operator's order would get lost here, "" if it would not; what is a question of the protocol.

        Refused is what would hold only for this broker, and not for the one that takes over.
        """
        if self._state is _State.LEFT and what in _MISSED:
            assert self._succession is not None
            return f"process {self._succession.pid} has taken over from this broker meanwhile; give it the order again"
        if self._state is _State.STARTING and what in _FORGOTTEN:
            return (
                "a restart is under way, and the process that is to take over would not hear of this; wait for the end "
                f"of the restart, then: poold {what}"
            )
        return ""

    def stopping(self) -> None:
        """This broker has been told to stop: nobody takes over from it."""
        if self._state is _State.STARTING:
            assert self._succession is not None
            self._succession.give_up(GIVEN_UP)

    def close(self) -> None:
        """The loop ends. A new broker that still starts goes on by itself, with what it has got."""
        if self._state is _State.STARTING:
            self._claim.leave()
        if self._reports is not None:
            self._reports.cancel()
        if self._succession is not None:
            self._succession.close()

    def _heard(self, message: Message) -> None:
        match message["say"]:
            case "ready" if self._state is _State.STARTING:
                self._decide(message)
            case "stop" if self._state is _State.LEFT:
                log.info("stop requested by the broker that has taken over")
                self._end(True)
            case "reopen" if self._state is _State.LEFT:
                reopen_logs()

    def _decide(self, message: Message) -> None:
        """The new broker is ready: leave the address to it, unless it would serve less than this one does."""
        assert self._succession is not None
        unready: dict[str, str] = message["unready"]
        figures = self._broker.snapshot(monotonic(), wanted=Wanted((GROUPS,)))["groups"]
        lost = [f"group {name}: {unready[name]}" for name in serving_groups(figures) if name in unready]
        if lost and not self._is_forced:
            self._succession.give_up(
                "\n  ".join(
                    ["it cannot serve what this broker serves (poold restart --force takes over all the same)", *lost]
                )
            )
            return
        if not self._leave(message["mode"]):
            return  # the end of the conversation tells why
        paused = [f"{what} was {how}, and goes on" for what, how in self._broker.pausing.in_force().items()]
        self._tell(
            {
                "pid": os.getpid(),
                "successor": self._succession.pid,
                "unready": unready,
                "warnings": [*message["warnings"], *paused],
            }
        )
        self._broker.pausing.stop()  # what it waits for is the other one's
        self._end(False)
        self._report()

    def _leave(self, mode: int | None) -> bool:
        """Let go of the address, if the new broker is still there; returns whether it is.

        mode is what the socket's file is to have from here on, None to keep it.
        """
        assert self._succession is not None
        set_mode(self._claim.address, mode)
        if mode not in (None, OPEN_SOCKET):
            # Whoever has come while the file was open to everybody is not let in by its mode, but by the lists here.
            self._frontend.accept_all()
        self._service.name_main(self._succession.pid)  # ahead of what that one says
        if not self._succession.hand_over():
            self._service.name_main(os.getpid())
            set_mode(self._claim.address, self._claim.mode)
            return False
        self._state = _State.LEFT
        self._frontend.leave()
        self._metrics.leave()
        self._claim.leave()
        self._service.succeeded()
        self._predecessors.leave()
        return True

    def _report(self) -> None:
        assert self._succession is not None
        self._succession.control.say(say="left", work=work_of(self._broker))
        self._reports = asyncio.get_running_loop().call_later(REPORT_INTERVAL, self._report)

    def _failed(self, why: str) -> None:
        """The new broker does not take over."""
        self._state = _State.SERVING
        goes_on = "this broker stops" if why == GIVEN_UP else f"process {os.getpid()} goes on"
        self._tell(plain_failure("usage", NOT_EXECUTED, f"not restarted, {goes_on}: {why}"))

    def _tell(self, told: dict[str, Any] | Failure) -> None:
        if self._asker is not None:
            (peer, request), self._asker = self._asker, None
            self._frontend.tell_later(peer, request, told)
