"""URLs of SQLAlchemy's engines as arguments of client.dbapi.connect, and what pools their connections."""

from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool, QueuePool

from client import dbapi
from client.errors import (
    CommitOutcomeUnknown,
    DBConnectionError,
    DBOfflineError,
    PoolTimeout,
    TooManyRequests,
    TransactionLost,
    UsageError,
)
from client.sqlalchemy import Connections, PooldDialect


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql+poold://", {}),
        ("postgresql+poold:///orders", {"group": "orders"}),
        ("postgresql+poold://db1:6543/orders", {"group": "orders", "address": "tcp://db1:6543"}),
        ("postgresql+poold://[::1]:6543/", {"address": "tcp://[::1]:6543"}),
        ("postgresql+poold:///?address=ipc:///run/poold/poold.sock", {"address": "ipc:///run/poold/poold.sock"}),
        (
            "postgresql+poold:///?tag=billing&priority=batch&prepare=false&read_only=1&session=on",
            {"tag": "billing", "priority": "batch", "prepare": False, "read_only": True, "session": True},
        ),
        (
            "postgresql+poold://db1:6543/?server_key=/etc/broker.key&key=/etc/worker.key_secret&after=7",
            {
                "address": "tcp://db1:6543",
                "server_key": "/etc/broker.key",
                "key": "/etc/worker.key_secret",
                "after": "7",
            },
        ),
        (
            r"postgresql+poold:///?options=-c search_path=app,public -cwork_mem=64MB --app.title=A\ B",
            {"settings": {"search_path": "app,public", "work_mem": "64MB", "app.title": "A B"}},
        ),
    ],
)
def test_a_url_stands_for_arguments_of_connect(url: str, expected: dict[str, Any]) -> None:
    assert PooldDialect().create_connect_args(make_url(url)) == ([], expected)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+poold://ada:secret@/orders", "has a user or a password"),
        ("postgresql+poold://db1/orders", "has a host and no port"),
        ("postgresql+poold://db1:6543/?address=ipc:///s", "a host and an address= as well"),
        ("postgresql+poold:///?sslmode=require", "has sslmode=, which poold does not know; it knows address, after"),
        ("postgresql+poold:///?session=maybe", "has session=maybe: expected true or false"),
        ("postgresql+poold:///?tag=a&tag=b", "has tag= more than once"),
        ("postgresql+poold:///?options=search_path", "expected -c NAME=VALUE"),
        ("postgresql+poold:///?options=-c search_path", "expected -c NAME=VALUE"),
    ],
)
def test_a_url_that_stands_for_nothing_is_refused_without_its_password(url: str, said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        PooldDialect().create_connect_args(make_url(url))
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_engines_find_the_dialect_by_its_name_and_stand_on_dbapi() -> None:
    engine = create_engine("postgresql+poold:///orders")
    assert isinstance(engine.dialect, PooldDialect)
    assert engine.dialect.dbapi is dbapi
    assert engine.name == "postgresql"
    assert engine.driver == "poold"


def test_connections_are_kept_without_a_limit_unless_a_program_sets_one_and_sessions_not_at_all() -> None:
    assert type(create_engine("postgresql+poold://").pool) is Connections
    assert "Pool size: 0" in create_engine("postgresql+poold://").pool.status()
    limited = create_engine("postgresql+poold://", pool_size=3, max_overflow=2, pool_recycle=300).pool
    assert isinstance(limited, QueuePool)
    assert limited.size() == 3
    assert type(create_engine("postgresql+poold:///?session=true").pool) is NullPool
    assert type(create_engine("postgresql+poold://", poolclass=NullPool).pool) is NullPool


@pytest.mark.parametrize(
    ("error", "is_loss"),
    [
        (DBConnectionError("gone"), True),
        (DBOfflineError("nobody there"), True),
        (TransactionLost("gone"), True),
        (CommitOutcomeUnknown("who knows"), True),
        (PoolTimeout("full"), False),
        (TooManyRequests("full"), False),
        (UsageError("out of place"), False),
        (dbapi.OperationalError("server closed the connection unexpectedly"), True),
        (dbapi.DataError("out of range"), False),
    ],
    ids=repr,
)
def test_what_is_gone_is_a_loss_and_what_is_full_is_not(error: Exception, is_loss: bool) -> None:
    dialect = PooldDialect(dbapi=PooldDialect.import_dbapi())
    assert dialect.is_disconnect(error, None, None) is is_loss
