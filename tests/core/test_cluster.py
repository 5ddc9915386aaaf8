"""What a process must see of its own writes, where there is nobody to ask."""

from world import World

from poold.core.facts import Observation
from poold.core.pools.cluster import Cluster
from poold.core.records.request import Request


def test_who_was_seen_writing_once_is_not_taken_for_one_who_was_not() -> None:
    cluster = Cluster("77")
    cluster.note(100, 0.0)
    assert cluster.wanted("a reader") is None
    cluster.wrote("a writer", is_loose=False)
    cluster.assume(0)
    assert cluster.wanted("a reader") == 100
    assert cluster.wanted("a writer") is None, "nobody knows where its write is in the log"
    cluster.asked += 1
    cluster.located(1, 300, 300, 1.0)
    assert cluster.wanted("a writer") == 300


def test_who_has_written_is_asked_for_anew_where_another_one_is_the_primary() -> None:
    cluster = Cluster("77")
    cluster.wrote("a writer", is_loose=False)
    cluster.asked += 1
    cluster.located(1, 300, 300, 1.0)
    cluster.begin_anew()
    assert cluster.is_due
    cluster.assume(0)
    assert cluster.wanted("a writer") is None


def test_a_replica_on_an_older_timeline_serves_no_reads() -> None:
    world = World(["a", "b", "c"], role="primary")
    for name, timeline, position in (("a", 1, 100), ("b", 1, 90), ("c", 1, 100)):
        world.broker.observed(name, Observation("77", name != "a", timeline, name, position), world.now)
    reads = world.broker.groups["default/replicas"]
    assert [pool.endpoint.name for pool in reads.pools if pool.is_serving] == ["b", "c"]
    world.broker.observed("b", Observation("77", False, 2, "b", 95), world.now)
    assert not any(pool.is_serving for pool in reads.pools), "c has something that b does not have"
    world.broker.observed("c", Observation("77", True, 2, "c", 95), world.now)
    assert [pool.endpoint.name for pool in reads.pools if pool.is_serving] == ["c"]


def test_a_statement_that_has_to_run_alone_does_so_on_the_primary_as_well() -> None:
    world = World(["a", "b"], role="primary")
    world.client()
    for name in ("a", "b"):
        world.broker.observed(name, Observation("77", name != "a", 1, name, 100), world.now)
    number = world.query(group="default/replicas")
    (client,) = world.broker.clients.values()
    request = client.requests[number]
    request.is_alone, request.yields = True, 2
    made = world.broker.admission.on_primary(request)
    assert isinstance(made, Request)
    assert (made.group.name, made.is_alone, made.yields) == ("default", True, 2)
