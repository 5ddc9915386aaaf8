"""Operators' orders, and what they promise; held against what the core does afterwards.

1.  Behind `reconnect` no backend that was there is given anything new: only what ran there goes on, and what belongs to
    a lease that has it. It is closed as soon as it rests, and never with anything on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from poold.core import effects
from poold.core.broker import Broker
from poold.core.pools.pool import Pool
from poold.core.records.backend import Backend
from poold.core.state import BackendState as S

if TYPE_CHECKING:
    from model.books import Job
    from model.lines import Line
    from model.shell import Shell


class Orders:
    """What operators have asked for."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._broker: Broker = shell.broker
        # Of backends that are to be closed: the requests that ran there when that was said.
        self.dismissed: dict[int, set[int]] = {}

    def reconnect(self, pools: Iterable[Pool]) -> None:
        """All backends of these pools are about to be dismissed."""
        for pool in pools:
            for backend in pool:
                self.dismissed.setdefault(backend.number, _running(backend))

    # What the core decides.

    def given(self, line: Line, job: Job | None) -> None:
        """The core gives something to the line; job is None if it is a question of its own, or a reset."""
        if job is None or line.number not in self.dismissed:
            return
        is_its_own = job.lease is not None and job.lease.line == line.number
        assert is_its_own or job.number in self.dismissed[line.number], f"{job} is given to {line.number}, dismissed"

    def given_by_lane(self, backend: Backend) -> None:
        """The lane gives something to the backend; it may do so until it hears of the order."""
        if backend.number in self.dismissed:
            assert self._is_recall_on_its_way(backend), f"the lane goes on with {backend}, dismissed"

    def closes(self, line: Line, reason: str) -> None:
        """The core closes a backend."""
        if reason == "reconnect":
            assert line.number in self.dismissed, f"{line.number} is closed, and was not dismissed"
            assert not line.orders, f"{line.number} is closed with what it runs"
            leases = [lease for client in self._broker.clients.values() for lease in client.leases.values()]
            held = [lease.backend.number for lease in leases if lease.backend is not None]
            assert line.number not in held, f"{line.number} is closed in a lease"

    # What must hold.

    def check_backend(self, backend: Backend) -> None:
        """A backend that is dismissed does not rest."""
        if backend.number not in self.dismissed:
            return
        assert backend.state is not S.IDLE, f"{backend} is dismissed, and rests"
        assert backend.state is not S.LENT or backend.is_recalled, f"{backend} is dismissed, and lent for longer"

    def _is_recall_on_its_way(self, backend: Backend) -> bool:
        todo = (*self._shell.todo, *self._broker.agenda.effects)
        return any(type(each) is effects.Recall and each.backend == backend.number for each in todo)


def _running(backend: Backend) -> set[int]:
    return {each.number for each in (*backend.running, *backend.flights)}
