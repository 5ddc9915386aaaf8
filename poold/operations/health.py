"""`poold health`: whether the broker lives, and whether its groups can serve; for the probes of containers and people.

Exit codes are what probes expect: 0 healthy, 1 not, whatever the reason. Whoever asks sees the groups that he may use.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from client.channels.channel import Channel
from client.channels.registry import broker_address, broker_keys
from client.errors import DBError
from client.wire.arguments import packed_arguments
from client.wire.messages import Answer, Ask
from poold.operations.asking import PlainCommand, Seconds, for_address, json_option, print_json
from poold.operations.cells import duration
from poold.operations.log_format import printable

EXIT_NOT_HEALTHY = 1
# Seconds. A container engine's probe has 30 (docker) or 1 (Kubernetes); this is for people, too.
TIMEOUT = 5.0


@click.command(cls=PlainCommand)
@click.option("--address", help="The broker's address; as for poold ping.")
@click.option("--live", "is_live", is_flag=True, help="Only ask whether the broker answers.")
@click.option("--ready", "is_ready", is_flag=True, help="Ask whether each group can serve as well (the default).")
@click.option("--timeout", type=Seconds(min=0.1), default=TIMEOUT, show_default=True, help="Seconds.")
@json_option
def health(address: str | None, is_live: bool, is_ready: bool, timeout: float, as_json: bool) -> None:
    """Say whether the broker answers, and whether each group can serve: exit code 0, else 1 and a line per problem."""
    if is_live and is_ready:
        raise click.UsageError("--ready asks for more than --live: give one of them")
    try:
        target = broker_address(address)
        keys = broker_keys(target)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    report: dict[str, Any] = {"address": target, "asked": "live" if is_live else "ready", "state": None}
    try:
        channel = Channel(target, keys, timeout)
        try:
            answer = channel.call(_question(channel.next_request(), is_live), timeout)
        finally:
            channel.close()
    except DBError as error:
        problems = [" ".join(str(error).split())]
    else:
        assert isinstance(answer, Answer)
        report["state"] = answer.body["state"]
        problems = [] if is_live else unready(answer.body, address)
    report |= {"ok": not problems, "problems": problems}
    if as_json:
        print_json(report)
    elif problems:
        for problem in problems:
            click.echo(printable(problem))
    else:
        click.echo(f"poold at {target} {'lives' if is_live else 'is ready'}")
    sys.exit(EXIT_NOT_HEALTHY if problems else 0)


def _question(number: int, is_live: bool) -> Ask:
    """Return what to ask; of the figures only what groups have, however many clients there are."""
    if is_live:
        return Ask(number, "ping")
    return Ask(number, "stats", packed_arguments([("section", "groups")]))


def unready(stats: dict[str, Any], address: str | None = None) -> list[str]:
    """Return why not all of what `poold stats` shows can serve, a line for each problem.

    address: as the user has named it, for commands to type next.
    """
    remedy = f"go on with: {for_address('poold resume', address)}"
    if stats["state"] == "drained":
        return [f"the broker is drained by an operator and takes no new work; {remedy}"]
    if stats["state"] != "running":
        return [f"the broker is {stats['state']} and takes no new work"]
    problems = []
    for name, group in stats["groups"].items():
        if "/" in name:
            continue  # reads that find no replica run on the primary, so NAME/replicas need not be there
        pools = group["endpoints"]
        is_paused = [pool["is_paused"] for pool in pools.values()]
        if group["state"] != "running" and all(is_paused):
            problems.append(f"group {name} is {group['state']} by an operator; {remedy}")
        elif not any(map(_can_serve, pools.values())):
            reasons = [_reason(endpoint, pool, stats) for endpoint, pool in pools.items()]
            reasons += [remedy] if any(is_paused) else []
            problems.append(f"group {name} cannot serve: {'; '.join(reasons)}")
    return problems


def _can_serve(pool: dict[str, Any]) -> bool:
    """Whether there is a backend, or one could be opened as far as anybody knows."""
    if not pool["is_serving"] or pool["is_paused"]:
        return False
    if pool["size"] > pool["connecting"]:
        return True
    is_first = pool["connecting"] and not pool["opened"]
    return pool["state"] == "available" and not is_first


def _reason(endpoint: str, pool: dict[str, Any], stats: dict[str, Any]) -> str:
    if pool["is_paused"]:
        return f"endpoint {endpoint} is {'drained' if pool['is_drained'] else 'paused'} by an operator"
    if not pool["is_serving"]:
        known = stats["endpoints"].get(endpoint)
        why = f"{known['role']}: {known['why']}" if known else "of another role"
        return f"endpoint {endpoint} is not used, it is {' '.join(why.split())}"
    if pool["error"]:
        return f"endpoint {endpoint}: {' '.join(pool['error'].split())} (next try in {duration(pool['next_try_ms'])})"
    return f"endpoint {endpoint}: the first backend is being opened"
