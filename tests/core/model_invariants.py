"""What must hold of the core whenever it has been told a fact, whatever came before."""

from __future__ import annotations

from hypothesis.stateful import RuleBasedStateMachine, invariant
from model_books import Books
from model_shell import Line, Shell

from poold.core.broker import Broker
from poold.core.lifecycle import BrokerState
from poold.core.pool import Backend
from poold.core.request import Request, Verb
from poold.core.state import BackendState as S
from poold.core.state import RequestState
from poold.core.statements import StatementState


class Invariants(RuleBasedStateMachine):
    """The invariants of ARCHITECTURE.md that concern a state. Those of effects are in `model_shell`."""

    broker: Broker
    books: Books
    shell: Shell

    @invariant()
    def a_backend_is_in_exactly_the_collection_its_state_names(self) -> None:
        found: dict[int, S] = {}
        for group in self.broker.groups.values():
            for pool in group.pools:
                for state in S:
                    for number, backend in pool.members[state].items():
                        assert number not in found
                        assert backend.state is state
                        assert backend.pool is pool
                        found[number] = state
                assert pool.size == sum(len(members) for members in pool.members)
        assert found.keys() == self.broker.backends.keys()
        assert S.CLOSED not in found.values()

    @invariant()
    def no_group_exceeds_its_size(self) -> None:
        for group in self.broker.groups.values():
            assert group.size == sum(pool.size for pool in group.pools)
            assert group.size <= group.config.max_size

    @invariant()
    def every_request_owed_is_known_and_every_known_one_is_owed(self) -> None:
        for client, owed in self.books.owed.items():
            assert owed == set(self.broker.clients[client].requests)

    @invariant()
    def nothing_waits_while_a_backend_idles(self) -> None:
        for group in self.broker.groups.values():
            assert len(group.queue) == len(list(group.queue))
            assert not (group.queue.first(group.priorities()) and group.count(S.IDLE))
            for pool in group.pools:
                assert not (pool.inquiries and pool.idle)
            assert group.errands == len(group.probes) + sum(len(pool.inquiries) for pool in group.pools)

    @invariant()
    def a_waiting_request_has_a_backend_opening_or_busy_or_an_endpoint_to_wait_for(self) -> None:
        for group in self.broker.groups.values():
            if len(group.queue):
                assert group.size or self.broker.timers.next_deadline() is not None

    @invariant()
    def the_core_and_its_servers_agree_on_each_backend(self) -> None:
        lines = {number: line for number, line in self.shell.lines.items() if not line.is_closed}
        if self.broker.state is not BrokerState.STOPPED:
            assert lines.keys() == self.broker.backends.keys()
        for backend in self.broker.backends.values():
            line = lines[backend.number]
            assert (backend.state is S.CONNECTING) is (line.session is None)
            assert bool(line.orders) is (backend.state in (S.ACTIVE, S.CANCELLING, S.RESETTING))
            assert len(backend.running) == (0 if backend.state is S.RESETTING else len(line.orders))
            assert bool(line.cancel) is (backend.state in (S.CANCELLING, S.SETTLING))
            if backend.state is S.IDLE:
                _check_idle(backend, line)
            if backend.state is S.LEASED:
                assert backend.lease is not None
            if backend.lease is not None:
                self._check_lease(backend)

    def _check_lease(self, backend: Backend) -> None:
        lease = backend.lease
        assert lease is not None
        assert lease.backend is backend
        assert lease.client.leases.get(lease.number) is lease
        assert self.broker.clients.get(lease.client.key) is lease.client

    @invariant()
    def next_deadline_is_never_later_than_the_earliest_held(self) -> None:
        deadlines = self.broker.timers._deadlines.values()
        told = self.broker.next_deadline()
        if deadlines:
            assert told is not None
            assert told <= min(deadlines)

    @invariant()
    def everything_that_waits_has_a_deadline(self) -> None:
        held = self.broker.timers._deadlines
        asked = {key.about for key in held if isinstance(key, Request) and key.verb is Verb.INQUIRY}
        for client in self.broker.clients.values():
            for request in client.requests.values():
                if request.state is RequestState.IN_DOUBT:
                    assert request in asked
                elif request.state is RequestState.WAITING and not _is_pending(request):
                    assert request in held
                    assert request.deadline is None or held[request] <= request.deadline
        for backend in self.broker.backends.values():
            if backend.state not in (S.IDLE, S.LEASED):
                assert backend in held or backend.request in held, f"{backend} could stay so for ever"

    @invariant()
    def a_statement_is_probing_only_while_a_probe_is_on_its_way(self) -> None:
        for group in self.broker.groups.values():
            coming = set(group.probes)
            requests = [each for client in self.broker.clients.values() for each in client.requests.values()]
            for backend in self.broker.backends.values():
                requests += backend.running
            for request in requests:
                if request.verb is Verb.PROBE and request.statement is not None:
                    coming.add(request.statement)
                elif request.script is not None:
                    coming.update(request.script.to_probe)
            for statement in group.statements:
                if statement.state is StatementState.PROBING and group.config.prepare == "auto":
                    assert statement in coming, f"{statement} waits for a probe that never comes"


def _check_idle(backend: Backend, line: Line) -> None:
    session = line.session
    assert session is not None
    assert session.work is None, "an idle backend is idle in PostgreSQL's sense"
    is_known = session.names.keys() <= backend.prepared._held.keys()
    assert is_known or backend.prepared._is_doubted, "what is prepared is known to be"


def _is_pending(request: Request) -> bool:
    """Whether it waits behind another statement of its lease, for which there is no limit."""
    return request.lease is not None and request in request.lease.pending
