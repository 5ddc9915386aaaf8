"""The examples of the documents, run as they stand: each page is a program against a broker and a database of its own.

What a page takes for granted, as tables that are there, is made here and named by the page. A `text` block behind a
Python block is what that block prints.
"""

import itertools
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, run
from documents import PAGES, Block, blocks, name_of
from keypairs import Keyring
from postgres import Postgres

StartBroker = Callable[..., Broker]

DATABASE = "documents"
# Printed ahead of each block's output.
MARK = "\x1e"


@dataclass(frozen=True)
class Setting:
    """What a page takes for granted."""

    tables: str = ""
    # Groups of the broker besides `default` and `transactions`.
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Whether its broker is at tcp:// with keys.
    has_keys: bool = False


SETTINGS = {
    "docs/client.md": Setting(
        "CREATE TABLE orders (id int, customer int, total numeric, ordered date);"
        "INSERT INTO orders VALUES (1, 7, 19.90, '2026-01-01'), (2, 7, 250.00, '2026-01-02');"
        "INSERT INTO orders VALUES (3, 8, 120.00, '2026-01-03')"
    ),
    "docs/transactions.md": Setting(
        "CREATE TABLE accounts AS SELECT id, 500 AS balance FROM generate_series(1, 2) AS id;"
        "CREATE TABLE orders (id serial PRIMARY KEY, customer int);"
        "CREATE TABLE items (order_id int, sku text);"
        "CREATE TABLE coupons_used (order_id int);"
        "CREATE TABLE stock (sku text PRIMARY KEY, n int);"
        "INSERT INTO stock VALUES ('A1', 10)"
    ),
    "docs/sessions.md": Setting(
        "CREATE TABLE orders (id int, total numeric); INSERT INTO orders VALUES (1, 50), (2, 150), (3, 200)"
    ),
    "docs/copy.md": Setting("CREATE TABLE items (sku text, n int)"),
    "docs/streams.md": Setting("CREATE TABLE events AS SELECT id, id % 10 AS n FROM generate_series(1, 200000) AS id"),
    "docs/dbapi.md": Setting("CREATE TABLE orders (id serial, customer int, total numeric)"),
    "docs/failures.md": Setting(
        "CREATE TABLE customers (id int PRIMARY KEY, name text); INSERT INTO customers VALUES (1, 'Ada')"
    ),
    "docs/performance.md": Setting("CREATE TABLE counters AS SELECT id, 0 AS n FROM generate_series(0, 19) AS id"),
    "docs/security.md": Setting(has_keys=True),
    "docs/from-pgdbpool.md": Setting(
        "CREATE TABLE t (id int, value text); INSERT INTO t VALUES (42, 'unchanged')",
        groups={"group1": {"autocommit": False}, "reports": {"legacy_session": True}},
    ),
    "docs/from-pgbouncer.md": Setting("CREATE TABLE stock (sku text, n int); INSERT INTO stock VALUES ('A1', 10)"),
}


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page, "python") if not block.why_not]


RUN = [page for page in PAGES if runnable(page)]


@pytest.fixture
def database(postgres: Postgres) -> Iterator[dict[str, Any]]:
    """What to connect with to an empty database, which is there for one test."""
    postgres.execute(f"CREATE DATABASE {DATABASE}")
    yield {**postgres.parameters, "dbname": DATABASE}
    postgres.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@dataclass
class Surroundings:
    """The broker of a page, and what stands in the page's examples for the broker's address and for files."""

    broker: Broker
    names: dict[str, str]

    def run(self, *command: str) -> str:
        """What the program says; it must end well and without a word on stderr."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = run(*command, POOLD_ADDRESS=self.broker.address, PATH=path)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout


@pytest.fixture
def surroundings(
    request: pytest.FixtureRequest,
    database: dict[str, Any],
    postgres: Postgres,
    start_broker: StartBroker,
    tmp_path: Path,
) -> Surroundings:
    """What the page that is the test's parameter takes for granted."""
    setting = SETTINGS.get(name_of(request.param), Setting())
    connection = postgres.connect(dbname=DATABASE)
    with connection.cursor() as cursor:
        if setting.tables:
            cursor.execute(setting.tables)
    connection.close()
    keyring = Keyring(tmp_path) if setting.has_keys else None
    broker = start_broker(
        endpoints={"main": database},
        groups={"default": {"max_size": 4}, "transactions": {"autocommit": False}, **setting.groups},
        broker=keyring.broker if keyring else None,
    )
    names = {"ipc:///run/poold/poold.sock": broker.address}
    if keyring:
        names |= {
            "tcp://db1:6543": broker.address,
            "/etc/app/broker.key": str(keyring.broker_public),
            "/etc/app/worker.key_secret": str(keyring.client_secret),
        }
    return Surroundings(broker, names)


def program(page: Path, names: dict[str, str]) -> str:
    """The blocks of a page in their order; each line has the number that it has in the page."""
    lines: list[str] = []
    for block in runnable(page):
        code = block.code
        for name, there in names.items():
            code = code.replace(name, there)
        lines += [""] * (block.line - 2 - len(lines))
        lines += [f"print({MARK!r})", *code.splitlines()]
    return "\n".join([*lines, ""])


def expected(page: Path) -> dict[Block, str]:
    """What is shown of the output of blocks, which need not be all of them."""
    return {
        block: output.code
        for block, output in itertools.pairwise(blocks(page))
        if block.language == "python" and output.language == "text"
    }


@pytest.mark.parametrize(
    ("surroundings", "page"), [(page, page) for page in RUN], ids=name_of, indirect=["surroundings"]
)
def test_the_examples_run_and_print_what_the_page_shows(surroundings: Surroundings, page: Path, tmp_path: Path) -> None:
    file = tmp_path / page.name
    file.write_text(program(page, surroundings.names), "utf-8")
    told = surroundings.run(sys.executable, "-W", "error", str(file)).split(f"{MARK}\n")[1:]
    printed = dict(zip(runnable(page), told, strict=True))
    for block, output in expected(page).items():
        assert printed[block] == output, f"{block} printed something else"


ONE_LINERS = [
    pytest.param(page, shlex.split(line), id=name_of(page))
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.code.splitlines()
    if line.startswith("python -c")
]


@pytest.mark.parametrize(("surroundings", "words"), ONE_LINERS, indirect=["surroundings"])
def test_programs_of_one_line_in_a_shell_run(surroundings: Surroundings, words: list[str]) -> None:
    assert "PostgreSQL" in surroundings.run(sys.executable, *words[1:])
