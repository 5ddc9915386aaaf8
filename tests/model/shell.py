"""The shell as the core sees it: effects are seen when they are decided, taken later, carried out later still.

What an effect must not do is checked when the core decides it, by what the core has been told until then. Between that
and the carrying out other facts may come, a loss of the very connection among them.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

from client.wire.messages import TX_BROKEN, TX_NONE, Failure
from model import sessions
from model.books import PLACES, Books, Job
from model.company import check_company
from model.copying import Copies
from model.fairness import Fairness
from model.kinds import kind_of
from model.lifetimes import Lifetimes
from model.lines import Line
from model.orders import Orders
from model.postgres import SETTINGS, Cluster, Fate, Order, Session, is_question
from model.reloads import Reloads
from poold.core import effects
from poold.core.broker import Broker
from poold.core.effects import Bind, Deallocate, Plain, Prepare, SimpleQuery, Unit
from poold.core.facts import Completion, Loss, Server, StatementResult
from poold.core.records.request import Request
from poold.core.state import BrokerState, RequestState

_VALUE = re.compile(rb"(?:= |\* )(\d+)")


class Scene(Protocol):
    """Where the core stands: what it is, and what time it is."""

    broker: Broker
    now: float


class Shell:
    """Lines by number, and the effects that wait to be carried out."""

    line_type = Line
    copies_type = Copies

    def __init__(self, world: Scene, books: Books) -> None:
        self.world = world
        self.broker = world.broker
        self.books = books
        self.fairness = Fairness(world.broker, books)
        self.lifetimes = Lifetimes(world.broker)
        self.copies = self.copies_type(self)
        self.clusters: dict[str, Cluster] = {}
        # Enter when Connect is decided, leave when connect failed, lost, or Close is carried out.
        self.lines: dict[int, Line] = {}
        self.last_line = 0
        self.dropped: set[int] = set()  # clients that the core wants to be disconnected
        self.todo: deque[effects.Effect] = deque()  # taken, not carried out
        self.orders = Orders(self)
        self.reloads = Reloads(self)
        # Of each endpoint: up to which change of its schema the core was told; and of each pool the counts told last.
        self.known_schema: Counter[str] = Counter()
        self.told_counts: dict[tuple[str, str], bytes] = {}
        self.orphans: list[Session] = []  # their connections are gone, their servers may not know
        # Decided and not taken: the core's own list, how much of it was seen, and that again, as the list may change.
        self._list: list[effects.Effect] = []
        self._count = 0
        self._seen: list[effects.Effect] = []
        self._waited: set[str] = set()

    # The core decides.

    def fact(self, call: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Tell the core, and look at what it decides."""
        self.fairness.fact()
        self.lifetimes.fact()
        self.orders.fact()
        # Groups in which somebody waited for a backend: in the same fact they may be told that it was too long.
        self._waited = {group.name for group in self.broker.directory.every() if group.queue.size}
        told = call(*args, **more)
        self.observe()
        self.lifetimes.told(self.world.now, is_tick=call == self.broker.tick)
        return told

    def observe(self) -> None:
        """Check the effects that the last fact has led to."""
        self.books.is_stopped = self.broker.state is BrokerState.STOPPED
        decided = self.broker.agenda.effects
        if decided is self._list:
            found = decided[self._count :]
        else:  # the effects before were taken, or some of them were revoked
            known = self._seen if self._count else []
            found = [effect for effect in decided if all(effect is not each for each in known)]
            self._list = decided
        self._count = len(decided)
        self._seen = list(decided)
        for effect in found:
            self._decided(effect)

    def _decided(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Connect(number, group, endpoint):
                assert number > self.last_line
                self.last_line = number
                backend = self.broker.backends.get(number)  # it may be one for reads on replicas
                group = group if backend is None else backend.group.name
                pool = None if backend is None else backend.pool
                self.lines[number] = self.line_type(number, group, endpoint, pool)
                self.lifetimes.opens(pool)
            case effects.Execute(number, unit):
                self._given(self.lines[number], unit)
            case effects.Cancel(number):
                self._cancels(self.lines[number])
            case effects.Look(number):
                self._looks(self.lines[number])
            case effects.Close(number, reason):
                line = self.lines[number]
                assert not line.is_closed
                self.orders.closes(line, reason)
                line.is_closed = True
                self._mark_lost(line)
                self.lifetimes.closes(line.pool, reason)
            case effects.Drop(client) if client in self.orders.operators:
                self.orders.dropped(client)
            case effects.Drop(client) if client in self.orders.killed:
                self.dropped.add(client)
            case effects.Drop(client):
                assert not self.books.owed[client], f"client {client} waits for replies and is dropped"
                due = self.broker.clients[client].heard + self.broker.config.broker.client_idle_timeout
                assert due <= self.world.now, f"client {client} is dropped too soon"
                self.dropped.add(client)
            case effects.Reply(client, body) if client in self.orders.operators:
                self.orders.answered(client, body)
            case effects.Reply(client, body):
                if type(body) is Failure and body.kind in ("unconfigured-group", "usage"):
                    self.reloads.refused(client, self.books.jobs[body.request], body)
                sessions.check_told(self.broker, self.books.jobs[body.request], body)
                self.books.reply(client, body, self._is_lease_open(body.request), self.world.now)
                self.copies.replied(self.books.jobs[body.request])
            case _:
                self.copies.decided(effect)

    def _is_lease_open(self, number: int) -> bool | None:
        """Whether the request's lease goes on; None where its transaction is over and a cancel is yet to settle."""
        job = self.books.jobs[number]
        client = self.broker.clients.get(job.client)
        if job.lease is not None and job.lease.is_session:
            return client is not None and job.lease.number in client.leases
        if job.lease is None or client is None or job.lease.number not in client.leases:
            return False
        backend = client.leases[job.lease.number].backend
        is_over = backend is not None and not backend.running and backend.transaction == TX_NONE
        return None if is_over else True

    def _given(self, line: Line, unit: Unit) -> None:
        self._check_line(line)
        job = self._whose(line, unit)
        self.orders.given(line, job)
        self.reloads.given(line, job)
        backend = self.broker.backends.get(line.number)
        if job is not None:
            self._check_job(line, job)
            for request in () if backend is None else backend.running:  # several may have joined at once
                if request.number == job.number:
                    job.is_proven = _is_proven(request)
                    self.fairness.given(request, job)
                    self.lifetimes.given(backend, request, self.world.now)
        if line.orders and not is_question(line.orders[-1].unit):
            backend = self.broker.backends[line.number]
            statements = [each.statement for each in backend.running]
            check_company(backend.group, statements, line.orders, unit, job, self.books)
        self._ordered(line, unit, job)

    def _check_line(self, line: Line) -> None:
        assert line.session is not None, "only an open backend runs anything"
        assert not line.is_closed
        assert not line.cancel, "a cancel on its way would hit what is given"

    def _check_job(self, line: Line, job: Job) -> None:
        assert not job.is_withdrawn, f"{job} was withdrawn before"
        assert job.client in self.books.owed, f"the client of {job} is gone"
        assert not job.is_over, f"{job} has had its time"
        assert not job.is_refused, f"{job} wants a session"
        if job.lease is not None:
            is_its_own = job.lease.line in (0, line.number)
            assert is_its_own, f"{job} runs in {line.number}, its lease was in {job.lease.line}"
            job.lease.line = line.number
        job.given_at = self.world.now

    def _ordered(self, line: Line, unit: Unit, job: Job | None) -> Order:
        """The unit goes to the line, behind those that it has."""
        session = line.session
        assert session is not None
        line.given += 1
        order = Order(unit, line.given, None if job is None else job.owner)
        counting = self.broker.backends[line.number].counting if line.number in self.broker.backends else None
        order.asks_about = None if counting is None else self.books.jobs[counting.number]
        order.known_schema = self.known_schema[line.endpoint]
        order.is_ready = self.copies.of(order) is None
        line.orders.append(order)
        for command in unit:
            if type(command) is Prepare:
                session.promised.setdefault(command.name, []).append(line.given)
            elif type(command) is Deallocate:
                session.told_gone.setdefault(command.name, []).append(line.given - 1)
        return order

    def _whose(self, line: Line, unit: Unit) -> Job | None:
        """By the value that a statement in the unit carries; where none does, the one that runs."""
        if is_question(unit):
            return None
        for command in unit:
            if type(command) is Bind and command.count == 1:
                return self.books.jobs[int(command.values[4:]) // PLACES]
            if type(command) not in (Plain, SimpleQuery) or command.sql.startswith(SETTINGS):
                continue
            if found := _VALUE.search(command.sql):
                return self.books.jobs[int(found[1]) // PLACES]
        backend = self.broker.backends.get(line.number)
        return self.books.jobs.get(backend.running[-1].number) if backend is not None and backend.running else None

    def _cancels(self, line: Line) -> None:
        assert line.orders, "nothing to cancel"
        assert not line.cancel
        line.cancel = "decided"
        target = line.orders[0]
        for order in line.orders:
            order.is_exposed = order is not target
            if order is not target:
                self._check_read(order, "may be hit by another one's cancel")
        backend = self.broker.backends.get(line.number)
        request = backend.running[0] if backend is not None and backend.running else None
        job = self.books.jobs.get(request.number) if request is not None else None
        assert backend is None or job is not None, "the broker cancels its own questions"
        if job is None or request is None:
            return
        assert job.owner == target.owner
        assert job.kind not in ("commit", "rollback"), "COMMIT is never cancelled"
        if request.state is not RequestState.RUNNING:
            job.was_cancelled = True
            return
        # Nobody has asked for it but those that wait: behind, or for a backend.
        assert backend is not None
        others_wait = backend.group.queue.size or backend.group.name in self._waited
        assert len(line.orders) > 1 or others_wait, f"{job} is cancelled for nobody"
        self._check_read(target, "is cancelled unasked")
        target.is_exposed = job.is_alone = True

    def _check_read(self, order: Order, what: str) -> None:
        """The order can be run again unseen."""
        for job in self.books.of(order.owner):
            assert all(step is not None and kind_of(step[0]).is_plain_read for step in job.steps), f"{job} {what}"

    def _looks(self, line: Line) -> None:
        """The server is asked whether it is at work there; nobody answers."""
        assert line.orders, "nothing to look for"

    def _mark_lost(self, line: Line) -> None:
        for order in line.orders:
            for job in self.books.of(order.owner):
                job.was_lost = True
        if line.ended is not None and line.ended.reply is None:
            line.ended.was_lost = True  # before anybody could ask what it has left

    # The shell acts.

    def take(self) -> None:
        taken = self.broker.take()
        if taken is self._list:
            for effect in taken[self._count :]:
                self._decided(effect)
        self.todo.extend(taken)
        self._count = 0
        self.observe()

    def carry_out(self, count: int | None = None) -> None:
        """Carry out what was taken, or the first count of it."""
        for _ in range(len(self.todo) if count is None else min(count, len(self.todo))):
            effect = self.todo.popleft()
            self.copies.carry_out(effect)
            match effect:
                case effects.Execute(number) if number in self.lines:
                    line = self.lines[number]
                    self._send(line, next(each for each in line.orders if not each.is_written))
                case effects.Reply(client, body) if client not in self.orders.operators:
                    self._reply(client, body)
                case effects.Connect(number):
                    self._connect(self.lines[number])
                case effects.Cancel(number) if number in self.lines:
                    self._cancel(self.lines[number])
                case effects.Close(number) if number in self.lines:
                    self._end(self.lines[number])
                case effects.Drop(client) if client in self.orders.operators:
                    self.fact(self.broker.client_gone, client, self.world.now)
                case effects.Drop(client):
                    self._drop(client)
                case effects.Stop():
                    self._stop()
                case _:
                    self._carry_out_other(effect)

    def turn(self) -> None:
        """Take and carry out all there is."""
        self.take()
        while self.todo:
            self.carry_out()
            self.take()

    # What it does about each effect; in the state machine all of it takes no time.

    def _connect(self, line: Line) -> None:
        line.is_opening = True

    def _send(self, line: Line, order: Order) -> None:
        assert line.session is not None
        order.is_written = order.is_sent = True
        line.session.queue.append(order)

    def _cancel(self, line: Line) -> None:
        line.cancel = "sent"

    def _reply(self, client: int, body: Any) -> None:
        pass  # seen when it was decided

    def _drop(self, client: int) -> None:
        raise NotImplementedError

    def _carry_out_other(self, effect: effects.Effect) -> None:
        pass  # about what is not there any more

    def _stop(self) -> None:
        pass

    def _end(self, line: Line) -> None:
        del self.lines[line.number]
        self._leave_alone(line)
        if line.session is not None:
            self.orphans.append(line.session)

    # What PostgreSQL and the network do.

    def opening(self) -> list[int]:
        return [line.number for line in self.lines.values() if line.is_opening and line.session is None]

    def busy(self) -> list[int]:
        """Lines whose servers have something to run."""
        return [line.number for line in self.lines.values() if line.session is not None and line.session.queue]

    def at_work(self) -> list[int]:
        """The requests that servers work on, those aside that wait behind them."""
        running = [backend.running for backend in self.broker.backends.values() if backend.running]
        return [requests[0].number for requests in running]

    def open(self) -> list[int]:
        return [line.number for line in self.lines.values() if line.session is not None]

    def cancelling(self) -> list[int]:
        return [line.number for line in self.lines.values() if line.cancel in ("sent", "spent")]

    def opened(self, number: int) -> None:
        line = self.lines[number]
        cluster = self.clusters.setdefault(line.endpoint, Cluster(f"{line.endpoint}/1"))
        assert line.pool is not None
        plans = line.pool.group.config.plans
        line.session = Session(cluster, number, self.books, self.books.committed, plans)
        server = Server(160000, cluster.identity, pid=number)
        self.fact(self.broker.opened, number, self.world.now, server)

    def connect_failed(self, number: int) -> None:
        del self.lines[number]
        self.fact(self.broker.connect_failed, number, "refused", self.world.now)

    def completed(self, number: int, fate: Fate) -> None:
        """The first unit in the line's session ends, and the core is told."""
        line = self.lines[number]
        session = line.session
        assert session is not None
        order = session.queue[0]
        assert order is line.orders[0]
        if not self.copies.goes_on(line, order, fate):
            return
        order.is_ready = True
        session.is_blocked = False
        if order.fate.ending == "ok":
            order.fate = fate
        if order.fate.ending == "timeout":
            for job in self.books.of(order.owner):
                job.timed_out = True
        self.tell_completed(line, session, order, session.finish())

    def tell_completed(self, line: Line, session: Session, order: Order, done: Completion) -> None:
        """The core is told how this unit has ended."""
        if done.failure is not None and done.failure.sqlstate == "57014" and isinstance(order.owner, int):
            self.books.jobs[order.owner].is_over = not order.is_exposed
        line.orders.popleft()
        if done.failure is not None:
            for job in self.books.of(order.owner):
                job.has_failed = True
                job.is_broken = done.transaction == TX_BROKEN
        if is_question(order.unit):
            asked = order.asks_about or (self._job_of(line.orders[0]) if line.orders else None)
            if asked is not None and done.failure is not None:
                asked.is_untold = True
            line.ended = None
        else:
            line.ended = self._job_of(order)
        if done.failure is None:
            self._tell_schema(line, order)
        for name in self._told_gone(session, order, done):
            session.told_gone.setdefault(name, []).append(line.given)
        self._tell_end(line, done)

    def _tell_end(self, line: Line, done: Completion) -> None:
        self.fact(self.broker.completed, line.number, done, self.world.now)

    def _job_of(self, order: Order) -> Job | None:
        """The request that waits for the order's end, as far as there is only one."""
        waiting = [job for job in self.books.of(order.owner) if job.reply is None]
        return waiting[0] if waiting else None

    def _tell_schema(self, line: Line, order: Order) -> None:
        """What the unit's end tells of the schema; of counts only that they are not what they were."""
        known = order.tells_schema
        if order.tells_counts is not None:
            counts, schema = order.tells_counts
            before = self.told_counts.get((line.group, line.endpoint), counts)
            self.told_counts[line.group, line.endpoint] = counts
            known = known if counts == before else max(known, schema)
        self.known_schema[line.endpoint] = max(known, self.known_schema[line.endpoint])

    def _told_gone(self, session: Session, order: Order, done: Completion) -> list[bytes]:
        """The names that this completion tells to be unknown to the server."""
        if done.failure is None:
            is_told = any(result.command in ("DISCARD ALL", "DEALLOCATE ALL") for result in done.results)
            return [name for name in session.promised if name not in session.names] if is_told else []
        gone = [command.name for command in order.unit if type(command) is Prepare][len(done.prepared) :]
        if done.failure.sqlstate == "26000":
            executing = [command for command in order.unit if type(command) in (Bind, Plain)]
            failed = executing[len(done.results)] if len(done.results) < len(executing) else None  # at the commit
            if type(failed) is Bind:
                gone.append(failed.name)
        return gone

    def hit(self, number: int, target: int, place: int) -> None:
        """The cancel on its way hits one of the units in the server's hands, or none."""
        line = self.lines[number]
        assert line.session is not None
        queue = line.session.queue
        target %= len(queue) + 1
        if line.cancel == "sent" and target < len(queue):
            line.cancel = "spent"
            queue[target].fate = Fate("cancelled", place)

    def settled(self, number: int) -> None:
        self.lines[number].cancel = ""
        self.fact(self.broker.cancelled, number, self.world.now)

    def lost(self, number: int, steps: int, seen: int, dies: bool) -> None:
        """The connection is lost: the first unit has come so far, and so many of its results were seen.

        dies: the server ended it, with an error of which the core is told; otherwise the server may not know.
        """
        line = self.lines[number]
        session = line.session
        assert session is not None
        partial: list[StatementResult] = []
        last = None
        self._leave_alone(line)
        if session.queue:
            for _ in range(steps):
                session.step()
            partial = session.done.results[: None if dies else seen]
            if dies:
                last = Failure(0, "none", "connection", "failed", "terminating", "57P01", {"severity": "FATAL"})
                session.die()
        self.tell_lost(line, partial, last)

    def tell_lost(self, line: Line, partial: list[StatementResult], last: Failure | None) -> None:
        """The core is told that the connection is lost."""
        number = line.number
        pending = sum(type(each) is effects.Execute and each.backend == number for each in self.broker.agenda.effects)
        unsent = sum(not order.is_sent for order in line.orders) - pending
        self._mark_lost(line)
        self._end(line)
        self.fact(self.broker.lost, number, Loss("reset", unsent, partial, last), self.world.now)

    def _leave_alone(self, line: Line) -> None:
        """The server has what it has of a COPY's data, and nobody to send any to."""
        for order in line.orders:
            passing = self.copies.of(order)
            order.is_ready = passing is None or passing.may_complete()

    def failover(self, endpoint: str) -> None:
        """Connections from now on lead to another server, which tells of the old one's transactions what is not so."""
        old = self.clusters.get(endpoint)
        if old is not None:
            name, timeline = old.identity.split("/")
            self.clusters[endpoint] = Cluster(f"{name}/{int(timeline) + 1}", old.last_xid, old.schema)
            self.clusters[endpoint].statuses = dict.fromkeys(old.statuses, b"aborted")

    def change_schema(self, endpoint: str) -> None:
        """Another program has changed it."""
        if endpoint in self.clusters:
            self.clusters[endpoint].schema += 1

    def block(self, number: int) -> None:
        """What the line's server runs waits for a lock, until it has ended."""
        session = self.lines[number].session
        assert session is not None
        session.is_blocked = True

    def forget_names(self, number: int) -> None:
        """A function that a client called has deallocated all prepared statements; no completion tells."""
        session = self.lines[number].session
        assert session is not None
        session.forget_names()

    def end_all(self) -> None:
        """The broker's process has ended; what it had sent runs on."""
        for line in self.lines.values():
            self._leave_alone(line)
        for session in [*self.orphans, *(line.session for line in self.lines.values())]:
            if session is not None:
                session.run_on()


def _is_proven(request: Request) -> bool:
    """Whether the core knows all that the request runs to be harmless."""
    if request.script is not None:
        return all(statement.is_harmless for statement, _ in request.script.values())
    return request.statement is not None and request.statement.is_harmless
