"""An executemany with autocommit that ends in the middle, however it ends, says how many sets are committed."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from postgres import Postgres
from waiting import wait_until

from client import DBError, dbapi

StartBroker = Callable[..., Broker]

CLEAN_UP = "DROP TABLE IF EXISTS halfway"
TABLE = "DROP TABLE IF EXISTS halfway; CREATE TABLE halfway (id int)"
# The set 1200 waits: it is the 201st of the second message.
WAIT = "pg_sleep(CASE WHEN id = 1200 THEN 60 ELSE 0 END)"
INSERT = f"INSERT INTO halfway SELECT id FROM (VALUES (%s)) AS given (id), {WAIT}"
SETS = [(number,) for number in range(1500)]
SLEEPS = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%halfway%'"


@pytest.fixture
def broker(start_broker: StartBroker, postgres: Postgres) -> Broker:
    postgres.execute(TABLE)
    return start_broker()


@pytest.fixture(params=["plain", "session"])
def connection(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Any]:
    made = dbapi.connect(broker.address, session=request.param == "session", autocommit=True)
    yield made
    made.close()


def ended(connection: Any, postgres: Postgres, end: Callable[[], object]) -> DBError:
    """Return the error of an executemany that is ended while its second message runs."""
    caught: list[DBError] = []

    def run() -> None:
        with pytest.raises(DBError) as error:
            connection.cursor().executemany(INSERT, SETS)
        caught.append(error.value)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: postgres.execute(SLEEPS), what="the second message to wait")
    end()
    thread.join()
    return caught[0]


def terminate(postgres: Postgres) -> None:
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM ({SLEEPS}) AS found")


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_a_loss_says_how_many_sets_are_committed(connection: Any, postgres: Postgres, broker: Broker, how: str) -> None:
    error = ended(connection, postgres, broker.kill if how == "killed" else lambda: terminate(postgres))
    terminate(postgres)
    assert "; 1000 sets before these 500 are committed" in str(error)
    assert (error.outcome, error.retryable) == ("unknown", False)
    assert isinstance(error, theirs.OperationalError)
    assert postgres.execute("SELECT count(*) FROM halfway") == [(1000,)]


def test_a_cancel_says_which_set_it_has_met(connection: Any, postgres: Postgres) -> None:
    error = ended(connection, postgres, connection.cancel)
    assert isinstance(error, theirs.extensions.QueryCanceledError)
    assert (error.statement_index, error.outcome) == (1200, "unknown")
    assert str(error).endswith("; 1000 sets before it are committed")
    assert str(error).startswith("statement 1201 of 1500 (") == (not connection.is_session)


def failing(at: int, error: BaseException) -> Iterator[tuple[int]]:
    for number in range(at):
        yield (-number,)
    raise error


@pytest.mark.parametrize("kind", [LookupError, KeyboardInterrupt])
def test_the_iterables_own_exception_has_a_note(connection: Any, kind: type[BaseException]) -> None:
    cursor = connection.cursor()
    with pytest.raises(kind) as caught:
        cursor.executemany(INSERT, failing(1500, kind()))
    assert caught.value.__notes__ == ["1000 sets before this are committed"]
    assert cursor.rowcount == 1000
    with pytest.raises(IndexError) as unfit:
        cursor.executemany(INSERT, iter([*SETS[:3], ()]))
    assert unfit.value.__notes__ == ["3 sets before this are committed"]


def test_so_has_an_error_of_the_clients_that_the_iterable_raises(connection: Any, broker: Broker) -> None:
    def sets() -> Iterator[tuple[int]]:
        yield from SETS[:1100]
        broker.handler().query("SELECT 1 / 0")

    with pytest.raises(theirs.errors.DivisionByZero) as caught:
        connection.cursor().executemany(INSERT, sets())
    assert caught.value.__notes__ == ["1000 sets before this are committed"]
    assert caught.value.outcome == "failed"


def test_in_a_transaction_there_is_nothing_to_note(broker: Broker, postgres: Postgres) -> None:
    connection, direct = dbapi.connect(broker.address), postgres.connect()
    direct.autocommit = False
    for each, most in ((connection, 1000), (direct, 1100)):
        cursor = each.cursor()
        error = LookupError("own")
        with pytest.raises(LookupError):
            cursor.executemany(INSERT, failing(1100, error))
        assert not hasattr(error, "__notes__")
        assert cursor.rowcount == most  # of those that were sent
        each.rollback()
        each.close()


def test_an_interrupt_in_a_message_says_that_its_sets_are_in_doubt(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = type(connection)._send_by_itself, type(connection)._send_steps
    seen: list[int] = []

    def interrupted(which: int) -> Any:
        def run(*arguments: Any) -> Any:
            seen.append(1)
            if len(seen) == 2:
                raise KeyboardInterrupt
            return send[which](*arguments)

        return run

    monkeypatch.setattr(type(connection), "_send_by_itself", interrupted(0))
    monkeypatch.setattr(type(connection), "_send_steps", interrupted(1))
    with pytest.raises(KeyboardInterrupt) as caught:
        connection.cursor().executemany("INSERT INTO halfway VALUES (%s)", SETS)
    assert caught.value.__notes__ == [
        "1000 sets before this are committed; whether the 500 sets under way are committed is not known"
    ]


@pytest.mark.parametrize("given", [None, 5, []])
def test_what_is_no_iterable_and_an_empty_one_count_as_psycopg2s(
    connection: Any, postgres: Postgres, given: Any
) -> None:
    direct = postgres.connect()
    found = []
    for each in (direct, connection):
        cursor = each.cursor()
        cursor.execute("SELECT 1 UNION SELECT 2")
        try:
            cursor.executemany(INSERT, given)
            told = ""
        except TypeError as error:
            told = str(error)
        found.append((told, cursor.rowcount, cursor.statusmessage, cursor.query))
    assert found[0] == found[1]
    direct.close()
