"""A hypothesis state machine drives the core through any order of facts and checks its invariants after each.

PostgreSQL is modelled as far as the core can see it (`model.postgres`), the shell with all the liberties that it has
(`model.shell`), and every reply is held against what the model's servers have committed (`model.books`).
"""

from __future__ import annotations

import sys
from typing import Any

from examples import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model.books import Books
from model.copying import small_windows
from model.invariants import Invariants
from model.kinds import CODE, COPIES, LOCK, SCHEMA, Examiner
from model.leftovers import LEAVINGS
from model.postgres import ENDINGS, Fate
from model.reloads import KINDS, another
from model.requests import CONTROLS, LEASE_CONTROLS, OTHERS, STEPS, TEMPLATES
from model.shell import Shell
from model_clients import Clients
from world import World

from client.wire.limits import BATCH, INTERACTIVE, NORMAL
from client.wire.messages import TX_NONE, Commit, Release, Rollback
from poold.core.facts import Completion, Loss
from poold.core.state import BrokerState
from poold.core.statements import prepared
from poold.core.statements import statement as statements

CLIENTS = 4

# What the shell does after a fact: all there is to do, and what follows goes well; all; nothing; it takes effects and
# keeps them; it goes half-way.
SHELL = st.sampled_from(("all", "well", "all", "nothing", "takes", "half"))
FATES = st.builds(Fate, st.sampled_from(("ok",) * 20 + ENDINGS), st.integers(0, 7))
LEAVING = tuple(LEAVINGS)
# What the clients of a COPY do.
DATA = ("all", "all", "some", "done", "done", "error")
TIMEOUTS = st.sampled_from((None, None, 1.0, 3.0))


class Machine(Invariants, RuleBasedStateMachine):
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
        proofs=st.sampled_from((True, True, True, True, False)),
        plans=st.sampled_from(("custom", "custom", "custom", "auto")),
        kept=st.sampled_from((prepared.PREPARED_KEPT, 4)),
        primed=st.sampled_from((2, 2, 1, 3, 0)),
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
        proofs: bool,
        plans: str,
        kept: int,
        primed: int,
    ) -> None:
        self.windows = small_windows()
        self.windows.__enter__()
        self.kept, prepared.PREPARED_KEPT = prepared.PREPARED_KEPT, kept
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
            proofs=proofs,
            plans=plans,
            start=False,
            shows_resets=True,
            examine=Examiner,
        )
        self.broker = self.world.broker
        self.books = Books()
        self.shell = Shell(self.world, self.books)
        self.clients = Clients(self.world, self.books, self.shell, read_only)
        self.shell.fact(self.broker.start, self.world.now)
        self.clients.arrive()
        for template in TEMPLATES[:primed]:
            self.prime(template)

    @invariant()
    def all_holds(self) -> None:
        self.check_all()

    def prime(self, template: bytes) -> None:
        """Run the statement until it is prepared, and known to be short."""
        for _ in range(statements.PROBE_AFTER + statements.TRUSTED_AFTER):
            self.clients.query(1, template)
            self.shell.turn()
            while self.shell.opening() or self.shell.busy():
                self.go_well()

    def go_well(self) -> None:
        """Whatever opens has opened, and each server ends one unit, all without a hitch and soon."""
        for number in self.shell.opening():
            self.shell.opened(number)
        self.world.now += 0.0005
        for number in self.shell.busy():
            self.shell.completed(number, Fate())
        self.clients.copy_on()
        self.shell.turn()

    def act(self, shell: str) -> None:
        """The shell's turn, or as much of it as it comes to."""
        match shell:
            case "all":
                self.shell.turn()
            case "well":
                self.shell.turn()
                self.go_well()
            case "takes":
                self.shell.take()
            case "half":
                self.shell.take()
                self.shell.carry_out(1 + len(self.shell.todo) // 2)

    # What clients do.

    @precondition(lambda self: len(self.books.owed) < CLIENTS)
    @rule(shell=SHELL)
    def arrive(self, shell: str) -> None:
        self.clients.arrive()
        self.act(shell)

    @rule(
        data=st.data(),
        statement=st.sampled_from((*TEMPLATES * 6, *OTHERS * 2, *COPIES * 2, *CONTROLS, *LEAVING, *CODE, SCHEMA)),
        has_settings=st.sampled_from((False, False, True)),
        prepare=st.sampled_from((True, True, True, True, False)),
        timeout=TIMEOUTS,
        priority=st.sampled_from((NORMAL, NORMAL, INTERACTIVE, BATCH, BATCH)),
        shell=SHELL,
    )
    def query(
        self,
        data: st.DataObject,
        statement: bytes,
        prepare: bool,
        timeout: float | None,
        priority: int,
        has_settings: bool,
        shell: str,
    ) -> None:
        self.clients.query(self.some_client(data), statement, prepare, timeout, priority, has_settings)
        self.act(shell)

    def some_client(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.books.owed)))

    @rule(places=st.lists(st.integers(0, 1), min_size=2, max_size=6), timeout=TIMEOUTS, shell=SHELL)
    def queries(self, places: list[int], timeout: float | None, shell: str) -> None:
        """Many at once, of those that are likely to be prepared and short."""
        clients = sorted(self.books.owed)
        for count, place in enumerate(places):
            self.clients.query(clients[count % len(clients)], TEMPLATES[place], True, timeout)
        self.act(shell)

    @rule(
        data=st.data(),
        what=st.sampled_from(
            (
                *TEMPLATES * 3,
                *OTHERS,
                *COPIES,
                *(Commit,) * 5,
                Rollback,
                *LEASE_CONTROLS,
                LEAVING[0],
                *CODE,
                SCHEMA,
                LOCK,
            )
        ),
        timeout=TIMEOUTS,
        priority=st.sampled_from((NORMAL, NORMAL, BATCH)),
        shell=SHELL,
    )
    def lease(self, data: st.DataObject, what: Any, timeout: float | None, priority: int, shell: str) -> None:
        """A lease begins, goes on, or ends."""
        client = self.some_client(data)
        if isinstance(what, bytes):
            self.clients.query_in_lease(client, what, timeout, priority)
        elif client in self.clients.leases:
            self.clients.end_lease(client, what)
        self.act(shell)

    @rule(
        data=st.data(),
        what=st.sampled_from(
            (
                *TEMPLATES * 3,
                *OTHERS,
                *COPIES * 2,
                *LEAVING,
                *CODE,
                SCHEMA,
                *CONTROLS[:1],
                *LEASE_CONTROLS[:2],
                Commit,
                Rollback,
                Release,
                Release,
            )
        ),
        group=st.sampled_from(("default", "tx")),
        timeout=TIMEOUTS,
        shell=SHELL,
    )
    def session(self, data: st.DataObject, what: Any, group: str, timeout: float | None, shell: str) -> None:
        """A session is opened, goes on, or is released."""
        self.clients.in_session(self.some_client(data), what, group, timeout)
        self.act(shell)

    @rule(
        data=st.data(),
        group=st.sampled_from(("default", "default", "tx")),
        kinds=st.lists(st.sampled_from((*STEPS * 3, *OTHERS, *LEAVING[:4], *CODE[:1])), min_size=1, max_size=7),
        prepare=st.sampled_from((True, True, True, False)),
        read_only=st.sampled_from((None, None, None, True)),
        retries=st.integers(0, 2),
        timeout=TIMEOUTS,
        shell=SHELL,
    )
    def transaction(
        self,
        data: st.DataObject,
        group: str,
        kinds: list[int | str | bytes],
        prepare: bool,
        read_only: bool | None,
        retries: int,
        timeout: float | None,
        shell: str,
    ) -> None:
        self.clients.transaction(self.some_client(data), group, kinds, prepare, read_only, retries, timeout)
        self.act(shell)

    @rule(
        data=st.data(),
        statement=st.sampled_from(COPIES),
        place=st.sampled_from(("query", "query", "lease", "default", "tx")),
        times=st.integers(1, 9),
        timeout=TIMEOUTS,
        fate=FATES,
        is_lost=st.sampled_from((False, False, True)),
        shell=SHELL,
    )
    def copy(
        self,
        data: st.DataObject,
        statement: bytes,
        place: str,
        times: int,
        timeout: float | None,
        fate: Fate,
        is_lost: bool,
        shell: str,
    ) -> None:
        """A COPY, which goes on well for a while; then something else happens to it, or to another one."""
        client = self.some_client(data)
        match place:
            case "query":
                self.clients.query(client, statement, True, timeout)
            case "lease":
                self.clients.query_in_lease(client, statement, timeout)
            case _:
                self.clients.in_session(client, statement, place, timeout)
        self.shell.turn()
        for _ in range(times):
            self.go_well()
        if busy := self.shell.busy():
            number = data.draw(st.sampled_from(busy))
            if is_lost:
                self.shell.lost(number, 9, 0, dies=False)
            else:
                self.shell.completed(number, fate)
        self.act(shell)

    @precondition(lambda self: self.shell.copies.open())
    @rule(data=st.data(), whats=st.lists(st.sampled_from(DATA), min_size=1, max_size=3), shell=SHELL)
    def data_passes(self, data: st.DataObject, whats: list[str], shell: str) -> None:
        """Clients give data of their COPYs, or its end, or say that they have taken some."""
        for what in whats:
            if found := self.shell.copies.open():
                self.shell.copies.act(data.draw(st.sampled_from(found)), what)
        self.act(shell)

    @precondition(lambda self: any(self.books.owed.values()))
    @rule(data=st.data(), shell=SHELL)
    def cancel(self, data: st.DataObject, shell: str) -> None:
        asked = sorted((client, number) for client, owed in self.books.owed.items() for number in owed)
        first = [each for each in asked if each[1] in self.shell.at_work()]
        self.clients.cancel(*data.draw(st.sampled_from(first * 3 + asked)))
        self.act(shell)

    @rule(places=st.lists(st.integers(0, 1), min_size=2, max_size=6), unit=st.integers(0, 3), shell=SHELL)
    def cancel_in_company(self, places: list[int], unit: int, shell: str) -> None:
        """As queries, and the client of one that is first in a pipeline withdraws it; its neighbour may be hit."""
        self.queries(places, None, "all")
        for number, line in self.shell.lines.items():
            if len(line.orders) > 1 and not line.cancel and self.broker.backends[number].running:
                job = self.books.jobs.get(self.broker.backends[number].running[0].number)
                if job is not None and job.number in self.books.owed.get(job.client, ()):
                    self.clients.cancel(job.client, job.number)
                    self.shell.turn()
                    self.shell.hit(number, unit, 0)
        self.act(shell)

    @rule(data=st.data(), reads=st.booleans(), shell=SHELL)
    def reads(self, data: st.DataObject, reads: bool, shell: str) -> None:
        """A client leaves replies unread, or has read them."""
        client = self.some_client(data)
        if reads:
            self.clients.read(client)
        else:
            self.clients.stall(client)
        self.act(shell)

    @precondition(lambda self: len(self.books.owed) > 1)
    @rule(data=st.data(), shell=SHELL)
    def die(self, data: st.DataObject, shell: str) -> None:
        self.clients.die(self.some_client(data))
        self.act(shell)

    @rule(places=st.lists(st.integers(1, 2), min_size=3, max_size=6), seconds=st.sampled_from((0.06, 0.3)), shell=SHELL)
    def company_is_blocked(self, places: list[int], seconds: float, shell: str) -> None:
        """As queries, of reads; and each that is first in a pipeline waits for a lock."""
        self.queries(places, None, "all")
        for number, line in self.shell.lines.items():
            is_at_work = line.session is not None and line.session.queue and not line.cancel
            if is_at_work and len(line.orders) > 1 and line.orders[0].owner is not None:
                self.shell.block(number)
        self.time_passes(seconds, shell)
        self.act(shell)

    # What PostgreSQL and the network do.

    @rule(times=st.integers(1, 4))
    def all_goes_well(self, times: int) -> None:
        self.shell.turn()
        for _ in range(times):
            self.go_well()

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

    @precondition(lambda self: self.shell.cancelling())
    @rule(
        data=st.data(),
        unit=st.integers(0, 3),
        place=st.integers(0, 3),
        settles=st.sampled_from((True, True, False)),
        shell=SHELL,
    )
    def cancelled(self, data: st.DataObject, unit: int, place: int, settles: bool, shell: str) -> None:
        """A cancel hits what the server runs, or nothing; the shell may hear of it only later."""
        number = data.draw(st.sampled_from(self.shell.cancelling()))
        self.shell.hit(number, unit, place)
        if settles:
            self.shell.settled(number)
        self.act(shell)

    @precondition(lambda self: self.shell.open())
    @rule(data=st.data(), steps=st.integers(0, 9), seen=st.integers(0, 9), dies=st.booleans(), shell=SHELL)
    def lost(self, data: st.DataObject, steps: int, seen: int, dies: bool, shell: str) -> None:
        number = data.draw(st.sampled_from(self.shell.busy() * 2 + self.shell.open()))
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

    @rule(
        data=st.data(),
        what=st.sampled_from(
            ("failover", "failover", "forget", "forget", "schema", "schema", "drain", *("reload",) * 4, *("no",) * 6)
        ),
        shell=SHELL,
    )
    def what_is_rare(self, data: st.DataObject, what: str, shell: str) -> None:
        match what:
            case "failover":
                self.shell.failover(data.draw(st.sampled_from(sorted(self.broker.config.endpoints))))
            case "forget" if self.shell.open():
                self.shell.forget_names(data.draw(st.sampled_from(self.shell.busy() * 2 + self.shell.open())))
            case "schema":
                self.shell.change_schema(data.draw(st.sampled_from(sorted(self.broker.config.endpoints))))
            case "drain":
                self.shell.fact(self.broker.drain, self.world.now)
            case "reload" if self.broker.state is BrokerState.RUNNING:
                kind = data.draw(st.sampled_from(KINDS))
                now = self.broker.config.as_it_is()
                config = another(now, self.world.config, kind, lambda each: data.draw(st.sampled_from(each)))
                self.shell.reloads.reload(config)
        self.act(shell)

    @rule(number=st.integers(-3, 200), fact=st.sampled_from(("opened", "failed", "completed", "cancelled", "lost")))
    def late_fact(self, number: int, fact: str) -> None:
        """Facts about backends that are gone, or never were, change nothing."""
        if number in self.broker.backends:
            return
        before = list(self.broker.agenda.effects)
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
                self.broker.lost(number, Loss("late"), self.world.now)
        assert self.broker.agenda.effects == before

    # What else there is.

    @rule(seconds=st.sampled_from((0.001, 0.002, 0.004, 0.008, 0.06, 0.6, 2.0, 6.0, 11.0)), shell=SHELL)
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

    def teardown(self) -> None:
        """In the end every accepted request gets its one reply, or its client is gone; and the books are closed."""
        if not hasattr(self, "broker"):
            return
        prepared.PREPARED_KEPT = self.kept
        self.windows.__exit__(None, None, None)
        if sys.exc_info()[0] is not None:
            return  # something was broken; what follows would hide that
        is_drained = self.broker.state is BrokerState.STOPPED
        self.shell.fact(self.broker.stop, self.world.now)
        self.shell.turn()
        assert all(not owed for owed in self.books.owed.values())
        assert is_drained or self.broker.backends == {}
        assert self.broker.state is BrokerState.STOPPED
        self.shell.end_all()


TestInvariants = Machine.TestCase
TestInvariants.settings = settings(examples(120), stateful_step_count=40)
