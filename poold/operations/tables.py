"""`poold stats` for people: tables from the broker's figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poold.operations.layout import Column, Table, duration
from poold.operations.log_format import printable

Figures = Mapping[str, Any]

# A text column with its least width; other columns are numbers.
_GROUP = Column("group", is_text=True, least=8)
_ENDPOINT = Column("endpoint", is_text=True, least=8)
_TAG = Column("tag", 3, is_text=True, least=10)
_STATE = Column("state", is_text=True, least=8)
LONGEST_NAME = 32
# Of the overview; the sections have all.
OVERVIEW_ROWS = 10
# Different reasons to wait that are written out below the queue.
REASONS_SHOWN = 5


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
        f"up {figures['uptime_s']:g} s, cpu {figures['cpu_s']:g} s, "
        f"{memory}{figures['max_memory_kb'] // 1024} MB at most, {figures['clients']} clients"
    ]
    if "requests" in lane:
        lines.append(
            f"lane: {lane['state']}, {lane['requests']} requests, {lane['handed_over']} backends handed over "
            f"with what they ran, {lane['given_back']} given back"
        )
    else:
        lines.append(f"no lane: {lane['state']}")
    return [printable(line) for line in lines]


def groups(figures: Figures, rates: Rates) -> list[Table]:
    """What groups have to do, and how long it takes."""
    counts = ("clients", "waiting", "oldest_wait_ms", "requests")
    work = Table(
        f"requests since the start, and those waiting now; /s: {rates.title}",
        [
            _GROUP, Column("clients", 2), Column("waiting"), Column("oldest ms", 1), Column("requests"),
            Column("requests/s", 1), Column("transactions", 5), Column("transactions/s", 4), Column("errors"),
            Column("errors/s", 3), Column("timeouts", 6), Column("refused", 7), Column("withdrawn", 8),
        ],
    )  # fmt: skip
    times = Table(
        "milliseconds, over the last one to two minutes",
        [
            _GROUP, Column("mode", 3, is_text=True), Column("wait p50"), Column("wait p99"), Column("run p50"),
            Column("run p99"), Column("state", 2, is_text=True),
        ],
    )  # fmt: skip
    for name, group in figures["groups"].items():
        per_second = {what: rates.of(name, group, what) for what in ("requests", "transactions", "errors")}
        work.add(
            name, *(group[key] for key in counts), per_second["requests"],
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
            _GROUP, _ENDPOINT, _STATE, Column("size"), Column("active"), Column("leased"), Column("idle"),
            Column("connecting", 2), Column("other", 3),
        ],
    )  # fmt: skip
    totals = Table(
        "backends since the start",
        [
            _GROUP, _ENDPOINT, Column("requests"), Column("opened"), Column("closed", 2), Column("failed"),
            Column("lost"), Column("joined", 3),
        ],
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
            next_try = f"next try in {pool['next_try_ms']} ms"
            found.append(f"group {pool['group']}, endpoint {pool['endpoint']}: {pool['error']} ({next_try})")
    found += [group["obstacle"] for group in figures.get("groups", {}).values() if group["obstacle"]]
    for name, endpoint in figures["endpoints"].items():
        if endpoint["role"] not in ("primary", "replica") or not endpoint["answers"]:
            silent = "" if endpoint["answers"] else ", and does not answer now"
            found.append(f"endpoint {name} is {endpoint['role']}: {endpoint['why']}{silent}")
    return [printable(" ".join(each.split())) for each in found]


def roles(figures: Figures) -> list[Table]:
    """What the servers of endpoints are, if roles matter to any group."""
    table = Table(
        "servers of endpoints whose roles matter",
        [
            _ENDPOINT, Column("role", is_text=True), Column("answers", is_text=True), Column("timeline", 2),
            Column("position", 3), Column("asked ms", 4), Column("why", 1, is_text=True, least=20),
        ],
    )  # fmt: skip
    for name, each in figures["endpoints"].items():
        answers = "yes" if each["answers"] else "no"
        table.add(
            name, each["role"], answers, each["timeline"], each["position"], each["observed_ms"], each["why"]
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
    )  # fmt: skip
    keys = ("pid", "uid", "gid", "name", "clients", "requests", "held", "leases")
    return _filled(table, figures, "processes", lambda each: [_named(each[key], key == "name") for key in keys], most)


def work(figures: Figures, most: int | None = None) -> Table:
    """Requests and leases, the oldest first; the id is for `poold kill`."""
    table = Table(
        "requests, transactions and sessions now",
        [
            Column("what", 2, is_text=True), Column("id", is_text=True, least=20), _STATE, Column("pid"), _GROUP,
            Column("age ms"), _TAG,
        ],
    )  # fmt: skip
    keys = ("what", "id", "state", "pid", "group", "age_ms", "tag")
    return _filled(table, figures, "work", lambda each: [_named(each[key], key == "tag") for key in keys], most)


def backends(figures: Figures) -> list[Table]:
    """Each backend, and what it does."""
    table = Table(
        "backends; those that work first. age: of what runs; idle: in an open transaction",
        [
            Column("number", 6), _GROUP, Column("endpoint", 5, is_text=True, least=8), _STATE, Column("server pid"),
            Column("open", 7), Column("age", 1), Column("idle", 1), Column("lease", 1, is_text=True, least=20),
            Column("lease age", 4), Column("pid"), Column("behind", 8), _TAG,
            Column("statement", 2, is_text=True, least=30),
        ],
    )  # fmt: skip

    def row(each: Figures) -> list[Any]:
        return [
            each["number"], each["group"], each["endpoint"], each["state"], each["server_pid"],
            duration(each["age_ms"]), duration(each["statement_age_ms"]), duration(each["idle_in_transaction_ms"]),
            each["lease"], duration(each["lease_age_ms"]), each["pid"], each["behind"], each["tag"],
            each["statement"],
        ]  # fmt: skip

    return [_filled(table, figures, "backends", row)]


_NOBODY = {"is_own": False, "server_pid": None, "state": "nobody any more"}


def locks(figures: Figures) -> Table:
    """Who waits for a lock, and who has it; a line for each who has."""
    table = Table(
        "statements that wait for a lock",
        [
            Column("pid"), _TAG, Column("waits"), Column("for", is_text=True, least=20),
            Column("held by", is_text=True, least=48), Column("end it with", 1, is_text=True, least=36),
            Column("statement", 2, is_text=True, least=16),
        ],
    )  # fmt: skip
    for each in figures["locks"]:
        for blocker in each["blocked_by"] or [_NOBODY]:
            own = [each["pid"], each["tag"], duration(each["statement_age_ms"]), each["lock"]["in_words"]]
            table.add(*own, _holder(blocker), _remedy(blocker), each["statement"])
    return table


def _holder(blocker: Figures) -> str:
    """Who has a lock, in words."""
    if not blocker["is_own"]:
        who = blocker.get("application_name") or "a session"
        whose = f" of {blocker['user']}" if blocker.get("user") else ""
        since = duration(blocker.get("query_age_ms"))
        ago = f", last statement {since} ago" if since else ""
        return f"{who}{whose}, server pid {blocker['server_pid']}: {blocker['state']}{ago}"
    who = f"process {blocker['pid']}" + (f" ({blocker['tag']})" if blocker["tag"] else "")
    if blocker["waits"]:
        return f"{who}: waits itself"
    if blocker["idle_in_transaction_ms"] is not None:
        return f"{who}: idle in transaction for {duration(blocker['idle_in_transaction_ms'])}"
    if blocker["statement_age_ms"] is not None:
        return f"{who}: runs for {duration(blocker['statement_age_ms'])}: {blocker['statement']}"
    return f"{who}: {blocker['state']}"


def _remedy(blocker: Figures) -> str | None:
    """The command that would end it; for whom somebody else has to wait himself that is no remedy."""
    if blocker.get("waits"):
        return None
    if not blocker["is_own"]:
        pid = blocker["server_pid"]
        return None if pid is None else f"SELECT pg_terminate_backend({pid})"
    kind = "lease" if blocker["lease"] else "request"
    return f"poold kill --{kind} {blocker[kind]}" if blocker[kind] else None


def queue(figures: Figures) -> list[Table]:
    """Who waits, and why."""
    table = Table(
        "requests that wait, the oldest first",
        [
            Column("id", 1, is_text=True, least=20), _GROUP, Column("priority", 4, is_text=True), Column("pid"), _TAG,
            Column("waits"), Column("why", is_text=True, least=30), Column("statement", 5, is_text=True, least=16),
        ],
    )  # fmt: skip

    def row(each: Figures) -> list[Any]:
        named = [each[key] for key in ("id", "group", "priority", "pid", "tag")]
        return [*named, duration(each["age_ms"]), each["why"], each["statement"]]

    return [_filled(table, figures, "queue", row)]


def statements(figures: Figures) -> list[Table]:
    """Statements by their cost, the sums of the others, and of all."""
    since = figures["statements_since_s"]
    table = Table(
        f"statements by {figures['statements_sort']}, "
        + ("since the start" if since is None else f"over the last {since:.0f} s")
        + "; times in ms, lane: share of its calls there",
        [
            Column("group", 5, is_text=True, least=8), Column("calls"), Column("errors", 3), Column("rows", 4),
            Column("total"), Column("share", 2), Column("mean"), Column("p50", 6), Column("p99", 1),
            Column("lane", 7), Column("prepared", 8, is_text=True), Column("kind", 9, is_text=True),
            Column("statement", is_text=True, least=16),
        ],
    )  # fmt: skip
    others, total = figures["statements_others"], figures["statements_total"]
    table.add(None, *_costs(total), None, None, "all of them")
    for each in figures["statements"]:
        prepared = "yes" if each["is_prepared"] else "no"
        table.add(each["group"], *_costs(each), prepared, each["kind"], each["text"])
    if others["calls"] or others["statements"]:
        table.add(None, *_costs(others), None, None, f"{others['statements']} others")
    return [table]


def _costs(each: Figures) -> list[Any]:
    lane = each["by_lane"] / each["calls"] if each["calls"] else 0.0
    return [
        each["calls"], each["errors"], each["rows"], each["total_ms"], f"{each['share']:.0%}", each["mean_ms"],
        each["p50_ms"], each["p99_ms"], f"{lane:.0%}",
    ]  # fmt: skip


def _filled(
    table: Table, figures: Figures, what: str, row: Callable[[Figures], Sequence[Any]], most: int | None = None
) -> Table:
    """Fill the table with these, most at most; it says how many are left out, here and in the figures."""
    listed = figures[what][:most]
    for each in listed:
        table.add(*row(each))
    table.more = len(figures[what]) - len(listed) + figures[f"{what}_not_shown"]
    return table


def _named(value: Any, is_cut: bool) -> Any:
    return value if not is_cut or len(value) <= LONGEST_NAME else value[: LONGEST_NAME - 3] + "..."


def of_section(name: str, figures: Figures, rates: Rates) -> tuple[list[Table], list[str]]:
    """The tables of a section, and the lines below them."""
    match name:
        case "groups":
            return groups(figures, rates), []
        case "endpoints":
            return [*endpoints(figures), *roles(figures)], problems(figures)
        case "backends":
            unknown = [f"endpoint {name}: {why}" for name, why in figures.get("locks_unknown", {}).items()]
            found = [locks(figures)] if "locks" in figures else []
            return [*found, *backends(figures)], [printable(f"locks are not known of {each}") for each in unknown]
        case "clients":
            return [processes(figures), work(figures)], []
        case "statements":
            return statements(figures), []
        case _:
            reasons = Counter((each["group"], each["why"]) for each in figures["queue"])
            below = [f"{count} of {group}: {why}" for (group, why), count in reasons.most_common(REASONS_SHOWN)]
            return queue(figures), [printable(each) for each in below]


def overview(figures: Figures, rates: Rates) -> tuple[list[Table], list[str]]:
    """All tables of what there is at a glance, and the lines below them."""
    own = [processes(figures, OVERVIEW_ROWS), work(figures, OVERVIEW_ROWS)]
    return [*groups(figures, rates), *endpoints(figures), *own], problems(figures)
