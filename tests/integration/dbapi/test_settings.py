"""Settings of a dbapi connection: they travel with its statements, may change, and hold in its transactions."""

from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from brokers import Broker

from client.dbapi import connect, extensions

ZONE = "SELECT current_setting('TimeZone')"


@pytest.fixture
def connection(broker: Broker) -> Iterator[Any]:
    """A connection whose statements run in Tokyo."""
    made = connect(broker.address, settings={"TimeZone": "Asia/Tokyo"})
    try:
        yield made
    finally:
        made.close()


def one(connection: Any, statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


def test_settings_hold_where_they_cannot_travel(connection: Any) -> None:
    one(connection, "SAVEPOINT a")  # the transaction's first statement
    assert one(connection, ZONE) == "Asia/Tokyo"
    connection.rollback()
    assert one(connection, f"SELECT 1; {ZONE}") == "Asia/Tokyo"
    connection.commit()
    connection.autocommit = True
    assert one(connection, f"SELECT 1; {ZONE}") == "Asia/Tokyo"
    with pytest.raises(psycopg2.errors.DivisionByZero):
        one(connection, "SELECT 1; SELECT 1/0")
    assert one(connection, ZONE) == "Asia/Tokyo"


def test_settings_change_in_a_transaction_and_are_not_undone_with_a_savepoint(connection: Any) -> None:
    assert one(connection, ZONE) == "Asia/Tokyo"
    one(connection, "SAVEPOINT a")
    assert connection.use_settings({"TimeZone": "Europe/Rome"})
    assert one(connection, ZONE) == "Europe/Rome"
    one(connection, "ROLLBACK TO SAVEPOINT a")
    assert one(connection, ZONE) == "Europe/Rome"
    connection.rollback()
    assert one(connection, ZONE) == "Europe/Rome"
    assert not connection.use_settings(connection.settings)


def test_settings_and_characteristics_begin_a_transaction_together(connection: Any) -> None:
    connection.set_session(isolation_level="SERIALIZABLE", readonly=True)
    assert one(connection, "SHOW transaction_isolation") == "serializable"
    assert one(connection, ZONE) == "Asia/Tokyo"


def test_a_caster_of_a_connection_is_for_its_type_alone(connection: Any) -> None:
    extensions.register_type(extensions.new_type((3802,), "JSONB", lambda text, _: text), connection)
    with connection.cursor() as cursor:
        cursor.execute("""SELECT '{"a": 1}'::jsonb, '{"a": 1}'::json, 5""")
        assert cursor.fetchall() == [('{"a": 1}', {"a": 1}, 5)]
        cursor.execute("SELECT 5, now()")
        assert cursor.fetchone()[1].utcoffset().total_seconds() == 9 * 3600
        cursor.tzinfo_factory = None
        cursor.execute("SELECT 5, '2026-01-01'::timestamptz, tstzrange('2026-01-01', NULL)")
        number, moment, moments = cursor.fetchone()
        assert (number, str(moment), str(moments.lower)) == (5, "2026-01-01 00:00:00", "2026-01-01 00:00:00")
