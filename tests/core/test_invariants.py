"""A hypothesis state machine drives the core through any order of facts and checks its invariants after each.

PostgreSQL is modelled as far as the core can see it (`model_postgres`), the shell with all the liberties that it has
(`model_shell`), and every reply is held against what the model's servers have committed (`model_books`).
"""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model_books import PLACES, Books, Job, Lease
from model_postgres import ENDINGS, INT4, Fate
from model_shell import Line, Shell
from world import World

from client.protocol import TX_NONE, Commit, Reference, Rollback, Step, Transaction, split_steps
from client.rules import END_SAVEPOINT, SAVEPOINT
from poold.core import statements
from poold.core.facts import Completion
from poold.core.lifecycle import BrokerState
from poold.core.pool import Backend
from poold.core.request import Request, Verb
from poold.core.state import BackendState as S
from poold.core.state import RequestState
from poold.core.statements import StatementState

CLIENTS = 4
TEMPLATES = (
    b"UPDATE a SET x = y WHERE id = \0 RETURNING id",
    b"SELECT id FROM b WHERE id = \0",
    b"SELECT id FROM c WHERE id = \0",
)
# Statements that change their session.
CONTROLS = (b"BEGIN /* \0 */", b"DISCARD ALL /* \0 */", b"DEALLOCATE ALL /* \0 */")
LEASE_CONTROLS = (b"COMMIT /* \0 */", b"ROLLBACK /* \0 */", b"DEALLOCATE ALL /* \0 */")
NULL = b"\xff\xff\xff\xff"

# What the shell does after a fact: all there is to do; nothing; it takes effects and keeps them; it goes half-way.
SHELL = st.sampled_from(("all", "all", "all", "nothing", "takes", "half"))
FATES = st.builds(Fate, st.sampled_from(("ok",) * 12 + ENDINGS), st.integers(0, 7))
TIMEOUTS = st.sampled_from((None, None, 1.0, 3.0))
STEPS = st.lists(
    st.sampled_from((0, 0, 1, 1, 2, "one row", "reference", "reference", "savepoint", "end", "forget")),
    min_size=1,
    max_size=7,
)


def packed(value: int) -> bytes:
    text = b"%d" % value
    return len(text).to_bytes(4, "big") + text


class Machine(RuleBasedStateMachine):
    """Clients, PostgreSQL and time, as the rules of a game against the core."""

    @initialize(
        endpoints=st.integers(1, 2),
        max_size=st.integers(1, 3),
        min_size=st.integers(0, 2),
        max_waiting=st.sampled_from((0, 2, 50)),
        timeouts=st.booleans(),
        depth=st.integers(1, 4),
        prepare=st.sampled_from(("auto", "auto", "auto", "off")),
        read_only=st.sampled_from((False, False, False, True)),
        kept=st.sampled_from((statements.PREPARED_KEPT, 4)),
        primed=st.integers(0, 3),
    )
    def begin(
        self,
        endpoints: int,
        max_size: int,
        min_size: int,
        max_waiting: int,
        timeouts: bool,
        depth: int,
        prepare: str,
        read_only: bool,
        kept: int,
        primed: int,
    ) -> None:
        self.kept, statements.PREPARED_KEPT = statements.PREPARED_KEPT, kept
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
            pipeline_depth=depth,
            prepare=prepare,
            read_only=read_only,
            start=False,
        )
        self.broker = self.world.broker
        self.books = Books()
        self.shell = Shell(self.world, self.books)
        self.is_read_only = read_only
        self.last_client = 0
        self.leases: dict[int, Lease] = {}  # by client, the one it would use
        self.shell.fact(self.broker.start, self.world.now)
        self.prime(TEMPLATES[:primed])

    def prime(self, templates: tuple[bytes, ...]) -> None:
        """Run statements until they are prepared, and known to be short."""
        self.arrive("all")
        for template in templates:
            for _ in range(statements.PROBE_AFTER + statements.TRUSTED_AFTER):
                self.send_query(1, template, True, None)
                self.shell.turn()
                while self.shell.opening() or self.shell.busy():
                    for number in self.shell.opening():
                        self.shell.opened(number)
                    self.world.now += 0.001
                    for number in self.shell.busy():
                        self.shell.completed(number, Fate())
                    self.shell.turn()

    def act(self, shell: str) -> None:
        """The shell's turn, or as much of it as it comes to."""
        match shell:
            case "all":
                self.shell.turn()
            case "takes":
                self.shell.take()
            case "half":
                self.shell.take()
                self.shell.carry_out(1 + len(self.shell.todo) // 2)

    # What clients do.

    @precondition(lambda self: len(self.books.owed) < CLIENTS)
    @rule(shell=SHELL)
    def arrive(self, shell: str) -> None:
        self.last_client += 1
        self.books.owed[self.last_client] = set()
        self.world.client(self.last_client)
        self.shell.observe()
        self.act(shell)

    @precondition(lambda self: self.books.owed)
    @rule(
        data=st.data(),
        statement=st.sampled_from((*TEMPLATES, *TEMPLATES)),
        prepare=st.sampled_from((True, True, True, True, False)),
        timeout=TIMEOUTS,
        count=st.integers(1, 3),
        shell=SHELL,
    )
    def query(
        self, data: st.DataObject, statement: bytes, prepare: bool, timeout: float | None, count: int, shell: str
    ) -> None:
        for _ in range(count):
            self.send_query(self.some_client(data), statement, prepare, timeout)
        self.act(shell)

    @precondition(lambda self: self.books.owed)
    @rule(data=st.data(), statement=st.sampled_from(CONTROLS), shell=SHELL)
    def control(self, data: st.DataObject, statement: bytes, shell: str) -> None:
        self.send_query(self.some_client(data), statement, True, None)
        self.act(shell)

    def some_client(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.books.owed)))

    def send_query(
        self,
        client: int,
        statement: bytes,
        prepare: bool,
        timeout: float | None,
        lease: Lease | None = None,
        begin: bool = False,
    ) -> None:
        job = self.job(client, "query" if lease is None else "in lease", lease)
        job.is_control = statement.startswith((b"BEGIN", b"COMMIT", b"ROLLBACK"))
        job.is_repeatable = self.is_read_only and lease is None
        more: dict[str, Any] = {} if lease is None else {"group": "tx", "lease": lease.number, "begin": begin}
        more |= {"statement": statement, "types": INT4, "values": packed(job.number * PLACES)}
        self.world.query(client, prepare=prepare, timeout=timeout, **more)
        self.shell.observe()

    def job(self, client: int, kind: str, lease: Lease | None = None, **more: Any) -> Job:
        job = Job(self.world._last_request + 1, client, kind, lease, **more)
        self.books.add(job)
        return job

    @precondition(lambda self: self.books.owed)
    @rule(
        data=st.data(),
        statement=st.sampled_from((*TEMPLATES, *TEMPLATES, *LEASE_CONTROLS)),
        timeout=TIMEOUTS,
        again=st.sampled_from((True, True, False)),
        shell=SHELL,
    )
    def query_in_lease(
        self, data: st.DataObject, statement: bytes, timeout: float | None, again: bool, shell: str
    ) -> None:
        client = self.some_client(data)
        lease, begin = self.leases.get(client), False
        if lease is None or not again:
            number = 1 + (lease.number if lease is not None else 0)
            lease, begin = Lease(client, number), True
            self.leases[client] = self.books.leases[client, number] = lease
        lease.is_odd = lease.is_odd or statement in LEASE_CONTROLS[:2]
        self.send_query(client, statement, True, timeout, lease, begin)
        self.act(shell)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), verb=st.sampled_from((Commit, Commit, Rollback)), shell=SHELL)
    def end(self, data: st.DataObject, verb: type[Commit] | type[Rollback], shell: str) -> None:
        client = data.draw(st.sampled_from(sorted(self.leases)))
        lease = self.leases[client]
        self.job(client, "commit" if verb is Commit else "rollback", lease)
        self.world.end(verb, lease.number, client)
        self.shell.observe()
        self.act(shell)

    @precondition(lambda self: self.books.owed)
    @rule(
        data=st.data(),
        group=st.sampled_from(("default", "default", "tx")),
        kinds=STEPS,
        prepare=st.sampled_from((True, True, True, False)),
        read_only=st.sampled_from((None, None, None, True)),
        retries=st.integers(0, 2),
        timeout=TIMEOUTS,
        shell=SHELL,
    )
    def message(
        self,
        data: st.DataObject,
        group: str,
        kinds: list[int | str],
        prepare: bool,
        read_only: bool | None,
        retries: int,
        timeout: float | None,
        shell: str,
    ) -> None:
        client = self.some_client(data)
        job = self.job(client, "message", retries=retries, is_repeatable=read_only is True)
        steps = tuple(self.steps(job, kinds, prepare))
        number = self.world._last_request = job.number
        message = Transaction(number, group, None, read_only, None, retries, *split_steps(steps), timeout, "")
        self.shell.fact(self.broker.request, client, message, self.world.now)
        self.act(shell)

    def steps(self, job: Job, kinds: list[int | str], prepare: bool) -> list[Any]:
        """The steps of a message; what job keeps of them goes by what PostgreSQL should see."""
        steps: list[Any] = []
        depth = 0

        def statement(template: bytes, value: int, refers_to: int | None = None, low: int = 0) -> None:
            references = () if refers_to is None else (tuple(Reference(0, refers_to, 0, "id")),)
            values, types = (packed(value), INT4) if refers_to is None else (NULL, bytes(4))
            steps.append(tuple(Step(template, types, values, prepare, references, low, None)))
            job.steps.append((template, value))

        def mark(which: int) -> None:
            steps.append(which)
            job.steps.append(None)

        for kind in kinds:
            earlier = [place for place, step in enumerate(job.steps) if step is not None and step[0] in TEMPLATES]
            value = job.number * PLACES + len(steps)
            if kind == "savepoint":
                depth += 1
                mark(SAVEPOINT)
            elif kind == "end" and depth:
                depth -= 1
                mark(END_SAVEPOINT)
            elif kind == "reference" and earlier:
                step = job.steps[earlier[-1]]
                assert step is not None
                statement(TEMPLATES[1], step[1], earlier[-1])
            elif kind == "forget":
                statement(CONTROLS[2], value)
            else:
                template = TEMPLATES[kind] if isinstance(kind, int) else TEMPLATES[0]
                statement(template, value, low=1 if kind == "one row" else 0)
        if all(step is None for step in job.steps):
            statement(TEMPLATES[0], job.number * PLACES + len(steps))
        for _ in range(depth):
            mark(END_SAVEPOINT)
        return steps

    @precondition(lambda self: any(self.books.owed.values()))
    @rule(data=st.data(), shell=SHELL)
    def cancel(self, data: st.DataObject, shell: str) -> None:
        asked = sorted((client, number) for client, owed in self.books.owed.items() for number in owed)
        client, number = data.draw(st.sampled_from(asked))
        self.books.jobs[number].is_withdrawn = True
        self.shell.fact(self.broker.cancel, client, number, self.world.now)
        self.act(shell)

    @precondition(lambda self: self.books.owed)
    @rule(data=st.data(), shell=SHELL)
    def die(self, data: st.DataObject, shell: str) -> None:
        client = self.some_client(data)
        del self.books.owed[client]
        self.leases.pop(client, None)
        self.shell.fact(self.broker.client_gone, client, self.world.now)
        self.act(shell)

    # What PostgreSQL and the network do.

    @precondition(lambda self: self.shell.opening())
    @rule(data=st.data(), succeeds=st.sampled_from((True, True, True, False)), shell=SHELL)
    def connected(self, data: st.DataObject, succeeds: bool, shell: str) -> None:
        number = data.draw(st.sampled_from(self.shell.opening()))
        if succeeds:
            self.shell.opened(number)
        else:
            self.shell.connect_failed(number)
        self.act(shell)

    @precondition(lambda self: self.shell.busy())
    @rule(data=st.data(), fates=st.lists(FATES, min_size=1, max_size=3), shell=SHELL)
    def completed(self, data: st.DataObject, fates: list[Fate], shell: str) -> None:
        """Some units of a backend end; what came in one piece is told without a turn in between."""
        number = data.draw(st.sampled_from(self.shell.busy()))
        for fate in fates:
            if number in self.shell.busy():
                self.shell.completed(number, fate)
        self.act(shell)

    @precondition(lambda self: any(line.cancel in ("sent", "spent") for line in self.shell.lines.values()))
    @rule(
        data=st.data(),
        neighbour=st.integers(0, 3),
        place=st.integers(0, 3),
        settles=st.sampled_from((True, True, False)),
        shell=SHELL,
    )
    def cancelled(self, data: st.DataObject, neighbour: int, place: int, settles: bool, shell: str) -> None:
        """A cancel hits what the server runs, or nothing; the shell may hear of it only later."""
        lines = [number for number, line in self.shell.lines.items() if line.cancel in ("sent", "spent")]
        number = data.draw(st.sampled_from(lines))
        self.shell.hit(number, neighbour, place)
        if settles:
            self.shell.settled(number)
        self.act(shell)

    @precondition(lambda self: any(line.session for line in self.shell.lines.values()))
    @rule(data=st.data(), steps=st.integers(0, 9), seen=st.integers(0, 9), dies=st.booleans(), shell=SHELL)
    def lost(self, data: st.DataObject, steps: int, seen: int, dies: bool, shell: str) -> None:
        number = data.draw(st.sampled_from([n for n, line in self.shell.lines.items() if line.session]))
        self.shell.lost(number, steps, seen, dies)
        self.act(shell)

    @precondition(lambda self: self.shell.orphans)
    @rule(data=st.data(), notices=st.booleans())
    def orphan_ends(self, data: st.DataObject, notices: bool) -> None:
        """A server whose connection was lost notices that, or has run all it was sent."""
        session = self.shell.orphans.pop(data.draw(st.integers(0, len(self.shell.orphans) - 1)))
        if notices:
            session.die()
        else:
            session.run_on()

    @precondition(lambda self: any(line.session for line in self.shell.lines.values()))
    @rule(data=st.data())
    def names_are_forgotten(self, data: st.DataObject) -> None:
        """A function that a client called has deallocated all prepared statements; no completion tells."""
        number = data.draw(st.sampled_from([n for n, line in self.shell.lines.items() if line.session]))
        session = self.shell.lines[number].session
        assert session is not None
        session.names.clear()

    @rule(number=st.integers(0, 1), really=st.sampled_from((False, False, True)))
    def failover(self, number: int, really: bool) -> None:
        if really:
            self.shell.failover(f"e{number}")

    @rule(number=st.integers(-3, 200), fact=st.sampled_from(("opened", "failed", "completed", "cancelled", "lost")))
    def late_fact(self, number: int, fact: str) -> None:
        """Facts about backends that are gone, or never were, change nothing."""
        if number in self.broker.backends:
            return
        before = list(self.broker._effects)
        match fact:
            case "opened":
                self.broker.opened(number, self.world.now)
            case "failed":
                self.broker.connect_failed(number, "late", self.world.now)
            case "completed":
                self.broker.completed(number, Completion(TX_NONE), self.world.now)
            case "cancelled":
                self.broker.cancelled(number, self.world.now)
            case "lost":
                self.broker.lost(number, "late", self.world.now)
        assert self.broker._effects == before

    @rule(seconds=st.sampled_from((0.001, 0.001, 0.003, 0.02, 0.06, 0.6, 2.0, 6.0, 11.0)), shell=SHELL)
    def time_passes(self, seconds: float, shell: str) -> None:
        end = self.world.now + seconds
        while (deadline := self.broker.next_deadline()) is not None and deadline <= end:
            self.world.now = max(self.world.now, deadline)
            self.shell.fact(self.broker.tick, self.world.now)
            self.act(shell)
        self.world.now = end

    @rule(shell=SHELL)
    def turn(self, shell: str) -> None:
        self.act(shell)

    @rule(really=st.sampled_from((False, False, False, False, True)), shell=SHELL)
    def drain(self, really: bool, shell: str) -> None:
        if really:
            self.shell.fact(self.broker.drain, self.world.now)
            self.act(shell)

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
        for client, owed in self.books.owed.items():
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
                self.check_idle(backend, line)
            if backend.state is S.LEASED:
                assert backend.lease is not None
            if backend.lease is not None:
                self.check_lease(backend)

    def check_idle(self, backend: Backend, line: Line) -> None:
        session = line.session
        assert session is not None
        assert session.work is None, "an idle backend is idle in PostgreSQL's sense"
        assert session.names.keys() <= backend.prepared._held.keys(), "what is prepared is known to be"

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
        asked = {id(key.about) for key in held if isinstance(key, Request) and key.verb is Verb.INQUIRY}
        for client in self.broker.clients.values():
            for request in client.requests.values():
                if request.state is RequestState.IN_DOUBT:
                    assert id(request) in asked
                elif request.state is RequestState.WAITING and (request.lease is None or not request.lease.backend):
                    is_pending = request.lease is not None and request in request.lease.pending
                    assert is_pending or request in held
                    assert is_pending or request.deadline is None or held[request] <= request.deadline
        for backend in self.broker.backends.values():
            if backend.state not in (S.IDLE, S.LEASED):
                assert backend in held or backend.request in held, f"{backend} could stay so for ever"

    @invariant()
    def a_statement_is_probing_only_while_a_probe_is_on_its_way(self) -> None:
        for group in self.broker.groups.values():
            if group.config.prepare == "off":
                continue
            probes = {id(statement) for statement in group.probes}
            for backend in self.broker.backends.values():
                probes |= {id(each.statement) for each in backend.running if each.verb is Verb.PROBE}
            for client in self.broker.clients.values():
                for request in client.requests.values():
                    if request.script is not None:
                        probes |= {id(statement) for statement in request.script.to_probe}
            for statement in group.statements:
                if statement.state is StatementState.PROBING:
                    assert id(statement) in probes, f"{statement} waits for a probe that never comes"

    def teardown(self) -> None:
        """In the end every accepted request gets its one reply, or its client is gone; and the books are closed."""
        if not hasattr(self, "broker"):
            return
        statements.PREPARED_KEPT = self.kept
        if sys.exc_info()[0] is not None:
            return  # an invariant was broken; what follows would hide that
        self.shell.fact(self.broker.stop, self.world.now)
        self.shell.turn()
        assert all(not owed for owed in self.books.owed.values())
        assert self.broker.backends == {}
        assert self.broker.state is BrokerState.STOPPED
        for session in [*self.shell.orphans, *(line.session for line in self.shell.lines.values())]:
            if session is not None:
                session.run_on()


TestInvariants = Machine.TestCase
TestInvariants.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=False,
    print_blob=True,
)
