"""Whatever a statement leaves in its session, and by whatever way it comes there, nobody else finds it.

The whole session is read before and after, by another client through poold and from outside. Each way to leave
something is first tried on a connection of psycopg2's own: it has to leave something there, and the judge to see it. A
statement may be refused.
"""

import contextlib
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import leavings
import psycopg2
import pytest
import whole_session
from brokers import Broker, Worker
from deliveries import AUTOCOMMIT, DELIVERIES, GROUPS, LEASED, Deliverer
from examples import seeds
from leavings import CARRIERS, DEEDS, WAYS, Way, carried
from postgres import Factory, Postgres
from someone import Someone
from waiting import wait_until
from whole_session import AT_REST, Judge, Session, differences

from client import DBError, Handler

# For a backend to rest, and for others to come; only what is left open for ever reaches the former.
REST, PATIENCE = 1.0, 20.0
END_ALL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name <> 'the test''s own eyes' "
    "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, session_folder: Any, bindir: Any) -> Iterator[Postgres]:
    """A server of this module's own: roles, event triggers and what is left in it are nobody else's matter."""
    factory = Factory(request.config.getoption("--postgres"), session_folder, bindir)
    made = factory()
    try:
        for script in (leavings.SETUP, leavings.ROWS, whole_session.SETUP):
            made.execute(script)
        with contextlib.suppress(psycopg2.Error):  # not every PostgreSQL has it
            made.execute("CREATE EXTENSION dblink")
        made.execute("SELECT pg_replication_origin_create('left_over')")
        yield made
    finally:
        factory.close()


@pytest.fixture(scope="module")
def judge(server: Postgres) -> Iterator[Judge]:
    made = Judge(server)
    try:
        yield made
    finally:
        made.close()


class Next:
    """The next client on the only backend of each group, and what it expects to find there."""

    def __init__(self, server: Postgres, broker: Broker, judge: Judge) -> None:
        self._server = server
        self._broker = broker
        self._judge = judge
        self._client = Someone()
        self.expected = {group: self.look(group) for group in GROUPS}
        assert all(session["from outside"] == AT_REST for session in self.expected.values())

    def look(self, group: str) -> Session:
        """Its whole session, and what is seen of it from outside as soon as it rests."""

        def cell(sql: str) -> Any:
            handler = self._broker.handler(group)
            try:
                return handler.query(sql)[0][0]
            finally:
                handler.rollback()

        session = self._client.do(self._judge.session, cell)
        return {**session, "from outside": self._at_rest(session["pid"])}

    def finds(self, group: str) -> dict[str, Any]:
        """What it finds of others, which is taken away for those who come after. Empty where all is well."""
        try:
            found = differences(self.expected[group], self.look(group))
        except psycopg2.Error as error:
            found = {"an error": str(error)}
        if found:
            self.renew(group)
        return found

    def renew(self, group: str) -> None:
        """End what is there and wait for another that is as the first one was."""
        self._judge.execute(END_ALL)

        def is_well() -> bool:
            with contextlib.suppress(DBError):
                return not differences(self.expected[group], self.look(group))
            return False

        wait_until(is_well, PATIENCE, "a backend like the one in the beginning")

    def _at_rest(self, pid: int) -> list[Any]:
        """What is seen of it then; of one that was closed behind its reply nothing is left."""
        deadline = time.monotonic() + REST
        while True:
            seen = self._judge.outside(pid)
            if not seen or seen == AT_REST or time.monotonic() > deadline:
                return seen or AT_REST

    def close(self) -> None:
        self._client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def broker(server: Postgres) -> Iterator[Broker]:
    endpoints = {"main": server.parameters, "app": {**server.parameters, "user": "app"}}
    made = Broker(endpoints, GROUPS)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture(scope="module")
def next_client(server: Postgres, broker: Broker, judge: Judge) -> Iterator[Next]:
    made = Next(server, broker, judge)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def deliverer(server: Postgres, broker: Broker, next_client: Next) -> Iterator[Deliverer]:
    made = Deliverer(server, broker)
    try:
        yield made
    finally:
        made.close()


def check(deliverer: Deliverer, next_client: Next, way: Way, deliveries: list[str]) -> None:
    """By none of these ways it leaves anything to the next client."""
    left = {}
    for delivery in deliveries:
        found = next_client.finds(deliverer.deliver(delivery, way))
        if found:
            left[delivery] = found
    assert not left, f"{way}: left to the next client (before, after):\n" + "\n".join(
        f"    by {delivery}: {told(found)}" for delivery, found in left.items()
    )


def told(found: dict[str, Any]) -> str:
    order = sorted(found, key=lambda name: (name.startswith("setting "), name))
    shown = [f"{name}: {found[name]}" for name in order]
    return "; ".join(shown[:3]) + (f"; and {len(shown) - 3} more" if len(shown) > 3 else "")


def need(server: Postgres, way: Way) -> None:
    if way.needs and not server.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", (way.needs,)):
        pytest.skip(f"this PostgreSQL has no {way.needs}")


# The judge himself.

PLAINLY = [carried(carrier, "setting") for carrier in CARRIERS] + [carried(CARRIERS[0], deed) for deed in DEEDS]


@pytest.mark.parametrize("way", [*WAYS, *PLAINLY], ids=str)
def test_it_leaves_something_on_a_connection_of_ones_own(server: Postgres, judge: Judge, way: Way) -> None:
    need(server, way)
    connection = server.connect(**({"user": way.user} if way.user else {}))
    pid = connection.info.backend_pid
    try:
        cursor = connection.cursor()

        def cell(sql: str) -> Any:
            cursor.execute(sql)
            return cursor.fetchone()[0]

        def whole() -> Session:
            return {**judge.session(cell), "from outside": judge.outside(pid)}

        before = whole()
        for sql in way.steps:
            if way.settings:
                cursor.execute("BEGIN")
            for name, value in way.settings.items():
                cursor.execute("SELECT set_config(%s, %s, true)", (name, value))
            cursor.execute(sql, way.params)
            if way.settings:
                cursor.execute("COMMIT")
        found = differences(before, whole())
    finally:
        connection.close()
        wait_until(lambda: not judge.outside(pid), what="the end of the connection")
    assert bool(found) is way.leaves, f"{way} leaves {told(found)}"


# Statements by all ways.


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_a_statement_leaves_nobody_finds(
    server: Postgres, deliverer: Deliverer, next_client: Next, way: Way, seed: int
) -> None:
    need(server, way)
    chance = random.Random(f"{seed} {way}")
    check(deliverer, next_client, way, ["a query", *chance.sample(sorted(DELIVERIES), 2)])


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("carrier", CARRIERS)
def test_what_code_leaves_that_a_statement_reaches_nobody_finds(
    deliverer: Deliverer, next_client: Next, carrier: str, seed: int
) -> None:
    chance = random.Random(f"{seed} {carrier}")
    for deed in chance.sample(DEEDS, 2):
        check(deliverer, next_client, carried(carrier, deed), ["a query", chance.choice(sorted(DELIVERIES))])


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("deed", DEEDS)
def test_what_a_deed_leaves_nobody_finds(deliverer: Deliverer, next_client: Next, deed: str, seed: int) -> None:
    chance = random.Random(f"{seed} {deed}")
    way = carried(chance.choice(CARRIERS), deed)
    check(deliverer, next_client, way, chance.sample(sorted(AUTOCOMMIT), 3) + chance.sample(sorted(LEASED), 2))


@pytest.mark.parametrize("seed", seeds(8))
def test_what_many_statements_leave_one_after_another_nobody_finds(
    deliverer: Deliverer, next_client: Next, seed: int
) -> None:
    chance, story, done = random.Random(seed), [], set()
    possible = [way for way in WAYS if not way.needs and not way.user]
    for _ in range(8):
        way = (
            chance.choice(possible) if chance.random() < 0.5 else carried(chance.choice(CARRIERS), chance.choice(DEEDS))
        )
        delivery = chance.choice(sorted(DELIVERIES))
        story.append(f"{delivery}: {way}")
        done.add(deliverer.deliver(delivery, way))
    found = {group: next_client.finds(group) for group in done}
    assert not any(found.values()), "\n".join(
        [*story, *(f"left in {group}: {told(each)}" for group, each in found.items() if each)]
    )


# Clients that are killed.

PROGRAM = """
from client import Handler
for line in sys.stdin:
    for kind, statements in json.loads(line):
        db = Handler("leased" if kind == "lease" else "one")
        db = db.session() if kind == "session" else db
        for statement in statements:
            try:
                db.query(statement)
            except Exception:
                pass
        globals()[kind] = db
    tell("done")
"""
# What no rule about the text keeps from being done.
KILLED = [
    ["SELECT leave('user')", "SELECT leave('table')", "SELECT leave('lock')", "SELECT leave('seed')"],
    ["SET LOCAL search_path = pg_temp", "CREATE TABLE left_over (a int)", "SELECT public.leave('channel')"],
    ["DO $$ BEGIN PERFORM leave('reading'); PERFORM leave('cursor'); PERFORM leave('name'); END $$"],
]


@pytest.mark.parametrize("statements", KILLED, ids=" / ".join)
def test_a_client_that_is_killed_leaves_nothing(broker: Broker, next_client: Next, statements: list[str]) -> None:
    worker = Worker(PROGRAM, address=broker.address)
    try:
        worker.say(json.dumps([["lease", statements], ["session", statements]]))
        assert worker.hear() == "done"
        worker.kill()
        found = {group: next_client.finds(group) for group in ("leased", "one")}
    finally:
        worker.close()
    assert not any(found.values()), found


def test_the_next_client_finds_what_is_left_in_its_own_session(broker: Broker, judge: Judge) -> None:
    db: Handler = broker.handler("one")
    with db.session() as session:

        def cell(sql: str) -> Any:
            return session.query(sql)[0][0]

        before = judge.session(cell)
        for deed in ("setting", "lock", "table", "name", "channel", "cursor", "number", "seed"):
            session.query("SELECT leave(%s)", (deed,))
        names = differences(before, judge.session(cell)).keys()
    expected = {"setting work_mem", "locks", "temporary relations", "prepared", "channels", "cursors", "lastval"}
    assert expected | {"random is foreseen"} <= names
