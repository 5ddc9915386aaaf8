"""SQLAlchemy on a broker: what travels, what becomes of transactions, and what happens if something is lost.

Types, SQL and reflection are proved by SQLAlchemy's own tests, see tests/upstream/test_sqlalchemy_suites.py.
"""

import enum
import ipaddress
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import psycopg2.errors
import pytest
from brokers import Broker
from postgres import Postgres
from sqlalchemy import (
    JSON,
    Column,
    Engine,
    Enum,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Uuid,
    bindparam,
    create_engine,
    event,
    insert,
    inspect,
    select,
    text,
    update,
)  # fmt: skip
from sqlalchemy.dialects.postgresql import ARRAY, BIT, INET, INT4RANGE, JSONB, Range
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, ResourceClosedError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

import client
from client import dbapi

SCHEMA = "sqlalchemy_test"
ITEMS = 10_000


class Base(DeclarativeBase):
    """Tables in the schema of these tests."""

    metadata = MetaData(schema=SCHEMA)


class Item(Base):
    """A table of objects."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String, unique=True)
    n: Mapped[int]


class Colour(enum.Enum):
    """For an enum of PostgreSQL's."""

    RED = "red"
    GREEN = "green"


def url(broker: Broker, group: str = "default", **options: str) -> str:
    """The URL of a group."""
    words = "&".join(
        f"{name}={quote(value, safe='')}" for name, value in {"address": broker.address, **options}.items()
    )
    return f"postgresql+poold:///{group}?{words}"


@pytest.fixture(scope="module", autouse=True)
def tables(broker: Broker) -> Iterator[None]:
    engine = create_engine(url(broker))
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        Base.metadata.create_all(connection)
    with Session(engine) as session:
        session.add_all([Item(id=number, name=f"item {number}", n=0) for number in range(1, 4)])
        session.commit()
    yield
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {SCHEMA} CASCADE"))
    engine.dispose()


@pytest.fixture
def engine(broker: Broker) -> Iterator[Engine]:
    engine = create_engine(url(broker))
    with engine.connect() as connection:
        connection.execute(select(1))  # what is asked once per engine
    yield engine
    engine.dispose()


def requests(broker: Broker) -> int:
    """How many messages for the group there have been."""
    return int(broker.group()["requests"])


# What travels.


def test_reading_an_object_is_its_statement_and_the_end_of_its_transaction(engine: Engine, broker: Broker) -> None:
    before = requests(broker)
    with Session(engine) as session:
        assert session.get_one(Item, 1).name == "item 1"
    assert requests(broker) - before == 2


def test_with_autocommit_it_is_its_statement_alone(engine: Engine, broker: Broker) -> None:
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    with Session(alone) as session:
        session.get_one(Item, 1)
    before = requests(broker)
    with Session(alone) as session:
        assert session.get_one(Item, 2).name == "item 2"
    assert requests(broker) - before == 1


def test_a_connection_that_is_new_asks_nothing_once_its_engine_knows_the_server(broker: Broker) -> None:
    engine = create_engine(url(broker), poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(select(1))
    before = requests(broker)
    for _ in range(3):
        with engine.connect():
            pass
    assert requests(broker) == before


def test_many_objects_are_written_by_few_statements(engine: Engine, broker: Broker) -> None:
    with Session(engine) as session:
        session.add_all([Item(id=number, name=f"many {number}", n=0) for number in range(1000, 3000)])
        before = requests(broker)
        session.flush()
        assert requests(broker) - before == 2  # 1,000 rows each
        session.rollback()


@pytest.mark.parametrize(
    ("mode", "messages"), [({}, 1), ({"executemany_mode": "values_plus_batch", "executemany_batch_page_size": 50}, 2)]
)
def test_many_parameters_of_an_update_are_few_messages(broker: Broker, mode: dict[str, Any], messages: int) -> None:
    engine = create_engine(url(broker), **mode)
    change = update(Item.__table__).where(Item.id == bindparam("which")).values(n=bindparam("amount"))
    with engine.connect() as connection:
        connection.execute(select(1))
        before = requests(broker)
        connection.execute(change, [{"which": number % 3 + 1, "amount": number} for number in range(100)])
        assert requests(broker) - before == messages
        assert connection.scalars(select(Item.n).where(Item.id <= 3).order_by(Item.id)).all() == [99, 97, 98]
        connection.rollback()
    engine.dispose()


# Transactions.


def test_a_session_that_fails_is_rolled_back_and_goes_on(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Item(id=7, name="item 1", n=0))
        with pytest.raises(IntegrityError) as caught:
            session.commit()
        assert isinstance(caught.value.orig, psycopg2.errors.UniqueViolation)
        assert isinstance(caught.value.orig, client.DBQueryError)
        assert not caught.value.connection_invalidated
        session.rollback()
        assert session.get(Item, 7) is None


def test_a_savepoint_undoes_its_block_alone(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Item(id=11, name="item 11", n=0))
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(insert(Item).values(id=12, name="item 1", n=0))
        assert session.scalars(select(Item.id).where(Item.id.in_([11, 12]))).all() == [11]
        session.rollback()


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_an_isolation_level_holds_for_a_connection_or_for_an_engine(broker: Broker, engine: Engine, level: str) -> None:
    shown = text("SHOW transaction_isolation")
    with engine.connect().execution_options(isolation_level=level) as connection:
        assert connection.scalar(shown) == level.lower()
        assert connection.get_isolation_level() == level
    with engine.connect() as connection:
        assert connection.scalar(shown) == "read committed"
    isolated = create_engine(url(broker), isolation_level=level)
    with isolated.connect() as connection:
        assert connection.scalar(shown) == level.lower()
    isolated.dispose()


def test_a_transaction_may_be_told_to_read_only(engine: Engine) -> None:
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        with pytest.raises(DBAPIError, match="read-only"):
            connection.execute(insert(Item).values(id=20, name="item 20", n=0))
        connection.rollback()


def test_with_autocommit_each_statement_commits(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(insert(Item).values(id=30, name="item 30", n=0))
        connection.rollback()
        assert connection.scalar(select(Item.id).where(Item.id == 30)) == 30
        connection.execute(Item.__table__.delete().where(Item.id == 30))


def test_a_two_phase_transaction_can_be_recovered_by_another_connection(start_broker: Any, fresh_postgres: Any) -> None:
    server: Postgres = fresh_postgres(max_prepared_transactions="4")
    broker = start_broker(endpoints={"main": server.parameters})
    engine = create_engine(url(broker))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept (n int)"))
    with engine.connect() as connection:
        transaction = connection.begin_twophase("one")
        connection.execute(text("INSERT INTO kept VALUES (1)"))
        transaction.prepare()
        connection.invalidate()
    with engine.connect() as connection:
        assert connection.recover_twophase() == ["one"]
        connection.commit_prepared("one", recover=True)
    with engine.connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(text("INSERT INTO kept VALUES (2)"))
        transaction.prepare()
        transaction.rollback()
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT n FROM kept")).all() == [1]
    engine.dispose()


def test_what_outlives_a_transaction_wants_a_session(broker: Broker, engine: Engine) -> None:
    made = text("CREATE TEMP TABLE chosen AS SELECT 1 AS n")
    with engine.connect() as connection:
        connection.execute(made)
        connection.commit()
        with pytest.raises(DBAPIError, match="does not exist"):
            connection.execute(text("SELECT n FROM chosen"))
    session = create_engine(url(broker, session="true"))
    with session.connect() as connection:
        connection.execute(made)
        connection.commit()
        assert connection.scalar(text("SELECT n FROM chosen")) == 1
    with session.connect() as connection, pytest.raises(DBAPIError, match="does not exist"):
        connection.execute(text("SELECT n FROM chosen"))


# Results and values.


def test_a_large_result_comes_in_parts(engine: Engine, broker: Broker) -> None:
    numbers = text(f"SELECT n FROM generate_series(1, {ITEMS}) AS n")
    with engine.connect() as connection:
        before = requests(broker)
        result = connection.execution_options(yield_per=1000).execute(numbers)
        assert next(iter(result.scalars())) == 1
        assert requests(broker) - before == 2  # the cursor, and 1,000 rows
        assert sum(1 for _ in result) == ITEMS - 1
        connection.execution_options(stream_results=True, max_row_buffer=100)
        assert len(connection.execute(numbers).partitions(50).__next__()) == 50


def test_values_come_back_as_they_went(engine: Engine) -> None:
    table = Table(
        "kinds",
        MetaData(schema=SCHEMA),
        Column("id", Integer, primary_key=True),
        Column("data", JSONB),
        Column("plain", JSON),
        Column("numbers", ARRAY(Integer)),
        Column("words", ARRAY(String, dimensions=2)),
        Column("span", INT4RANGE),
        Column("colour", Enum(Colour, name="colour", schema=SCHEMA)),
        Column("key", Uuid),
        Column("host", INET),
        Column("bits", BIT(4)),
        Column("raw", LargeBinary),
        Column("price", Numeric(10, 2)),
    )
    values = {
        "data": {"a": [1, None, "ä"]},
        "plain": [True, {"b": 2.5}],
        "numbers": [1, None, 3],
        "words": [["a", "b"], ["c", "d,'\""]],
        "span": Range(1, 5, bounds="[)"),
        "colour": Colour.GREEN,
        "key": uuid.UUID(int=7),
        "host": str(ipaddress.ip_interface("10.1.2.3/24")),
        "raw": b"\0\xff",
        "price": Decimal("19.90"),
    }
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(insert(table), [{"id": 1, **values}, {"id": 2, **dict.fromkeys(values)}])
    with engine.connect() as connection:
        found = connection.execute(select(table).order_by(table.c.id)).mappings().all()
    assert {name: found[0][name] for name in values} == values
    assert {name: found[1][name] for name in values} == dict.fromkeys(values)


def test_search_path_is_the_engines_and_the_schema_without_a_name_is_its_first(broker: Broker, engine: Engine) -> None:
    assert inspect(engine).default_schema_name == "public"
    here = create_engine(url(broker, options=f"-c search_path={SCHEMA}"))
    assert inspect(here).default_schema_name == SCHEMA
    assert "items" in inspect(here).get_table_names()
    with here.connect() as connection:
        assert connection.scalar(text("SELECT name FROM items WHERE id = 1")) == "item 1"
        connection.commit()
        assert connection.scalar(text("SELECT name FROM items WHERE id = 2")) == "item 2"
    by_argument = create_engine(url(broker), connect_args={"settings": {"search_path": SCHEMA}})
    with by_argument.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert connection.scalar(text("SELECT name FROM items WHERE id = 3")) == "item 3"
    here.dispose()
    by_argument.dispose()


# What happens if something is lost.


def test_a_broker_that_comes_back_finds_the_engine_ready_and_the_loss_says_what_became_of_it(
    start_broker: Any,
) -> None:
    broker = start_broker()
    engine = create_engine(url(broker))
    with engine.connect() as connection:
        connection.execute(select(1))
        broker.kill()
        with pytest.raises(OperationalError) as caught:
            connection.execute(select(2))
        assert caught.value.connection_invalidated
        assert isinstance(caught.value.orig, client.DBConnectionError)  # TransactionLost, if its end was seen ahead
        assert caught.value.orig.outcome == "not executed"
    with pytest.raises(OperationalError) as caught, engine.connect() as connection:
        connection.execute(select(3))
    assert isinstance(caught.value.orig, client.DBConnectionError)
    assert caught.value.orig.retryable
    broker.start()
    with engine.connect() as connection:
        assert connection.scalar(select(4)) == 4
    engine.dispose()


def test_pre_ping_tells_nobody_of_a_broker_that_was_away(start_broker: Any) -> None:
    broker = start_broker()
    engine = create_engine(url(broker), pool_pre_ping=True)
    with engine.connect() as connection:
        connection.execute(select(1))
    broker.kill()
    broker.start()
    with engine.connect() as connection:
        assert connection.scalar(select(2)) == 2
    engine.dispose()


def test_a_full_group_is_an_error_and_no_loss(start_broker: Any) -> None:
    broker = start_broker(groups={"default": {"max_size": 1, "queue_timeout": 0.1}})
    engine = create_engine(url(broker))
    with engine.connect() as first, engine.connect() as second:
        first.execute(select(1))
        with pytest.raises(OperationalError) as caught:
            second.execute(select(1))
        assert isinstance(caught.value.orig, client.PoolTimeout)
        assert not caught.value.connection_invalidated
        assert caught.value.orig.retryable
        first.rollback()
        second.rollback()
        assert second.scalar(select(1)) == 1
    engine.dispose()


def test_a_group_that_is_not_there_is_told_at_once(broker: Broker) -> None:
    with pytest.raises(OperationalError) as caught:
        create_engine(url(broker, "nowhere")).connect()
    assert isinstance(caught.value.orig, client.UnconfiguredGroupError)


def test_what_belongs_to_all_clients_cannot_be_changed(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(InterfaceError, match="client_encoding"):
        connection.execute(text("SET client_encoding = 'LATIN1'"))


def test_a_result_without_rows_says_so(engine: Engine) -> None:
    with engine.connect() as connection:
        result = connection.execute(update(Item).values(n=1).where(Item.id == 1))
        assert result.rowcount == 1
        with pytest.raises(ResourceClosedError):
            result.all()


def test_events_see_the_connection_of_dbapi(engine: Engine) -> None:
    seen: list[Any] = []
    event.listen(engine, "checkout", lambda connection, record, proxy: seen.append(connection))
    with engine.connect():
        pass
    assert [isinstance(each, dbapi.extensions.connection) for each in seen] == [True]
