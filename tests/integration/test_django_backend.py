"""ENGINE = "poold.django" as programs see it: who holds a backend and when, time zones, options, what is void."""

from collections.abc import Callable
from typing import Any

import pytest
from brokers import Broker, Worker
from django_programs import program
from postgres import Postgres
from waiting import wait_until

StartBroker = Callable[..., Broker]
StartWorker = Callable[..., Worker]


@pytest.fixture
def far_away(start_broker: StartBroker, postgres: Postgres) -> Broker:
    """A broker whose server runs in another time zone than Django's projects usually do."""
    server = {**postgres.parameters, "options": "-c TimeZone=America/New_York"}
    return start_broker(endpoints={"main": server}, groups={"default": {"max_size": 3}})


def test_a_backend_is_held_in_atomic_and_nowhere_else(start_worker: StartWorker, start_broker: StartBroker) -> None:
    broker = start_broker()
    worker = program(
        start_worker,
        """
tell(ask("SELECT 1"))
input()
with transaction.atomic():
    tell(ask("SELECT 2"))
    input()
    with transaction.atomic():
        tell(ask("SELECT 3"))
        input()
tell(ask("SELECT 4"))
input()
with connection.cursor() as named, connection.chunked_cursor() as chunked:
    chunked.execute("SELECT generate_series(1, 10)")
    tell(len(chunked.fetchmany(3)))
    input()
tell(0)
input()
""",
        broker.address,
    )
    for number, leased in ((1, 0), (2, 1), (3, 1), (4, 0), (3, 1), (0, 0)):
        assert worker.hear() == number
        wait_until(lambda expected=leased: broker.pool()["leased"] == expected, what=f"{leased} backends to be leased")
        worker.say()
    worker.finish()


def test_a_process_asks_once_what_its_server_is(start_worker: StartWorker, start_broker: StartBroker) -> None:
    broker = start_broker()
    worker = program(
        start_worker,
        """
for _ in range(5):
    connection.ensure_connection()
    assert connection.pg_version > 140000
    connection.close()
tell("connected")
""",
        broker.address,
    )
    assert worker.finish() == ["connected"]
    assert broker.group()["requests"] == 1


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_statements_run_in_the_projects_time_zone_wherever_the_server_is(
    start_worker: StartWorker, far_away: Broker, zone: str
) -> None:
    worker = program(
        start_worker,
        """
from django.utils import timezone
moment = timezone.make_aware(timezone.datetime(2026, 1, 31, 20, 30), timezone.timezone.utc)
def told():
    read = ask("SELECT %s::timestamptz", [moment])
    assert read == moment
    tell([ask("SHOW TimeZone"), str(ask("SELECT %s::timestamptz::date", [moment])), str(read.tzinfo)])
told()
with transaction.atomic():
    with transaction.atomic():  # SAVEPOINT is the transaction's first statement
        told()
    savepoint = transaction.savepoint()
    told()
    transaction.savepoint_rollback(savepoint)
    told()
tell(ask("SELECT 1; SHOW TimeZone"))
with connection.chunked_cursor() as cursor:
    cursor.execute("SELECT current_setting('TimeZone')")
    tell(cursor.fetchone()[0])
""",
        far_away.address,
        USE_TZ=True,
        DATABASE={"TIME_ZONE": zone},
    )
    day = "2026-01-31" if zone == "UTC" else "2026-02-01"
    assert worker.finish() == [[zone, day, zone]] * 4 + [zone, zone]


def test_moments_without_time_zones_are_the_projects_local_time(start_worker: StartWorker, far_away: Broker) -> None:
    worker = program(
        start_worker,
        """
from datetime import datetime
ask("CREATE TABLE IF NOT EXISTS django_moments (at timestamptz)")
ask("INSERT INTO django_moments VALUES (%s)", [datetime(2026, 7, 1, 12)])
tell(str(ask("SELECT at FROM django_moments")))
tell(ask("SELECT (at AT TIME ZONE 'UTC')::text FROM django_moments"))
ask("DROP TABLE django_moments")
""",
        far_away.address,
        USE_TZ=False,
        TIME_ZONE="Europe/Berlin",
    )
    assert worker.finish() == ["2026-07-01 12:00:00", "2026-07-01 10:00:00"]


def test_isolation_and_role_are_those_of_the_options(
    start_worker: StartWorker, far_away: Broker, postgres: Postgres
) -> None:
    postgres.execute("CREATE ROLE django_role")
    try:
        worker = program(
            start_worker,
            """
for _ in range(2):
    with transaction.atomic():
        tell([ask("SHOW transaction_isolation"), ask("SELECT current_user"), ask("SHOW TimeZone")])
tell([ask("SHOW transaction_isolation"), ask("SELECT current_user")])
""",
            far_away.address,
            DATABASE={"OPTIONS": {"isolation_level": 3, "assume_role": "django_role"}},
            TIME_ZONE="UTC",
        )
        assert worker.finish() == [["serializable", "django_role", "UTC"]] * 2 + [["read committed", "django_role"]]
    finally:
        far_away.stop()
        postgres.execute("DROP ROLE django_role")


def test_json_is_djangos_to_decode_and_nobody_elses(start_worker: StartWorker, broker: Broker) -> None:
    worker = program(
        start_worker,
        """
from client import Handler
tell([ask("SELECT '{\\"a\\": 1}'::jsonb"), Handler().query("SELECT '{\\"a\\": 1}'::jsonb")[0][0]])
tell(ask("SELECT %s::jsonb -> 'a'", [connection.ops.adapt_json_value({"a": [1, "%"]}, None)]))
""",
    )
    assert worker.finish() == [['{"a": 1}', {"a": 1}], '[1, "%"]']


def test_a_transaction_that_has_failed_unseen_is_rolled_back(start_worker: StartWorker, broker: Broker) -> None:
    worker = program(
        start_worker,
        """
ask("CREATE TABLE django_failed (id int PRIMARY KEY)")
with transaction.atomic():
    ask("INSERT INTO django_failed VALUES (1)")
    try:
        ask("INSERT INTO django_failed VALUES (1)")
    except IntegrityError as error:
        tell([error.__cause__.outcome, error.__cause__.pgcode])
tell(ask("SELECT count(*) FROM django_failed"))
ask("DROP TABLE django_failed")
""",
    )
    assert worker.finish() == [["failed", "23505"], 0]


def test_an_alias_goes_on_when_the_broker_is_back(start_worker: StartWorker, start_broker: StartBroker) -> None:
    broker = start_broker()
    worker = program(
        start_worker,
        """
from django.db import close_old_connections
tell(ask("SELECT 1"))
input()
try:
    with transaction.atomic():
        ask("SELECT 2")
except OperationalError as error:
    tell(error.__cause__.outcome)
close_old_connections()
input()
with transaction.atomic():
    tell(ask("SELECT 3"))
""",
        broker.address,
    )
    assert worker.hear() == 1
    broker.stop()
    worker.say()
    assert worker.hear() == "not executed"
    broker.start()
    worker.say()
    assert worker.finish() == [3]


def test_an_alias_made_before_a_fork_is_used_after_it(start_worker: StartWorker, broker: Broker) -> None:
    worker = program(
        start_worker,
        """
tell(ask("SELECT 1"))
child = os.fork()
if not child:
    with transaction.atomic():
        tell(ask("SELECT 2"))
    os._exit(0)
os.waitpid(child, 0)
with transaction.atomic():
    tell(ask("SELECT 3"))
""",
    )
    assert worker.finish() == [1, 2, 3]


def test_what_is_void_and_what_is_slow_is_told_by_checks(start_worker: StartWorker, far_away: Broker) -> None:
    worker = program(
        start_worker,
        'tell([[each.id, each.msg] for each in checks.run_checks(databases=["default"])])',
        far_away.address,
        DATABASE={"HOST": "db", "CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True, "OPTIONS": {"pool": True}},
        TIME_ZONE="UTC",
    )
    (found,) = worker.finish()
    names = ["HOST", "CONN_MAX_AGE", "CONN_HEALTH_CHECKS", "OPTIONS['pool']"]
    assert [each[0] for each in found] == ["poold.W001"] * 4 + ["poold.W002"]
    for name, (_, text) in zip(names, found, strict=False):
        assert text.startswith(f"DATABASES['default']: {name} means nothing with poold: ")
    assert "runs in the time zone America/New_York, and this project expects UTC" in found[-1][1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sslmode": "require"}, "write it into [endpoints.NAME]"),
        ({"grupo": "default"}, "OPTIONS has no 'grupo'"),
        ({"settings": "work_mem=64MB"}, "expected a mapping of PostgreSQL's settings"),
        ({"settings": {"timezone": "UTC"}}, "TIME_ZONE"),
        ({"isolation_level": 7}, "Invalid transaction isolation level 7"),
        ({"group": "nowhere"}, '[groups.nowhere]\nendpoints = ["nowhere"]'),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(
    start_worker: StartWorker, broker: Broker, options: dict[str, Any], text: str
) -> None:
    worker = program(
        start_worker,
        """
from django.core.exceptions import ImproperlyConfigured
try:
    ask("SELECT 1")
except ImproperlyConfigured as error:
    tell(str(error))
""",
        DATABASE={"OPTIONS": options},
    )
    (said,) = worker.finish()
    assert text in said


ADVISED = """
from django.db import InterfaceError

def told(statement):
    try:
        ask(statement)
    except InterfaceError as error:
        return str(error)

said = [told("SET work_mem = '2MB'"), told("CREATE TEMP TABLE mine (id int)"), told("SELECT lastval()"), told("BEGIN")]
said.append(told("SELECT pg_advisory_unlock(1)"))
with transaction.atomic():
    ask("SET work_mem = '2MB'")
tell(said)
"""


def test_errors_advise_what_a_project_can_do(start_worker: StartWorker, broker: Broker) -> None:
    (said,) = program(start_worker, ADVISED, broker.address).finish()
    for text in said:
        assert "atomic()" in text
        assert "connect(" not in text
    assert "OPTIONS['settings'] = " in said[0]


def test_psycopg_3_beside_it_changes_nothing_but_ranges(start_worker: StartWorker, broker: Broker) -> None:
    pytest.importorskip("psycopg", reason="psycopg 3 is not installed")
    worker = program(
        start_worker,
        """
from datetime import datetime, timezone
from django.db.backends.postgresql.psycopg_any import Range, is_psycopg3
assert is_psycopg3
tell([isinstance(ask("SELECT %s::int4range", [Range(1, 5)]), Range), ask("SELECT %s", [7])])
tell(ask("SELECT %s::int4range @> 3", [Range(1, 5)]))
tell(ask("SELECT %s @> now()", [Range(datetime(2000, 1, 1, tzinfo=timezone.utc), None)]))
tell(ask("SELECT %s::daterange", [Range("2015-01-01", "2015-05-04")]).upper.isoformat())
tell(str(ask("SELECT %s::inet", [connection.ops.adapt_ipaddressfield_value("10.0.0.1")])))
with transaction.atomic():
    tell(ask("SELECT %s::jsonb -> 'a'", [connection.ops.adapt_json_value({"a": 1}, None)]))
""",
        INSTALLED_APPS=["django.contrib.postgres"],
    )
    assert worker.finish() == [[True, 7], True, True, "2015-05-04", "10.0.0.1", "1"]
