"""The examples of programs on SQLAlchemy: a shop with Flask, migrations with Alembic, a report with pandas."""

import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest
from brokers import ROOT, Broker, run
from postgres import Postgres
from waiting import wait_until

EXAMPLES = ROOT / "examples"
DATABASE = "sqlalchemy_examples"


@pytest.fixture
def shop_broker(postgres: Postgres, start_broker: Any) -> Iterator[Broker]:
    """A broker with an empty database of its own, and two backends."""
    postgres.execute(f"CREATE DATABASE {DATABASE}")
    broker = start_broker(
        endpoints={"main": {**postgres.parameters, "dbname": DATABASE}}, groups={"default": {"max_size": 2}}
    )
    yield broker
    broker.stop(now=True)
    postgres.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture
def url(shop_broker: Broker) -> str:
    return f"postgresql+poold:///default?address={quote(shop_broker.address, safe='')}"


def load(path: str) -> ModuleType:
    """An example as a module; its folder is no package."""
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_shop_sells_what_it_has_and_not_more_to_many_at_once(url: str, shop_broker: Broker) -> None:
    example = load("flask_shop/app.py")
    app = example.create_app(url)
    try:
        assert app.test_cli_runner().invoke(args=["init"]).exit_code == 0

        def buy(customer: int) -> int:
            wanted = {"customer": f"customer {customer}", "products": {"A1": 1}}
            return int(app.test_client().post("/orders", json=wanted).status_code)

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(buy, range(14)))
        assert sorted(answers) == [201] * 10 + [409] * 4  # there were 10 of A1

        client = app.test_client()
        assert client.get("/products").json[0] == {"sku": "A1", "price": "19.90", "stock": 0}
        bought = client.post("/orders", json={"customer": "Ada", "products": {"B2": 1}}).json
        assert client.get(f"/orders/{bought['id']}").json == {
            "customer": "Ada", "total": "5.00", "lines": [{"sku": "B2", "number": 1}],
        }  # fmt: skip
        wait_until(lambda: shop_broker.pool()["idle"] == 2, what="both backends to be free again")
    finally:
        with app.app_context():
            example.db.engine.dispose()


def test_a_shop_tells_its_clients_that_they_may_try_again_while_the_broker_is_away(
    url: str, shop_broker: Broker
) -> None:
    example = load("flask_shop/app.py")
    app = example.create_app(url)
    try:
        assert app.test_cli_runner().invoke(args=["init"]).exit_code == 0
        client = app.test_client()
        shop_broker.kill()
        answer = client.get("/products")
        assert (answer.status_code, answer.json["retry"]) == (503, True)
        shop_broker.start()
        assert client.get("/products").status_code == 200
    finally:
        with app.app_context():
            example.db.engine.dispose()


def alembic(url: str, *arguments: str) -> str:
    """What the command says."""
    folder = EXAMPLES / "alembic_migration"
    done = run(sys.executable, "-m", "alembic", "-c", str(folder / "alembic.ini"), "-x", f"url={url}", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_migrations_go_up_and_down(url: str, postgres: Postgres) -> None:
    indexes = "SELECT indexname FROM pg_indexes WHERE tablename = 'customers' ORDER BY 1"
    connection = postgres.connect(dbname=DATABASE)
    with connection.cursor() as cursor:
        alembic(url, "upgrade", "head")
        assert alembic(url, "current").startswith("0002 (head)")
        cursor.execute(indexes)
        assert cursor.fetchall() == [("customers_mail",), ("customers_pkey",)]
        cursor.execute("SELECT name FROM customers ORDER BY id")
        assert cursor.fetchall() == [("Ada",), ("Grace",)]
        alembic(url, "downgrade", "base")
        cursor.execute(indexes)
        assert cursor.fetchall() == []
    connection.close()


def test_a_report_is_made_from_what_was_written(url: str) -> None:
    done = run(sys.executable, "-W", "error", str(EXAMPLES / "pandas_report.py"), url)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [["month", "turnover"], ["2025-10", "1573.6"], ["2025-11", "1563.7"], ["2025-12", "1454.2"]]
