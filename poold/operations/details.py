"""`poold stats` for people: tables of single things, as backends, locks, requests that wait and statements."""

from __future__ import annotations

from typing import Any

from poold.operations.cells import cell, counted, duration
from poold.operations.columns import GROUP, STATE, TAG, Figures, filled
from poold.operations.layout import Column, Table, row

# Different reasons to wait that are written out below the queue.
REASONS_SHOWN = 5
_STATEMENT = Column("statement", 2, is_text=True, least=12, good=30)


def backends(figures: Figures) -> list[Table]:
    """Each backend, and what it does."""
    table = Table(
        "backends; those that work first. age: of what runs; idle: in an open transaction",
        [
            Column("number", 6), GROUP, Column("endpoint", 5, is_text=True, least=8), STATE, Column("server pid", 3),
            Column("open", 7), Column("age", 1), Column("idle", 1), Column("lease", 1, is_text=True, is_whole=True),
            Column("lease age", 4), Column("pid"), Column("behind", 8), TAG, _STATEMENT,
        ],
        rank=1,
        nothing="there is no backend",
    )  # fmt: skip

    def cells(each: Figures) -> list[Any]:
        return [
            each["number"], each["group"], each["endpoint"], each["state"], each["server_pid"],
            duration(each["age_ms"]), duration(each["statement_age_ms"]), duration(each["idle_in_transaction_ms"]),
            each["lease"], duration(each["lease_age_ms"]), each["pid"], each["behind"], each["tag"],
            each["statement"],
        ]  # fmt: skip

    return [filled(table, figures, "backends", cells)]


# The state of what has a lock without having a session.
_PREPARED = "prepared transaction"
_NOBODY = {"is_own": False, "server_pid": None, "state": "nobody any more"}


def locks(figures: Figures) -> Table:
    """Who waits for a lock, and who has it; a line for each who has."""
    unknown = [f"not known of endpoint {name}: {why}" for name, why in figures["locks_unknown"].items()]
    table = Table(
        "statements that wait for a lock",
        [
            Column("id", is_text=True, is_whole=True), Column("pid"), Column("tag", is_text=True, least=8, good=10),
            Column("waits"), Column("for", is_text=True, least=20), Column("held by", is_text=True, least=48),
            Column("end it with", is_text=True, is_whole=True), _STATEMENT,
        ],
        notes=[cell(" ".join(each.split())) for each in unknown],
        nothing="nobody is known to wait for a lock" if unknown else "nobody waits for a lock",
    )  # fmt: skip
    for each in figures["locks"]:
        for blocker in each["blocked_by"] or [_NOBODY]:
            own = [_id(each), each["pid"], each["tag"], duration(each["statement_age_ms"]), each["lock"]["in_words"]]
            table.add(*own, _holder(blocker), _remedy(blocker), each["statement"])
    return table


def _id(each: Figures) -> str | None:
    """By which name it can be ended."""
    found: str | None = each["lease"] or each["request"]
    return found


def _holder(blocker: Figures) -> str:
    """Who has a lock, in words."""
    if "gid" in blocker:
        who = f"{blocker['user']} in {blocker['database']}"
        return f"{_PREPARED} {blocker['gid']!r} of {who}, for {duration(blocker['prepared_age_ms'])}"
    if blocker["server_pid"] is None:
        return f"a {_PREPARED}" if blocker["state"] == _PREPARED else str(blocker["state"])
    if not blocker["is_own"]:
        who = blocker.get("application_name") or "a session"
        whose = f" of {blocker['user']}" if blocker.get("user") else ""
        since = duration(blocker.get("query_age_ms"))
        ago = f", last statement {since} ago" if since else ""
        return f"{who}{whose}, server pid {blocker['server_pid']}: {blocker['state']}{ago}"
    who = f"process {blocker['pid']}" + (f" ({blocker['tag']})" if blocker["tag"] else "")
    if blocker["waits"]:
        return f"{who}: waits itself, as {_id(blocker)}"
    if blocker["idle_in_transaction_ms"] is not None:
        return f"{who}: idle in transaction for {duration(blocker['idle_in_transaction_ms'])}"
    if blocker["statement_age_ms"] is not None:
        return f"{who}: runs for {duration(blocker['statement_age_ms'])}: {blocker['statement']}"
    return f"{who}: {blocker['state']}"


def _remedy(blocker: Figures) -> str | None:
    """The command that would end it; for whom somebody else has to wait himself that is no remedy."""
    if blocker.get("waits"):
        return None
    if blocker["state"] == _PREPARED:
        return str(blocker.get("end_with", "ROLLBACK PREPARED; see pg_prepared_xacts"))
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
            Column("id", 1, is_text=True, is_whole=True), GROUP, Column("priority", 4, is_text=True), Column("pid"),
            TAG, Column("waits"), Column("why", is_text=True, least=20, good=30),
            Column("statement", 5, is_text=True, least=16),
        ],
        nothing="nobody waits",
    )  # fmt: skip

    def cells(each: Figures) -> list[Any]:
        named = [each[key] for key in ("id", "group", "priority", "pid", "tag")]
        return [*named, duration(each["age_ms"]), each["why"], each["statement"]]

    return [filled(table, figures, "queue", cells)]


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
            Column("statement", is_text=True, least=16, good=24),
        ],
    )  # fmt: skip
    others, total = figures["statements_others"], figures["statements_total"]
    table.pinned.append(row(None, *_costs(total), None, None, "all of them"))
    for each in figures["statements"]:
        prepared = "yes" if each["is_prepared"] else "no"
        table.add(each["group"], *_costs(each), prepared, each["kind"], each["text"])
    if others["calls"] or others["statements"]:
        table.more = others["statements"]
        table.rest = row(None, *_costs(others), None, None, counted(table.more, "other"))
    return [table]


def _costs(each: Figures) -> list[Any]:
    lane = each["by_lane"] / each["calls"] if each["calls"] else 0.0
    return [
        each["calls"], each["errors"], each["rows"], each["total_ms"], f"{each['share']:.0%}", each["mean_ms"],
        each["p50_ms"], each["p99_ms"], f"{lane:.0%}",
    ]  # fmt: skip


def reasons(figures: Figures) -> list[str]:
    """Why how many wait, of all that wait, however many are shown."""
    found = figures.get("queue_reasons", ())
    lines = [f"{each['requests']} of {each['group']}: {each['why']}" for each in found[:REASONS_SHOWN]]
    shown = sum(each["requests"] for each in found[:REASONS_SHOWN])
    rest = len(figures["queue"]) + figures["queue_not_shown"] - shown
    return [*map(cell, lines), *([f"and {rest} for other reasons"] if found and rest else [])]
