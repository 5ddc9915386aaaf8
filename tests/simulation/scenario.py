"""What kind of world a seed makes: drawn first, before anything happens in it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from poold.config import BrokerConfig, Config, EndpointConfig, GroupConfig
from poold.core import statements


@dataclass(frozen=True, slots=True)
class Scenario:
    """The configuration, the clients' habits, the servers' pace, and how much goes wrong. Times are means."""

    config: Config
    clients: int
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
    partial: float  # the share of turns in which the shell does its work in parts
    lag: float  # how long facts wait for their turn
    prepared_kept: int
    has_identity: bool  # whether servers tell who they are

    @property
    def query_timeout(self) -> float:
        """The endpoints' common one."""
        return next(iter(self.config.endpoints.values())).query_timeout


def draw(random: Random) -> Scenario:
    """A scenario. Durations are short against those of the default configuration, so that all of them are met."""
    choice, between = random.choice, random.uniform
    latency = choice((0.00005, 0.0005, 0.01, 0.1))
    endpoint = EndpointConfig(
        host="/tmp",
        dbname="db",
        user="user",
        connect_timeout=max(choice((0.2, 1.0, 3.0)), 5 * latency),
        query_timeout=choice((0.3, 1.0, 2.0, 5.0, 0.0)),
    )
    names = tuple(f"e{number}" for number in range(choice((1, 1, 2, 3))))
    prepare = choice(("auto", "auto", "auto", "off"))
    groups = {
        "default": _group(random, names, prepare),
        "tx": _group(random, names, prepare, autocommit=False),
    }
    if random.random() < 0.4:
        groups["reads"] = _group(random, names, prepare, read_only=True)
    broker = BrokerConfig(address="ipc:///tmp/x", drain_timeout=choice((0.5, 3.0, 30.0)))
    return Scenario(
        config=Config(broker=broker, endpoints=dict.fromkeys(names, endpoint), groups=groups),
        clients=choice((2, 5, 10, 20, 40)),
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
        fault_every=choice((20, 60, 200, 1000)),
        partial=choice((0.0, 0.1, 0.5)),
        lag=choice((0.0, 0.0001, 0.01)),
        prepared_kept=choice((statements.PREPARED_KEPT, 4, 6)),
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
        prepare=prepare,
        pipeline_depth=choice((1, 2, 4, 16)),
        track_outcome=random.random() < 0.8,
    )
