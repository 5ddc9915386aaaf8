"""`poold restart`: another broker takes over; the command says what came of it, also if a broker dies meanwhile."""

from __future__ import annotations

import os
import time

import click

from client.channels.channel import Channel
from client.channels.registry import broker_keys
from client.errors import DBConnectionError, DBError
from poold.operations.asking import (
    ANSWER_TIMEOUT,
    PlainCommand,
    address_option,
    call,
    fail,
    json_option,
    open_channel,
    print_json,
    target_of,
)
from poold.operations.output import carried_out
from poold.system.address_claim import is_claimed

# Seconds: longer than the broker waits for the new one, so that it is the broker that says what is wrong.
RESTART_TIMEOUT = 90.0
POLL_INTERVAL = 0.05


@click.command(cls=PlainCommand)
@click.option("--force", is_flag=True, help="Also if groups cannot be served that are served at the moment.")
@address_option
@json_option
def restart(force: bool, address: str | None, as_json: bool) -> None:
    """Let a new broker take over, with what the configuration says by now; clients notice nothing.

    It takes over when it is ready. If it does not start, or cannot serve a group that is served at the moment, nothing
    changes, and the exit status is 1.
    """
    target = target_of(address)
    channel = open_channel(target)
    try:
        old = call(channel, "ping", (), ANSWER_TIMEOUT)["pid"]
        answer = call(channel, "restart", [("force", "yes")] if force else [], RESTART_TIMEOUT)
    except DBConnectionError as error:
        _tell_who_is_left(target, old, error)
    except DBError as error:
        fail(str(error))
    finally:
        channel.close()
    carried_out()
    new, unready, warnings = answer["successor"], answer["unready"], answer["warnings"]
    if as_json:
        print_json({"address": target, "pid": new, "before": old, "unready": unready, "warnings": warnings})
        return
    click.echo(f"process {new} serves {target}; process {old} finishes what it has begun, and ends")
    for name, why in unready.items():
        click.echo(f"  group {name} is NOT READY, it tries on: {why}")
    for warning in warnings:
        click.echo(f"  warning: {warning}", err=True)


def _tell_who_is_left(target: str, old: int, error: DBConnectionError) -> None:
    """The broker was gone before it could say what came of the restart: say who serves, and end the program."""
    deadline = time.monotonic() + RESTART_TIMEOUT
    while time.monotonic() < deadline:
        now = who_serves(target)
        if now == old and not is_alive(old):
            now = None
        if now == old:
            fail(f"process {old} still serves {target}, and its log says what came of the restart; {error}")
        if now is not None:
            fail(
                f"process {old} ended before it had left {target} to process {now}, so what it ran is cut off; "
                f"process {now} serves"
            )
        if not is_claimed(target):
            break
        time.sleep(POLL_INTERVAL)
    fail(f"process {old} ended during the restart, and no broker serves {target}; its log says why; use poold start")


def who_serves(target: str) -> int | None:
    """Return the process that answers, None if nobody does."""
    try:
        channel = Channel(target, broker_keys(target))
    except DBConnectionError:
        return None
    try:
        return int(call(channel, "ping", (), ANSWER_TIMEOUT)["pid"])
    except DBConnectionError:
        return None
    finally:
        channel.close()


def is_alive(pid: int) -> bool:
    """Whether the process still runs; a zombie, which has ended and waits for its parent to notice, does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        pass  # no such process, or no /proc
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
