"""Tags of requests in PostgreSQL: what pg_stat_activity shows, and what a tag cannot do."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import psycopg2
import pytest
from brokers import Broker
from postgres import Postgres
from waiting import wait_until

from client import Handler, dbapi
from client.origins import Origin

StartBroker = Callable[..., Broker]
HOSTILE = [
    "plain",
    "it's */ DROP TABLE t; --",
    "*/ SELECT 1 /*",
    "a\\'b\\",
    '"q" $$ %s %(x)s {group} :p ?',
    "größe \u2028 \x01\n",
    "x" * 128,
    "é" * 128,
    "',traceparent='00",
    "pg_advisory_lock LISTEN temp setseed U& write DATABASE now",
]
GROUPS: dict[str, dict[str, Any]] = {
    "name": {"show_tags": "application_name", "max_size": 2},
    "name-tx": {"show_tags": "application_name", "autocommit": False, "max_size": 2},
    "comment": {"show_tags": "comment", "max_size": 2},
    "comment-tx": {"show_tags": "comment", "autocommit": False, "max_size": 2},
    "off": {"max_size": 2},
}


@pytest.fixture(scope="module")
def tagging(postgres: Postgres) -> Iterator[Broker]:
    endpoint = {**postgres.parameters, "application_name": "app {group}"}
    broker = Broker({"main": endpoint}, GROUPS)
    try:
        yield broker.start()
    finally:
        broker.close()


@pytest.fixture
def watcher(postgres: Postgres) -> Iterator[Any]:
    connection = psycopg2.connect(**postgres.parameters)
    connection.autocommit = True
    with contextlib.closing(connection), connection.cursor() as cursor:
        yield cursor


NAME = "SELECT current_setting('application_name')"
SEEN = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"


def name_of(db: Handler, statement: str = SEEN, **options: Any) -> str:
    return str(db.query(statement, **options)[0][0])


def expected(tag: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9 _.,:;/@+#=()\[\]{}<>!?*&|~^-]", "?", tag)
    return f"poold:{safe}"[:63]


@pytest.mark.parametrize("tag", HOSTILE)
def test_a_tag_is_the_application_name_of_its_own_request_and_of_nobody_elses(tagging: Broker, tag: str) -> None:
    tagged, untagged = tagging.handler("name", tag=tag), tagging.handler("name")
    for _ in range(12):  # with literals, then prepared
        assert name_of(tagged) == expected(tag)
        assert name_of(untagged) == "app name"
        assert name_of(tagged, timeout=5) == expected(tag)
        assert name_of(tagged, settings={"work_mem": "8MB"}) == expected(tag)


def test_a_tag_costs_no_prepared_statements_of_its_own(tagging: Broker) -> None:
    def known() -> int:
        return sum(tagging.stats()["groups"]["name"]["statements"][each] for each in ("literal", "prepared", "refused"))

    db = tagging.handler("name")
    db.query("SELECT 'once'")
    before = known()
    for number in range(20):
        tagging.handler("name", tag=f"tag {number}").query("SELECT 'once'")
    assert known() == before


def test_a_tag_holds_for_a_transaction_message(tagging: Broker) -> None:
    db = tagging.handler("name", tag="message")
    for isolation in (None, "serializable"):
        with db.transaction(isolation=isolation) as tx:
            first, second = tx.query(SEEN), tx.query(NAME)
        assert (first[0][0], second[0][0]) == ("poold:message", "poold:message")
    with db.transaction(timeout=5) as tx:
        tx.query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        level = tx.query("SHOW transaction_isolation")
    assert level[0][0] == "serializable"
    assert name_of(tagging.handler("name")) == "app name"


@pytest.mark.parametrize("first", [SEEN, "CREATE TEMPORARY TABLE t (a int)", "SELECT 1; SELECT 2", "SET LOCAL a.b = 1"])
def test_a_tag_holds_for_an_interactive_transaction(tagging: Broker, first: str) -> None:
    db = tagging.handler("name-tx", tag="interactive")
    for _ in range(5):
        with db:
            db.query(first)
            assert name_of(db) == "poold:interactive"
        with tagging.handler("name-tx") as other:
            assert name_of(other) == "app name-tx"


def test_a_tagged_transaction_runs_prepared_statements(tagging: Broker) -> None:
    db = tagging.handler("name-tx", tag="prepared")
    statement = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE %s"
    autocommit = tagging.handler("name-tx", autocommit=True)
    mine = ("%pg_prepared_statements%LIKE $1%",)
    wait_until(lambda: autocommit.query(statement, mine)[0][0] == 1, what="the statement to be prepared")
    for _ in range(3):
        with db:
            assert [db.query(statement, mine)[0][0] for _ in range(3)] == [1, 1, 1]


def test_a_tag_holds_for_statements_of_a_session(tagging: Broker) -> None:
    with tagging.handler("name", tag="session").session() as session:
        assert str(session.query(SEEN)[0][0]) == "poold:session"
        session.query("CREATE TEMPORARY TABLE s AS SELECT 1 AS a")
        assert str(session.query(SEEN)[0][0]) == "poold:session"
        assert session.query("SELECT a FROM s")[0][0] == 1
    assert name_of(tagging.handler("name")) == "app name"


def test_a_tag_holds_for_many_statements_in_one_message(tagging: Broker) -> None:
    for group in ("name", "name-tx"):
        connection = dbapi.connect(tagging.address, group=group, tag="many", session=group == "name", autocommit=True)
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE IF NOT EXISTS many (n text)" if group == "name" else "SELECT 1")
        if group == "name":
            cursor.executemany(
                "INSERT INTO many SELECT current_setting('application_name') WHERE %s > 0", [(1,), (2,), (3,)]
            )
            cursor.execute("SELECT DISTINCT n FROM many")
            assert cursor.fetchall() == [("poold:many",)]
        connection.close()


def test_what_cannot_share_a_transaction_runs_all_the_same(tagging: Broker) -> None:
    db = tagging.handler("name", tag="utility")
    db.query("VACUUM pg_catalog.pg_class")
    db.query("DO $$ BEGIN COMMIT; END $$")
    assert db.query("SELECT 1; SELECT 2")[0][0] == 2
    sink: list[str] = []

    class Sink:
        def write(self, data: bytes) -> None:
            sink.append(data.decode())

    db.copy_out(f"COPY ({SEEN}) TO STDOUT", Sink())
    assert "".join(sink) == "poold:utility\n"
    assert name_of(tagging.handler("name")) == "app name"


def test_a_program_may_set_the_name_itself(tagging: Broker) -> None:
    db = tagging.handler("name", tag="mine")
    assert name_of(db, settings={"application_name": "theirs"}) in ("theirs", "poold:mine")
    with db.session() as session:
        session.query("SET application_name = 'theirs'")
    assert name_of(tagging.handler("name")) == "app name"


def running(watcher: Any, marker: str) -> list[tuple[str, str]]:
    watcher.execute(
        "SELECT application_name, query FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid() "
        "AND state = 'active'",
        (f"%{marker}%",),
    )
    return list(watcher.fetchall())


@pytest.mark.parametrize(("group", "tag"), [("name", "watched"), ("comment", "it's */ -- watched"), ("off", "unseen")])
def test_others_see_the_tag_while_the_statement_runs(tagging: Broker, watcher: Any, group: str, tag: str) -> None:
    db = tagging.handler(group, tag=tag)
    marker = f"marker_{group}"
    thread = threading.Thread(target=db.query, args=(f"SELECT pg_sleep(0.7) AS {marker}",))
    thread.start()
    try:
        wait_until(lambda: running(watcher, marker), what="the statement to run")
        ((name, query),) = running(watcher, marker)
    finally:
        thread.join()
    if group == "name":
        assert (name, "/*" in query) == ("poold:watched", False)
    elif group == "comment":
        assert name == "app comment"
        assert unquote(query.partition("/*tag='")[2].removesuffix("'*/")) == tag
    else:
        assert (name, "/*" in query) == ("app off", False)


QUERY = "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()"


@pytest.mark.parametrize("tag", HOSTILE)
@pytest.mark.parametrize("end", ["", ";", " -- a comment", " /* closed */"])
def test_a_comment_is_part_of_the_text_and_of_nothing_else(tagging: Broker, tag: str, end: str) -> None:
    db = tagging.handler("comment", tag=tag)
    for _ in range(6):
        text = name_of(db, QUERY + end)
        assert text.startswith(QUERY + end)
        comment = text.removeprefix(QUERY + end)
        found = re.fullmatch(r"\n/\*tag='([A-Za-z0-9_.~%-]*)'\*/", comment)
        assert found is not None, comment
        assert unquote(found[1]) == tag
    assert "/*" not in name_of(tagging.handler("comment"), QUERY)


def test_statements_with_comments_are_prepared_for_each_tag(tagging: Broker) -> None:
    statement = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE %s"
    for tag in ("first", "second"):
        db = tagging.handler("comment", tag=tag)
        mine = (f"%LIKE $1%tag='{tag}'%",)
        wait_until(lambda db=db, mine=mine: db.query(statement, mine)[0][0] == 1, what="it to be prepared")  # type: ignore[misc]  # this round's


def test_a_comment_is_in_transactions_of_both_kinds_and_errors_name_the_same_places(tagging: Broker) -> None:
    db = tagging.handler("comment", tag="tx")
    with db.transaction() as tx:
        found = tx.query(QUERY)
        tx.query("SELECT 1")
    assert "tag='tx'" in found[0][0]
    with tagging.handler("comment-tx", tag="tx") as interactive:
        assert "tag='tx'" in interactive.query(QUERY)[0][0]
    with pytest.raises(psycopg2.Error) as told:
        db.query("SELECT missing")
    with pytest.raises(psycopg2.Error) as plain:
        tagging.handler("off").query("SELECT missing")
    assert str(told.value) == str(plain.value)


@pytest.mark.parametrize(
    "statement", ["SELECT 'not closed", 'SELECT "not closed', "SELECT $$ not closed", "SELECT /* x"]
)
def test_a_comment_closes_nothing_that_a_statement_leaves_open(tagging: Broker, statement: str) -> None:
    for tag in ("x", "' || 'y", "*/ x", "$$", '"'):
        with pytest.raises(psycopg2.errors.SyntaxError):
            tagging.handler("comment", tag=tag).query(statement)


def test_a_recorded_trace_is_in_the_comment(tagging: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    monkeypatch.setattr(Origin, "__call__", lambda _: b"\0" + trace.encode())
    for tag, comment in (("t", f"/*tag='t',traceparent='{trace}'*/"), ("", f"/*traceparent='{trace}'*/")):
        db = tagging.handler("comment", tag=tag)
        db._lane = None  # as compiled code asks whether there is a trace
        for _ in range(6):
            assert name_of(db, QUERY).endswith(comment)


def test_a_comment_is_in_the_servers_own_log_text(tagging: Broker, watcher: Any) -> None:
    db = tagging.handler("comment", tag="log me")
    with pytest.raises(psycopg2.Error) as told:
        db.query("SELECT 1 / 0")
    assert "log" not in str(told.value)
    assert running(watcher, "nothing that runs") == []
