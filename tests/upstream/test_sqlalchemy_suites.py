"""SQLAlchemy's and Alembic's own tests on poold: what passes on psycopg2 passes here, but for what is named.

    scripts/dev pytest tests/upstream/test_sqlalchemy_suites.py --upstream -s

Each suite runs three times: with psycopg2 on connections of its own, with poold's connections as they are, and with
sessions. It wants a PostgreSQL with the extensions hstore and citext: POOLD_PG_BINDIR names its programs, else those
are taken that pg_config names.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from brokers import Broker
from postgres import Postgres, primary
from sources import fetched
from suites import Outcome, run_suite

pytestmark = [pytest.mark.usefixtures("upstream"), pytest.mark.timeout(3600)]

HERE = Path(__file__).parent
DATABASE = "test"
# What the suites want to find; en_US is a collation that one test takes for granted.
MADE = (
    "CREATE EXTENSION hstore", "CREATE EXTENSION citext", "CREATE SCHEMA test_schema", "CREATE SCHEMA test_schema_2",
    "CREATE COLLATION \"en_US\" (provider = icu, locale = 'en-US')",
)  # fmt: skip
# As many as the suites have connections open at once, with plenty to spare.
BACKENDS = 60


@dataclass(frozen=True)
class Suite:
    """Tests of a source distribution, and the SQLAlchemy with which they run."""

    project: str
    version: str
    paths: tuple[str, ...]
    sqlalchemy: str
    options: tuple[str, ...] = ()


DIALECT = ("test/dialect/test_suite.py", "test/dialect/postgresql")
SUITES = {
    "SQLAlchemy 2.1": Suite("sqlalchemy", "2.1.9", DIALECT, "2.1.9"),
    "SQLAlchemy 2.0": Suite("sqlalchemy", "2.0.58", DIALECT, "2.0.58"),
    # test_post_write formats files with other programs, and needs no database.
    "Alembic": Suite("alembic", "1.20.1", ("tests",), "2.1.9", ("--ignore=tests/test_post_write.py",)),
}
# What does not pass, by words in a test's name, and why not. All of it is as poold means it to be.
FOREIGN = {
    "test_multiple_host_real_connect": "the URL names servers of PostgreSQL's, which the broker's configuration does",
    "test_backslash_escapes_detection": "changes standard_conforming_strings, on which all clients rely",
    "test_client_encoding": "changes client_encoding, on which all clients rely",
    "test_psycopg_non_standard_err": "imports the driver's module by its name before the dot, and looks behind it",
}
WITHOUT_SESSION = {
    **dict.fromkeys(
        ("ObjectScope.TEMPORARY", "ObjectScope.ANY", "_temp_"),
        "keeps temporary tables over several transactions, which wants a session",
    ),
    "WeCanSetDefaultSchemaWEventsTest": "sets search_path for a session, which wants one; the URL's options do without",
    "TwoPhaseCommitTest.test_default_pg_dialect": "the dialect without a driver sends BEGIN as a statement",
}


@pytest.fixture(scope="module")
def server(session_folder: Path) -> Iterator[Postgres]:
    """A PostgreSQL with the extensions and a database for the suites."""
    found = os.environ.get("POOLD_PG_BINDIR")
    if found is None and (program := shutil.which("pg_config")):
        found = subprocess.run([program, "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
    if found is None:
        pytest.skip("wants a PostgreSQL with hstore and citext; name its programs in POOLD_PG_BINDIR")
    server = primary(
        session_folder / "suites", bindir=Path(found), max_prepared_transactions="20", max_connections="200"
    )
    try:
        server.execute(f"CREATE DATABASE {DATABASE}")
        server.execute("CREATE ROLE scott SUPERUSER LOGIN PASSWORD 'tiger'")
        connection = server.connect(dbname=DATABASE)
        with connection.cursor() as cursor:
            for statement in MADE:
                cursor.execute(statement)
        connection.close()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def broker(server: Postgres) -> Iterator[Broker]:
    """A broker for connections and sessions of all tests; one that waits waits for itself, so not for long.

    Sessions in a pool last as long as the suite.
    """
    endpoint = {**server.parameters, "dbname": DATABASE, "query_timeout": 60}
    limits = {"max_size": BACKENDS, "queue_timeout": 20, "lease_timeout": 0, "idle_in_transaction_timeout": 0}
    broker = Broker({"main": endpoint}, {"default": limits})
    try:
        yield broker.start()
    finally:
        broker.close()


@pytest.fixture(scope="module")
def with_psycopg2(server: Postgres) -> Callable[[str], Outcome]:
    """The outcome of a suite with psycopg2 on connections of its own."""

    @cache
    def run(name: str) -> Outcome:
        url = f"postgresql+psycopg2://scott:tiger@127.0.0.1:{server.parameters['port']}/{DATABASE}"
        return outcome(SUITES[name], url)

    return run


def outcome(suite: Suite, url: str, *options: str) -> Outcome:
    """Run the suite on the database at this URL."""
    folders = [HERE, fetched("sqlalchemy", suite.sqlalchemy) / "lib"]
    source = fetched(suite.project, suite.version)
    return run_suite(source, suite.paths, (*suite.options, *options, f"--dburi={url}"), folders)


@pytest.mark.parametrize("is_session", [False, True], ids=["connections", "sessions"])
@pytest.mark.parametrize("name", SUITES)
def test_what_passes_on_psycopg2_passes_on_poold_but_for_what_is_named(
    name: str, is_session: bool, broker: Broker, with_psycopg2: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    there = with_psycopg2(name)
    url = f"postgresql+poold:///default?address={quote(broker.address, safe='')}" + "&session=true" * is_session
    here = outcome(SUITES[name], url, "-p", "poold_dialect")
    with capsys.disabled():
        print(f"\n{name}: psycopg2 {there}; poold{', sessions' * is_session} {here}")
    known = FOREIGN if is_session else {**FOREIGN, **WITHOUT_SESSION}
    news = {test: why for test, why in here.failed.items() if test not in there.failed}
    assert {test: why for test, why in news.items() if not any(words in test for words in known)} == {}
    assert {test for test in here.skipped if test not in there.skipped} == set()
    ran = here.passed | here.failed.keys()
    passing = [words for words in known if any(words in test for test in ran) and not any(words in t for t in news)]
    assert passing == [], "these pass, and are named as if they did not"
