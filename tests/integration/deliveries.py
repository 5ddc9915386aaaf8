"""The ways in which poold takes a statement to a backend, and in which a client may end there.

Each does with some statements what programs do, good ones and bad ones. What becomes of the statements is not looked
at: they may be refused, fail or be cancelled. What they leave is for others to judge.
"""

from collections.abc import Callable
from typing import Any

from brokers import Broker
from leavings import Way
from postgres import Postgres
from someone import Someone, attempt, vanish_after
from waiting import wait_until

from client import Handler

# A broker's groups, and who its backends are: one backend each, so that the next client comes to the same one.
GROUPS = {
    "one": {"endpoints": ["main"], "min_size": 1, "max_size": 1},
    "leased": {"endpoints": ["main"], "min_size": 1, "max_size": 1, "autocommit": False},
    "app": {"endpoints": ["app"], "min_size": 1, "max_size": 1},
    "app-leased": {"endpoints": ["app"], "min_size": 1, "max_size": 1, "autocommit": False},
}
FAILS = "SELECT 1/0"
SLEEPS = "SELECT pg_sleep(60)"
SLEEPING = "SELECT pid FROM pg_stat_activity WHERE application_name = 'poold' AND wait_event = 'PgSleep'"


class Left(Exception):
    """Leaves a block."""


class Deliverer:
    """Runs statements in these groups of a broker, as a client who is nobody else."""

    def __init__(self, server: Postgres, broker: Broker) -> None:
        self._server = server
        self._broker = broker
        self._client = Someone()
        self.handler: Handler  # what is used, and may have to be cancelled

    def deliver(self, delivery: str, way: Way) -> str:
        """Do it; the group in which it was done."""
        kind, group = DELIVERIES[delivery], ("one", "leased")
        if way.user:
            group = (way.user, f"{way.user}-leased")
        name = group[kind in LEASED.values()]
        if kind in VANISHING.values():
            # An open lease is its Handler's, so nobody else may have that.
            vanish_after(lambda: kind(self, self._broker.handler(name), way))
        else:
            self.handler = self._broker.handler(name)
            self._finish(self._client.begin(attempt, kind, self, self.handler, way))
        return name

    def _finish(self, future: Any) -> None:
        """Wait until it is over; what sleeps meanwhile is cancelled."""

        def is_over() -> bool:
            if not future.done() and self._server.execute(SLEEPING):
                self.handler.cancel()
            return bool(future.done())

        while True:
            try:
                future.result(0.02)
                break
            except TimeoutError:
                wait_until(is_over, 30, f"the end of what was begun on {self.handler}")

    def close(self) -> None:
        self._client.__exit__(None, None, None)


def steps(way: Way, handler: Any, **more: Any) -> None:
    """All of its statements by one handler, also behind one that fails."""
    for sql in way.steps:
        attempt(handler.query, sql, way.params, settings={**way.settings, **more} or None)


def _times(count: int) -> Callable[..., None]:
    def run(_: Deliverer, db: Handler, way: Way) -> None:
        for _round in range(count):
            steps(way, db)

    return run


def _with_settings(_: Deliverer, db: Handler, way: Way) -> None:
    for _round in range(2):
        steps(way, db, maintenance_work_mem="5MB")


def _with_a_parameter(_: Deliverer, db: Handler, way: Way) -> None:
    for _round in range(2):
        for sql in way.steps:
            if way.params is None:
                attempt(db.query, sql.replace("%", "%%") + "\n/* %s */", ("it's",), settings=way.settings or None)
            else:
                attempt(db.query, sql + "\n/* %s */", (*way.params, "it's"), settings=way.settings or None)


def _as_literals(_: Deliverer, db: Handler, way: Way) -> None:
    for sql in way.steps:
        attempt(db.query, sql, way.params, prepare=False, settings=way.settings or None)


def _message(before: tuple[str, ...] = (), after: tuple[str, ...] = (), times: int = 1) -> Callable[..., None]:
    def run(_: Deliverer, db: Handler, way: Way) -> None:
        statements = [*before, *((sql, way.params) for sql in way.steps), *after]
        for _round in range(times):
            attempt(db.run, statements, settings=way.settings or None, retries=0)

    return run


def _message_with_a_savepoint(_: Deliverer, db: Handler, way: Way) -> None:
    with db.transaction(settings=way.settings or None, retries=0) as tx:
        tx.query("SELECT 1")
        with tx.savepoint():
            for sql in way.steps:
                tx.query(sql, way.params)
            tx.query(FAILS)
        tx.query("SELECT 2")


def _string(behind: str) -> Callable[..., None]:
    def run(_: Deliverer, db: Handler, way: Way) -> None:
        db.query("; ".join([*way.steps, behind]), way.params, settings=way.settings or None)

    return run


def _session(before: str = "", after: str = "", error: type[Exception] | None = None) -> Callable[..., None]:
    def run(deliverer: Deliverer, db: Handler, way: Way) -> None:
        with db.session() as session:
            deliverer.handler = session
            for sql in (before, None, after):
                if sql is None:
                    steps(way, session)
                elif sql:
                    attempt(session.query, sql)
            if error is not None:
                raise error

    return run


def _session_that_vanishes(_: Deliverer, db: Handler, way: Way) -> Any:
    session = db.session()
    attempt(session.query, "BEGIN")
    steps(way, session)
    return session


def _lease(end: str, after: str = "") -> Callable[..., None]:
    def run(_: Deliverer, db: Handler, way: Way) -> None:
        try:
            attempt(db.query, "SELECT 1")
            steps(way, db)
            if after:
                attempt(db.query, after)
            if end == "commit":
                db.commit()
        finally:
            db.rollback()

    return run


def _lease_left_by_an_exception(_: Deliverer, db: Handler, way: Way) -> None:
    with db:
        steps(way, db)
        raise Left


def _lease_that_vanishes(_: Deliverer, db: Handler, way: Way) -> Any:
    steps(way, db)
    return db


def _leases(_: Deliverer, db: Handler, way: Way) -> None:
    for _round in range(6):
        with db:
            steps(way, db)


AUTOCOMMIT: dict[str, Callable[..., Any]] = {
    "a query": _times(1),
    "eight queries": _times(8),
    "queries with settings": _with_settings,
    "queries with a parameter": _with_a_parameter,
    "a query of literals": _as_literals,
    "a message": _message(),
    "a message of more steps": _message(("SELECT 1",), ("SELECT 2",)),
    "a message again and again": _message(times=6),
    "a message that fails behind it": _message(after=(FAILS,)),
    "a message with a savepoint that fails": _message_with_a_savepoint,
    "a message that is cancelled": _message(after=(SLEEPS,)),
    "a string of several": _string("SELECT 1"),
    "a string that fails in the end": _string(FAILS),
    "a string that is cancelled": _string(SLEEPS),
    "a session": _session(),
    "a session that fails": _session(after=FAILS),
    "a session that is cancelled": _session(after=SLEEPS),
    "a session left by an exception": _session(error=Left),
    "a session with a transaction": _session(before="BEGIN", after="COMMIT"),
    "a session that rolls back": _session(before="BEGIN", after="ROLLBACK"),
    "a session left in its transaction": _session(before="BEGIN"),
    "a session left in its transaction by an exception": _session(before="BEGIN", error=Left),
    "a session left in a failed transaction": _session(before="BEGIN", after=FAILS),
    "a session whose client is gone": _session_that_vanishes,
}
LEASED: dict[str, Callable[..., Any]] = {
    "a transaction committed": _lease("commit"),
    "a transaction rolled back": _lease("rollback"),
    "a failed transaction committed": _lease("commit", FAILS),
    "a failed transaction rolled back": _lease("rollback", FAILS),
    "a cancelled transaction": _lease("rollback", SLEEPS),
    "a transaction left by an exception": _lease_left_by_an_exception,
    "a transaction whose client is gone": _lease_that_vanishes,
    "transactions": _leases,
    "a message where transactions are": _message(before=("SELECT 1",)),
    "a session of transactions": _session(after="SELECT 1"),
    "a session of transactions that fails": _session(after=FAILS, error=Left),
    "a session of transactions whose client is gone": _session_that_vanishes,
}
DELIVERIES = {**AUTOCOMMIT, **LEASED}
VANISHING = {name: kind for name, kind in DELIVERIES.items() if name.endswith("client is gone")}
