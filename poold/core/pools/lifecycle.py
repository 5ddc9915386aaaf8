"""A backend's life between requests: opened, reset, closed; and what follows when an endpoint's state changes."""

from __future__ import annotations

import itertools

from client.wire.messages import TX_NONE
from poold.core.agenda import Agenda
from poold.core.effects import Close, Connect, Execute, Recall, Unit
from poold.core.facts import Completion, Server
from poold.core.pools import janitor
from poold.core.pools.availability import Availability, AvailabilityState
from poold.core.pools.endpoint import Role
from poold.core.pools.group import Group
from poold.core.pools.pool import Pool
from poold.core.records.backend import Backend
from poold.core.state import BackendState
from poold.core.statements import leftovers
from poold.core.statements.leftovers import NOTHING
from poold.core.work.references import only_cell
from poold.core.work.units import ROLLBACK

RESET_TIMEOUT = 5.0


class Lifecycle:
    """All backends, and the steps of their lives that belong to no request."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        # Backends in all states but CLOSED: enter by open, leave by remove.
        self.backends: dict[int, Backend] = {}
        self._numbers = itertools.count(1)

    def open(self, pool: Pool, now: float) -> None:
        """Begin a connect."""
        backend = Backend(next(self._numbers), pool)
        backend.since = now
        self.backends[backend.number] = backend
        pool.add(backend)
        self._agenda.timers.set(backend, now + pool.endpoint.connect_timeout)
        self._agenda.effects.append(
            Connect(backend.number, pool.group.configured, pool.endpoint.name, is_read_only=pool.group.main is not None)
        )

    def opened(self, backend: Backend, server: Server | None, now: float) -> None:
        """The backend is connected and ready."""
        pool, group = backend.pool, backend.group
        pool.stats.opened += 1
        pool.stats.connect_times.record(now - backend.since)
        backend.since = now
        backend.server = server or backend.server
        self._agenda.timers.clear(backend)
        backend.expires = self._expires(group, now)
        if pool.availability.opened():
            self.endpoint_changed(group)
        is_standby = backend.server.is_standby
        if group.has_roles and is_standby is not None and is_standby is not (pool.endpoint.role is Role.REPLICA):
            self._agenda.doubted[pool.endpoint] = is_standby
        self._agenda.resting.append(backend)
        self._agenda.grow(group)

    def connect_failed(self, backend: Backend, error: str, now: float) -> None:
        """The backend could not be opened: leave its endpoint alone for a while."""
        pool = backend.pool
        pool.stats.failed += 1
        self.remove(backend)
        self._agenda.doubt(pool)
        if pool.availability.failed(error, now, self._agenda.chance(), is_beside=pool.open > 0):
            self._agenda.timers.set(pool, pool.availability.until)
            self.endpoint_changed(pool.group)
        else:
            self._agenda.grow(pool.group)  # there may be room for one elsewhere

    def endpoint_changed(self, group: Group) -> None:
        """An endpoint became worth connecting to, or ceased to be: distribute the group's sizes again."""
        group.respread()
        for pool in group.pools:
            for lent in pool.lent.values():
                self.recall(lent)
            if not pool.is_serving or pool.is_evaded:
                for idle in list(pool.idle.values()):
                    self.close(idle, pool.why_unused if not pool.is_serving else pool.why_evaded)
            if pool.is_drained and not pool.inquiries:
                for opening in list(pool.connecting.values()):
                    self.close(opening, pool.why_evaded)
        for backend, reason in janitor.surplus(group):
            self.close(backend, reason)
        self._agenda.grow(group)

    def leave(self, pool: Pool, why: str) -> None:
        """The pool is not its group's any more, for this reason: its backends end as they rest."""
        pool.left = why
        pool.is_serving = False
        pool.group.respread()
        self._agenda.timers.clear(pool)
        pool.questions.clear()
        for backend in list(pool):
            if backend.state in (BackendState.IDLE, BackendState.CONNECTING):
                self.close(backend, why)
            elif backend.state is BackendState.LENT:
                self.recall(backend)

    def come_back(self, pool: Pool) -> None:
        """The pool that has left, and is not over, is its group's again."""
        pool.left = ""
        pool.is_serving = not pool.group.has_roles
        pool.watch.is_asking, pool.watch.looked = False, None
        self.try_again(pool)

    def shrink(self, group: Group) -> None:
        """Close what the group has beyond its max_size and nobody uses; the rest follows as it rests."""
        for state in (BackendState.CONNECTING, BackendState.IDLE):
            for pool in group.pools:
                for backend in list(pool.members[state].values()):
                    if group.size > group.config.max_size:
                        self.close(backend, "max_size")

    def try_again(self, pool: Pool) -> None:
        """Connect as if nothing had failed: what the connects failed for may be different."""
        self._agenda.timers.clear(pool)
        pool.availability = Availability()

    def shorten(self, group: Group, now: float) -> None:
        """Let no backend of the group live longer than its max_lifetime from now on."""
        for backend in [each for pool in group.pools for each in pool]:
            expires = self._expires(group, now)
            is_sooner = expires is not None and (backend.expires is None or expires < backend.expires)
            if is_sooner or (expires is None and not backend.is_outdated):
                backend.expires = expires

    def _expires(self, group: Group, now: float) -> float | None:
        """When a backend that was opened now would be too old."""
        lifetime = group.config.max_lifetime
        return now + lifetime * (1 - janitor.LIFETIME_JITTER * self._agenda.chance()) if lifetime else None

    def recall(self, backend: Backend, at_once: bool = False) -> None:
        """Have the lane give the backend back, at once or when it rests; do nothing if it is to do so already."""
        if at_once or not backend.is_recalled:
            backend.is_recalled = True
            self._agenda.effects.append(Recall(backend.number, at_once))

    def recall_all(self) -> None:
        """Have the lane give back all backends at once."""
        for backend in self.backends.values():
            if backend.state is BackendState.LENT:
                self.recall(backend, at_once=True)

    def retire(self, group: Group, now: float) -> None:
        """Close the group's idle backends that are too old or not needed, and have those back that are lent."""
        janitor.mark_outdated(group, now)
        for pool in group.pools:
            for backend in pool.lent.values():
                if backend.is_outdated:
                    self.recall(backend)
        for backend, reason in janitor.retirements(group, now):
            self.close(backend, reason)
        self._agenda.grow(group)

    def reconnect(self, pool: Pool) -> None:
        """Close all backends that the pool has, each as soon as it rests; others are opened as needed."""
        for backend in list(pool):
            backend.is_dismissed = True
            pool.outdate(backend)
            if backend.state is BackendState.IDLE:
                self.close(backend, "reconnect")
            elif backend.state is BackendState.LENT:
                self.recall(backend)
        self._agenda.grow(pool.group)

    def close(self, backend: Backend, reason: str) -> None:
        """Close a backend that nobody uses."""
        backend.pool.stats.closed += 1
        self.remove(backend)
        self._agenda.effects.append(Close(backend.number, reason))
        self._agenda.grow(backend.group)

    def remove(self, backend: Backend) -> None:
        """Take the backend out of all collections: it is gone, or being closed."""
        self._agenda.timers.clear(backend)
        del self.backends[backend.number]
        backend.pool.move(backend, BackendState.CLOSED)
        if backend.pool.availability.state is not AvailabilityState.AVAILABLE or backend.pool.is_evaded:
            backend.group.respread()  # the cap of an endpoint that is away counts its backends

    def reset(self, backend: Backend, now: float) -> None:
        """Roll back the open transaction, and take away what was left in the session; if that cannot be done, close."""
        in_transaction = backend.transaction != TX_NONE
        units: tuple[Unit, ...] = (ROLLBACK,)
        if backend.left is not NOTHING:
            units = leftovers.reset(backend.left, in_transaction, 2 * self._agenda.chance() - 1)
        if not units or (backend.state is BackendState.RESETTING and in_transaction):
            self.close(backend, "what was left in its session cannot be reset")
            return
        backend.pool.move(backend, BackendState.RESETTING)
        self._agenda.timers.set(backend, now + RESET_TIMEOUT)
        backend.resets = len(units)
        for unit in units:
            self._agenda.effects.append(Execute(backend.number, unit))

    def reset_ended(self, backend: Backend, done: Completion) -> None:
        """A unit of the reset has ended. If the reset did not take everything away the backend is closed."""
        backend.transaction = done.transaction
        backend.resets -= 1
        if done.failure is not None or (done.is_changed and backend.left is not NOTHING):
            self.close(backend, "its reset failed")
            return
        if backend.resets:
            return
        if backend.left is leftovers.NAMES:
            backend.prepared.clear()
        elif backend.left is not NOTHING and backend.transaction == TX_NONE:
            held = only_cell(done.results[-1].rows or b"")
            if held != leftovers.names_held(backend.server, len(backend.prepared)):
                self._drop_names(backend)
                return
        if backend.left is not NOTHING:
            backend.used_sequences = False
        backend.left = NOTHING
        self._agenda.resting.append(backend)

    def _drop_names(self, backend: Backend) -> None:
        """Drop all prepared statements, as some are not the broker's.

        If the group's own functions have made some, these cannot be told from the clients': the backend is closed.
        """
        if backend.server.names:
            self.close(backend, "its prepared statements are not what they were")
            return
        backend.left, backend.resets = leftovers.NAMES, 1
        self._agenda.effects.append(Execute(backend.number, leftovers.DEALLOCATE_ALL))
