"""What the broker says of itself: the answer to `poold stats`."""

from __future__ import annotations

import os
import resource
from time import monotonic
from typing import Any

from client.compiled import describe
from poold import __version__
from poold.clients.frontend import Frontend
from poold.clients.transport import Peer
from poold.config.model import BrokerConfig
from poold.core.broker import Broker
from poold.core.clients import access


class Answers:
    """Answers questions about the broker."""

    def __init__(self, config: BrokerConfig, broker: Broker, frontend: Frontend, lane: Any, why_no_lane: str) -> None:
        """lane is the compiled Lane, None without one; why_no_lane says why."""
        self._config = config
        self._broker = broker
        self._frontend = frontend
        self._lane = lane
        self._why_no_lane = why_no_lane
        self._started = monotonic()

    def stats(self, peer: Peer) -> dict[str, Any]:
        """Return the figures of the process, and the core's as far as this client may see them."""
        if self._lane is not None:
            self._lane.fold()
        reader = None if access.is_admin(peer.caller(), self._config.admin_uids) else peer.key
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "pid": os.getpid(),
            "version": __version__,
            "lane": self._lane_in_words(),
            "address": self._frontend.address,
            "uptime_s": round(monotonic() - self._started, 1),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
            "max_memory_kb": usage.ru_maxrss,
            "protocol_violations": self._frontend.violations,
            "dropped_replies": self._frontend.dropped,
            **self._broker.snapshot(monotonic(), reader),
        }

    def _lane_in_words(self) -> dict[str, Any]:
        return {"state": self._why_no_lane} if self._lane is None else {"state": describe(), **self._lane.counts}
