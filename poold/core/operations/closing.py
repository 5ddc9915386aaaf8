"""A broker that takes no new work: because it is to stop, or by an operator's word, and then until it is told to go on.

What has begun is finished, a transaction message that lost a race is tried again, and open transactions and sessions
that have their backend go on. Whatever else waits is refused at once, wherever it waits: its client is told that nobody
serves it here, and goes to a broker that does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from poold.core.agenda import Agenda
from poold.core.clients.admission import Admission
from poold.core.effects import Note
from poold.core.operations.pausing import described
from poold.core.pools.directory import Directory
from poold.core.pools.lifecycle import Lifecycle
from poold.core.records.backend import Backend
from poold.core.records.client import Client
from poold.core.records.request import Verb
from poold.core.requests.waiting import Waiting
from poold.core.state import BrokerState, RequestState
from poold.core.work import failures

# So many of those that are cut off are named in the log.
NAMED = 50
# The states in which a request waits that belongs to nothing that has begun.
_WAITS = (RequestState.QUEUED, RequestState.HELD, RequestState.PAUSED)


class Closing:
    """Whether the broker takes work."""

    def __init__(
        self,
        agenda: Agenda,
        admission: Admission,
        directory: Directory,
        clients: Mapping[int, Client],
        lifecycle: Lifecycle,
        waiting: Waiting,
    ) -> None:
        self._agenda = agenda
        self._admission = admission
        self._directory = directory
        self._clients = clients
        self._lifecycle = lifecycle
        self._waiting = waiting
        self._has_lane = agenda.has_lane

    @property
    def is_closed(self) -> bool:
        """Whether an operator has drained the broker."""
        return self._agenda.state is BrokerState.DRAINED

    @property
    def is_ending(self) -> bool:
        """Whether the broker is to stop."""
        return self._agenda.state in (BrokerState.DRAINING, BrokerState.STOPPED)

    def end(self) -> bool:
        """Take no work any more, as the broker is to stop. Returns whether that is news."""
        if self._agenda.state not in (BrokerState.RUNNING, BrokerState.DRAINED):
            return False
        self._admission.is_drained = False
        self._take_none(BrokerState.DRAINING)
        return True

    def close(self) -> None:
        """Take no new work, until `open`."""
        if self._agenda.state is BrokerState.RUNNING:
            self._admission.is_drained = True
            self._take_none(BrokerState.DRAINED)

    def open(self) -> None:
        """Take work again, if an operator has drained the broker."""
        if self.is_closed:
            self._agenda.state = BrokerState.RUNNING
            self._admission.is_open, self._admission.is_drained = True, False
            self._agenda.has_lane = self._has_lane
            for group in self._directory.every():
                self._agenda.serve(group)

    def _take_none(self, state: BrokerState) -> None:
        """Refuse what waits and what comes. O(requests)."""
        self._agenda.state = state
        self._admission.is_open = self._agenda.has_lane = False
        self._lifecycle.recall_all()
        for client in self._clients.values():
            for request in list(client.requests.values()):
                # What the lane has becomes the core's first; a position is told whether the broker takes work or not.
                if request.is_in_lane or request.was_begun or request.verb is Verb.POSITION:
                    continue
                if request.state in _WAITS:
                    self._waiting.discard(request, failures.not_served(state))
        for group in self._directory.every():
            self._agenda.serve(group)


def cut_off(backends: Iterable[Backend], why: str, now: float) -> list[Note]:
    """Return what the log says of those who are about to be cut off on these backends: what runs, and what is open."""
    found = [each for each in backends if each.lease is not None or each.running or each.flights]
    notes = [Note("cut off", True, {**described(each, now), "reason": why}) for each in found[:NAMED]]
    if found[NAMED:]:
        notes.append(Note("cut off more", True, {"count": len(found) - NAMED, "reason": why}))
    return notes
