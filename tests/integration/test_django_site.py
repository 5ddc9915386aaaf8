"""The example of a Django site: its migrations, its admin, its views and its own tests, on a real broker."""

import http.cookiejar
import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import ROOT, Broker, environment
from postgres import Postgres, free_port
from waiting import wait_until

from poold.django.client import first_folder

SITE = ROOT / "examples" / "django_site"
DATABASES = ("shop", "test_shop", "test_shop_1", "test_shop_2")
# Seconds for one of manage.py's commands; migrate takes two.
PATIENCE = 100.0


class Site:
    """The site on a broker: what manage.py does, and the pages of its server."""

    def __init__(self, broker: Broker) -> None:
        self.variables = environment(
            POOLD_ADDRESS=broker.address,
            SHOP_DATABASE="shop",
            PYTHONPATH=str(ROOT),
            PYTHONDONTWRITEBYTECODE="1",
            DJANGO_SUPERUSER_PASSWORD="secret",
        )

    def manage(self, *arguments: str, code: int = 0) -> str:
        """What a command of manage.py says."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=SITE,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def site_broker(postgres: Postgres) -> Iterator[Broker]:
    server = {**postgres.parameters, "query_timeout": 60, "options": "-c TimeZone=UTC"}
    postgres.execute("CREATE DATABASE shop")
    endpoints = {"maintenance": server, **{name: {**server, "dbname": name} for name in DATABASES}}
    groups = {name: {"endpoints": [name], "min_size": 0, "max_size": 4} for name in endpoints}
    broker = Broker(endpoints, {"default": {**groups.pop("shop"), "endpoints": ["shop"]}, **groups})
    try:
        yield broker.start()
    finally:
        broker.close()
        for name in DATABASES:
            postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def site(site_broker: Broker) -> Site:
    """The site with its tables."""
    made = Site(site_broker)
    made.manage("migrate")
    return made


@pytest.fixture(scope="module")
def pages(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site's server, which runs."""
    port = free_port()
    log = tmp_path_factory.mktemp("site") / "log"
    with open(log, "wb") as file:
        server = subprocess.Popen(
            [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"],
            cwd=SITE,
            env=site.variables,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(address, log, server), 60, "the site's server")
        yield address
    finally:
        server.terminate()
        server.wait(PATIENCE)


def answers(address: str, log: Path, server: "subprocess.Popen[bytes]") -> bool:
    assert server.poll() is None, log.read_text()
    try:
        urllib.request.urlopen(f"{address}/summary", timeout=10).close()
    except urllib.error.URLError:
        return False
    return True


def test_a_check_finds_nothing_to_say(site: Site) -> None:
    assert "no issues" in site.manage("check", "--database", "default", "--fail-level", "WARNING")


def test_the_models_are_found_in_the_tables(site: Site) -> None:
    assert "No changes detected" in site.manage("makemigrations", "--check", "--dry-run")
    found = site.manage("inspectdb", "shop_order")
    assert "items = models.JSONField()" in found
    assert "total = models.DecimalField(max_digits=10, decimal_places=2)" in found


def test_a_shell_of_the_database_is_refused_and_the_command_named(site: Site) -> None:
    said = site.manage("dbshell", code=1)
    assert "CommandError: psql speaks PostgreSQL's protocol" in said
    assert "-U " in said
    assert said.rstrip().endswith(" shop")


@pytest.mark.parametrize(
    ("folders", "first"),
    [
        ("/run/postgresql", "/run/postgresql"),
        ("/run/postgresql, /tmp", "/run/postgresql"),
        ('"/var/lib/a b, c",/tmp', "/var/lib/a b, c"),
        (' "/var/lib/say ""x""" , /tmp', '/var/lib/say "x"'),
        ("/var/lib/a b ,/tmp", "/var/lib/a b"),
        ("@poold", "@poold"),
        ("", ""),
    ],
)
def test_the_shell_is_told_the_first_socket_folder_as_postgresql_reads_it(folders: str, first: str) -> None:
    assert first_folder(folders) == first


def test_somebody_works_in_the_admin(site: Site, pages: str) -> None:
    site.manage("createsuperuser", "--noinput", "--username=boss", "--email=boss@example.com")
    cookies = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))

    def page(path: str, **fields: str) -> str:
        token = next((cookie.value or "" for cookie in cookies if cookie.name == "csrftoken"), "")
        data = urllib.parse.urlencode({**fields, "csrfmiddlewaretoken": token}).encode() if fields else None
        with browser.open(urllib.request.Request(pages + path, data, {"Referer": pages}), timeout=30) as answer:
            return str(answer.read().decode())

    page("/admin/login/")
    assert "Site administration" in page("/admin/login/?next=/admin/", username="boss", password="secret")
    page("/admin/shop/customer/add/")
    assert "was added successfully" in page("/admin/shop/customer/add/", name="Ann", balance="10.00")
    assert "Ann" in page("/admin/shop/customer/?q=ann")
    assert "0 orders" in page("/admin/shop/order/")


def test_orders_are_paid_and_reported(site: Site, pages: str) -> None:
    made = "from shop.models import Customer; print('id', Customer.objects.create(name='Bob', balance=10).pk)"
    customer = site.manage("shell", "--no-imports", "-c", made).split("id")[1].strip()

    def buy(total: str) -> int:
        data = urllib.parse.urlencode({"total": total}).encode()
        try:
            with urllib.request.urlopen(f"{pages}/customers/{customer}/orders", data, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert [buy("4.00"), buy("4.00"), buy("4.00")] == [201, 201, 409]
    with urllib.request.urlopen(f"{pages}/summary", timeout=30) as answer:
        assert json.load(answer) == {"orders": 2, "total": "8.00"}
    with urllib.request.urlopen(f"{pages}/report.csv", timeout=30) as answer:
        assert [line.split(b",")[1:] for line in answer.read().splitlines()] == [[b"Bob", b"4.00"]] * 2


def test_no_backend_is_held_between_requests(site: Site, site_broker: Broker, pages: str) -> None:
    for path in ("/report.csv", "/summary"):
        urllib.request.urlopen(pages + path, timeout=30).close()
    wait_until(lambda: site_broker.pool(endpoint="shop")["leased"] == 0, 10, "the end of all leases")


def test_its_own_tests_pass_in_databases_of_their_own(site: Site) -> None:
    assert "OK" in site.manage("test", "shop", "--parallel", "2", "--noinput")
    assert "OK" in site.manage("test", "shop", "--noinput", "--keepdb")
    assert "OK" in site.manage("test", "shop", "--noinput")


def test_a_missing_group_is_named_with_what_to_write(site: Site) -> None:
    site.variables["SHOP_GROUP"] = "web"
    try:
        said = site.manage("showmigrations", code=1)
    finally:
        del site.variables["SHOP_GROUP"]
    assert "has no group 'web' for this client" in said
    assert '[groups.web]\nendpoints = ["web"]' in said


def test_another_database_than_the_groups_is_refused(site: Site) -> None:
    site.variables["SHOP_DATABASE"] = "production"
    try:
        said = site.manage("showmigrations", code=1)
    finally:
        site.variables["SHOP_DATABASE"] = "shop"
    assert "has NAME 'production', but the broker's group 'default' is in the database 'shop'" in said
