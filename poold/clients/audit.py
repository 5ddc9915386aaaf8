"""The log of operators' orders: who gave which one, about what, and what came of it, at once or later."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from client.wire.arguments import unpacked_arguments
from client.wire.messages import Answer, Ask, Failure
from poold.clients.transport import Peer

log = logging.getLogger(__name__)

# So many of the clients that were ended, or of those that kept a pause from coming to rest, are named.
NAMED = 10


class Audit:
    """One line for each order that is answered at once; for one that waits a line more when it is over."""

    def __init__(self, pid_of: Callable[[int], int]) -> None:
        """pid_of returns the process of the client with this key, 0 if it is gone."""
        self._pid_of = pid_of
        # Orders that are not answered yet, by client and request: enter by `given`, leave by `answered` and `gone`.
        self.open: dict[tuple[int, int], tuple[Peer, Ask]] = {}

    def held(self, peer: Peer, message: Ask) -> None:
        """Log an order that is not given to the core before brokers that this one has replaced are ready for it."""
        self.open[peer.key, message.request] = peer, message
        log.info(
            "order held what=%s on=%s pid=%d uid=%s result=%s",
            *_order(peer, message),
            "it waits for brokers before this one",
        )

    def given(self, peer: Peer, message: Ask, answer: Answer | Failure | None) -> None:
        """Log an order that was given to the core, which has answered it or will do so later (None)."""
        if answer is None:
            self.open[peer.key, message.request] = peer, message
            log.info(
                "order begun what=%s on=%s pid=%d uid=%s result=%s", *_order(peer, message), "it waits for what runs"
            )
        else:
            self.open.pop((peer.key, message.request), None)  # one that was held until here
            self._over(peer, message, answer)

    def answered(self, key: int, body: Answer | Failure) -> None:
        """Log the end of an order that waited, if that is what was answered."""
        found = self.open.pop((key, body.request), None)
        if found is not None:
            self._over(*found, body)

    def gone(self, peer: Peer) -> None:
        """Log what a client that is gone still waited for: that is undone."""
        for where in [each for each in self.open if each[0] == peer.key]:
            result = "its command has ended before it came to rest"
            log.info("order undone what=%s on=%s pid=%d uid=%s result=%s", *_order(*self.open.pop(where)), result)

    def _over(self, peer: Peer, message: Ask, answer: Answer | Failure) -> None:
        order = _order(peer, message)
        if isinstance(answer, Failure):
            log.info("order refused what=%s on=%s pid=%d uid=%s result=%s", *order, answer.message)
        elif answer.body.get("paused", answer.body.get("drained", True)):
            log.info(
                "order done what=%s on=%s pid=%d uid=%s result=%s", *order, self._result(message.what, answer.body)
            )
        else:
            log.info("order undone what=%s on=%s pid=%d uid=%s result=%s", *order, _busy(answer.body))

    def _result(self, what: str, body: dict[str, Any]) -> str:
        """What the order has done, in words."""
        if what == "kill":
            named = [f"{key} (pid {self._pid_of(key)})" for key in body["clients"][:NAMED]]
            more = len(body["clients"]) - len(named)
            return f"ended, of client {', '.join(named)}{f' and {more} more' if more else ''}"
        if what == "resume":
            undone = f"; {body['undone']} that waited failed" if body["undone"] else ""
            return (
                f"goes on: {', '.join(body['groups'])}{undone}"
                if body["groups"]
                else f"nothing of it was paused{undone}"
            )
        if what == "reconnect":
            return f"{body['closed']} backends closed, {body['closing']} to follow"
        return f"at rest after {body['waited_ms']} ms"


def _order(peer: Peer, message: Ask) -> tuple[str, str, int, int | None]:
    """What the order is, what it is about, and whose it is."""
    return message.what, _target(message), peer.pid, peer.uid


def _target(message: Ask) -> str:
    """What the order is about, as its command says it."""
    found = unpacked_arguments(message.arguments)
    named = [f"{name}={value}" for name, values in found.items() if name != "timeout" for value in values]
    return " ".join(named) or "everything"


def _busy(body: dict[str, Any]) -> str:
    """What has kept a pause or drain from coming to rest."""
    found = [f"{each['what']} of pid {each['pid'] or 0} in {each['group']}" for each in body["busy"][:NAMED]]
    more = len(body["busy"]) + body["busy_not_shown"] - len(found)
    found += [f"{more} more"] if more else []
    found += [f"{body['in_doubt']} in doubt about a COMMIT"] if body["in_doubt"] else []
    found += [f"process {each['pid']}, which this one has replaced" for each in body.get("predecessors", ())]
    return f"not at rest after {body['waited_ms']} ms: {', '.join(found)}"
