"""One simulated world: everybody in it, one step after the other, and its end."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from random import Random

from model.books import Books
from model.copying import small_windows
from model.invariants import Invariants
from model.kinds import ASK, DRAW, FUNCTION, Examiner, kind_of
from model.leftovers import UNSEEN
from model.postgres import COLUMNS, INT4
from model.requests import TEMPLATES

from client.wire.messages import ResultMessage
from poold.core.broker import Broker
from poold.core.state import BrokerState
from poold.core.statements import prepared
from poold.core.statements import statement as statements
from poold.core.statements.literals import numbered
from poold.core.statements.proofs import UNPROVEN
from simulation import scenario
from simulation.agenda import Agenda
from simulation.audit import audit
from simulation.clients import Clients
from simulation.faults import Faults
from simulation.faults_of_clusters import FaultsOfClusters
from simulation.fleet import Fleet
from simulation.network import Network
from simulation.operator import Operator
from simulation.servers import Server
from simulation.watchers import Watchers

# Trace lines kept for a failure's report.
LINES_KEPT = 40
# All invariants are checked every so many steps, after the others those of what the step has touched.
CHECK_EVERY = 64
# When faults have ceased everything has to end within this time: the longest of all deadlines, some of them in a row.
PATIENCE = 300.0
# So often each group is asked whether it serves, about once per second: an endpoint is left alone for up to 12 s.
ROUNDS = 60


class World(Agenda, Invariants):
    """The world of one seed."""

    def __init__(
        self,
        seed: int,
        check_every: int = CHECK_EVERY,
        trace: Callable[[str], None] | None = None,
        kind: str = "",
    ) -> None:
        """trace is called with each step's line. kind is one of `scenario.KINDS`, "" for any."""
        super().__init__()
        self.random = Random(seed)
        is_operated = kind == scenario.OPERATED
        kind = scenario.CLUSTER if scenario.is_cluster(seed, kind) else kind
        self.scenario = scenario.draw(self.random, kind)
        has_lane = scenario.has_lane(seed, kind)
        if has_lane and (seed % 2 or (is_operated and seed % 4)) and kind != scenario.CLUSTER:
            self.scenario = scenario.with_lane(Random(seed), self.scenario)
        self.broker = Broker(self.scenario.config, self.random.random, Examiner, has_lane)
        self.books = Books(self.scenario.query_timeout)
        self.fleet = Fleet(self) if self.scenario.replication else None
        servers = (Server(self, name) for name in self.scenario.config.endpoints)
        self.servers: dict[str, Server] = {each.name: each for each in (self.fleet.members if self.fleet else servers)}
        self.watchers = Watchers(self)
        self.network = self.shell = Network(self)
        self.clients = Clients(self)
        self.faults = FaultsOfClusters(self) if self.fleet else Faults(self)
        self.operator = Operator(self, seed) if is_operated else None
        self.steps = self.facts = 0
        self.tally: Counter[str] = Counter()  # faults and the like
        self.outcomes: Counter[tuple[str, str]] = Counter()  # of requests, by kind
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._trace = trace
        self._hash = hashlib.blake2b(digest_size=16)
        self._check_every = check_every

    @property
    def hash(self) -> str:
        """Of all that has happened."""
        return self._hash.hexdigest()

    def run(self, steps: int) -> None:
        """Let so many steps happen, then let faults cease, and see that everything ends as it should."""
        kept, prepared.PREPARED_KEPT = prepared.PREPARED_KEPT, self.scenario.prepared_kept
        try:
            with small_windows():
                self._begin()
                self._go(steps)
                self._settle()
                self._end()
        finally:
            prepared.PREPARED_KEPT = kept

    def _begin(self) -> None:
        self.network.fact(self.broker.start, self.now)
        if self.scenario.is_seasoned:
            self._season()
        for _ in range(self.scenario.clients):
            self.clients.arrive()

    def _season(self) -> None:
        """The broker has run each statement often enough to prepare it, and to know that it is short."""
        for group in self.broker.groups.values():
            for pool in group.pools:
                counts = self.servers[pool.endpoint.name].cluster.counts
                pool.watch.catalogs = self.network.told_counts[group.name, pool.endpoint.name] = counts
            templates = (*TEMPLATES, DRAW, ASK, FUNCTION, *UNSEEN) if group.config.prepare == "auto" else ()
            for template in templates:
                if kind_of(template).runs_when_parsed:
                    continue  # it is never prepared
                statement = group.statements.find(template, INT4)
                statement.columns = COLUMNS
                statement.numbered = numbered(template)
                statement.probed(COLUMNS, kind_of(template).proof if group.config.proofs else UNPROVEN)
                for _ in range(statements.TRUSTED_AFTER):
                    statement.record(self.scenario.short + 2 * self.scenario.latency, 20)

    def _go(self, steps: int) -> None:
        """Steps with faults, until there are enough or the broker has stopped."""
        every, random = self.scenario.fault_every, self.random.random
        drain_at = self.random.randrange(steps) if random() < self.scenario.drains else steps
        while self.steps < steps and not self.is_stopped:
            if random() * every < 1.0:
                self._note(self.faults.strike())
            if self.steps >= drain_at:
                drain_at = steps
                self.network.fact(self.broker.drain, self.now)
                self._note("drain")
            if self.operator is not None:
                self._note(self.operator.act())
            self._note(self.happen())

    def _note(self, text: str | None) -> None:
        """A step has been made: keep its line, and check what must hold."""
        if text is None:
            return
        self.steps += 1
        network = self.network
        line = f"{self.steps} {self.now:.6f} {text}"
        if network.said:
            line = f"{line} -> {', '.join(network.said)}"
            network.said.clear()
        self.lines.append(line)
        self._hash.update(line.encode())
        if self._trace is not None:
            self._trace(line)
        if self.is_stopped:
            return
        network.check_blocked(is_awake=not self.is_suspended)
        self.check_lane()
        if self.scenario.has_copies:
            network.copies.check()
        if self.fleet is not None:
            for group in self.broker.directory.every():
                network.roles.check_rest(group)
        is_periodic = self.steps % self._check_every == 0
        if is_periodic:
            self.broker.snapshot(self.now)  # must not fail, whatever the state
        if is_periodic or network.has_ticked:
            network.forget_touched()
            self.check_all()
        elif network.touched or network.touched_clients:
            self._check_touched()

    def _check_touched(self) -> None:
        """What the step may have touched: any group, and the clients and backends it was about, or had effects on."""
        network, backends, owed = self.network, self.broker.backends, self.books.owed
        for group in self.broker.directory.every():
            self.check_group(group)
        for number in network.touched:
            if number in backends:
                self.check_backend(backends[number])
        for key in network.touched_clients:
            if key in owed:
                self.check_client(key)
        network.forget_touched()

    # The end.

    def _settle(self) -> None:
        """Faults cease. In most worlds everybody comes to an end, and the broker serves as well as ever."""
        self.is_calm = True
        self.network.ambush = self.network.spoiler = None
        self.go_on()
        for server in self.servers.values():
            server.heal()
        if self.fleet is not None:
            self.fleet.ambush = None
            self.fleet.heal()
        for wire in list(self.network.lines.values()):
            self._note(self.network.unstick(wire, heals=False))
        self.clients.finish()
        if self.is_stopped or self.random.random() < 0.2:
            return
        if self.operator is not None:
            self.operator.finish()
        self._until(self._is_quiet)
        if self.broker.state is BrokerState.RUNNING:
            self._ask_each_group()

    def _ask_each_group(self) -> None:
        """Each group serves. A statement may wait for a connect longer than queue_timeout, but not every one."""
        groups = list(self.scenario.config.groups)
        for _ in range(ROUNDS):
            jobs = {group: self.clients.ask(group) for group in groups}
            self._until(self._is_quiet)
            groups = [group for group, job in jobs.items() if not isinstance(job.reply, ResultMessage)]
            if not groups:
                return
            pause = self.now + 2.0 * self.random.random()
            self._until(lambda: self.now >= pause)  # noqa: B023  called at once
        raise AssertionError(f"{groups} do not serve in a world without faults")

    def _end(self) -> None:
        """The broker stops, at once or after a drain; what was sent to servers runs on; then the books are closed."""
        if not self.is_stopped:
            if self.broker.state is BrokerState.RUNNING and self.random.random() < 0.5:
                self.network.fact(self.broker.drain, self.now)
                self._note("drain at the end")
            else:
                self.network.lane.release_all()
                self.network.fact(self.broker.stop, self.now)
                self._note("stop")
            self._until(lambda: self.is_stopped)
        for key, owed in self.books.owed.items():
            assert not owed, f"client {key} has no answer to {sorted(owed)}"
        self.network.close_all()
        while not self.is_over:
            self._note(self.happen())
        for server in self.servers.values():
            assert not server.processes
            assert server.locks.is_free
        self.unknown = audit(self.books, self.servers.values())

    def _is_quiet(self) -> bool:
        """Whether nobody waits for anything. A draining broker stops by itself then."""
        if self.broker.state is not BrokerState.RUNNING:
            return self.is_stopped
        return (
            not any(self.books.owed.values())
            and not any(client.waits_for or client.lease or client.session for client in self.clients.alive.values())
            and not any(client.leases for client in self.broker.clients.values())
        )

    def _until(self, is_reached: Callable[[], bool]) -> None:
        limit = self.now + PATIENCE
        while not is_reached():
            assert self.now < limit, "in a world without faults somebody waits for ever"
            self._note(self.happen())
