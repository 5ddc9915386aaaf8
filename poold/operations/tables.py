"""`poold stats` for people: tables from the broker's figures."""

from __future__ import annotations

from typing import Any

from poold.operations.cells import cell, counted, duration
from poold.operations.columns import ENDPOINT, GROUP, STATE, TAG, Figures, filled
from poold.operations.details import backends, locks, queue, reasons, statements
from poold.operations.layout import Column, Table

LONGEST_NAME = 32
# Of the overview; the sections have all.
OVERVIEW_ROWS = 10


class Rates:
    """How many per second: between two answers if both are there, else as the broker has counted."""

    def __init__(self, figures: Figures, before: Figures | None = None) -> None:
        is_same = before is not None and before["pid"] == figures["pid"] and "groups" in before
        self._before = before if is_same else None
        self._seconds = 0.0 if before is None else figures["uptime_s"] - before["uptime_s"]
        shown = [group["rates"]["seconds"] for group in figures.get("groups", {}).values()]
        if self._before is not None and self._seconds > 0:
            self.title = "per second now"
        else:
            self._before = None
            self.title = f"per second over the last {max(shown, default=0):.0f} s"

    def of(self, name: str, group: Figures, what: str) -> float | None:
        """How many of these there were per second in the group of this name."""
        if self._before is None:
            rate = group["rates"][what]
            return None if rate is None else float(rate)
        old = self._before["groups"].get(name)
        return None if old is None else max(0.0, (group[what] - old[what]) / self._seconds)


def head(figures: Figures) -> list[str]:
    """What the broker is, on two lines."""
    now = figures.get("memory_kb")
    memory = f"memory {now // 1024} MB now, " if now is not None else "memory "
    lane = figures["lane"]
    lines = [
        f"poold {figures['version']} at {figures['address']}, process {figures['pid']}, {figures['state']}, "
        f"up {duration(figures['uptime_s'] * 1000)}, cpu {duration(figures['cpu_s'] * 1000)}, "
        f"{memory}{figures['max_memory_kb'] // 1024} MB at most, {counted(figures['clients'], 'client')}"
    ]
    if "requests" in lane:
        lines.append(
            f"lane: {lane['state']}, {counted(lane['requests'], 'request')}, "
            f"{counted(lane['handed_over'], 'backend')} handed over with what they ran, {lane['given_back']} given back"
        )
    else:
        lines.append(f"no lane: {lane['state']}")
    lines += [finishing(each) for each in figures.get("predecessors", [])]
    return [cell(line) for line in lines]


def finishing(each: Figures) -> str:
    """What a broker that `poold restart` has replaced still has to do."""
    counts = [counted(each[f"{noun}s"], noun) for noun in ("transaction", "session", "request") if each[f"{noun}s"]]
    what = ", ".join(counts) or ("what it had begun" if each["requests"] is None else "nothing more, and ends")
    return f"process {each['pid']}, which this one has replaced, finishes {what}"


def groups(figures: Figures, rates: Rates) -> list[Table]:
    """What groups have to do, and how long it takes."""
    work = Table(
        f"requests since the start, and waiting now; /s: {rates.title}",
        [
            GROUP, Column("clients", 2), Column("waiting"), Column("oldest", 1), Column("requests"),
            Column("requests/s", 1), Column("transactions", 5), Column("transactions/s", 4), Column("errors"),
            Column("errors/s", 3), Column("timeouts", 6), Column("refused", 7), Column("withdrawn", 8),
        ],
    )  # fmt: skip
    times = Table(
        "milliseconds, over the last one to two minutes",
        [
            GROUP, Column("mode", 3, is_text=True), Column("wait p50", 1), Column("wait p99"), Column("run p50"),
            Column("run p99"), Column("state", 2, is_text=True),
        ],
        rank=1,
    )  # fmt: skip
    for name, group in figures["groups"].items():
        per_second = {what: rates.of(name, group, what) for what in ("requests", "transactions", "errors")}
        work.add(
            name, group["clients"], group["waiting"], duration(group["oldest_wait_ms"]), group["requests"],
            per_second["requests"],
            group["transactions"], per_second["transactions"], group["errors"], per_second["errors"],
            group["timeouts"], group["refused"], group["withdrawn"],
        )  # fmt: skip
        mode = "autocommit" if group["autocommit"] else "transactions"
        wait, run = group["wait_ms"], group["run_ms"]
        times.add(name, mode, wait["p50"], wait["p99"], run["p50"], run["p99"], group["state"])
    return [work, times]


def pools_of(figures: Figures) -> list[Figures]:
    """The pools, each with the names of its group and its endpoint."""
    if "pools" in figures:
        return list(figures["pools"])
    return [
        {"group": name, "endpoint": endpoint, **pool}
        for name, group in figures["groups"].items()
        for endpoint, pool in group["endpoints"].items()
    ]


def endpoints(figures: Figures) -> list[Table]:
    """The backends of groups on endpoints, in sums."""
    now = Table(
        "backends now; other: cancelling or resetting",
        [
            GROUP, ENDPOINT, Column("state", 1, is_text=True, least=8, good=12), Column("size", 1), Column("active"),
            Column("leased"), Column("idle"), Column("connecting", 2), Column("other", 3),
        ],
        rank=2,
    )  # fmt: skip
    totals = Table(
        "backends since the start",
        [
            GROUP, ENDPOINT, Column("requests", 1), Column("opened", 2), Column("closed", 2), Column("failed"),
            Column("lost"), Column("joined", 3),
        ],
        rank=5,
    )  # fmt: skip
    for pool in pools_of(figures):
        is_plain = pool["role"] is None or pool["state"] != "available"
        paused = "drained" if pool["is_drained"] else "paused"
        state = paused if pool["is_paused"] else pool["state" if is_plain else "role"]
        sizes = [pool[key] for key in ("size", "active", "leased", "idle", "connecting")]
        now.add(pool["group"], pool["endpoint"], state, *sizes, pool["cancelling"] + pool["resetting"])
        counts = ("requests", "opened", "closed", "failed", "lost", "joined")
        totals.add(pool["group"], pool["endpoint"], *(pool[key] for key in counts))
    return [now, totals]


def problems(figures: Figures) -> list[str]:
    """What is wrong with endpoints, a line for each."""
    found = []
    for pool in pools_of(figures):
        if pool["error"]:
            next_try = f"next try in {duration(pool['next_try_ms'])}"
            found.append(f"group {pool['group']}, endpoint {pool['endpoint']}: {pool['error']} ({next_try})")
    found += [group["obstacle"] for group in figures.get("groups", {}).values() if group["obstacle"]]
    for name, endpoint in figures["endpoints"].items():
        if endpoint["role"] not in ("primary", "replica") or not endpoint["answers"]:
            silent = "" if endpoint["answers"] else ", and does not answer now"
            found.append(f"endpoint {name} is {endpoint['role']}: {endpoint['why']}{silent}")
    return [cell(" ".join(each.split())) for each in found]


def roles(figures: Figures) -> list[Table]:
    """What the servers of endpoints are, if roles matter to any group."""
    table = Table(
        "servers of endpoints whose roles matter",
        [
            ENDPOINT, Column("role", is_text=True), Column("answers", is_text=True), Column("timeline", 2),
            Column("position", 3), Column("asked", 4), Column("why", 1, is_text=True, least=20),
        ],
        rank=2,
    )  # fmt: skip
    for name, each in figures["endpoints"].items():
        answers = "yes" if each["answers"] else "no"
        table.add(
            name, each["role"], answers, each["timeline"], each["position"], duration(each["observed_ms"]), each["why"]
        )  # fmt: skip
    return [table] if table.rows else []


def processes(figures: Figures, most: int | None = None) -> Table:
    """The clients' processes, in the order of the figures: those with most work first."""
    table = Table(
        "processes of clients and their work now; held: until they read replies",
        [
            Column("pid"), Column("uid", 2), Column("gid", 4), Column("name", 1, is_text=True), Column("clients"),
            Column("requests"), Column("held", 3), Column("leases"),
        ],
        rank=3,
        nothing="there is no client",
    )  # fmt: skip
    keys = ("pid", "uid", "gid", "name", "clients", "requests", "held", "leases")
    return filled(table, figures, "processes", lambda each: [_named(each[key], key == "name") for key in keys], most)


def work(figures: Figures, most: int | None = None) -> Table:
    """Requests and leases, the oldest first; the id is for `poold kill`."""
    table = Table(
        "requests, transactions and sessions now",
        [
            Column("what", 2, is_text=True), Column("id", is_text=True, is_whole=True), STATE, Column("pid"), GROUP,
            Column("age"), TAG,
        ],
        rank=4,
        nothing="there is none",
    )  # fmt: skip

    def cells(each: Figures) -> list[Any]:
        named = [each[key] for key in ("what", "id", "state", "pid", "group")]
        return [*named, duration(each["age_ms"]), _named(each["tag"], True)]

    return filled(table, figures, "work", cells, most)


def _named(value: Any, is_cut: bool) -> Any:
    return value if not is_cut or len(value) <= LONGEST_NAME else value[: LONGEST_NAME - 3] + "..."


def of_section(name: str, figures: Figures, rates: Rates, most: int | None = None) -> tuple[list[Table], list[str]]:
    """The tables of a section, and the lines below them; most: so many rows of what the broker limits by itself."""
    match name:
        case "groups":
            return groups(figures, rates), []
        case "endpoints":
            return [*endpoints(figures), *roles(figures)], problems(figures)
        case "backends":
            return [*([locks(figures)] if "locks" in figures else []), *backends(figures)], []
        case "clients":
            return [processes(figures, most), work(figures, most)], []
        case "statements":
            return statements(figures), []
        case _:
            return queue(figures), reasons(figures)


def overview(figures: Figures, rates: Rates, most: int | None = None) -> tuple[list[Table], list[str]]:
    """All tables of what there is at a glance, with so many rows of lists at most, and the lines below them."""
    most = most or OVERVIEW_ROWS
    own = [processes(figures, most), work(figures, most)]
    return [*groups(figures, rates), *endpoints(figures), *own], problems(figures)
