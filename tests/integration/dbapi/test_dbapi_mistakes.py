"""What connect() and cursor() are given by mistake, or for what is not there: the error says what is expected."""

from contextlib import closing
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from psycopg2 import extras

from client import dbapi


@pytest.mark.parametrize("address", ["", " ", "shop", "/tmp/poold.sock", "ipc://relative", "tcp://nowhere"])
def test_an_address_that_is_none_is_an_error_of_psycopg2s(address: str) -> None:
    for make in (dbapi.connect, dbapi.extensions.connection):
        with pytest.raises(theirs.ProgrammingError, match=r"address .*(ipc|tcp)://.*leave it out.*POOLD_ADDRESS"):
            make(address)


@pytest.mark.parametrize("factory", [int, object, 5, extras.DictConnection])
def test_a_factory_of_something_else_than_cursors_is_named(broker: Broker, factory: Any) -> None:
    expected = "cursor_factory is .*; expected a class derived from psycopg2.extensions.cursor"
    with pytest.raises(TypeError, match=expected):
        dbapi.connect(broker.address, cursor_factory=factory)
    with closing(dbapi.connect(broker.address)) as connection:
        with pytest.raises(TypeError, match=expected):
            connection.cursor(cursor_factory=factory)
        connection.cursor_factory = factory
        with pytest.raises(TypeError, match=expected):
            connection.cursor()


@pytest.mark.parametrize("factory", [int, object, 5, extras.DictCursor])
def test_a_factory_of_something_else_than_connections_is_named(broker: Broker, factory: Any) -> None:
    with pytest.raises(TypeError, match=r"connection_factory is .*; expected a class derived from"):
        dbapi.connect(broker.address, connection_factory=factory)


def test_there_is_no_replication(broker: Broker) -> None:
    class Mine(extras.LogicalReplicationConnection):
        pass

    for factory in (extras.LogicalReplicationConnection, extras.PhysicalReplicationConnection, Mine):
        with pytest.raises(dbapi.NotSupportedError, match=r"connection_factory is .*replication"):
            dbapi.connect(broker.address, connection_factory=factory)
    with (
        closing(dbapi.connect(broker.address)) as connection,
        pytest.raises(dbapi.NotSupportedError, match=r"cursor_factory is .*replication"),
    ):
        connection.cursor(cursor_factory=extras.ReplicationCursor)
