"""An operator, who gives orders at any moment."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from model.reloads import KINDS, another

from client.wire.arguments import packed_arguments
from client.wire.messages import Answer, Ask, Failure
from poold.core.operations.pausing import kind_of, kinds_to_resume
from poold.core.operations.selection import Selection, select
from poold.core.pools.pool import PAUSES, Pool
from poold.core.records.client import Client
from poold.core.records.request import Verb
from poold.core.state import BrokerState

if TYPE_CHECKING:
    from simulation.world import World

# Keys of operators' connections begin here.
FIRST_KEY = 1_000_000
# Mean steps from one order to the next.
EVERY = 300
# So much more often if there is what orders rarely meet.
TEMPTED = 3.0
_ENDS = (Verb.COMMIT, Verb.ROLLBACK)
# So much more often between a fact and its turn, when something was decided that nobody has heard of.
IN_A_TURN = 6.0


class Operator:
    """Gives orders; its chance is its own, so that a world with one is otherwise as it would be."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._random = Random(seed)
        self._every = EVERY * self._random.choice((1, 1, 10))
        self._last_request = 0
        self._last_key = FIRST_KEY
        self._kinds = (
            self._reconnect,
            self._pause,
            self._pause,
            self._resume,
            self._resume,
            *(self._kill,) * 4,
            *(self._reload,) * 3,
        )

    def act(self) -> str | None:
        """Give an order, at times; a line about it."""
        world = self._world
        if world.is_suspended or world.is_stopped:
            return None
        weight = IN_A_TURN if world.network.has_turn else 1.0
        drawn = self._random.random() * self._every
        if drawn >= weight and (drawn >= TEMPTED * weight or not self._is_tempting()):
            return None
        kind = self._random.choice(self._kinds)
        world.tally[kind.__name__.strip("_")] += 1
        return kind()

    def _is_tempting(self) -> bool:
        """Whether there is what is rare and delicate: the lane is at work, or somebody commits."""
        world = self._world
        return bool(world.network.lane.ways) or any(self._ending(client) for client in world.broker.clients.values())

    def _ending(self, client: Client) -> bool:
        """Whether a COMMIT or ROLLBACK of the client's runs."""
        requests = client.requests.values()
        return any(not each.is_in_lane and each.verb in _ENDS and not each.is_waiting for each in requests)

    def finish(self) -> None:
        """Let all that is paused go on."""
        self._world.network.reloads.reload(self._world.scenario.config)
        pairs: list[tuple[str, str]] = []
        self._world.network.orders.resume(self._chosen(pairs), PAUSES)
        self._tell(self._ask("resume", pairs))

    def _pause(self) -> str:
        """Pause or drain something, and wait for it, for some time or until the operator's program dies."""
        pairs, timeout = self._some(), self._random.choice((0.01, 0.1, 1.0, 10.0))
        word = self._random.choice(("pause", "pause", "drain"))
        message = self._ask(word, [*pairs, ("timeout", str(timeout))])
        pools, world = self._chosen(pairs), self._world
        orders, kind = world.network.orders, kind_of(self._selection(pairs), word == "drain")
        if world.broker.state is BrokerState.DRAINING:
            assert isinstance(self._tell(message), Failure), "a broker that ends is paused"
            return f"{word} {pairs} is refused, as the broker ends"
        if any(each.kind is kind and not set(pools).isdisjoint(each.new) for each in orders.pending):
            assert isinstance(self._tell(message), Failure), "two orders pause the same"
            return f"{word} {pairs} is refused"
        key = self._arrive()
        orders.pause(key, message.request, pools, kind, timeout, is_all=not pairs)
        self._tell(message, key)
        if self._random.random() < 0.2:
            world.at(world.now + timeout * self._random.random(), self._die, key)
        if self._random.random() < 0.8:
            world.at(world.now + 10 ** self._random.uniform(-2, 1), self._resume)
        return f"{word} {pairs} for {timeout} s"

    def _resume(self) -> str | None:
        if self._world.is_suspended or self._world.is_stopped:
            return None
        is_closed = self._world.broker.state is BrokerState.DRAINED
        pairs = [] if is_closed else self._some()
        kinds = kinds_to_resume(self._selection(pairs), not pairs)
        self._world.network.orders.resume(self._chosen(pairs), kinds)
        assert isinstance(self._tell(self._ask("resume", pairs)), Answer)
        return f"resume {pairs}"

    def _arrive(self) -> int:
        """Another connection of an operator's."""
        self._last_key += 1
        world = self._world
        world.network.about_client(
            self._last_key, world.broker.client_arrived, 1, "operator", None, None, None, world.now
        )
        return self._last_key

    def _die(self, key: int) -> str | None:
        world = self._world
        if world.is_stopped or world.is_suspended:
            return None
        world.network.orders.gone(key)
        world.network.about_client(key, world.broker.client_gone, world.now)
        return f"operator {key} is gone"

    def _kill(self) -> str:
        """End something that there is; at times something that there is not."""
        random, network, world = self._random, self._world.network, self._world
        clients = [client for client in world.broker.clients.values() if client.key in world.books.owed]
        if not clients:
            return "kill nobody"
        client = random.choice(clients)
        working = [each for each in clients if each.requests or each.leases]
        kind = random.choice(("request", "request", "lease", "lease", "client", "pid"))
        if kind in ("request", "lease") and working:
            client = random.choice(working)
        ending = [each for each in clients if self._ending(each)]
        if ending and random.random() < 0.3:
            kind, client = "lease", random.choice(ending)
        own = list(client.requests if kind == "request" else client.leases)
        number = random.choice(own) if own else 1
        name = {"client": str(client.key), "pid": str(client.pid)}.get(kind, f"{client.key}/{number}")
        meant = [client] if kind != "pid" else [each for each in clients if each.pid == client.pid]
        for each in meant:
            network.release(each.key)
        jobs = [world.books.jobs[each] for one in meant for each in one.requests]
        jobs = [job for job in jobs if kind != "request" or job.number == number]
        jobs = [job for job in jobs if kind != "lease" or (job.lease is not None and job.lease.number == number)]
        if kind in ("client", "pid"):  # what a lease has goes on until its client is gone
            jobs = [job for job in jobs if job.lease is None]
        told_before = [job.is_withdrawn for job in jobs]
        is_ending = any(
            not each.is_in_lane and each.verb in _ENDS and not each.is_waiting
            for each in client.requests.values()
            if each.number in [job.number for job in jobs]
        )
        if kind in ("client", "pid"):
            network.orders.killed.update(each.key for each in meant)
        for job in jobs:
            job.is_withdrawn = True
        told = self._tell(self._ask("kill", [(kind, name)]))
        if not isinstance(told, Answer):
            assert kind in ("request", "lease"), f"{kind} {name} is not killed: {told}"
            for job, was in zip(jobs, told_before, strict=True):
                job.is_withdrawn = was
        elif kind in ("client", "pid"):
            assert {each.key for each in meant} <= network.dropped, f"{kind} {name} is not disconnected"
        elif kind == "lease":
            assert number not in client.leases, f"lease {name} goes on"
            assert not is_ending, f"lease {name} is ended while it commits"
        return f"kill {kind} {name}: {type(told).__name__}"

    def _reload(self) -> str:
        """Let another configuration hold."""
        world, random = self._world, self._random
        kind, pick = random.choice(KINDS), random.choice
        lent = list(world.network.lane.lent.values())
        if lent and random.random() < 0.3:
            kind, name = random.choice(("remove group", "sizes")), random.choice(lent).backend.group.configured
            pick = lambda each: name if name in each else random.choice(each)  # noqa: E731  # a sequence of names
        config = another(world.broker.config.as_it_is(), world.scenario.config, kind, pick)
        renewed = [random.choice(sorted(config.endpoints))] if random.random() < 0.1 else []
        before = world.broker.config.as_it_is()
        world.network.reloads.reload(config, renewed)
        if kind == "remove group" and random.random() < 0.3:
            kind = "remove group, and put it back"
            world.network.reloads.reload(before)
        return f"reload: {kind}"

    def _reconnect(self) -> str:
        pairs = self._some()
        message = self._ask("reconnect", pairs)
        orders = self._world.network.orders
        orders.reconnect(self._chosen(pairs, has_leaving=False))
        told = self._tell(message)
        assert isinstance(told, Answer)
        return f"reconnect {pairs}: {told.body['closed']} and {told.body['closing']}"

    def _some(self) -> list[tuple[str, str]]:
        """Some groups, or an endpoint, or both, or all there is."""
        broker, random = self._world.broker, self._random
        groups = [name for name, group in broker.groups.items() if group.main is None]
        pairs = [("group", name) for name in random.sample(groups, random.choice((0, 1)))]
        if random.random() < 0.4:
            chosen = [broker.groups[name] for _, name in pairs] or [broker.groups[name] for name in groups]
            used = dict.fromkeys(endpoint.name for group in chosen for endpoint in group.endpoints)
            pairs.append(("endpoint", random.choice(list(used))))
        return pairs

    def _selection(self, pairs: list[tuple[str, str]], has_leaving: bool = True) -> Selection:
        named = {name: [value for each, value in pairs if each == name] for name, _ in pairs}
        there = self._world.broker.directory
        return select(there.groups, there.endpoints, named, there.leaving if has_leaving else ())

    def _chosen(self, pairs: list[tuple[str, str]], has_leaving: bool = True) -> tuple[Pool, ...]:
        return self._selection(pairs, has_leaving).pools

    def _ask(self, what: str, pairs: list[tuple[str, str]]) -> Ask:
        self._last_request += 1
        return Ask(self._last_request, what, packed_arguments(pairs))

    def _tell(self, message: Ask, key: int = FIRST_KEY) -> object:
        world = self._world
        return world.network.about_client(key, world.broker.ask, message, world.now)
