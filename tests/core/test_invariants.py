"""A hypothesis state machine drives the core through any order of facts and checks its invariants after each.

PostgreSQL is modelled as far as the core can see it: each backend has a transaction state of its own, so a backend that
the pool calls idle is checked against what its server would say.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from world import OK, World, failure

from client.protocol import TX_ACTIVE, TX_BROKEN, TX_FAILED, TX_NONE, Commit, Failure, Rollback
from poold.core import effects
from poold.core.machine import BrokerState, Completion
from poold.core.pool import Backend
from poold.core.state import BackendState as S
from poold.core.state import RequestState

CLIENTS = range(1, 5)


class Machine(RuleBasedStateMachine):
    """Clients, PostgreSQL and time, as the rules of a game against the core."""

    @initialize(
        endpoints=st.integers(1, 3),
        max_size=st.integers(1, 4),
        min_size=st.integers(0, 2),
        max_waiting=st.sampled_from((0, 2, 50)),
        timeouts=st.booleans(),
    )
    def begin(self, endpoints: int, max_size: int, min_size: int, max_waiting: int, timeouts: bool) -> None:
        self.world = World(
            [f"e{number}" for number in range(endpoints)],
            max_size=max_size,
            min_size=min(min_size, max_size),
            max_waiting=max_waiting,
            queue_timeout=5.0,
            max_idle=20.0,
            max_lifetime=60.0 if timeouts else 0.0,
            idle_in_transaction_timeout=7.0 if timeouts else 0.0,
            lease_timeout=15.0 if timeouts else 0.0,
            drain_timeout=10.0,
        )
        self.broker = self.world.broker
        # Requests sent and not yet answered, by client; every number ever answered.
        self.owed: dict[int, set[int]] = {}
        self.answered: set[tuple[int, int]] = set()
        # What each server would say: its transaction state, whether it runs a statement, cancels on their way.
        self.servers: dict[int, str] = {}
        self.executing: dict[int, bytes] = {}
        self.cancelling: set[int] = set()
        self.leases: dict[int, int] = {}  # by client, the number it would use
        self.last_lease = 0
        self.carry_out()

    # What the shell does.

    def carry_out(self) -> None:
        """Take the effects and check that each is possible."""
        for effect in self.world.take():
            match effect:
                case effects.Connect():
                    assert effect.backend not in self.servers
                case effects.Execute() | effects.Reset():
                    number = effect.backend
                    assert number in self.servers, "only an open backend runs anything"
                    assert number not in self.executing, "one statement at a time"
                    assert number not in self.cancelling, "a cancel on its way would hit the next statement"
                    if isinstance(effect, effects.Execute):
                        if effect.begin:
                            assert self.servers[number] == TX_NONE, "BEGIN inside a transaction"
                            self.servers[number] = TX_ACTIVE
                        self.executing[number] = effect.statement
                    else:
                        self.executing[number] = b"ROLLBACK"
                case effects.Cancel():
                    assert effect.backend in self.executing, "nothing to cancel"
                    self.cancelling.add(effect.backend)
                case effects.Close():
                    self.forget(effect.backend)
                case effects.Reply():
                    key = (effect.client, effect.request)
                    assert key not in self.answered, "answered twice"
                    if effect.client in self.owed:
                        assert effect.request in self.owed[effect.client], "a reply nobody asked for"
                        self.owed[effect.client].discard(effect.request)
                    self.answered.add(key)
                    if isinstance(effect.body, Failure):
                        assert effect.body.transaction != TX_BROKEN

    def forget(self, number: int) -> None:
        self.servers.pop(number, None)
        self.executing.pop(number, None)
        self.cancelling.discard(number)

    def connecting(self) -> list[int]:
        return [b.number for b in self.broker.backends.values() if b.state is S.CONNECTING]

    # What clients do.

    @rule(client=st.sampled_from(CLIENTS))
    def arrive(self, client: int) -> None:
        if client not in self.owed:
            self.world.client(client)
            self.owed[client] = set()
            # A new client: numbers of requests go on, so replies to the old one would be noticed.
            self.leases.pop(client, None)

    @rule(client=st.sampled_from(CLIENTS), timeout=st.sampled_from((None, 1.0, 3.0)))
    def query(self, client: int, timeout: float | None) -> None:
        if client in self.owed:
            self.sent(client, self.world.query(client, timeout=timeout))

    @rule(client=st.sampled_from(CLIENTS), timeout=st.sampled_from((None, 2.0)), again=st.booleans())
    def query_in_lease(self, client: int, timeout: float | None, again: bool) -> None:
        if client not in self.owed:
            return
        begin = client not in self.leases or not again
        if begin:
            self.last_lease += 1
            self.leases[client] = self.last_lease
        self.sent(client, self.world.query(client, "tx", self.leases[client], begin, timeout=timeout))

    @rule(client=st.sampled_from(CLIENTS), verb=st.sampled_from((Commit, Rollback)))
    def end(self, client: int, verb: type[Commit] | type[Rollback]) -> None:
        if client in self.owed and client in self.leases:
            self.sent(client, self.world.end(verb, self.leases[client], client))

    def sent(self, client: int, request: int) -> None:
        self.owed[client].add(request)
        self.carry_out()

    @rule(client=st.sampled_from(CLIENTS), data=st.data())
    def cancel(self, client: int, data: st.DataObject) -> None:
        if self.owed.get(client):
            self.broker.cancel(client, data.draw(st.sampled_from(sorted(self.owed[client]))), self.world.now)
            self.carry_out()

    @rule(client=st.sampled_from(CLIENTS))
    def die(self, client: int) -> None:
        if client in self.owed:
            del self.owed[client]
            self.broker.client_gone(client, self.world.now)
            self.carry_out()

    # What PostgreSQL and the network do.

    @precondition(lambda self: self.connecting())
    @rule(data=st.data(), succeeds=st.sampled_from((True, True, True, False)))
    def connected(self, data: st.DataObject, succeeds: bool) -> None:
        number = data.draw(st.sampled_from(self.connecting()))
        if succeeds:
            self.servers[number] = TX_NONE
            self.broker.opened(number, self.world.now)
        else:
            self.broker.connect_failed(number, "refused", self.world.now)
        self.carry_out()

    @precondition(lambda self: self.executing)
    @rule(data=st.data(), ending=st.sampled_from(("ok", "ok", "ok", "error", "ends transaction", "opens", "broken")))
    def completed(self, data: st.DataObject, ending: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.executing)))
        statement = self.executing.pop(number)
        before = self.servers[number]
        command, reply = "SELECT 1", OK
        if statement in (b"COMMIT", b"ROLLBACK"):
            command = "ROLLBACK" if before == TX_FAILED else statement.decode()
            after = TX_NONE
        elif ending == "error":
            after = TX_NONE if before == TX_NONE else TX_FAILED
            reply = failure(transaction=after)
        elif ending == "broken":
            after = TX_BROKEN
        elif ending == "ends transaction":
            after = TX_NONE
        elif ending == "opens":
            after = TX_ACTIVE
        else:
            after = before
        self.servers[number] = after
        self.broker.completed(number, Completion(after, command, reply), self.world.now)
        self.carry_out()

    @precondition(lambda self: self.cancelling)
    @rule(data=st.data())
    def cancelled(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.cancelling)))
        self.cancelling.discard(number)
        self.broker.cancelled(number, self.world.now)
        self.carry_out()

    @precondition(lambda self: self.servers)
    @rule(data=st.data())
    def lost(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.servers)))
        self.forget(number)
        self.broker.lost(number, "reset", self.world.now)
        self.carry_out()

    @rule(number=st.integers(-3, 200), fact=st.sampled_from(("opened", "failed", "completed", "cancelled", "lost")))
    def late_fact(self, number: int, fact: str) -> None:
        """Facts about backends that are gone, or never were, change nothing."""
        if number in self.broker.backends:
            return
        match fact:
            case "opened":
                self.broker.opened(number, self.world.now)
            case "failed":
                self.broker.connect_failed(number, "late", self.world.now)
            case "completed":
                self.broker.completed(number, Completion(TX_NONE, "", OK), self.world.now)
            case "cancelled":
                self.broker.cancelled(number, self.world.now)
            case "lost":
                self.broker.lost(number, "late", self.world.now)
        assert self.world.take() == []

    @rule(seconds=st.sampled_from((0.01, 0.2, 1.0, 4.0, 11.0)))
    def time_passes(self, seconds: float) -> None:
        end = self.world.now + seconds
        while (deadline := self.broker.next_deadline()) is not None and deadline <= end:
            self.world.now = max(self.world.now, deadline)
            self.broker.tick(self.world.now)
            self.carry_out()
        self.world.now = end

    @rule(really=st.sampled_from((False, False, False, False, True)))
    def drain(self, really: bool) -> None:
        if really:
            self.broker.drain(self.world.now)
            self.carry_out()

    # What must always hold.

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
        for client, owed in self.owed.items():
            assert owed == set(self.broker.clients[client].requests)

    @invariant()
    def no_request_waits_while_a_backend_idles(self) -> None:
        for group in self.broker.groups.values():
            assert not (len(group.queue) and group.count(S.IDLE))

    @invariant()
    def a_waiting_request_has_a_backend_opening_or_busy_or_an_endpoint_to_wait_for(self) -> None:
        for group in self.broker.groups.values():
            if len(group.queue):
                assert group.size or self.broker.timers.next_deadline() is not None

    @invariant()
    def an_idle_backend_is_idle_in_postgresqls_sense(self) -> None:
        for backend in self.broker.backends.values():
            if backend.state is S.IDLE:
                assert self.servers[backend.number] == TX_NONE
            assert (backend.state is S.CONNECTING) is (backend.number not in self.servers)

    @invariant()
    def states_and_what_hangs_on_a_backend_agree(self) -> None:
        for backend in self.broker.backends.values():
            runs_request = backend.state in (S.ACTIVE, S.CANCELLING)
            assert (backend.request is not None) is runs_request
            assert (backend.number in self.executing) is (runs_request or backend.state is S.RESETTING)
            assert (backend.number in self.cancelling) is (backend.state in (S.CANCELLING, S.SETTLING))
            if backend.state is S.LEASED:
                assert backend.lease is not None
            if backend.lease is not None:
                self.check_lease(backend)

    def check_lease(self, backend: Backend) -> None:
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
        for client in self.broker.clients.values():
            for request in client.requests.values():
                in_queue = request.state is RequestState.WAITING and not (request.lease and request.lease.backend)
                if in_queue and not (request.lease and request in request.lease.pending):
                    assert request in held
        for backend in self.broker.backends.values():
            if backend.state in (S.CONNECTING, S.CANCELLING, S.SETTLING, S.RESETTING):
                assert backend in held, f"{backend} could stay so for ever"

    def teardown(self) -> None:
        """In the end every accepted request gets its one reply, or its client is gone."""
        if not hasattr(self, "broker"):
            return
        self.broker.stop(self.world.now)
        self.carry_out()
        assert all(not owed for owed in self.owed.values())
        assert self.broker.backends == {}
        assert self.broker.state is BrokerState.STOPPED


TestInvariants = Machine.TestCase
TestInvariants.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=False,
    print_blob=True,
)
