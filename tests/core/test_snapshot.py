"""What `poold stats` is told of clients: their processes, a bounded number, those at work first."""

from typing import Any

from poold.core.records.client import Client
from poold.core.snapshot import PROCESSES_SHOWN, snapshot_processes
from poold.operations.layout import Room, render
from poold.operations.tables import OVERVIEW_ROWS as LINES
from poold.operations.tables import processes

NONE = {"clients": 1, "requests": 0, "held": 0, "leases": 0}


def with_work(client: Client, requests: int = 0, held: int = 0, leases: int = 0) -> Client:
    """The client with so much at work; what it is does not matter here."""
    client.held = dict.fromkeys(range(held))  # type: ignore[arg-type]
    client.requests = dict.fromkeys(range(requests))  # type: ignore[arg-type]
    client.leases = dict.fromkeys(range(leases))  # type: ignore[arg-type]
    return client


def test_the_clients_of_a_process_are_one_line_and_another_user_is_another() -> None:
    clients = [
        with_work(Client(1, 70, "web", 5, 6), requests=2, held=1),
        with_work(Client(2, 70, "web", 5, 6), requests=1, leases=1),
        Client(3, 70, "web", 8, 6),
        Client(4, 60, "far"),
    ]
    found = snapshot_processes(clients)
    assert found == {
        "processes": [
            {
                "pid": 70,
                "uid": 5,
                "gid": 6,
                "name": "web",
                "clients": 2,
                "requests": 3,
                "held": 1,
                "leases": 1,
                "keys": [1, 2],
            },
            {"pid": 60, "uid": None, "gid": None, "name": "far", **NONE, "keys": [4]},
            {"pid": 70, "uid": 8, "gid": 6, "name": "web", **NONE, "keys": [3]},
        ],
        "processes_not_shown": 0,
    }


def many(count: int) -> dict[str, Any]:
    return snapshot_processes([with_work(Client(n, 1000 + n, "w" * 50, 0, 0), requests=n % 2) for n in range(count)])


def test_of_many_processes_those_at_work_are_shown_and_the_others_counted() -> None:
    found = many(3 * PROCESSES_SHOWN)
    assert len(found["processes"]) == PROCESSES_SHOWN
    assert {process["requests"] for process in found["processes"]} == {1}
    assert found["processes_not_shown"] == 2 * PROCESSES_SHOWN


def test_the_table_has_few_lines_and_says_how_many_are_missing() -> None:
    table = processes(many(PROCESSES_SHOWN + 5), LINES)
    assert len(table.rows) == LINES
    assert render([table], Room())[-1] == f"{PROCESSES_SHOWN + 5 - LINES} more are not shown"
    assert "more are not shown" not in str(render([processes(many(LINES), LINES)], Room()))
