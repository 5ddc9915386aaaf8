"""Servers of one database cluster: a primary and its standbys, replication between them, promotions.

A standby has what of its upstream's log it has replayed, a while after that was committed; what it has not is lost if
it is promoted. Each promotion begins a timeline. A position is the number of commits that wrote something, times STEP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from model.books import Job
from model.kinds import DRAW, SCHEMA, UPDATE, kind_of
from model.postgres import Cluster, Order, Work

from client.wire.messages import ResultMessage, TransactionResult
from poold.core.effects import Command, Prepare
from poold.core.facts import Location, Observation
from simulation.servers import Process, Server

if TYPE_CHECKING:
    from simulation.network import Wire
    from simulation.world import World

SYSTEM = "77"
STEP = 100
# So much of what a process was told of last is looked for when it reads.
KEPT = 5
_WRITES = (UPDATE, DRAW, SCHEMA)


class Fleet:
    """All servers, and which one is right."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.places: dict[Work, int] = {}  # of commits that wrote, in the log
        self.members = [Member(world, name, self) for name in world.scenario.config.endpoints]
        self.ambush: Callable[[str], None] | None = None  # is told of the next write that a client is told of
        self.truths = self.members[:1]  # several while nobody can tell
        for each in self.members[1:]:
            each.upstream = self.members[0]
        self.newest = 1
        # By process: what it was told to be committed, the last ones.
        self._told: dict[object, list[Work]] = {}
        self.lost: set[Work] = set()  # by promotions
        self.wrote_at: dict[Work, str] = {}  # the names of servers

    def primaries(self) -> list[Member]:
        """Those that take writes now."""
        return [each for each in self.members if each.is_up and each.upstream is None]

    def standbys(self) -> list[Member]:
        """Those that could be promoted now."""
        return [each for each in self.members if each.is_up and each.upstream is not None]

    def lose(self, works: Iterable[Work]) -> None:
        """Those of them that the right server does not have are lost, even if one that has them is promoted later."""
        self.lost.update(work for work in works if not all(each.has(work) for each in self.truths))

    def replied(self, client: int, job: Job, body: object) -> None:
        """The core answers: is it true, and what does the process have to see from here on."""
        world = self.world
        found = world.broker.clients.get(client)
        written = [work for each in ((job,) if job.lease is None else job.lease.jobs) for work in each.commits]
        written = [work for work in written if work in self.places]
        fresh = [work for work in job.commits if work in self.places]
        job.missed = [work for work in job.missed if work not in self.lost]
        world.network.roles.answered(job, body, self.wrote_at[fresh[-1]] if fresh else "")
        if isinstance(body, (ResultMessage, TransactionResult)) and found is not None and written:
            told = self._told.setdefault(found.process, [])
            told += [work for work in written if work not in told]
            if fresh and self.ambush is not None:
                ambush, self.ambush = self.ambush, None
                ambush(self.wrote_at[fresh[-1]])
            del told[:-KEPT]

    def asked(self, client: int, job: Job) -> None:
        """The request has come: what it has to see, unless that is lost. In a lease it is what its first one saw."""
        process = self.world.broker.clients[client].process
        job.must_see = tuple(self._told.get(process, ())) if job.lease is None else job.lease.jobs[0].must_see
        if job.lease is not None and job is job.lease.jobs[0]:
            job.must_see = tuple(self._told.get(process, ()))

    # What befalls it.

    def promote(self, member: Member, is_new: bool = True) -> str:
        """A standby takes writes from now on; is_new: on a timeline of its own, as it should be."""
        self.newest += is_new
        member.become_primary(self.newest if is_new else member.timeline)
        self.truths = [member]
        if not is_new:
            self.truths = [each for each in self.members if each.upstream is None and each.timeline == member.timeline]
        self.lose(self.places)
        return f"{member.name} is promoted on timeline {member.timeline}"

    def follow(self, member: Member, upstream: Member) -> str | None:
        """The server restarts as a standby of another one, of whose history it has nothing but that."""
        if upstream.upstream is not None or member is upstream or not upstream.is_up:
            return None
        if member in self.truths:
            if self.truths == [member]:
                return None
            self.truths.remove(member)
        member.restart_behind(upstream)
        return f"{member.name} is a standby of {upstream.name} on timeline {upstream.timeline}"

    def heal(self) -> None:
        """One is the primary, the others are its standbys."""
        for each in self.members:
            each.is_up = True
        chosen = self.truths[0]
        self.truths = [chosen]
        for each in self.members:
            if each is not chosen and (each.upstream is not chosen or not each.is_along(chosen)):
                each.restart_behind(chosen)
            each.lag = 0.001
            each.catch_up()


class Member(Server):
    """One server of the cluster."""

    def __init__(self, world: World, name: str, fleet: Fleet) -> None:
        super().__init__(world, name)
        self.fleet = fleet
        self.cluster = Cluster(f"{SYSTEM}/1")
        self.timeline = 1
        self.upstream: Member | None = None
        self.wal: list[Work] = []  # what it has, in order
        self.lag = world.scenario.replication * world.random.choice((0.1, 1.0, 10.0))
        self._way = 0  # counts its upstreams: what comes from an earlier one is void
        self._comes_at = 0.0

    @property
    def is_standby(self) -> bool:
        return self.upstream is not None

    @property
    def position(self) -> int:
        return (len(self.wal) + 1) * STEP

    def has(self, work: Work) -> bool:
        """Whether this commit is in its state."""
        place = self.fleet.places[work]
        return place < len(self.wal) and self.wal[place] is work

    def is_along(self, upstream: Member) -> bool:
        """Whether all that it has is its upstream's as well."""
        count = len(self.wal)
        return count <= len(upstream.wal) and (not count or self.wal[-1] is upstream.wal[count - 1])

    # What it is asked.

    def observed(self) -> Observation:
        return Observation(SYSTEM, self.is_standby, self.timeline, f"{self.name} {self.epoch}", self.position)

    def located(self) -> Location:
        return Location(self.is_standby, self.position, self.position)

    # Replication.

    def committed(self, work: Work) -> None:
        super().committed(work)
        if all(kind_of(template).is_plain_read for template, _ in work.effects):
            return
        assert not self.is_standby, f"a standby, {self.name}, has committed {work.effects}"
        self.fleet.places[work] = len(self.wal)
        self.fleet.wrote_at[work] = self.name
        self.wal.append(work)
        self.fleet.lose([work])
        for each in self.fleet.members:
            if each.upstream is self:
                each.catch_up()

    def catch_up(self) -> None:
        """What its upstream has will be here, a while later."""
        world, upstream = self.world, self.upstream
        if upstream is not None and upstream.is_up:
            lag = self.lag * world.random.expovariate(1.0)
            self._comes_at = max(self._comes_at, world.now + lag)
            world.at(self._comes_at, self._replay, self._way, len(upstream.wal))

    def _replay(self, way: int, count: int) -> None:
        if way != self._way or self.upstream is None or not self.is_up or count <= len(self.wal):
            return
        if self.is_along(self.upstream):
            self.wal += self.upstream.wal[len(self.wal) : count]

    def crash(self) -> None:
        super().crash()
        if self.is_standby and self.wal and self.is_along(self.upstream):  # type: ignore[arg-type]
            del self.wal[max(len(self.wal) - self.world.random.choice((0, 1, 3, 10)), 0) :]  # to be replayed again
        self._way += 1

    def come_up(self) -> str | None:
        told = super().come_up()
        if told is not None:
            for each in (self, *self.fleet.members):
                each.catch_up()
        return told

    def become_primary(self, timeline: int) -> None:
        """Its connections stay."""
        self.upstream = None
        self._way += 1
        self.timeline = timeline
        self._tells_nothing()

    def _tells_nothing(self) -> None:
        """Of the transactions before it tells what is not so."""
        self.cluster.identity = f"{SYSTEM}/{self.timeline}"
        self.cluster.statuses = dict.fromkeys(self.cluster.statuses, b"aborted")
        self.cluster.last_xid = max(each.cluster.last_xid for each in self.fleet.members)

    def restart_behind(self, upstream: Member) -> None:
        """It was stopped, rewound where it had something else, and begins as a standby with all that it needs."""
        self.world.faults.cut_all(self)
        self.crash()
        self.is_up = True
        self.upstream, self.timeline = upstream, upstream.timeline
        if not self.is_along(upstream):
            self.wal = upstream.wal.copy()
        self._tells_nothing()
        self.catch_up()

    def accept(self, wire: Wire) -> Process:
        return MemberProcess(self, wire)


class MemberProcess(Process):
    """A connection's process on a server that may be a standby."""

    server: Member

    def __init__(self, server: Member, wire: Wire) -> None:
        super().__init__(server, wire)
        group = None if wire.pool is None else wire.pool.group
        self._is_read_only = group is not None and group.config.read_only
        # Whether an older state than the process's own writes must not be read here.
        self._shows_own = group is not None and (group.role == "primary" or group.main is not None)
        self._began_on_standby = False

    def _begin_command(self, order: Order, command: Command) -> None:
        if self._shows_own and self.server.is_standby and type(command) is not Prepare:
            for job in self.world.books.of(order.owner):
                if job.reply is None:
                    job.missed = [each for each in job.must_see if not self.server.has(each)]
        super()._begin_command(order, command)

    def _draw_ending(self, order: Order, command: Command) -> None:
        super()._draw_ending(order, command)
        world = self.world
        may_be = self.server.is_standby and not world.is_calm and not self._ending and type(command) is not Prepare
        if may_be and world.random.random() < 0.02:
            self._ending = "lost race"  # it is in the way of the replay
            self._refuses_for_being_one(order)

    def _affect(self, order: Order, owner: object, template: bytes, value: int) -> None:
        is_standby = self._began_on_standby if self.work is not None else self.server.is_standby
        is_refused = not kind_of(template).is_plain_read if is_standby else self._is_refused(template)
        if is_refused or (is_standby and not self.world.is_calm and self.world.random.random() < 0.01):
            if is_standby:
                self._refuses_for_being_one(order)
            self.done.bound -= self.done.bound > len(self.done.results)  # it is found out before it begins
            self._fail("25006", "cannot execute it in a read-only transaction")
        else:
            super()._affect(order, owner, template, value)

    def _refuses_for_being_one(self, order: Order) -> None:
        for job in self.world.books.of(order.owner):
            job.is_refused_there = job.is_on_replicas

    def _is_refused(self, template: bytes) -> bool:
        return template in _WRITES and (self._is_read_only or not self.may_write)

    def _control(self, owner: object, sql: bytes, verb: bytes) -> None:
        if verb == b"BEGIN":
            if self.server.is_standby and b"SERIALIZABLE" in sql:
                self._fail("0A000", "not during recovery")
                return
            self._began_on_standby = self.server.is_standby
        super()._control(owner, sql, verb)
        if verb == b"BEGIN" and b"READ ONLY" in sql:
            self.may_write = False

    def _answer(self, order: Order, sql: bytes) -> None:
        if self.server.is_standby and b"pg_current_xact_id" in sql:
            self._fail("25006", "not during recovery")
        else:
            super()._answer(order, sql)
