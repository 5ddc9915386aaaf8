"""Pauses and drains: nothing begins in what is paused, until it is resumed; what is drained keeps no connection.

An order to pause takes effect at once and is answered when what runs has come to its end. If that takes too long, or
nobody is left to hear the answer, it is undone: an order that failed leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from client.wire.messages import Answer, Failure
from poold.core.agenda import Agenda
from poold.core.effects import Reply
from poold.core.operations.selection import NotPossible, Selection
from poold.core.pools.directory import Directory
from poold.core.pools.lifecycle import Lifecycle
from poold.core.pools.pool import DRAINS, OF_ENDPOINTS, OF_GROUPS, PAUSES, Pause, Pool
from poold.core.records.backend import Backend
from poold.core.records.client import Client
from poold.core.requests.observing import Observing
from poold.core.state import BackendState, RequestState
from poold.core.work import failures

# Seconds for which a pause waits if its order does not say.
PATIENCE = 30.0
# What is still at work is listed up to so many.
BUSY_SHOWN = 20

_AT_REST = (BackendState.IDLE, BackendState.CONNECTING)


@dataclass(slots=True, eq=False)
class PendingPause:
    """A pause whose order is not answered yet. Also a deadline's key."""

    client: int
    number: int
    chosen: Selection
    kind: Pause
    pools: tuple[Pool, ...]  # those that were not paused before: if it fails they go on
    began: float
    timeout: float
    is_all: bool  # it is the one that has paused all groups
    undo: Callable[[], None] | None = None  # what else is to be done if it fails

    @property
    def word(self) -> str:
        """Under which its answer says whether it was carried out."""
        return "drained" if self.kind in DRAINS else "paused"


class Pausing:
    """The steps of pauses."""

    def __init__(
        self,
        agenda: Agenda,
        directory: Directory,
        clients: Mapping[int, Client],
        lifecycle: Lifecycle,
        observing: Observing,
    ) -> None:
        self._agenda = agenda
        self._directory = directory
        self._clients = clients
        self._lifecycle = lifecycle
        self._observing = observing
        # Enter by pause, leave when answered, or with their client.
        self.pending: dict[PendingPause, None] = {}
        # What all groups have, also those that a reload adds: enter by a pause that names nothing, leave by a resume.
        self._of_all: set[Pause] = set()

    def pause(
        self,
        client: int,
        number: int,
        chosen: Selection,
        kind: Pause,
        timeout: float,
        now: float,
        undo: Callable[[], None] | None = None,
    ) -> None:
        """Begin nothing in these pools from here on; the answer comes when they rest, or at the timeout.

        If they are drained, when they have no backends any more. undo is called if it fails.
        """
        for pending in self.pending:
            if pending.kind is kind and not set(chosen.pools).isdisjoint(pending.pools):
                names = ", ".join(pending.chosen.names)
                raise NotPossible(f"{names}: another command waits for this {_noun(kind)}; wait for it, or resume")
        pools = tuple(pool for pool in chosen.pools if kind not in pool.pauses)
        for pool in pools:
            pool.pause(kind)
        self._changed(pools)
        is_all = chosen.is_all and kind not in self._of_all
        if is_all:
            self._of_all.add(kind)
        pending = PendingPause(client, number, chosen, kind, pools, now, timeout, is_all, undo)
        self.pending[pending] = None
        self._agenda.timers.set(pending, now + timeout)

    def resume(self, chosen: Selection, kinds: Iterable[Pause]) -> tuple[list[Pool], int]:
        """Let these pools go on. Pauses that wait for any of them fail, and all that they have paused goes on.

        Returns the pools that go on, and how many pauses have failed.
        """
        kinds = tuple(kinds)
        self._of_all.difference_update(kinds)
        resumed = [pool for pool in chosen.pools if not pool.pauses.isdisjoint(kinds)]
        failed = [each for each in self.pending if each.kind in kinds and not set(chosen.pools).isdisjoint(each.pools)]
        for pending in failed:
            self._fail(pending, failures.usage("another command has resumed it before it came to rest"))
        for pool in resumed:
            for kind in kinds:
                pool.resume(kind)
        self._changed(resumed)
        self._come_back(resumed)
        return [*dict.fromkeys((*resumed, *(pool for each in failed for pool in each.pools)))], len(failed)

    def joined(self, pools: Mapping[Pool, Iterable[Pool]]) -> None:
        """These pools are new, each beside others of its group: what holds for all of these holds for it as well.

        So does what holds for all that were on its endpoint before, and what holds for all groups.
        """
        for pool, others in pools.items():
            on_endpoint = [each for each in self._directory.pools_of(pool.endpoint) if each not in pools]
            for kind in PAUSES:
                like = [each for each in (on_endpoint if kind in OF_ENDPOINTS else others) if not each.left]
                if kind in self._of_all or (like and all(kind in each.pauses for each in like)):
                    self._join(pool, kind, like)

    def _join(self, pool: Pool, kind: Pause, like: Iterable[Pool]) -> None:
        pool.pause(kind)
        for pending in self.pending:
            if pending.kind is kind and (pending.is_all or not set(like).isdisjoint(pending.chosen.pools)):
                pending.chosen = pending.chosen._replace(pools=(*pending.chosen.pools, pool))
                pending.pools = (*pending.pools, pool)

    def in_force(self) -> dict[str, str]:
        """What an operator has paused or drained, in words, and which of it; pausing is what waits for rest."""
        groups = [group for group in self._directory.groups.values() if group.main is None]
        there = [pool for group in groups for pool in group.pools if not pool.left]
        found: dict[str, str] = {}
        for kind in PAUSES:
            by_name: dict[str, list[Pool]] = {}
            for pool in there:
                name = f"endpoint {pool.endpoint.name}" if kind in OF_ENDPOINTS else f"group {pool.group.name}"
                by_name.setdefault(name, []).append(pool)
            for name, pools in by_name.items():
                held = [pool for pool in pools if kind in pool.pauses]
                if held:
                    of_groups = f" of {', '.join(pool.group.name for pool in held)}" if len(held) < len(pools) else ""
                    found[f"{name}{of_groups}"] = self._word(kind, held)
        return found

    def _word(self, kind: Pause, pools: list[Pool]) -> str:
        is_pending = any(each.kind is kind and not set(pools).isdisjoint(each.pools) for each in self.pending)
        if kind in DRAINS:
            return "draining" if is_pending else "drained"
        return "pausing" if is_pending else "paused"

    def look(self, now: float) -> None:
        """Answer the orders whose pools have come to rest."""
        for pending in list(self.pending):
            pools = pending.chosen.pools
            is_left = any(pool.size for pool in pools) if pending.kind in DRAINS else any(busy(pools))
            if not is_left and not self._is_in_doubt(pending):
                self._answer(
                    pending, {pending.word: True, "waited_ms": round((now - pending.began) * 1000), "busy": []}
                )
                if pending.kind in DRAINS:
                    self._leave_endpoints(pools)

    def due(self, pending: PendingPause, now: float) -> None:
        """What runs has not come to its end in time: undo the pause, and tell what it is."""
        found = [described(backend, now) for backend in busy(pending.chosen.pools)]
        doubts = self._in_doubt(pending)
        self._undo(pending)
        told = {pending.word: False, "waited_ms": round((now - pending.began) * 1000), "busy": found[:BUSY_SHOWN]}
        self._answer(pending, {**told, "busy_not_shown": max(0, len(found) - BUSY_SHOWN), "in_doubt": doubts})

    def is_waited_for(self, client: int) -> bool:
        """Whether the client waits for an answer."""
        return any(pending.client == client for pending in self.pending)

    def withdraw(self, client: int, number: int) -> None:
        """The client withdraws the order, if it is one that is not answered."""
        for pending in list(self.pending):
            if (pending.client, pending.number) == (client, number):
                self._fail(pending, failures.withdrawn())

    def leave(self, client: int) -> None:
        """The client is gone: undo what it waits for."""
        for pending in list(self.pending):
            if pending.client == client:
                self._undo(pending)

    def stop(self) -> None:
        """The broker stops."""
        for pending in list(self.pending):
            self._fail(pending, failures.draining())

    def _answer(self, pending: PendingPause, told: dict[str, Any]) -> None:
        self._forget(pending)
        about = {"groups": pending.chosen.names, "endpoint": pending.chosen.endpoint or None}
        self._agenda.effects.append(Reply(pending.client, Answer(pending.number, {**about, **told})))

    def _fail(self, pending: PendingPause, failure: Failure) -> None:
        self._undo(pending)
        self._agenda.effects.append(Reply(pending.client, failure._replace(request=pending.number)))

    def _undo(self, pending: PendingPause) -> None:
        self._forget(pending)
        if pending.is_all:
            self._of_all.discard(pending.kind)
        for pool in pending.pools:
            pool.resume(pending.kind)
        self._changed(pending.pools)
        self._come_back(pending.pools)
        if pending.undo is not None:
            pending.undo()

    def _leave_endpoints(self, pools: Iterable[Pool]) -> None:
        """Have no connection left to endpoints on which all pools are drained, not even to ask what they are."""
        for endpoint in dict.fromkeys(pool.endpoint for pool in pools):
            if all(pool.is_drained for pool in self._directory.pools_of(endpoint)):
                self._observing.rest(endpoint)

    def _come_back(self, pools: Iterable[Pool]) -> None:
        """Ask what the endpoints are that may be used again."""
        for endpoint in dict.fromkeys(pool.endpoint for pool in pools if not pool.is_drained):
            self._observing.wake(endpoint)

    def _forget(self, pending: PendingPause) -> None:
        self.pending.pop(pending, None)
        self._agenda.timers.clear(pending)

    def _changed(self, pools: Iterable[Pool]) -> None:
        """The pools are paused, or go on: recall what is lent, deal out sizes again, and look at who waits."""
        for group in dict.fromkeys(pool.group for pool in pools):
            self._lifecycle.endpoint_changed(group)
            self._agenda.serve(group)

    def _is_in_doubt(self, pending: PendingPause) -> bool:
        return self._in_doubt(pending) > 0

    def _in_doubt(self, pending: PendingPause) -> int:
        """How many requests of the groups wait to hear what became of their COMMIT. O(requests)."""
        groups = {pool.group for pool in pending.chosen.pools}
        return sum(
            not request.is_in_lane and request.state is RequestState.IN_DOUBT and request.group in groups
            for client in self._clients.values()
            for request in client.requests.values()
        )


def _noun(kind: Pause) -> str:
    return "drain" if kind in DRAINS else "pause"


def kind_of(chosen: Selection, is_drain: bool = False) -> Pause:
    """What is paused, or drained: groups, or an endpoint."""
    return (OF_ENDPOINTS if chosen.endpoint else OF_GROUPS)[is_drain]


def kinds_to_resume(chosen: Selection, is_everything: bool) -> tuple[Pause, ...]:
    """Which pauses and drains end; is_everything: nothing was named, so all do."""
    return PAUSES if is_everything else OF_ENDPOINTS if chosen.endpoint else OF_GROUPS


def busy(pools: Iterable[Pool]) -> Iterator[Backend]:
    """The backends that have not come to rest: they run something, are leased, or are the lane's."""
    for pool in pools:
        for state in BackendState:
            if state not in _AT_REST:
                yield from pool.members[state].values()


def described(backend: Backend, now: float) -> dict[str, Any]:
    """What keeps the backend busy, as plain values."""
    lease, request = backend.lease, backend.request
    if lease is not None:
        what, client, since = ("session" if lease.is_session else "transaction"), lease.client, lease.began
    elif request is not None:
        what, client, since = "request", request.client, request.started
    elif backend.flights:
        what, client, since = "request", backend.flights[0].client, backend.flights[0].began
    else:
        what, client, since = backend.state.name.lower(), None, now
    return {
        "group": backend.group.shown_name,
        "endpoint": backend.pool.endpoint.name,
        "what": what,
        "client": client.key if client is not None else None,
        "pid": client.pid if client is not None else None,
        "age_ms": round((now - since) * 1000),
    }
