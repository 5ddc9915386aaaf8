"""examples/monitoring against brokers: each name in the dashboard and the alerts is a series, and alerts come true."""

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import yaml
from brokers import Broker, poold
from documents import ROOT, rows
from postgres import Postgres, free_port
from promql import TARGET, Promql, UnknownNameError, Vector, scraped
from promql_parser import parse
from scrapes import scrape
from waiting import wait_until

import client

StartBroker = Callable[..., Broker]

FOLDER = ROOT / "examples" / "monitoring"
PAGE = ROOT / "docs" / "metrics.md"
DASHBOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text("utf-8"))
RULES = yaml.safe_load((FOLDER / "poold.rules.yml").read_text("utf-8"))
PROMETHEUS = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
# What Grafana puts in the place of its variables.
VARIABLES = {"$job": "poold", "$instance": ".+", "$group": ".+", "$__rate_interval": "1m", "$__interval": "1m"}
NOWHERE = {"host": "127.0.0.1", "port": 1, "dbname": "x", "user": "x"}
SECONDS = 60.0  # between two scrapes, as the expressions are told


class Scraped:
    """A broker, and what an expression is between the first scrape and now."""

    def __init__(self, start: StartBroker, *endpoints: dict[str, Any], **group: Any) -> None:
        self.port = free_port()
        named = {f"server{place}": each for place, each in enumerate(endpoints)}
        groups = {"default": group, "transactions": {**group, "autocommit": False}}
        self.broker = start(named, groups, {"metrics_address": f"127.0.0.1:{self.port}"})
        self.first = self.now()

    def now(self) -> Vector:
        return scraped(scrape(self.port), up=1.0)

    def promql(self) -> Promql:
        return Promql(self.first, self.now(), SECONDS)

    def alerting(self) -> set[str]:
        """The alerts that would begin now."""
        promql = self.promql()
        return {name for name, rule in ALERTS.items() if promql.value(rule["expr"])}


@pytest.fixture
def healthy(start_broker: StartBroker, postgres: Postgres) -> Scraped:
    return Scraped(start_broker, postgres.parameters, max_size=2, max_waiting=1)


@pytest.fixture(scope="module")
def series(postgres: Postgres) -> Iterator[Promql]:
    """Scrapes of a broker that has all series there are: roles, and errors."""
    port = free_port()
    endpoints = {"main": postgres.parameters, "away": NOWHERE}
    broker = Broker(endpoints, {"default": {}}, {"metrics_address": f"127.0.0.1:{port}"})
    with ExitStack() as cleanup:
        cleanup.callback(broker.close)
        db = broker.start().handler()
        before = scraped(scrape(port), up=1.0)
        for each in range(100):
            db.query("SELECT %s", (each,))
        with pytest.raises(client.DBQueryError):
            db.query("SELECT 1 / 0")
        yield Promql(before, scraped(scrape(port), up=1.0), SECONDS)


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def in_place(expression: str) -> str:
    """The expression with values for Grafana's variables; raises KeyError for one that it would not know."""
    found = re.sub(r"\$\w+", lambda found: VARIABLES[found[0]], expression)
    assert "$" not in found
    return found


def targets() -> list[Any]:
    found = [(panel["title"], target) for panel in panels() for target in panel["targets"]]
    return [pytest.param(target, id=f"{title}-{target['refId']}") for title, target in found]


def placeholders(text: str) -> set[str]:
    """Labels that a legend of Grafana's names."""
    return set(re.findall(r"\{\{\s*(\w+)\s*\}\}", text))


@pytest.mark.parametrize("target", targets())
def test_each_series_of_the_dashboard_is_there_and_each_legend_s_label(target: dict[str, str], series: Promql) -> None:
    expression = in_place(target["expr"])
    series.check(expression)
    labels = series.labels(parse(expression))
    assert placeholders(target["legendFormat"]) <= labels, "the legend names a label that is not in the result"
    assert target["legendFormat"].count("{{") == len(re.findall(r"\{\{\w+\}\}", target["legendFormat"]))
    value = series.value(expression)
    assert isinstance(value, dict)
    if "poold_lane" not in expression and "refused" not in expression:
        assert value, "the panel would be empty"


@pytest.mark.parametrize("alert", ALERTS)
def test_each_series_of_the_alerts_is_there_and_each_label_of_their_texts(alert: str, series: Promql) -> None:
    rule = ALERTS[alert]
    series.check(rule["expr"])
    labels = series.labels(parse(rule["expr"]))
    texts = " ".join(rule["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= labels
    for template in re.findall(r"\{\{.*?\}\}", texts):
        assert re.fullmatch(r"\{\{ \$(labels\.\w+|value \| humanize\w*) \}\}", template)
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert re.fullmatch(r"Poold[A-Z]\w+", alert)
    assert re.fullmatch(r"\d+[sm]", rule.get("for", "0s"))


def test_the_page_has_each_alert_and_what_to_do() -> None:
    described = {row[0].strip("`"): row for row in rows(PAGE, "## Alerts")}
    assert described.keys() == ALERTS.keys()
    assert all(cell for row in described.values() for cell in row)


def test_the_page_s_expressions_are_understood(series: Promql) -> None:
    expressions = [re.findall(r"`([^`]+)`", row[1])[0] for row in rows(PAGE, "## Questions and their expressions")]
    assert len(expressions) > 4
    for expression in expressions:
        series.check(expression)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("poold_request_total", "no series has the name poold_request_total"),
        ("poold_run_seconds", "no series has the name poold_run_seconds"),
        ('poold_backends{pool="main"}', "poold_backends has no label pool"),
        ('poold_backends{state="busy"}', "state of poold_backends is never 'busy'"),
        ('poold_backends{state!~"idle|busy"}', "state of poold_backends is never {'busy'}"),
        ("sum by (endpoint) (poold_requests_total)", "no label {'endpoint'}"),
        ("sum by (group) (histogram_quantile(0.5, rate(poold_run_seconds_count[5m])) + poold_x)", "name poold_x"),
        ("poold_backends * on (server) poold_clients", "neither side has the label {'server'}"),
    ],
)
def test_a_wrong_name_would_be_found(expression: str, said: str, series: Promql) -> None:
    with pytest.raises(UnknownNameError, match=re.escape(said)):
        series.check(expression)


@pytest.mark.parametrize("expression", ["rate(poold_clients)", "sum by group (x)", "poold_clients{", "quantile_of(x)"])
def test_what_is_no_promql_would_be_found(expression: str, series: Promql) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        series.check(expression)


def test_the_dashboard_is_whole() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert names | {"__rate_interval", "__interval"} == {name[1:] for name in VARIABLES} | {"datasource"}
    sources = [part["datasource"] for panel in panels() for part in (panel, *panel["targets"])]
    assert {source["uid"] for source in sources} == {"${datasource}"}
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_the_dashboard_s_variables_and_annotations_are_there(series: Promql) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert found is not None
            assert variable["definition"] == variable["query"]["query"]
            series.check(f"sum by ({found[2]}) ({in_place(found[1])})")
    for annotation in DASHBOARD["annotations"]["list"]:
        series.check(in_place(annotation["expr"]))


def test_prometheus_is_told_of_the_rules_and_of_the_job_that_they_name() -> None:
    assert PROMETHEUS["rule_files"] == ["poold.rules.yml"]
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["job_name"] == TARGET["job"]
    assert {target.rpartition(":")[2] for static in job["static_configs"] for target in static["targets"]} == {"9127"}
    named = re.findall(r'job="(\w+)"', (FOLDER / "poold.rules.yml").read_text("utf-8"))
    assert {*named} == {job["job_name"]}


# Alerts come true.


def test_a_healthy_broker_alerts_nobody(healthy: Scraped) -> None:
    db = healthy.broker.handler()
    for each in range(100):
        db.query("SELECT %s", (each,))
    assert healthy.alerting() == set()


def test_a_server_that_is_away_and_errors(start_broker: StartBroker, postgres: Postgres) -> None:
    away = Scraped(start_broker, NOWHERE)
    wait_until(lambda: "PooldEndpointAway" in away.alerting())
    assert away.alerting() == {"PooldEndpointAway", "PooldNoBackend"}
    partly = Scraped(start_broker, postgres.parameters, NOWHERE)
    wait_until(lambda: "PooldEndpointSilent" in partly.alerting())
    assert not {"PooldNoBackend", "PooldNoPrimary"} & partly.alerting()
    for _ in range(10):
        with pytest.raises(client.DBQueryError):
            partly.broker.handler().query("SELECT 1 / 0")
    assert "PooldErrors" in partly.alerting()


def test_nobody_is_the_primary(start_broker: StartBroker) -> None:
    lost = Scraped(start_broker, NOWHERE, {**NOWHERE, "port": 2})
    wait_until(lambda: "PooldNoPrimary" in lost.alerting())
    assert {"PooldNoPrimary", "PooldNoBackend", "PooldEndpointSilent"} <= lost.alerting()


def test_who_waits_is_refused_or_waits_too_long(healthy: Scraped) -> None:
    with ThreadPoolExecutor(4) as threads, ExitStack() as leases:
        for _ in range(2):
            lease = leases.enter_context(healthy.broker.handler("transactions"))
            lease.query("SELECT 1")
        waiting = threads.submit(lambda: healthy.broker.handler("transactions").query("SELECT 1", timeout=1))
        wait_until(lambda: "PooldSaturated" in healthy.alerting())
        with pytest.raises(client.TooManyRequests):
            healthy.broker.handler("transactions").query("SELECT 1")
        assert healthy.alerting() == {"PooldSaturated", "PooldRefused", "PooldErrors"}
        with pytest.raises(client.PoolTimeout):
            waiting.result(30)
    assert healthy.alerting() == {"PooldRefused", "PooldTimeouts", "PooldErrors"}
    promql = healthy.promql()
    longer = ALERTS["PooldWaitingLong"]["expr"].replace("5", "-1")
    assert promql.value(longer)


def test_a_pause_and_a_restart(healthy: Scraped) -> None:
    assert poold("pause", f"--address={healthy.broker.address}").returncode == 0
    assert healthy.alerting() == {"PooldPaused"}
    assert poold("resume", f"--address={healthy.broker.address}").returncode == 0
    healthy.broker.restart()
    wait_until(lambda: healthy.alerting() == {"PooldRestarted"})
    assert Promql({}, scraped("", up=0.0), SECONDS).value(ALERTS["PooldDown"]["expr"])


def test_the_others_come_true_by_what_they_count(series: Promql) -> None:
    """Those that would take a promotion, a lost COMMIT or thousands of clients."""

    def changed(name: str, **labels: str) -> Promql:
        now = {
            pairs: 1.0 if ("__name__", name) in pairs and labels.items() <= dict(pairs).items() else value
            for pairs, value in series.now.items()
        }
        return Promql(series.before, now, SECONDS)

    for alert, changes in {
        "PooldEndpointFenced": {"name": "poold_endpoint_role", "role": "fenced"},
        "PooldInDoubt": {"name": "poold_transactions_in_doubt_total"},
        "PooldFewDescriptors": {"name": "process_max_fds"},
    }.items():
        assert not series.value(ALERTS[alert]["expr"])
        assert changed(**changes).value(ALERTS[alert]["expr"])
