"""The broker's own limit behind query_timeout: it ends nothing that PostgreSQL lets run."""

import pytest
from world import World, failure

from client.wire.messages import TX_ACTIVE
from poold.core import effects
from poold.core.requests.runs import LOOK_TIMEOUT
from poold.core.work import settings
from poold.core.work.time_limits import GUARD

DUE = 5.0 + GUARD + 0.1
LONGER = b"statement_timeout\x0020s\0"


def long_runner(**over: object) -> tuple[World, int]:
    world = World(endpoint_settings={"query_timeout": 5.0})
    world.client()
    request = world.query(**over)
    world.connect_all()
    backend = world.running(request)
    world.tell(backend)
    return world, backend


def looks(world: World) -> list[int]:
    return [look.backend for look in world.taken(effects.Look)]


@pytest.mark.parametrize(
    "over",
    [
        {"settings": LONGER},
        {"statement": b"SELECT 1; SELECT 2"},
        {"statement": b"INSERT INTO t VALUES (1)"},
        {"statement": b"CALL long()"},
    ],
)
def test_what_may_run_for_longer_is_looked_for_and_goes_on_where_the_server_is_at_work(over: dict[str, bytes]) -> None:
    world, backend = long_runner(**over)
    for _ in range(3):
        world.pass_time(DUE)
        assert looks(world)[-1] == backend
        world.broker.looked(backend, True, world.now)
    assert len(looks(world)) == 3
    assert world.taken(effects.Cancel) == []


def test_in_a_lease_nobody_knows_what_was_set() -> None:
    world = World(endpoint_settings={"query_timeout": 5.0})
    world.client()
    backend = world.begin(lease=1)
    world.query(1, "tx", lease=1)
    world.pass_time(DUE)
    assert looks(world) == [backend]
    world.broker.looked(backend, True, world.now)
    assert world.taken(effects.Cancel) == []


def test_what_the_server_does_not_work_at_is_cancelled() -> None:
    world, backend = long_runner(settings=LONGER)
    world.pass_time(DUE)
    world.broker.looked(backend, False, world.now)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]


def test_where_nobody_can_tell_in_time_it_is_cancelled() -> None:
    world, backend = long_runner(settings=LONGER)
    world.pass_time(DUE)
    world.pass_time(LOOK_TIMEOUT)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]


def test_an_answer_about_an_earlier_statement_says_nothing_of_this_one() -> None:
    world = World(endpoint_settings={"query_timeout": 5.0})
    world.client()
    backend = world.begin(lease=1)
    world.query(1, "tx", lease=1)
    world.pass_time(DUE)
    world.complete(backend, TX_ACTIVE)
    world.query(1, "tx", lease=1)
    world.broker.looked(backend, False, world.now)
    assert world.taken(effects.Cancel) == []


def test_a_plain_read_must_have_ended() -> None:
    world, backend = long_runner()
    world.pass_time(DUE)
    assert looks(world) == []
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("20s", 20.0), ("1500", 1.5), (" 2 min ", 120.0), ("0", 0.0), ("1.5s", 1.5), ("1h", 3600.0), ("1d", 86400.0)],
)
def test_a_statement_timeout_is_read_as_postgresql_reads_it(value: str, seconds: float) -> None:
    given = b"a\0b\0Statement_Timeout\0" + value.encode() + b"\0"
    assert settings.own_timeout(given, 5.0) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "x", "5 weeks", "-1", "9" * 400])
def test_a_statement_timeout_that_is_none_leaves_the_endpoints(value: str) -> None:
    assert settings.own_timeout(b"statement_timeout\0" + value.encode() + b"\0", 5.0) == 5.0


def test_an_error_by_query_timeout_names_it_and_the_way_out() -> None:
    world, backend = long_runner()
    world.pass_time(5.0)
    world.complete(backend, reply=failure("57014"))
    (reply,) = world.taken(effects.Reply)
    assert "query_timeout = 5 s of endpoint 'main'" in reply.body.message
    assert "settings={'statement_timeout'" in reply.body.message


def test_an_error_by_somebody_elses_cancel_does_not() -> None:
    world, backend = long_runner()
    world.pass_time(1.0)
    world.complete(backend, reply=failure("57014"))
    (reply,) = world.taken(effects.Reply)
    assert "query_timeout" not in reply.body.message
