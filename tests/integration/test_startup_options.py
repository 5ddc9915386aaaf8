"""What poold relies on holds on each connection, or the connection is refused with words; what a role has is kept."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from brokers import Broker
from postgres import Postgres, server_folder
from startups import Startup, altered, bouncer, bouncer_program

import client

StartBroker = Callable[..., Broker]

GROUPS = {"default": {"min_size": 0, "max_size": 1, "queue_timeout": 2}}
DATE = "SELECT date '01/02/2026'"


@pytest.fixture
def folder() -> Iterator[Path]:
    """One where anybody may look, with a path short enough for a socket."""
    with server_folder() as made:
        yield made


@pytest.fixture
def roles(postgres: Postgres) -> Iterator[Callable[[str], str]]:
    """Makes roles with settings of their own; gone with the test."""
    made = []

    def role(settings: str) -> str:
        name = f"with_settings_{len(made)}"
        made.append(name)
        postgres.execute(f"CREATE ROLE {name} LOGIN")
        for each in settings.split(";"):
            postgres.execute(f"ALTER ROLE {name} SET {each}")
        return name

    yield role
    for name in made:
        postgres.execute(f"DROP ROLE {name}")


def refusal(broker: Broker) -> str:
    """The error of a group whose endpoint cannot be used."""
    with pytest.raises(client.DBOfflineError) as caught:
        broker.handler().query("SELECT 1")
    return str(caught.value)


def without_options(startup: Startup) -> Startup:
    return {name: value for name, value in startup.items() if name != b"options"}


def with_encoding(startup: Startup) -> Startup:
    return {**startup, b"client_encoding": b"LATIN1"}


@pytest.mark.parametrize(
    ("change", "over", "named"),
    [
        (without_options, {}, "statement_timeout is '0', expected '5000ms'"),
        (without_options, {"query_timeout": 0, "temp_buffers": "100MB"}, "temp_buffers is"),
        (without_options, {"query_timeout": 0, "temp_buffers": "8MB", "options": "-c work_mem=77MB"}, "work_mem is"),
        (with_encoding, {}, "client_encoding is 'LATIN1'"),
    ],
)
def test_a_connection_that_lacks_what_was_asked_is_refused(
    change: Callable[[Startup], Startup],
    over: dict[str, Any],
    named: str,
    postgres: Postgres,
    folder: Path,
    start_broker: StartBroker,
) -> None:
    with altered(postgres, folder, change) as there:
        text = refusal(start_broker({"main": {**there, **over}}, GROUPS))
    assert named in text
    assert "ignore_startup_parameters" in text


def test_what_the_role_has_of_itself_need_not_be_passed_on(
    postgres: Postgres, folder: Path, start_broker: StartBroker, roles: Callable[[str], str]
) -> None:
    user = roles("statement_timeout = '5s'; temp_buffers = '128MB'")
    with altered(postgres, folder, without_options) as there:
        broker = start_broker({"main": {**there, "user": user}}, GROUPS)
        assert broker.handler().query("SELECT 1 AS one")[0].one == 1
        writes = {"default": {**GROUPS["default"], "read_only": True}}
        text = refusal(start_broker({"main": {**there, "user": user}}, writes))
        assert "default_transaction_read_only is 'off'" in text


def test_a_pgbouncer_that_drops_options_is_refused(postgres: Postgres, folder: Path, start_broker: StartBroker) -> None:
    program = bouncer_program()
    if program is None:
        pytest.skip("there is no pgbouncer, and it cannot be installed")
    with bouncer(program, postgres, folder, "options") as there:
        text = refusal(start_broker({"main": {**there, "sslmode": "disable"}}, GROUPS))
    assert "statement_timeout is '0'" in text
    assert "ignore_startup_parameters" in text


@pytest.mark.parametrize("own", ["ISO, DMY", "ISO, MDY", "ISO, YMD", "German, DMY", "SQL, MDY", "Postgres, DMY"])
def test_a_roles_order_of_day_and_month_is_kept_also_after_reset(
    own: str, postgres: Postgres, start_broker: StartBroker, roles: Callable[[str], str]
) -> None:
    user = roles(f"DateStyle = '{own}'")
    db = start_broker({"main": {**postgres.parameters, "user": user}}, GROUPS).handler()
    with contextlib.closing(postgres.connect(user=user)) as connection:
        right = outcome(lambda: first_cell(connection))
    for _ in range(2):
        assert outcome(lambda: db.query(DATE)[0][0]) == right
        db.query("DO $$ BEGIN PERFORM set_config('work_mem', '1MB', false); END $$")  # is reset after


def first_cell(connection: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(DATE)
        return cursor.fetchone()[0]


def outcome(ask: Callable[[], Any]) -> Any:
    """The date, or the SQLSTATE of what PostgreSQL has against it."""
    try:
        return ask()
    except (psycopg2.Error, client.DBQueryError) as error:
        return error.pgcode


def test_reset_all_restores_the_check_of_the_connection(start_broker: StartBroker) -> None:
    db = start_broker(None, {"default": {"max_size": 1}}).handler()
    ask = "SELECT current_setting('client_connection_check_interval')"
    assert db.query(ask)[0][0] == "5s"
    with db.session() as session:
        session.query("SET client_connection_check_interval = 0")
        session.query("RESET ALL")
        assert session.query(ask)[0][0] == "5s"
    assert db.query(ask)[0][0] == "5s"
