"""Django's own tests of databases, with ENGINE = "poold.django" and with Django's own backend on psycopg2.

They need Django's source, which is not in its wheel. What is left out is in tests/upstream/django_skips.py; nothing
else may differ from what Django's own backend does. With --upstream all suites run. Without it only those that are
about connections and transactions, and none if the source is neither in the cache nor to be had from a package index.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import django
import pytest
from brokers import ROOT, Broker, environment
from postgres import Postgres
from upstream.django_skips import SKIPS
from upstream.sources import NotFetchedError, fetched

SUITES = (
    "backends", "transactions", "transaction_hooks", "queries", "aggregation", "postgres_tests", "migrations", "schema",
    "introspection", "ordering", "expressions", "select_for_update", "get_or_create", "bulk_create", "timezones",
    "datetimes", "inspectdb", "raw_query", "model_fields", "db_functions",
)  # fmt: skip
# Those that run without --upstream too: half a minute, and none of their tests judges a time.
SHORT = ("backends", "transactions", "transaction_hooks", "introspection", "raw_query")
# Django's tests have two databases.
ALIASES = {"default": "one", "other": "two"}
# Seconds for all suites with one backend; 4 minutes here.
PATIENCE = 3000.0
# Seconds for the source of the short selection: half a minute here, and a test skips if there is no way to an index.
SHORT_PATIENCE = 120.0

Outcomes = dict[str, tuple[str, str]]

pytestmark = pytest.mark.timeout(2 * PATIENCE)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("suite", SUITES if metafunc.config.getoption("--upstream") else SHORT)


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest) -> Path:
    """The folder of Django's source; skips if it cannot be had, unless it was asked for by --upstream."""
    if request.config.getoption("--upstream"):
        return fetched("django", django.__version__)
    try:
        return fetched("django", django.__version__, SHORT_PATIENCE)
    except NotFetchedError as error:
        pytest.skip(f"wants Django's source in .cache/upstream, and pip had none: {str(error).splitlines()[-1]}")


@pytest.fixture(scope="module")
def suites(request: pytest.FixtureRequest, postgres: Postgres) -> list[str]:
    """The suites that the server can run: those of django.contrib.postgres want PostgreSQL's extensions."""
    if not request.config.getoption("--upstream"):
        return list(SHORT)
    has_contrib = postgres.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'hstore'")
    return [suite for suite in SUITES if has_contrib or suite != "postgres_tests"]


@pytest.fixture(scope="module")
def with_psycopg2(
    source: Path, postgres: Postgres, suites: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Outcomes:
    """What becomes of the tests with Django's own backend."""
    server = postgres.parameters
    entry = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": server["host"],
        "PORT": server["port"],
        "USER": server["user"],
        "PASSWORD": server.get("password", ""),
    }
    databases = {alias: {**entry, "NAME": name} for alias, name in ALIASES.items()}
    return run(source, databases, suites, tmp_path_factory.mktemp("psycopg2"))


@pytest.fixture(scope="module")
def with_poold(
    source: Path, postgres: Postgres, suites: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """What becomes of the tests with this backend."""
    server = {**postgres.parameters, "query_timeout": 60, "options": "-c TimeZone=UTC"}
    endpoints = {name: {**server, "dbname": f"test_{name}"} for name in ALIASES.values()}
    groups = {name: {"endpoints": [name], "min_size": 0} for name in (*endpoints, "maintenance")}
    broker = Broker({**endpoints, "maintenance": server}, groups)
    try:
        broker.start()
        databases = {
            alias: {
                "ENGINE": "poold.django",
                "NAME": name,
                "OPTIONS": {"address": broker.address},
                "TEST": {"GROUP": name, "ADMIN_GROUP": "maintenance"},
            }
            for alias, name in ALIASES.items()
        }
        yield run(source, databases, suites, tmp_path_factory.mktemp("poold"))
    finally:
        broker.close()


def test_a_suite_of_djangos_ends_as_with_djangos_own_backend(
    suite: str, suites: list[str], with_psycopg2: Outcomes, with_poold: Outcomes
) -> None:
    if suite not in suites:
        pytest.skip("this PostgreSQL has no hstore; POOLD_PG_BINDIR may name the programs of one that has")
    expected = {name: outcome for name, outcome in with_psycopg2.items() if name.split(".")[0] == suite}
    found = {name: outcome for name, outcome in with_poold.items() if name.split(".")[0] == suite}
    left_out = {name: reason for reason, names in SKIPS.items() for name in names}
    print(suite, counts(expected), "with psycopg2,", counts(found), "with poold")
    differing = {
        name: (expected.get(name), outcome)
        for name, outcome in found.items()
        if outcome != (("skipped", left_out[name]) if name in left_out else expected.get(name))
    }
    assert not differing
    assert expected.keys() == found.keys()
    assert found, "there is no such suite"


def run(source: Path, databases: Mapping[str, Any], suites: list[str], folder: Path) -> Outcomes:
    """Run the suites of this source with these DATABASES."""
    outcomes = folder / "outcomes"
    variables = environment(
        PYTHONPATH=f"{ROOT}:{ROOT / 'tests' / 'upstream'}",
        PYTHONDONTWRITEBYTECODE="1",
        POOLD_UPSTREAM_DATABASES=json.dumps(databases),
        POOLD_UPSTREAM_OUTCOMES=str(outcomes),
    )
    done = subprocess.run(
        [sys.executable, "runtests.py", "--settings=django_settings", "--parallel=1", "--noinput", *suites],
        cwd=source / "tests",
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert outcomes.exists(), f"the suites did not run:\n{done.stderr[-3000:]}"
    return {name: (outcome, reason) for name, outcome, reason in map(json.loads, outcomes.read_text().splitlines())}


def counts(outcomes: Outcomes) -> str:
    """How many there are of each outcome."""
    words = [outcome for outcome, _ in outcomes.values()]
    return ", ".join(f"{words.count(word)} {word}" for word in ("passed", "skipped", "failed"))
