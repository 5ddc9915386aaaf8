"""A broker that takes no new work by an operator's word, and stays: until it is told to go on, or to stop.

Whoever asks is told that nobody serves at the moment, as when a broker stops, and waits for one that does.
"""

from __future__ import annotations

from poold.core.agenda import Agenda
from poold.core.clients.admission import Admission
from poold.core.pools.directory import Directory
from poold.core.pools.lifecycle import Lifecycle
from poold.core.state import BrokerState


class Closing:
    """Whether the broker takes work."""

    def __init__(self, agenda: Agenda, admission: Admission, directory: Directory, lifecycle: Lifecycle) -> None:
        self._agenda = agenda
        self._admission = admission
        self._directory = directory
        self._lifecycle = lifecycle
        self._has_lane = agenda.has_lane

    @property
    def is_closed(self) -> bool:
        """Whether an operator has drained the broker."""
        return self._agenda.state is BrokerState.DRAINED

    def close(self) -> None:
        """Take no new work, and refuse what waits in groups that begin nothing any more."""
        if self._agenda.state is BrokerState.RUNNING:
            self._agenda.state = BrokerState.DRAINED
            self._admission.is_open = self._agenda.has_lane = False
            self._admission.is_drained = True
            self._lifecycle.recall_all()
            for group in self._directory.every():
                self._agenda.serve(group)

    def open(self) -> None:
        """Take work again, if an operator has drained the broker."""
        if self.is_closed:
            self._agenda.state = BrokerState.RUNNING
            self._admission.is_open, self._admission.is_drained = True, False
            self._agenda.has_lane = self._has_lane
            for group in self._directory.every():
                self._agenda.serve(group)
