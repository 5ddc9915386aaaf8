"""`poold restart`: another process takes over the address, and this one finishes what it has begun and ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from client.wire.messages import NOT_EXECUTED, Failure, plain_failure
from poold.clients.frontend import Frontend
from poold.core.broker import Broker
from poold.metrics.server import MetricsServer
from poold.service import Service
from poold.system.address_claim import AddressClaim
from poold.system.succession import Estate, Succession


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
        drain: Callable[[], None],
    ) -> None:
        """command starts a broker like this one, () if none can take over; drain begins this one's end."""
        self._succession = Succession(command, self._succeeded) if command else None
        self._claim = claim
        self._broker = broker
        self._frontend = frontend
        self._metrics = metrics
        self._service = service
        self._drain = drain

    def restart(self) -> dict[str, Any] | Failure:
        """Start the broker that is to take over."""
        if self._succession is None:
            why = "a private PostgreSQL ends with its broker; use poold stop and poold start"
        elif self._frontend.listener < 0:
            why = "the socket of a tcp:// address cannot be handed over; stop the broker and start it again"
        elif self._succession.is_under_way or self._broker.state.name in ("DRAINING", "STOPPED"):
            why = "a restart or a stop is under way already"
        else:
            listener, metrics = self._frontend.listener, self._metrics.descriptor
            estate = Estate(listener, self._claim.lock, self._claim.is_managed, metrics)
            try:
                return {"pid": os.getpid(), "successor": self._succession.begin(estate)}
            except OSError as error:
                why = f"no process can be started: {error.strerror}"
        return plain_failure("usage", NOT_EXECUTED, f"not restarted: {why}")

    def close(self) -> None:
        """The loop ends."""
        if self._succession is not None:
            self._succession.close()

    def _succeeded(self, pid: int) -> None:
        """The new broker serves: let go of the address, finish what was begun, and end."""
        self._frontend.leave()
        self._metrics.leave()
        self._claim.leave()
        self._service.succeeded(pid)
        self._drain()
