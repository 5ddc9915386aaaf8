"""`poold stats` for people: tables from the broker's snapshot."""

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

WATCH_INTERVAL = 1.0
# Where nobody looks at a terminal, tables are not squeezed into 80 columns.
PIPED_WIDTH = 160

GROUP_COLUMNS = (
    "group", "mode", "clients", "waiting", "oldest ms", "requests", "errors", "timeouts", "refused", "withdrawn",
    "wait p50", "wait p99", "run p50", "run p99",
)  # fmt: skip
POOL_COLUMNS = (
    "group", "endpoint", "state", "size", "active", "leased", "idle", "connecting", "other", "requests", "opened",
    "failed", "lost",
)  # fmt: skip


def show(snapshot: dict[str, Any]) -> None:
    """Print the snapshot once."""
    console = Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)
    console.print(render(snapshot))


def show_continuously(take: Callable[[], dict[str, Any]]) -> None:
    """Print the snapshot again and again until Ctrl-C."""
    with Live(render(take()), auto_refresh=False, screen=sys.stdout.isatty()) as live:
        try:
            while True:
                time.sleep(WATCH_INTERVAL)
                live.update(render(take()), refresh=True)
        except KeyboardInterrupt:
            return


def render(snapshot: dict[str, Any]) -> Group:
    """The snapshot as tables: groups, then their pools, then what is wrong with endpoints."""
    head = Text(
        f"poold {snapshot['version']} at {snapshot['address']}, process {snapshot['pid']}, {snapshot['state']}, "
        f"up {snapshot['uptime_s']:g} s, cpu {snapshot['cpu_s']:g} s, {snapshot['max_memory_kb'] // 1024} MB, "
        f"{snapshot['clients']} clients"
    )
    groups = _table(GROUP_COLUMNS, "times in milliseconds, over the last one to two minutes")
    pools = _table(POOL_COLUMNS, "backends by state; other: cancelling or resetting")
    problems = []
    for name, group in snapshot["groups"].items():
        groups.add_row(name, *map(_cell, _group_cells(group)))
        for endpoint, pool in group["endpoints"].items():
            pools.add_row(name, endpoint, *map(_cell, _pool_cells(pool)))
            if pool["error"]:
                next_try = f"next try in {pool['next_try_ms']} ms"
                problems.append(Text(f"group {name}, endpoint {endpoint}: {pool['error']} ({next_try})"))
    return Group(head, groups, pools, *problems)


def _table(columns: tuple[str, ...], caption: str) -> Table:
    table = Table(caption=caption, caption_justify="left", box=None, pad_edge=False)
    for column in columns:
        is_text = column in ("group", "mode", "endpoint", "state")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    return table


def _group_cells(group: dict[str, Any]) -> list[Any]:
    wait, run = group["wait_ms"], group["run_ms"]
    counts = [group[name] for name in ("clients", "waiting", "oldest_wait_ms", "requests", "errors", "timeouts")]
    mode = "autocommit" if group["autocommit"] else "transactions"
    return [mode, *counts, group["refused"], group["withdrawn"], wait["p50"], wait["p99"], run["p50"], run["p99"]]


def _pool_cells(pool: dict[str, Any]) -> list[Any]:
    shown = [pool[name] for name in ("state", "size", "active", "leased", "idle", "connecting")]
    return [*shown, pool["cancelling"] + pool["resetting"], *(pool[name] for name in _POOL_COUNTERS)]


_POOL_COUNTERS = ("requests", "opened", "failed", "lost")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
