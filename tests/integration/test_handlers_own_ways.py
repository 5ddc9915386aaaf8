"""What a Handler decides by itself: its first call, whether statements commit by themselves, what rows are."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from brokers import Broker
from postgres import Postgres

from client import DBConnectionError, Handler, UnconfiguredGroupError, UsageError

GROUPS = ["default", "transactions"]
OPEN = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL FROM (SELECT pg_current_xact_id()) AS assigned"


@pytest.fixture(autouse=True)
def table(postgres: Postgres) -> Any:
    postgres.execute("CREATE TABLE own_ways (id integer PRIMARY KEY)")
    yield
    postgres.execute("DROP TABLE own_ways")


def ids(postgres: Postgres) -> list[int]:
    return [row[0] for row in postgres.execute("SELECT id FROM own_ways ORDER BY id")]


def insert(db: Any, number: int) -> None:
    db.query("INSERT INTO own_ways VALUES (%s)", (number,))


def leave_by_exception(db: Handler, number: int) -> None:
    with db:
        insert(db, number)
        raise ZeroDivisionError


def test_a_handler_is_made_without_a_broker_and_its_first_call_wants_one(start_broker: Any) -> None:
    broker = start_broker(start=False)
    db, nowhere = broker.handler(), broker.handler("nowhere")
    session, block = db.session(), db.transaction()
    with pytest.raises(DBConnectionError, match="no poold broker answers"):
        db.query("SELECT 1")
    broker.start()
    assert db.query("SELECT 1").scalar() == 1
    with session, block:
        assert session.query("SELECT 2").scalar() == 2
        three = block.query("SELECT 3")
    assert three.scalar() == 3
    for call in (lambda: nowhere.query("SELECT 1"), lambda: nowhere.run(["SELECT 1"]), lambda: nowhere.autocommit):
        with pytest.raises(UnconfiguredGroupError, match="no group 'nowhere'"):
            call()


@pytest.mark.parametrize("group", GROUPS)
def test_a_handler_without_autocommit_has_transactions_in_any_group(
    broker: Broker, postgres: Postgres, group: str
) -> None:
    with broker.handler(group, autocommit=False) as db:
        assert (db.autocommit, db.in_transaction) == (False, False)
        insert(db, 1)
        assert (db.in_transaction, ids(postgres)) == (True, [])
        backend = db.query("SELECT pg_backend_pid()").scalar()
        assert db.query("SELECT pg_backend_pid()").scalar() == backend
        db.rollback()
        insert(db, 2)
        db.commit()
        insert(db, 3)
    assert (db.in_transaction, ids(postgres)) == (False, [2, 3])
    with pytest.raises(ZeroDivisionError):
        leave_by_exception(db, 4)
    assert ids(postgres) == [2, 3]


@pytest.mark.parametrize("group", GROUPS)
def test_a_handler_with_autocommit_commits_each_statement_in_any_group(
    broker: Broker, postgres: Postgres, group: str
) -> None:
    db = broker.handler(group, autocommit=True)
    insert(db, 0)
    assert (db.autocommit, db.in_transaction, ids(postgres)) == (True, False, [0])
    with pytest.raises(ZeroDivisionError):
        leave_by_exception(db, 1)
    assert ids(postgres) == [0, 1]
    with pytest.raises(UsageError, match=r"Handler\(autocommit=False\)"):
        db.query("BEGIN")


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("autocommit", [True, False])
def test_sessions_and_blocks_are_as_their_handler_says(
    broker: Broker, postgres: Postgres, group: str, autocommit: bool
) -> None:
    db = broker.handler(group, autocommit=autocommit)
    with db.session() as session:
        insert(session, 1)
        assert (session.autocommit, session.in_transaction) == (autocommit, not autocommit)
        session.rollback()
    assert ids(postgres) == ([1] if autocommit else [])
    with db.transaction() as tx:
        insert(tx, 2)
    assert ids(postgres)[-1] == 2


@pytest.mark.parametrize("group", GROUPS)
def test_rows_are_dicts_if_the_handler_or_the_call_wants_them(broker: Broker, group: str) -> None:
    wanted, one = [{"id": 1, "name": None}, {"id": 2, "name": "Ann"}], "SELECT 1 AS id, NULL AS name"
    two = f"{one} UNION ALL SELECT 2, 'Ann'"
    db = broker.handler(group, rows="dict")
    for _ in range(5):
        assert db.query(two).fetchall() == wanted
    assert json.loads(json.dumps(list(db.query(two)))) == wanted
    assert db.query(one, rows="row").one().id == 1
    db.commit()
    with db.transaction() as tx, db.session() as session:
        pending, referring = tx.query(two), tx.query("SELECT %s AS id", (tx.query(one)["id"],))
        assert session.query(one).first() == wanted[0]
    assert (pending.fetchall(), pending[1], pending["id"], referring.one()) == (wanted, wanted[1], 1, {"id": 1})
    assert (pending.column("name"), pending.column(1), pending.scalar()) == ([None, "Ann"], [None, "Ann"], 1)
    assert [each.fetchall() for each in db.run([one], rows="row")] == [[(1, None)]]
    plain = broker.handler(group)
    assert plain.query(one, rows="dict").one() == wanted[0]
    plain.rollback()
    assert plain.run([one], rows="dict")[0].one() == wanted[0]
    with pytest.raises(ValueError, match="rows is 'tuple'; expected one of 'row', 'dict'"):
        plain.query(one, rows="tuple")
    with pytest.raises(ValueError, match="rows is None"):
        Handler(address=broker.address, rows=None)  # type: ignore[arg-type]  # the mistake is the test


def test_another_processes_position_is_handed_over_by_the_first_call(start_broker: Any) -> None:
    broker = start_broker(groups={"default": {"role": "primary"}}, start=False)
    firsts: list[Callable[[Handler], Any]] = [
        lambda db: db.query("SELECT 1"),
        lambda db: db.run(["SELECT 1"]),
        lambda db: db.position,
        lambda db: db.copy_in("COPY handed FROM STDIN", b"1\n"),
        lambda db: db.copy_out("COPY (SELECT 1) TO STDOUT", io.BytesIO()),
        lambda db: next(db.stream("SELECT 1")),
    ]
    for first in firsts:
        db = broker.handler(after="nonsense")
        with pytest.raises(DBConnectionError):
            first(db)
        broker.start()
        assert broker.handler().query("SELECT 1").scalar() == 1  # so it knows by now what its endpoint is
        for _ in range(2):
            with pytest.raises(UsageError, match="'nonsense' is no position"):
                first(db)
        broker.stop()
    broker.start()
    assert broker.handler().query("SELECT 1").scalar() == 1
    db = broker.handler(after=broker.handler().position)
    assert [db.query("SELECT 1").scalar(), db.run(["SELECT 2"])[0].scalar()] == [1, 2]
    assert db.position
    sink = io.BytesIO()
    broker.handler(after=db.position).copy_out("COPY (SELECT 1) TO STDOUT", sink)
    assert sink.getvalue() == b"1\n"
