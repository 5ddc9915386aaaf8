"""Test databases of ENGINE = "poold.django": who is in one that is copied or dropped is waited for, ended, or told."""

from collections.abc import Callable, Iterator

import pytest
from brokers import Broker, Worker
from django_programs import program
from postgres import Postgres
from waiting import wait_until

from poold.django.occupants import Occupant, advice

StartBroker = Callable[..., Broker]
StartWorker = Callable[..., Worker]

NAME = "test_occupied"
DATABASES = (NAME, f"{NAME}_1")
TEST = {"NAME": NAME, "GROUP": NAME, "ADMIN_GROUP": "maintenance"}

MAKES = """
from poold.django import occupants

creation = connection.creation
creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
"""
# Whoever has asked since then who is in the database, or copies or drops it already.
LOOKED = (
    "SELECT 1 FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query_start > %s "
    "AND query ~ 'pg_terminate_backend|(DROP|CREATE) DATABASE \"test_occupied'"
)


@pytest.fixture
def occupied(start_broker: StartBroker, postgres: Postgres) -> Iterator[str]:
    """The address of a broker with groups of test databases, as docs/django.md has them."""
    server = {**postgres.parameters, "query_timeout": 60, "options": "-c TimeZone=UTC"}
    endpoints = {"maintenance": server, **{name: {**server, "dbname": name} for name in DATABASES}}
    groups = {name: {"endpoints": [name], "min_size": 0} for name in endpoints}
    yield start_broker({"main": server, **endpoints}, {"default": {"endpoints": ["main"]}, **groups}).address
    for name in DATABASES:
        postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.mark.parametrize(
    ("call", "left"),
    [
        ("creation.destroy_test_db('', verbosity=0)", 0),
        ("creation.clone_test_db('1', verbosity=0)", 2),
        ("creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)", 1),
    ],
)
def test_who_comes_to_rest_meanwhile_is_ended(
    start_worker: StartWorker, occupied: str, postgres: Postgres, call: str, left: int
) -> None:
    worker = program(
        start_worker,
        f"{MAKES}\ntell(1)\ninput()\n{call}\ntell(2)",
        occupied,
        DATABASE={"TEST": TEST},
    )
    assert worker.hear() == 1
    session = postgres.connect(dbname=NAME)
    session.autocommit = False
    try:
        session.cursor().execute("SELECT 1")
        (since,) = postgres.execute("SELECT clock_timestamp()")
        worker.say()
        wait_until(lambda: bool(postgres.execute(LOOKED, since)), what="a look at who is in the database")
        session.commit()
        assert worker.finish() == [2]
    finally:
        session.close()
    assert postgres.execute("SELECT count(*) FROM pg_database WHERE datname ~ %s", [f"^{NAME}"]) == [(left,)]


def test_who_does_not_leave_is_told_and_no_setting_is_blamed(
    start_worker: StartWorker, occupied: str, postgres: Postgres
) -> None:
    worker = program(
        start_worker,
        f"""{MAKES}
tell(1)
input()
occupants.PATIENCE = 0.0
try:
    creation.destroy_test_db('', verbosity=0)
except OperationalError as error:
    tell(str(error))
""",
        occupied,
        DATABASE={"TEST": TEST},
    )
    assert worker.hear() == 1
    session = postgres.connect(dbname=NAME, application_name="report")
    session.autocommit = False
    try:
        session.cursor().execute("SELECT 1")
        pid = session.info.backend_pid
        worker.say()
        (told,) = worker.finish()
    finally:
        session.close()
    assert f"pid {pid} (" in told
    assert "report, idle in transaction) is there: let it come to its end" in told
    assert "min_size" not in told


def test_what_to_do_is_said_by_what_keeps_a_database_in_use() -> None:
    rests = Occupant(7, "shop", "poold", "idle", True)
    assert "pid 7 (shop, poold, idle) is there: it came after" in advice([rests], [], {6})
    assert "min_size = 0" in advice([rests], [], {6})
    assert advice([rests], [], {7}) == "; pid 7 (shop, poold, idle) is there: let it disconnect"
    assert "no test database" in advice([rests], [], None)
    assert "pid 7 (shop, poold, hidden) is there: the role of the admin group may not end it" in advice(
        [rests._replace(state=None, may_be_ended=False)], [], {7}
    )
    works = rests._replace(state="active")
    assert "pid 7 (shop, poold, active), pid 8 (shop, poold, active) are there: let it come to its end" in advice(
        [works, works._replace(pid=8)], [], {6}
    )
    assert "COMMIT PREPARED" in advice([], ["one", "two"], ())
    assert advice([], [], ()) == ""
