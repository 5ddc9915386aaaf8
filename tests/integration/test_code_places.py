"""The place in the program that calls, by every way in which programs run statements."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from brokers import Broker, Worker
from waiting import wait_until

from client import Handler, dbapi

StartWorker = Callable[..., Worker]
HERE = Path(__file__).name
GROUPS: dict[str, dict[str, Any]] = {
    "default": {"log_slow": 0.005, "log_long_wait": 0.5},
    "transactions": {"log_slow": 0.005, "autocommit": False},
}
SLOW = "SELECT pg_sleep(0.01)"


@pytest.fixture(scope="module")
def broker(postgres: Any) -> Iterator[Broker]:
    broker = Broker({"main": postgres.parameters}, GROUPS, {"log_format": "json"})
    try:
        yield broker.start()
    finally:
        broker.close()


@pytest.fixture
def places(broker: Broker) -> Callable[[str], str]:
    """The code place of the slow request of this event and tag, as soon as it is logged."""

    def found(tag: str) -> list[str]:
        lines = [json.loads(line) for line in broker.log().splitlines()]
        return [line["code"] for line in lines if line.get("tag") == tag and line["event"] == "slow request"]

    def place(tag: str) -> str:
        wait_until(lambda: found(tag), what=f"a line with {tag}")
        return found(tag)[0]

    return place


def handler_query(address: str, tag: str) -> None:
    Handler(address=address, tag=tag, code_place=True).query(SLOW)


def handler_query_with_options(address: str, tag: str) -> None:
    Handler(address=address, tag=tag, code_place=True).query(SLOW, timeout=5, settings={"work_mem": "8MB"})


def block(address: str, tag: str) -> None:
    with Handler(address=address, tag=tag, code_place=True).transaction() as tx:
        tx.query(SLOW)


def run_of_several(address: str, tag: str) -> None:
    Handler(address=address, tag=tag, code_place=True).run([SLOW, "SELECT 1"])


def interactive(address: str, tag: str) -> None:
    with Handler("transactions", address=address, tag=tag, code_place=True) as db:
        db.query(SLOW)


def session(address: str, tag: str) -> None:
    with Handler(address=address, tag=tag, code_place=True).session() as session:
        session.query(SLOW)


def cursor_execute(address: str, tag: str) -> None:
    connection = dbapi.connect(address, group="transactions", tag=tag, code_place=True)
    with connection, connection.cursor() as cursor:
        cursor.execute(SLOW)
    connection.close()


def cursor_executemany(address: str, tag: str) -> None:
    connection = dbapi.connect(address, group="transactions", tag=tag, code_place=True)
    with connection, connection.cursor() as cursor:
        cursor.executemany("SELECT pg_sleep(%s)", [(0.01,), (0.01,)])
    connection.close()


def cursor_executemany_by_itself(address: str, tag: str) -> None:
    connection = dbapi.connect(address, autocommit=True, tag=tag, code_place=True)
    connection.cursor().executemany("SELECT pg_sleep(%s)", [(0.01,), (0.01,)])
    connection.close()


def cursor_executemany_of_one(address: str, tag: str) -> None:
    connection = dbapi.connect(address, autocommit=True, tag=tag, code_place=True)
    connection.cursor().executemany("SELECT pg_sleep(%s)", [(0.01,)])
    connection.close()


def engine(address: str, tag: str) -> None:
    query = {"address": address, "tag": tag, "code_place": "true"}
    url = sqlalchemy.URL.create("postgresql+poold", database="transactions", query=query)
    made = sqlalchemy.create_engine(url)
    with made.begin() as connection:
        connection.execute(sqlalchemy.text(SLOW))
    made.dispose()


WAYS = [
    handler_query, handler_query_with_options, block, run_of_several, interactive, session, cursor_execute,
    cursor_executemany, cursor_executemany_by_itself, cursor_executemany_of_one, engine,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_place_is_in_the_program(way: Callable[[str, str], None], broker: Broker, places: Any) -> None:
    way(broker.address, way.__name__)
    function, _, file = places(way.__name__).partition(" ")
    assert function == f"{__name__}.{way.__name__}"
    name, _, line = file.partition(":")
    assert name == HERE
    begins = way.__code__.co_firstlineno
    assert begins < int(line) <= begins + 10


PROGRAM = """
import sys
from client import Handler

def work():
    Handler(tag=sys.argv[1]).query("SELECT pg_sleep(0.01)")

work()
print('{}')
"""


@pytest.mark.parametrize(("word", "is_told"), [("1", True), ("0", False)])
def test_the_environment_turns_it_on_for_a_whole_process(
    word: str, is_told: bool, broker: Broker, start_worker: StartWorker
) -> None:
    tag = f"environment {word}"
    worker = start_worker(PROGRAM, tag, address=broker.address, POOLD_CODE_PLACE=word)

    def lines() -> list[dict[str, Any]]:
        return [line for line in map(json.loads, broker.log().splitlines()) if line.get("tag") == tag]

    wait_until(lines, what="the line in the log")
    assert lines()[0].get("code", "").startswith("__main__.work ") is is_told
    worker.close()
