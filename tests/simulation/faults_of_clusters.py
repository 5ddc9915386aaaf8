"""What goes wrong where endpoints are servers of one database cluster, and what its manager, or a person, does then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.faults import Faults
from simulation.fleet import Fleet, Member
from simulation.servers import Server

if TYPE_CHECKING:
    from simulation.world import World


class FaultsOfClusters(Faults):
    """Those of all worlds, and promotions."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        assert world.fleet is not None
        self._fleet: Fleet = world.fleet
        without = (self._server_fails_over, self._schema_is_changed)
        self._kinds = (
            *(each for each in self._kinds if each not in without),
            *(self._primary_is_lost,) * 6,
            *(self._primary_is_lost_behind_a_write,) * 6,
            *(self._a_standby_is_promoted,) * 3,
            *(self._places_are_changed,) * 3,
            *(self._two_are_the_primary,) * 2,
            *(self._standby_restarts,) * 3,
            *(self._standby_lags,) * 3,
            *(self._watcher_is_cut,) * 4,
            *(self._watcher_is_blind,) * 3,
            *(self._only_watchers_get_through,) * 2,
        )

    def _later(self, server: Member, upstream: Member, *seconds: float) -> None:
        world = self._world
        world.at(world.now + world.random.choice(seconds), self._becomes_standby, server, upstream)

    def _becomes_standby(self, server: Member, upstream: Member) -> str | None:
        return None if self._world.is_calm else self._fleet.follow(server, upstream)

    def _fail_over(self, server: Server) -> str | None:
        """Instead of what becomes of a server by itself."""
        return self._primary_is_lost()

    def _primary_is_lost(self) -> str | None:
        """It crashes, or is cut off; a standby is promoted, mostly, and the old one comes back as this or that."""
        random, primaries = self._world.random, self._fleet.primaries()
        if not primaries:
            return None
        old = random.choice(primaries)
        text = self._crash(old) if random.random() < 0.6 else self._is_cut_off(old)
        if random.random() < 0.8:
            self._world.at(self._world.now + random.choice((0.01, 0.3, 2.0)), self._promote, old)
        return text

    def _primary_is_lost_behind_a_write(self) -> str:
        """Its client has just been told that it is done."""

        def strike(name: str) -> None:
            world = self._world
            server = world.servers[name]
            world.at(world.now + 3 * world.scenario.latency * world.random.random(), self._crash, server, 0.3)
            if world.random.random() < 0.5:
                world.at(world.now + 0.1 * world.random.random(), self._promote)

        self._fleet.ambush = strike
        return "an ambush for the next write"

    def _is_cut_off(self, server: Member) -> str:
        """The broker does not reach it; it is well."""
        seconds = self._world.random.choice((0.3, 3.0))
        server.unreachable_until = self._world.now + seconds
        self.cut_all(server)
        return f"server {server.name} is cut off for {seconds} s"

    def _promote(self, old: Member | None = None) -> str | None:
        """One of the standbys; the others follow it, the old primary too, at some time."""
        world, random, standbys = self._world, self._world.random, self._fleet.standbys()
        if not standbys or world.is_calm:
            return None
        chosen = random.choice(standbys)
        if random.random() < 0.5:  # the wrong one
            chosen = min(standbys, key=lambda each: len(each.wal))
        text = self._fleet.promote(chosen)
        world.tally["promotion"] += 1
        for each in self._fleet.members:
            if each is not chosen and (each is not old or random.random() < 0.7):
                self._later(each, chosen, 0.05, 0.5, 4.0)
        return text

    def _a_standby_is_promoted(self) -> str | None:
        """The primary lives on, and does not know."""
        return self._promote()

    def _places_are_changed(self) -> str | None:
        """The primary is shut down, and comes back as a standby of the one that has its place."""
        random, primaries, standbys = self._world.random, self._fleet.primaries(), self._fleet.standbys()
        if len(primaries) != 1 or not standbys:
            return None
        (old,), chosen = primaries, random.choice(standbys)
        if chosen.upstream is old and chosen.is_along(old):
            chosen.wal += old.wal[len(chosen.wal) :]
        text = self._fleet.promote(chosen)
        for each in self._fleet.members:
            if each is not chosen:
                self._fleet.follow(each, chosen)
        self._world.tally["promotion"] += 1
        return f"{text}, in the place of {old.name}"

    def _two_are_the_primary(self) -> str | None:
        """Somebody has removed standby.signal, until somebody else finds out."""
        primaries, standbys = self._fleet.primaries(), self._fleet.standbys()
        if len(primaries) != 1 or not standbys or standbys[0].timeline != primaries[0].timeline:
            return None
        text = self._fleet.promote(standbys[0], is_new=False)
        pair = [primaries[0], standbys[0]]
        self._world.random.shuffle(pair)
        self._later(pair[0], pair[1], 0.3, 2.0, 10.0)
        return f"{text}, as {primaries[0].name} is"

    def _standby_restarts(self) -> str | None:
        standbys = self._fleet.standbys()
        return (
            self._crash(self._world.random.choice(standbys), self._world.random.choice((0.01, 0.1)))
            if standbys
            else None
        )

    def _standby_lags(self) -> str | None:
        standbys = self._fleet.standbys()
        if not standbys:
            return None
        chosen = self._world.random.choice(standbys)
        chosen.lag = self._world.scenario.replication * self._world.random.choice((0.1, 1.0, 1.0, 30.0))
        return f"{chosen.name} lags by {chosen.lag} s"

    def _watcher_is_cut(self) -> str | None:
        return self._world.watchers.cut(self._some_server().name)

    def _watcher_is_blind(self) -> str:
        """What the broker works in is well."""
        name, seconds = self._some_server().name, self._world.random.choice((0.1, 1.0, 5.0))
        self._world.watchers.blind_until[name] = self._world.now + seconds
        return f"the watcher of {name} hears nothing for {seconds} s"

    def _only_watchers_get_through(self) -> str:
        """All other connections are cut."""
        server = self._some_server()
        self.cut_all(server)
        return f"connections to {server.name} are cut, but the watcher's"
