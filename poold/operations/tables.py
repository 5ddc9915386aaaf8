"""`poold stats` for people: tables from the broker's snapshot."""

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from poold.operations.log_format import printable

WATCH_INTERVAL = 1.0
# If the output is no terminal, tables are not squeezed into 80 columns.
PIPED_WIDTH = 160

# Each table fits 80 columns.
WORK = ("group", "clients", "waiting", "oldest ms", "requests", "errors", "timeouts", "refused", "withdrawn")
TIMES = ("group", "mode", "wait p50", "wait p99", "run p50", "run p99")
BACKENDS = ("group", "endpoint", "state", "size", "active", "leased", "idle", "connecting", "other")
TOTALS = ("group", "endpoint", "requests", "opened", "closed", "failed", "lost")
PROCESSES = ("pid", "uid", "gid", "name", "clients", "requests", "held", "leases")
WORKING = ("what", "id", "state", "pid", "group", "age ms", "tag")
TEXT_COLUMNS = ("what", "id", "tag", "group", "mode", "endpoint", "state", "name")
# More than these would push the groups off the screen; --json has more.
PROCESSES_SHOWN = 10
WORK_SHOWN = 10
LONGEST_NAME = 32


def show(snapshot: dict[str, Any]) -> None:
    """Print the snapshot once."""
    console = Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)
    console.print(render(snapshot))


def show_continuously(take: Callable[[], dict[str, Any]]) -> None:
    """Show a new snapshot every second until Ctrl-C: in place on a terminal, else one after the other."""
    try:
        if not sys.stdout.isatty():
            while True:
                show(take())
                sys.stdout.flush()
                time.sleep(WATCH_INTERVAL)
        with Live(render(take()), auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(WATCH_INTERVAL)
                live.update(render(take()), refresh=True)
    except KeyboardInterrupt:
        return


def _lane(lane: dict[str, Any]) -> str:
    """Return in words what the lane has done."""
    if "requests" not in lane:
        return f"no lane: {lane['state']}"
    return (
        f"lane: {lane['state']}, {lane['requests']} requests, "
        f"{lane['handed_over']} backends handed over with what they ran, {lane['given_back']} given back"
    )


def render(snapshot: dict[str, Any]) -> Group:
    """Return the snapshot as tables: groups, their backends, processes, then what is wrong with endpoints."""
    head = Text(
        f"poold {snapshot['version']} at {snapshot['address']}, process {snapshot['pid']}, {snapshot['state']}, "
        f"up {snapshot['uptime_s']:g} s, cpu {snapshot['cpu_s']:g} s, {snapshot['max_memory_kb'] // 1024} MB, "
        f"{snapshot['clients']} clients\n{_lane(snapshot['lane'])}"
    )
    work = _table(WORK, "requests since the start, and those waiting now")
    times = _table(TIMES, "milliseconds, over the last one to two minutes")
    backends = _table(BACKENDS, "backends now; other: cancelling or resetting")
    totals = _table(TOTALS, "backends since the start")
    problems = []
    for name, group in snapshot["groups"].items():
        counts = [group[key] for key in ("clients", "waiting", "oldest_wait_ms", "requests", "errors", "timeouts")]
        _add(work, name, *counts, group["refused"], group["withdrawn"])
        mode = "autocommit" if group["autocommit"] else "transactions"
        wait, run = group["wait_ms"], group["run_ms"]
        _add(times, name, mode, wait["p50"], wait["p99"], run["p50"], run["p99"])
        for endpoint, pool in group["endpoints"].items():
            other = pool["cancelling"] + pool["resetting"]
            states = [pool[key] for key in ("size", "active", "leased", "idle", "connecting")]
            is_plain = pool["role"] is None or pool["state"] != "available"
            paused = "drained" if pool["is_drained"] else "paused"
            state = paused if pool["is_paused"] else pool["state" if is_plain else "role"]
            _add(backends, name, endpoint, state, *states, other)
            _add(totals, name, endpoint, *(pool[key] for key in TOTALS[2:]))
            if pool["error"]:
                next_try = f"next try in {pool['next_try_ms']} ms"
                problems.append(Text(f"group {name}, endpoint {endpoint}: {printable(pool['error'])} ({next_try})"))
        if group["obstacle"]:
            problems.append(Text(printable(group["obstacle"])))
    for name, endpoint in snapshot["endpoints"].items():
        if endpoint["role"] not in ("primary", "replica") or not endpoint["answers"]:
            silent = "" if endpoint["answers"] else ", and does not answer now"
            problems.append(Text(f"endpoint {name} is {endpoint['role']}: {printable(endpoint['why'])}{silent}"))
    return Group(head, work, times, backends, totals, _processes(snapshot), _working(snapshot), *problems)


def _processes(snapshot: dict[str, Any]) -> Table:
    """Return the table of clients' processes, in the order of the snapshot: those with most work first."""
    listed = snapshot["processes"]
    more = _more(snapshot, "processes", PROCESSES_SHOWN)
    table = _table(PROCESSES, f"processes of clients and their work now; held: until they read replies{more}")
    for process in listed[:PROCESSES_SHOWN]:
        pid, uid, gid, name, *counts = (process[key] for key in PROCESSES)
        _add(table, pid, uid, gid, name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "...", *counts)
    return table


def _working(snapshot: dict[str, Any]) -> Table:
    """Return the table of requests and leases, the oldest first; the id is for `poold kill`."""
    listed = snapshot["work"]
    table = _table(WORKING, f"requests, transactions and sessions now{_more(snapshot, 'work', WORK_SHOWN)}")
    for each in listed[:WORK_SHOWN]:
        own = [each[key] for key in ("what", "id", "state", "pid", "group", "age_ms", "tag")]
        _add(table, *own[:-1], own[-1][:LONGEST_NAME])
    return table


def _more(snapshot: dict[str, Any], what: str, shown: int) -> str:
    """Say how many of these the table leaves out, besides those that the snapshot has left out."""
    left_out = max(0, len(snapshot[what]) - shown) + snapshot[f"{what}_not_shown"]
    return f"; {left_out} more are not shown" if left_out else ""


def _table(columns: tuple[str, ...], title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="italic", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in TEXT_COLUMNS else "right", no_wrap=True)
    return table


def _add(table: Table, *cells: Any) -> None:
    table.add_row(*map(_cell, cells))


def _cell(value: Any) -> Text | str:
    if value is None:
        return "-"
    # Names come from clients: they are no markup, and must not steer the terminal.
    return f"{value:.3g}" if isinstance(value, float) else Text(printable(str(value)))
