"""A network that swallows everything: what notices it, and when; and that nothing of it stays.

A statement on its way is noticed by its own timeout, or by the endpoint's query_timeout and GUARD; either is followed
by a cancel, and where that helps nothing within CANCEL_TIMEOUT the backend is closed. A backend that is idle then,
nothing notices but the kernel's keepalive, within a minute, and that only where the other kernel is silent as well.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from brokers import Broker
from census import backends
from flows import BLACK_HOLE
from postgres import Postgres
from proxy import Proxy
from waiting import wait_until

import client

CLEAN_UP = "DROP TABLE IF EXISTS copied"
GROUPS = {"default": {"max_size": 1}, "patient": {"max_size": 1}}
# Beyond query_timeout, GUARD and CANCEL_TIMEOUT together; only what nothing notices reaches it.
NOTICED = 30.0
ESTABLISHED = "01"  # TCP_ESTABLISHED in the kernel's tables


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    with Proxy(postgres) as made:
        yield made


@pytest.fixture
def broker(proxy: Proxy) -> Iterator[Broker]:
    """One whose groups have a backend each, by way of the proxy."""
    made = Broker({"main": {**proxy.parameters, "query_timeout": 0.5, "connect_timeout": 1}}, GROUPS)
    try:
        made.start()
        wait_until(lambda: all(made.pool(group)["idle"] == 1 for group in GROUPS), what="the backends")
        yield made
    finally:
        made.close()


def test_what_is_asked_in_a_black_hole_is_answered_and_leaves_no_connection_behind(
    broker: Broker, proxy: Proxy
) -> None:
    db, patient = broker.handler(), broker.handler("patient")
    proxy.infect(BLACK_HOLE)
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(db.query, "SELECT 1", timeout=0.5), threads.submit(patient.query, "SELECT 1")]
        for each in asked:
            # A timeout is the client's own as well: it does not wait until the broker has learned so much.
            with pytest.raises(client.DBConnectionError, match=r"the server does not answer|within 1\.5 s") as caught:
                each.result(NOTICED)
            assert caught.value.outcome == "unknown"
    # What was to cancel the statements went into the hole as well.
    wait_until(lambda: connections_to(proxy) <= backends(broker.stats()), what="the cancels' connections to be closed")
    proxy.heal()
    for handler in (db, patient):
        assert handler.query("SELECT 1 AS one", timeout=NOTICED)[0].one == 1


def test_a_copy_that_a_black_hole_has_swallowed_ends(broker: Broker, proxy: Proxy) -> None:
    """The server waits for its data then, and says that it is at work; a COPY has no time limit of its own."""
    db, patient = broker.handler(), broker.handler("patient")
    db.query("CREATE TABLE copied (line text)")
    given = threading.Barrier(3)
    swallowed = threading.Event()

    def lines(count: int) -> Iterator[str]:
        yield "first\n" * 20_000
        given.wait()
        assert swallowed.wait(NOTICED)
        for _ in range(count):
            yield "more\n" * 100_000

    with ThreadPoolExecutor(2) as threads:
        # One whose end goes into the hole, and one of which the hole takes as much as fits into it.
        asked = [
            threads.submit(handler.copy_in, "COPY copied FROM STDIN", lines(count))
            for handler, count in ((db, 1), (patient, 1_000))
        ]
        given.wait()
        proxy.infect(BLACK_HOLE)
        swallowed.set()
        wait_until(lambda: proxy.lossy == 2, what="both to have lost some of their data")
        proxy.heal()  # for others
        for each in asked:
            with pytest.raises(client.DBConnectionError, match="the server does not answer") as caught:
                each.result(2 * NOTICED)
            assert caught.value.outcome in ("unknown", "failed")
    assert db.query("SELECT count(*) AS n FROM copied", timeout=NOTICED)[0].n == 0


def connections_to(proxy: Proxy) -> int:
    """How many this machine has open to the proxy: the broker's backends, and its cancels."""
    there = f"0100007F:{proxy.parameters['port']:04X}"  # 127.0.0.1
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for line in table if line[2] == there and line[3] == ESTABLISHED)


def test_a_backend_that_idles_in_a_black_hole_is_noticed_by_whoever_uses_it(broker: Broker, proxy: Proxy) -> None:
    db = broker.handler()
    proxy.infect(BLACK_HOLE)
    pool = broker.pool()
    assert (pool["idle"], pool["lost"]) == (1, 0)
    with pytest.raises(client.DBConnectionError, match=r"the server does not answer|within 1\.5 s"):
        db.query("SELECT 1", timeout=0.5)
    wait_until(lambda: broker.pool()["closed"] >= 1, NOTICED, "the broker to give the backend up")
    assert broker.pool()["idle"] == 0
    proxy.heal()
    assert db.query("SELECT 1 AS one", timeout=NOTICED)[0].one == 1
