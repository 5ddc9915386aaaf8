"""Sessions that are over, lost, or in the middle of another thread's call: every call says which of these it is."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg2.errors
import pytest
from brokers import Broker
from postgres import Postgres
from waiting import wait_until

from client import CommitOutcomeUnknown, DBConnectionError, Handler, Session, TransactionLost, UsageError

ASLEEP = "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND application_name = 'poold'"
SLOW_COMMIT = """
    CREATE TABLE slow_commit (id int);
    CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_sleep(600); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow_commit DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION slow_commit();
"""


@pytest.fixture
def db(broker: Broker) -> Handler:
    return broker.handler()


def end_backend(postgres: Postgres, session: Session) -> None:
    """End the session's backend, of which nobody tells the program."""
    pid = session.query("SELECT pg_backend_pid()")[0][0]
    postgres.execute("SELECT pg_terminate_backend(%s)", (pid,))
    wait_until(lambda: not postgres.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)), what="its end")


def end_sleeper(postgres: Postgres) -> None:
    postgres.execute(f"SELECT pg_terminate_backend(pid) {ASLEEP}")


@contextmanager
def under_way(postgres: Postgres, call: Callable[[], object], end: Callable[[], object]) -> Iterator[list[object]]:
    """While the call sleeps in the server; behind the block, which ends by this end, the list has its error."""
    errors: list[object] = []
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(call)
        wait_until(lambda: postgres.execute(f"SELECT 1 {ASLEEP}"), what="the call to sleep")
        try:
            yield errors
        finally:
            end()
        errors.append(running.exception(60))


@pytest.mark.parametrize("statement", ["SELECT pg_sleep(600)", "BEGIN; SELECT pg_sleep(600)"])
@pytest.mark.parametrize("is_first", [False, True])
def test_nothing_ends_a_session_while_a_call_is_under_way(
    db: Handler, postgres: Postgres, statement: str, is_first: bool
) -> None:
    session = db.session()
    if not is_first:
        session.query("SELECT 1")
    with under_way(postgres, lambda: session.query(statement), session.cancel) as errors:
        for call in (session.commit, session.rollback, session.close):
            with pytest.raises(UsageError, match="in the middle of a call"):
                call()
    assert isinstance(errors[0], psycopg2.errors.QueryCanceled)
    session.rollback()
    assert session.query("SELECT 1")[0][0] == 1
    session.close()


def test_nothing_is_ended_while_the_first_call_opens_its_lease(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    tx = broker.handler(autocommit=False)
    session = broker.handler().session()
    for executor in (tx, session):
        caught = []
        channel = executor._channel
        calls = [executor.commit, executor.rollback, *([session.close] if executor is session else [])]

        def opening(waits: float | None, calls=calls, caught=caught, channel=channel):  # type: ignore[no-untyped-def]
            for call in calls:
                with pytest.raises(UsageError, match="in the middle of a call") as error:
                    call()
                caught.append(error.value)
            return channel(waits)

        monkeypatch.setattr(executor, "_channel", opening)
        assert executor.query("SELECT 1")[0][0] == 1
        assert len(caught) == len(calls)
        executor.rollback()
    session.close()


@pytest.mark.parametrize("before", ["BEGIN", "SELECT 1"])
def test_a_lost_session_is_lost_behind_its_block_and_its_end(db: Handler, postgres: Postgres, before: str) -> None:
    session = db.session()

    def block() -> None:
        with session:
            session.query(before)
            end_backend(postgres, session)
            session.query("SELECT 1")

    with pytest.raises(TransactionLost):
        block()
    assert session.is_lost
    assert not session.in_transaction
    session.close()
    assert session.is_lost
    with db.session() as session:
        session.query("SELECT 1")
    assert not session.is_lost


@pytest.mark.parametrize("has_rolled_back", [False, True])
def test_a_stream_of_a_lost_session_tells_of_the_loss(db: Handler, postgres: Postgres, has_rolled_back: bool) -> None:
    with db.session() as session:
        end_backend(postgres, session)
        with pytest.raises(TransactionLost):
            session.query("SELECT 1")
        if has_rolled_back:
            session.rollback()
        with pytest.raises(TransactionLost, match="open another"):
            list(session.stream("SELECT 1"))
        session.rollback()


def test_a_session_lost_in_its_commit_does_not_blame_the_broker(db: Handler, postgres: Postgres) -> None:
    postgres.execute(SLOW_COMMIT)
    session = db.session()
    session.query("BEGIN")
    session.query("INSERT INTO slow_commit VALUES (1)")
    with under_way(postgres, session.commit, lambda: end_sleeper(postgres)) as errors:
        pass
    assert isinstance(errors[0], DBConnectionError)
    assert errors[0].outcome == "unknown"
    with pytest.raises(CommitOutcomeUnknown):
        session.query("SELECT 1")
    session.rollback()
    for call in (lambda: session.query("SELECT 1"), session.commit, lambda: list(session.stream("SELECT 1"))):
        with pytest.raises(TransactionLost, match="lost when the answer to its COMMIT was not taken") as caught:
            call()
        assert "broker" not in str(caught.value)
    session.close()
    assert session.is_lost
    postgres.execute("DROP TABLE slow_commit; DROP FUNCTION slow_commit")


def test_what_has_no_place_in_a_session_says_that_it_is_over(db: Handler) -> None:
    with db.session() as session:
        session.query("SELECT 1")
    for call in (session.transaction, session.run, session.session, lambda: session.stream("SELECT 1")):
        with pytest.raises(UsageError, match="this session is over"):
            call()
