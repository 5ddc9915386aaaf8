"""Operators' orders, and what they promise; held against what the core does afterwards.

1.  Behind `reconnect` no backend that was there is given anything new: only what ran there goes on, and what belongs to
    a lease that has it. It is closed as soon as it rests, and never with anything on it.
2.  In what is paused or drained nothing begins: only what ran there goes on, what belongs to a lease that is open
    there, and the broker's questions about these. Neither the core nor the lane begins anything, and none is lent.
3.  An order to pause is answered as soon as nothing runs there, no cancel is on its way, no lease is open, and nobody
    is in doubt about a COMMIT; at its timeout with what is still busy. If it fails, or nobody waits for the answer any
    more, what it has paused goes on, and what was paused before stays so.
    A drain is answered when no connection is left, and there is none from then on.
4.  What is killed gets its one reply, and true; who is killed is disconnected, and nobody else is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from client.wire.messages import Answer, Failure
from poold.core import effects
from poold.core.broker import Broker
from poold.core.operations.reconfiguring import ENDPOINT_REMOVED, GROUP_REMOVED
from poold.core.pools.group import Group
from poold.core.pools.pool import DRAINS, OF_GROUPS, Pause, Pool
from poold.core.records.backend import Backend
from poold.core.records.request import Request, Verb
from poold.core.state import BackendState as S
from poold.core.state import BrokerState, RequestState

if TYPE_CHECKING:
    from model.books import Job
    from model.lines import Line
    from model.shell import Shell


REMOVED = (GROUP_REMOVED, ENDPOINT_REMOVED)
# What the broker asks about what has begun.
_QUESTIONS = (Verb.INQUIRY, Verb.QUESTION, Verb.LOCKS)


@dataclass(eq=False)
class _Pending:
    """An order to pause that is not answered."""

    client: int
    number: int
    pools: tuple[Pool, ...]
    kind: Pause
    new: tuple[Pool, ...]  # what was not paused before
    is_all: bool  # it has paused all groups, also those that a reload adds
    due: float


class Orders:
    """What operators have asked for."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._broker: Broker = shell.broker
        # Of backends that are to be closed: the requests that ran there when that was said.
        self.dismissed: dict[int, set[int]] = {}
        # What is paused, and why; and of each backend there what ran when that began, and has not ended since.
        self.paused: dict[Pool, set[Pause]] = {}
        self._begun: dict[int, set[int]] = {}
        self._of_all: set[Pause] = set()  # what groups have that are added
        self._asked: set[Request] = set()  # questions of the broker's that had begun, or waited
        self.killed: set[int] = set()  # clients that are to be disconnected
        self.pending: list[_Pending] = []
        self.operators: set[int] = set()  # who has waited for an answer
        # Pools that a reload has taken from their groups, and when: nothing begins there, as in those that are paused.
        self.left: dict[Pool, float] = {}
        # What is drained, and was said to have no connection left.
        self.emptied: set[Pool] = set()

    @property
    def _patience(self) -> float:
        return self._broker.config.broker.drain_timeout

    @property
    def _now(self) -> float:
        return self._shell.world.now

    def reconnect(self, pools: Iterable[Pool]) -> None:
        """All backends of these pools are about to be dismissed."""
        for pool in pools:
            for backend in pool:
                self.dismissed.setdefault(backend.number, _running(backend))

    def pause(self, client: int, number: int, pools: Iterable[Pool], kind: Pause, timeout: float, is_all: bool) -> None:
        """These pools are about to be paused; is_all: as nothing was named."""
        pools, is_all = tuple(pools), is_all and kind not in self._of_all
        self._of_all.update([kind] if is_all else [])
        new = tuple(pool for pool in pools if kind not in self.paused.get(pool, ()))
        for pool in new:
            self._begins_nothing(pool)
            self.paused.setdefault(pool, set()).add(kind)
        self.operators.add(client)
        self.pending.append(_Pending(client, number, pools, kind, new, is_all, self._now + timeout))

    def _begins_nothing(self, pool: Pool) -> None:
        """From here on, if that was not so before."""
        if not self.paused.get(pool) and pool not in self.left:
            self._asked.update(pool.questions)
            for backend in pool:
                self._begun[backend.number] = _running(backend)
                self._asked.update(backend.running)

    def leave(self, pools: Iterable[Pool]) -> None:
        """A reload is about to take these pools from their groups, and to give back others that it had taken."""
        pools = set(pools)
        for pool in pools:
            self._begins_nothing(pool)
        self.left = {pool: self.left.get(pool, self._now) for pool in pools}

    def joined(self, pools: Iterable[Pool]) -> None:
        """A reload has given these pools to groups: they are paused as their groups, and as their endpoints, are."""
        new, every = set(pools), [pool for group in self._broker.directory.every() for pool in group.pools]
        for pool in pools:
            beside = [each for each in every if each.group in (pool.group, pool.group.main) and each not in new]
            there = [each for each in every if each.endpoint is pool.endpoint and each not in new and not each.left]
            # Of a group that is new itself the one for reads on replicas has nothing to go by.
            of_group = [each for each in beside if not each.left]
            for kind in Pause:
                others = of_group if kind in OF_GROUPS else there
                if kind in self._of_all or (others and all(kind in self.paused.get(each, ()) for each in others)):
                    self.paused.setdefault(pool, set()).add(kind)
                    for pending in self.pending:
                        is_its = pending.is_all or not set(others).isdisjoint(pending.pools)
                        if pending.kind is kind and is_its:
                            pending.pools = (*pending.pools, pool)
                            pending.new = (*pending.new, pool)

    def resume(self, pools: Iterable[Pool], kinds: Iterable[Pause]) -> None:
        """These pools are about to go on; orders that wait for one of them fail."""
        pools, kinds = set(pools), tuple(kinds)
        self._of_all.difference_update(kinds)
        for pending in self.pending:
            if pending.kind in kinds and not pools.isdisjoint(pending.new):
                pools_then = pending.new
                self._go_on(pools_then, (pending.kind,))
        self._go_on(pools, kinds)

    def gone(self, client: int) -> None:
        """Who gave orders is about to be gone: nobody hears the answers."""
        for pending in [each for each in self.pending if each.client == client]:
            self.pending.remove(pending)
            self._undo(pending)

    def dropped(self, client: int) -> None:
        """The core disconnects an operator: for silence, which is none while it waits for an answer."""
        assert not any(each.client == client for each in self.pending), f"operator {client} is dropped, and waits"

    def answered(self, client: int, body: Any) -> None:
        """The core answers an order that it has not answered at once."""
        pending = next(each for each in self.pending if (each.client, each.number) == (client, body.request))
        self.pending.remove(pending)
        if type(body) is Answer and body.body["drained" if pending.kind in DRAINS else "paused"]:
            assert self.is_at_rest(pending.pools, pending.kind), f"{pending} is answered too early"
            if pending.kind in DRAINS:
                left = [each.number for each in self._shell.lines.values() if each.pool in pending.pools]
                assert all(self._shell.lines[number].is_closed for number in left), f"{left} are left of {pending}"
                self.emptied.update(pending.pools)
            return
        if type(body) is Answer:
            assert self._now >= pending.due, f"{pending} is given up too early"
            assert body.body["busy"] or body.body["in_doubt"], "a pause fails for nothing"
        else:
            assert type(body) is Failure
            assert body.outcome == "not executed"
        self._undo(pending)

    def _undo(self, pending: _Pending) -> None:
        self._of_all.difference_update([pending.kind] if pending.is_all else [])
        self._go_on(pending.new, (pending.kind,))

    def _go_on(self, pools: Iterable[Pool], kinds: Iterable[Pause]) -> None:
        for pool in pools:
            self.paused.get(pool, set()).difference_update(kinds)
            if DRAINS.isdisjoint(self.paused.get(pool, ())):
                self.emptied.discard(pool)

    def is_at_rest(self, pools: Iterable[Pool], kind: Pause) -> bool:
        """Whether nothing runs in these pools, no lease is open there, and nobody of their groups is in doubt.

        If they are drained, whether there is no backend.
        """
        pools = tuple(pools)
        if kind in DRAINS and any(pool.size for pool in pools):
            return False
        for pool in pools:
            for backend in pool:
                line = self._shell.lines[backend.number]
                if line.orders or line.cancel or backend.lease is not None or backend.state is S.LENT:
                    return False
        groups = {pool.group for pool in pools}
        requests = [each for client in self._broker.clients.values() for each in client.requests.values()]
        return not any(
            not each.is_in_lane and each.state is RequestState.IN_DOUBT and each.group in groups for each in requests
        )

    # What the core decides.

    def fact(self) -> None:
        """The core is about to be told something: what has ended in a paused pool has ended."""
        for pool in {*(pool for pool, kinds in self.paused.items() if kinds), *self.left}:
            for backend in pool:
                if backend.number in self._begun:
                    self._begun[backend.number] &= _running(backend)

    def given(self, line: Line, job: Job | None) -> None:
        """The core gives something to the line; job is None if it is a question of its own, or a reset."""
        backend = self._broker.backends.get(line.number)
        if backend is not None and (self.paused.get(backend.pool) or backend.pool in self.left):
            self._check_begun(backend, line, job)
        if job is None or line.number not in self.dismissed:
            return
        is_its_own = job.lease is not None and job.lease.line == line.number
        assert is_its_own or job.number in self.dismissed[line.number], f"{job} is given to {line.number}, dismissed"

    def given_by_lane(self, backend: Backend, number: int) -> None:
        """The lane gives something to the backend; it may do so until it hears of the order."""
        if backend.number in self.dismissed or self.paused.get(backend.pool) or backend.pool in self.left:
            assert self._is_recall_on_its_way(backend), f"the lane goes on with {backend}, dismissed or paused"
            # What it has begun goes on in the core if there is a surprise.
            self._begun.setdefault(backend.number, set()).add(number)
            if backend.number in self.dismissed:
                self.dismissed[backend.number].add(number)

    def closes(self, line: Line, reason: str) -> None:
        """The core closes a backend."""
        if reason == "reconnect":
            assert line.number in self.dismissed, f"{line.number} is closed, and was not dismissed"
        is_early = line.pool in self.left and self._now < self.left[line.pool] + self._patience  # type: ignore[index]  # None is not in it
        if reason in ("reconnect", "max_size", "it is drained") or (is_early and reason in REMOVED):
            assert not line.orders, f"{line.number} is closed with what it runs"
            leases = [lease for client in self._broker.clients.values() for lease in client.leases.values()]
            held = [lease.backend.number for lease in leases if lease.backend is not None]
            assert line.number not in held, f"{line.number} is closed in a lease"

    def _check_begun(self, backend: Backend, line: Line, job: Job | None) -> None:
        """What is given to a backend of a paused pool has begun before."""
        if job is None:
            request = backend.running[-1] if backend.running else None
            is_known = request is None or request.verb in _QUESTIONS or request in self._asked
            assert is_known or (request is not None and request.verb < Verb.PROBE), f"{request} begins in a pause"
            return
        is_its_own = job.lease is not None and job.lease.line == line.number
        assert is_its_own or job.number in self._begun.get(line.number, ()), f"{job} begins in a pause"

    # What must hold.

    def check_group(self, group: Group) -> None:
        """Paused is what was said to be, and what is paused is not lent; orders are answered in time."""
        for pool in group.pools:
            assert not (pool in self.emptied and pool.size), f"{pool.endpoint.name} of {group.name} is drained"
            assert pool.pauses == self.paused.get(pool, set()), f"{pool.endpoint.name} of {group.name} is {pool.pauses}"
            assert pool.is_paused is bool(pool.pauses)
            for backend in pool.lent.values() if pool.is_paused or pool.left else ():
                assert backend.is_recalled, f"{backend} is paused, or not its group's, and lent for longer"
            assert not (pool.left and (pool.idle or pool.connecting)), f"{pool.endpoint.name} of {group.name} has left"
        if self._broker.state is not BrokerState.STOPPED:
            for pending in self.pending:
                assert not self.is_at_rest(pending.pools, pending.kind), f"{pending} is not answered"
                next_time = self._broker.next_deadline()
                assert next_time is not None
                assert next_time <= pending.due, f"{pending} may wait for ever"

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
