"""What kind of world a seed makes: drawn first, before anything happens in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from client.wire.limits import BATCH, INTERACTIVE, NORMAL
from poold.config.model import BrokerConfig, Config, EndpointConfig, GroupConfig, Weights
from poold.core.statements import prepared

HABITS = (
    ("query",),
    ("query", "query", "burst"),
    ("message",),
    ("lease",),
    ("query", "message", "lease"),
    ("query", "burst", "message", "message", "lease", "lease", "odd"),
    ("session",),
    ("session", "query", "query", "message", "odd"),
    ("locker", "query"),
    ("changer", "query"),
    ("code", "query"),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """The configuration, the clients' habits, the servers' pace, and how much goes wrong. Times are means."""

    config: Config
    clients: int
    threads: int  # of a process, each a client of its own
    habits: tuple[tuple[str, ...], ...]  # what kinds of clients there are: what one does, as often as it is named
    think: float
    burst: int  # requests that a client sends at once, at most
    impatience: float  # the share of requests with a timeout
    latency: float
    short: float  # what a SELECT takes
    write: float  # what an UPDATE takes
    slow: float  # the share of statements that take a multiple, or far too long
    mishaps: float  # a factor for all that may befall a statement
    writes: float  # the share of UPDATEs
    rows: int  # that UPDATEs contend for
    deadlock_timeout: float
    fault_every: int  # steps from one fault to the next
    favourite: str  # the fault that strikes as often as all others together, "" where there is none
    refused: float  # the share of connects that a server that is well refuses
    partial: float  # the share of turns in which the shell does its work in parts
    lag: float  # how long facts wait for their turn
    changes_schema: bool
    others: float  # the share of what looks ordinary and is not
    tenants: int  # whose settings travel
    leaves: float  # the share of odd statements, and those in sessions, that leave something in their session
    settings: float  # the share of requests with settings of their own
    priorities: tuple[int, ...]  # of clients
    prepared_kept: int
    is_seasoned: bool  # the broker has served for long: it knows the statements
    has_identity: bool  # whether servers tell who they are
    replication: float = 0.0  # how long it takes, where the endpoints are servers of one database cluster
    drains: float = 0.15  # the share of worlds in which the broker is drained before the end

    @property
    def has_copies(self) -> bool:
        """Whether data is copied."""
        return any("copy" in habits for habits in self.habits)

    @property
    def query_timeout(self) -> float:
        """The endpoints' common one."""
        return next(iter(self.config.endpoints.values())).query_timeout


def has_lane(seed: int, kind: str = "") -> bool:
    """Whether the broker of this world has a lane; nothing is drawn for it, so that all else is as it is without."""
    return kind == LANE or seed % 3 == 0 or (kind == OPERATED and seed % 3 == 1)


def draw(random: Random, kind: str = "") -> Scenario:
    """A scenario: anything, or one of those in which what is rare and delicate happens often; or one of a kind."""
    found = _draw_anything(random)
    which = random.randrange(len(KINDS) + 1)
    if kind == LANE:
        return with_lane(random, found)
    if kind == CLUSTER:
        return with_cluster(random, found)
    if kind == COPY:
        return with_copies(random, found)
    if kind == OPERATED and random.random() < 0.4:
        return _with_company(random, found)
    if kind and kind != OPERATED:
        return KINDS[kind](random, found)
    return list(KINDS.values())[which](random, found) if which < len(KINDS) else found


def _with_sessions(random: Random, found: Scenario) -> Scenario:
    """Sessions side by side with others: what they leave is reset, they are released, lost, and outlive their time."""
    lease_timeout, idle = random.choice((0.0, 1.0)), random.choice((0.0, 0.2))
    limits = {"lease_timeout": lease_timeout, "idle_in_transaction_timeout": idle, "max_waiting": 0}
    return replace(
        found,
        config=_with_groups(found.config, **limits, queue_timeout=3.0, max_size=random.choice((1, 2, 3))),
        clients=random.choice((5, 10)),
        habits=(("session",), ("session", "query"), ("query", "message", "lease", "odd")),
        think=random.choice((0.001, 0.01)),
        impatience=random.choice((0.1, 0.5)),
        latency=random.choice((0.00005, 0.005)),
        mishaps=random.choice((0.0, 1.0, 4.0)),
        fault_every=random.choice((50, 300)),
        leaves=random.choice((0.2, 0.6)),
    )


def _with_company(random: Random, found: Scenario) -> Scenario:
    """Short prepared statements in bursts: many share a backend, and are cancelled and lost there."""
    depth = random.choice((4, 16))
    return replace(
        found,
        config=_with_groups(found.config, prepare="auto", pipeline_depth=depth, max_waiting=0),
        clients=random.choice((5, 10, 20)),
        habits=(("burst",), ("burst", "burst", "message"), ("burst", "lease")),
        burst=12,
        impatience=0.2,
        latency=random.choice((0.00005, 0.0005)),
        short=0.0002,
        write=0.001,
        writes=0.2,
        rows=1000,
        lag=random.choice((0.0, 0.0001)),
        favourite="company is cancelled",
        mishaps=random.choice((0.0, 1.0)),
        changes_schema=False,
        is_seasoned=True,
    )


def _with_locks(random: Random, found: Scenario) -> Scenario:
    """Tables are locked in leases, while others read them in bursts, and the holder of a lock reads something else."""
    found = _with_company(random, found)
    endpoints = {
        name: replace(endpoint, query_timeout=random.choice((0.0, 5.0)))
        for name, endpoint in found.config.endpoints.items()
    }
    broker = replace(found.config.broker, client_idle_timeout=0.0, max_client_requests=0, max_client_bytes=0)
    limits = {"max_size": random.choice((1, 2)), "proofs": True, "queue_timeout": 10.0, "max_lifetime": 0.0}
    return replace(
        found,
        config=_with_groups(replace(found.config, endpoints=endpoints, broker=broker), **limits),
        habits=(("locker",), ("burst",), ("burst",), ("burst", "query")),
        think=random.choice((0.001, 0.01)),
        impatience=0.0,
        writes=0.05,
        others=0.0,
        settings=0.0,
        slow=0.0,
        mishaps=0.0,
        fault_every=1000,
        favourite="",
    )


def _with_changes(random: Random, found: Scenario) -> Scenario:
    """The schema changes again and again, in leases and by others; statements are many kinds, and often fail."""
    return replace(
        _with_company(random, found),
        config=_with_groups(found.config, prepare="auto", max_waiting=0, max_lifetime=0.0, proofs=True),
        habits=(("query", "burst"), *(("burst",),) * 6, ("changer",)),
        think=random.choice((0.03, 0.2)),
        clients=10,
        impatience=0.0,
        others=0.3,
        changes_schema=False,
        leaves=0.0,
        fault_every=random.choice((50, 1000)),
        favourite="schema is changed",
        mishaps=random.choice((0.0, 4.0)),
    )


def _with_settings(random: Random, found: Scenario) -> Scenario:
    """Settings of a few tenants travel with every other request; statements fail, and messages lose races."""
    return replace(
        _with_company(random, found),
        config=_with_groups(found.config, prepare="auto", max_waiting=0),
        habits=(("query", "message"), ("query", "burst"), ("message", "message", "lease")),
        burst=4,
        impatience=random.choice((0.0, 0.2)),
        writes=0.5,
        rows=6,
        mishaps=4.0,
        fault_every=300,
        favourite="",
        settings=0.5,
        tenants=2,
    )


def _with_code(random: Random, found: Scenario) -> Scenario:
    """Procedures and blocks, which may commit by themselves, fail, and are lost, beside others in one connection."""
    return replace(
        _with_company(random, found),
        config=_with_groups(found.config, prepare="auto", max_waiting=0, max_size=random.choice((1, 2, 3))),
        habits=(("code",), ("code", "query"), ("session", "query"), ("burst",)),
        mishaps=4.0,
        slow=random.choice((0.0, 0.05)),
        fault_every=random.choice((50, 300)),
        favourite="reset",
        leaves=0.5,
    )


def _with_lost_commits(random: Random, found: Scenario) -> Scenario:
    """Transaction messages that take their time, and whose connections are lost: their outcome is asked for."""
    return replace(
        found,
        config=_with_groups(found.config, track_outcome=True, max_size=random.choice((2, 3, 6)), max_waiting=0),
        clients=random.choice((5, 10, 20)),
        habits=(("message",), ("message", "lease"), ("message", "query")),
        burst=4,
        latency=random.choice((0.0005, 0.005)),
        write=random.choice((0.005, 0.05)),
        mishaps=random.choice((0.0, 1.0)),
        fault_every=random.choice((20, 50)),
        favourite="commit is lost",
        has_identity=True,
    )


def _with_old_backends(random: Random, found: Scenario) -> Scenario:
    """Backends that live for a short time only, in pools with a floor; several of them are often old at once."""
    max_size, max_lifetime = random.choice((2, 4, 6)), random.choice((0.1, 0.1, 0.5, 2.0))
    limits = {"max_size": max_size, "min_size": 2, "max_lifetime": max_lifetime, "max_idle": 20.0, "max_waiting": 0}
    return replace(
        found,
        config=_with_groups(found.config, **limits, prepare="auto", pipeline_depth=4),
        clients=random.choice((5, 10, 20)),
        habits=(("burst",), ("query", "burst", "lease"), ("query", "message")),
        burst=12,
        think=random.choice((0.001, 0.1)),
        latency=random.choice((0.0005, 0.01)),
        short=0.0002,
        write=random.choice((0.001, 0.05)),
        mishaps=random.choice((0.0, 1.0)),
        fault_every=random.choice((50, 300)),
        favourite=random.choice(("clock jumps", "broker is suspended")),
        is_seasoned=True,
    )


def _with_refusals(random: Random, found: Scenario) -> Scenario:
    """Servers that refuse many connects while others are on their way, and backends that live for a short time only."""
    found = _with_old_backends(random, found)
    endpoint = next(iter(found.config.endpoints.values()))
    names = ("e0", "e1", "e2")
    config = _with_groups(found.config, endpoints=names, max_size=4, min_size=2)
    return replace(found, config=replace(config, endpoints=dict.fromkeys(names, endpoint)), refused=0.3)


def _with_sequences(random: Random, found: Scenario) -> Scenario:
    """Reads that draw from sequences, beside what may ask for their values, on connections that are often lost."""
    return replace(
        _with_company(random, found),
        config=_with_groups(found.config, prepare="auto", proofs=True, max_waiting=0, max_size=random.choice((2, 4))),
        habits=(("query",), ("burst", "query"), ("odd", "query")),
        others=0.4,
        leaves=0.0,
        impatience=0.0,
        changes_schema=False,
        latency=random.choice((0.0005, 0.005)),
        mishaps=0.0,
        fault_every=random.choice((10, 30)),
        favourite="reset",
    )


def with_lane(random: Random, found: Scenario) -> Scenario:
    """Whatever it is, most of it is what a lane may run: short, plain, prepared, of clients that wait for long."""
    choice = random.choice
    limits = {"prepare": "auto", "proofs": True, "track_outcome": False, "plans": choice(("auto", "auto", "custom"))}
    limits |= {
        "max_size": choice((1, 1, 2, 3)),
        "max_idle": choice((0.5, 2.0, 20.0)),
        "pipeline_depth": choice((1, 2, 16)),
        "queue_timeout": 3.0,
    }
    timeouts = {"drain_timeout": choice((0.0, 0.0, 0.5, 30.0)), "client_idle_timeout": choice((0.0, 0.3))}
    broker = replace(found.config.broker, **timeouts)
    return replace(
        found,
        config=_with_groups(replace(found.config, broker=broker), **limits),
        clients=choice((2, 4, 8)),
        habits=(("query", "burst"), ("plain message", "query"), ("plain message",), ("query",), choice(found.habits)),
        burst=choice((2, 8)),
        think=choice((0.001, 0.005, 0.02)),
        impatience=min(found.impatience, 0.1),
        latency=choice((0.00005, 0.00005, 0.0005)),
        short=choice((0.0002, 0.0002, 0.002)),
        write=choice((0.0005, 0.002)),
        slow=choice((0.0, 0.01, 0.05)),
        writes=0.2,
        others=choice((0.0, 0.05, 0.3)),
        settings=0.0,
        leaves=min(found.leaves, 0.1),
        changes_schema=False,
        mishaps=choice((0.0, 0.2, min(found.mishaps, 1.0))),
        fault_every=choice((50, 300, 1000)),
        favourite=choice((found.favourite, "", "client reads nothing", "reset")),
        priorities=choice(((NORMAL,), (INTERACTIVE, NORMAL), (NORMAL, NORMAL, NORMAL, BATCH))),
        prepared_kept=choice((prepared.PREPARED_KEPT, prepared.PREPARED_KEPT, 8)),
        is_seasoned=True,
        drains=0.5,
    )


def is_cluster(seed: int, kind: str = "") -> bool:
    """Whether this world's endpoints are servers of one database cluster."""
    return kind == CLUSTER or (kind in ("", OPERATED) and seed % 8 == 5)


def with_copies(random: Random, found: Scenario) -> Scenario:
    """Data passes by COPY, beside all else: slow clients, full windows, losses and cancels in the middle."""
    choice = random.choice
    return replace(
        found,
        config=_with_groups(
            found.config, idle_in_transaction_timeout=choice((0.0, 0.2, 2.0)), max_size=choice((1, 2, 3))
        ),
        clients=choice((5, 10)),
        habits=(
            ("copy",),
            ("copy", "query"),
            ("copy", "lease"),
            ("copy", "session"),
            ("copy", "copy", "message", "odd"),
        ),
        think=choice((0.001, 0.01)),
        impatience=choice((0.1, 0.5)),
        latency=choice((0.00005, 0.005)),
        mishaps=choice((0.0, 1.0, 4.0)),
        fault_every=choice((50, 300)),
    )


def with_cluster(random: Random, found: Scenario) -> Scenario:
    """One primary, one or two standbys; they change places. Some of what is asked for is said to be reads only."""
    choice = random.choice
    endpoint = replace(next(iter(found.config.endpoints.values())), connect_timeout=choice((1.0, 3.0)))
    names = ("e0", "e1", "e2")[: choice((2, 3, 3))]
    broker = replace(found.config.broker, role_check_interval=choice((0.2, 1.0)))
    max_size = choice((1, 2, 4))
    limits = {"prepare": "auto", "proofs": True, "max_waiting": 0, "queue_timeout": choice((0.5, 3.0, 10.0))}
    limits |= {"max_size": max_size, "min_size": min(max_size, choice((0, 1, 2))), "endpoints": names}
    limits |= {"route_reads": choice((True, True, False)), "catch_up": choice((0.0, 0.05, 0.05, 0.5))}
    limits |= {"max_lag": choice((10.0, 1.0, 0.0, "1kB"))}
    config = _with_groups(replace(found.config, broker=broker), **limits)
    groups = {name: replace(group, role=choice(("auto", "primary"))) for name, group in config.groups.items()}
    if "reads" in groups:
        groups["reads"] = replace(groups["reads"], role=choice(("replica", "prefer-replica")))
    found = replace(
        found,
        config=replace(config, groups=groups, endpoints=dict.fromkeys(names, endpoint)),
        clients=choice((2, 5, 10)),
        habits=(
            ("query", "reader"),
            ("query", "reader", "reader", "message"),
            ("burst", "reader", "plain message"),
            ("message", "read message", "reader"),
            ("lease", "read lease", "reader"),
            ("session", "reader", "query"),
        ),
        think=choice((0.001, 0.01, 0.1)),
        burst=choice((2, 8)),
        impatience=choice((0.0, 0.1)),
        latency=choice((0.00005, 0.0005, 0.005)),
        short=0.0002,
        write=choice((0.001, 0.01)),
        slow=choice((0.0, 0.01)),
        mishaps=choice((0.0, 0.0, 1.0)),
        fault_every=choice((50, 150)),
        favourite=choice(("", "primary is lost", "primary is lost behind a write")),
        writes=choice((0.2, 0.5)),
        rows=1000,
        others=choice((0.0, 0.1)),
        leaves=choice((0.0, 0.1)),
        settings=choice((0.0, 0.1)),
        changes_schema=False,
        is_seasoned=True,
        replication=choice((0.0005, 0.01, 0.1, 1.0)),
    )
    return _with_readers(random, found) if random.random() < 0.3 else found


def _with_readers(random: Random, found: Scenario) -> Scenario:
    """Short reads behind few writes, that are slow to come to the standbys while servers come and go."""
    choice = random.choice
    limits = {"route_reads": True, "catch_up": 0.05, "max_lag": 0.0, "queue_timeout": 10.0, "max_lifetime": 0.0}
    return replace(
        found,
        config=_with_groups(found.config, **limits),
        clients=choice((4, 10)),
        threads=1,
        habits=(("query", "reader", "reader"), ("reader",)),
        think=choice((0.003, 0.02)),
        impatience=0.0,
        mishaps=0.0,
        slow=0.0,
        write=0.001,
        writes=choice((0.1, 0.4)),
        others=0.0,
        settings=0.0,
        latency=choice((0.00005, 0.0005)),
        fault_every=choice((30, 80)),
        favourite=choice(
            ("primary is lost behind a write", "a standby is promoted", "standby restarts", "client forks")
        ),
        replication=choice((0.01, 0.1, 1.0)),
    )


def _with_groups(config: Config, **settings: Any) -> Config:
    return replace(config, groups={name: replace(group, **settings) for name, group in config.groups.items()})


def _draw_anything(random: Random) -> Scenario:
    """Durations are short against those of the default configuration, so that all of them are met."""
    choice, between = random.choice, random.uniform
    latency = choice((0.00005, 0.00005, 0.0005, 0.01, 0.1))
    endpoint = EndpointConfig(
        host="/tmp",
        dbname="db",
        user="user",
        connect_timeout=max(choice((0.2, 1.0, 3.0)), 5 * latency),
        query_timeout=choice((0.3, 1.0, 2.0, 5.0, 0.0)),
    )
    names = tuple(f"e{number}" for number in range(choice((1, 1, 2, 3))))
    prepare = choice(("auto", "auto", "auto", "auto", "off"))
    groups = {
        "default": _group(random, names, prepare),
        "tx": _group(random, names, prepare, autocommit=False),
    }
    if random.random() < 0.4:
        groups["reads"] = _group(random, names, prepare, read_only=True)
    broker = BrokerConfig(
        address="ipc:///tmp/x",
        drain_timeout=choice((0.5, 3.0, 30.0)),
        client_idle_timeout=choice((0.0, 0.0, 0.0, 0.0, 1.0, 5.0)),
        max_client_requests=choice((0, 0, 4)),
        max_client_bytes=choice((0, 0, 10_000)),
    )
    return Scenario(
        config=Config(broker=broker, endpoints=dict.fromkeys(names, endpoint), groups=groups),
        clients=choice((2, 5, 10, 20, 40)),
        threads=choice((1, 1, 3)),
        habits=HABITS,
        think=10 ** between(-3, 0),
        burst=choice((1, 1, 4, 12)),
        impatience=choice((0.0, 0.1, 0.5)),
        latency=latency,
        short=choice((0.0002, 0.002)),
        write=choice((0.001, 0.01, 0.05)),
        slow=choice((0.0, 0.01, 0.05)),
        mishaps=choice((0.0, 1.0, 1.0, 4.0)),
        writes=choice((0.2, 0.5, 0.9)),
        rows=choice((2, 6, 50, 1000)),
        deadlock_timeout=choice((0.01, 0.1, 1.0)),
        fault_every=choice((20, 100, 300, 1000)),
        favourite="",
        refused=0.01,
        partial=choice((0.0, 0.1, 0.3)),
        lag=choice((0.0, 0.0001, 0.01)),
        changes_schema=random.random() < 0.3,
        others=choice((0.0, 0.1, 0.1, 0.4)),
        tenants=choice((1, 2, 5)),
        leaves=choice((0.0, 0.2, 0.6)),
        settings=choice((0.0, 0.0, 0.2)),
        priorities=choice(((NORMAL,), (INTERACTIVE, NORMAL, BATCH), (NORMAL, BATCH))),
        is_seasoned=random.random() < 0.7,
        prepared_kept=choice((prepared.PREPARED_KEPT, 4, 6)),
        has_identity=random.random() < 0.9,
    )


def _group(
    random: Random, endpoints: tuple[str, ...], prepare: str, autocommit: bool = True, read_only: bool = False
) -> GroupConfig:
    choice = random.choice
    max_size = choice((1, 2, 3, 6))
    return GroupConfig(
        endpoints=endpoints,
        min_size=min(choice((0, 1, 2)), max_size),
        max_size=max_size,
        autocommit=autocommit,
        max_waiting=choice((0, 0, 3, 50)),
        queue_timeout=choice((0.05, 0.5, 3.0, 10.0)),
        max_idle=choice((0.5, 20.0)),
        max_lifetime=choice((0.0, 2.0, 30.0)),
        idle_in_transaction_timeout=choice((0.0, 0.2, 2.0)),
        lease_timeout=choice((0.0, 1.0, 10.0)),
        read_only=read_only,
        role="any",
        prepare=prepare,
        plans=choice(("custom", "custom", "custom", "auto")),
        proofs=random.random() < 0.9,
        pipeline_depth=choice((1, 2, 4, 16, 16)),
        track_outcome=random.random() < 0.8,
        weights=choice((Weights(), Weights(interactive=1, normal=1, batch=1), Weights(interactive=3, normal=2))),
        batch_share=choice((0.0, 0.5, 0.5, 1.0)),
    )


# The kind of those worlds that are to have a lane and make use of it; it is not among those that are drawn.
LANE = "lane"
# Likewise those in which data is copied.
COPY = "copy"
# Likewise those in which an operator gives orders; some of these have a lane, or endpoints with roles.
OPERATED = "operated"
# Likewise those whose endpoints have roles; every eighth world is one of them.
CLUSTER = "cluster"
KINDS: dict[str, Callable[[Random, Scenario], Scenario]] = {
    "old backends": _with_old_backends,
    "company": _with_company,
    "lost commits": _with_lost_commits,
    "sessions": _with_sessions,
    "locks": _with_locks,
    "changes": _with_changes,
    "settings": _with_settings,
    "code": _with_code,
    "refusals": _with_refusals,
    "sequences": _with_sequences,
}
