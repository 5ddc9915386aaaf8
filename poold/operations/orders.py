"""The command line's orders to a running broker, for admins: `poold pause`, `poold reconnect` and the like."""

import json
import sys
from typing import Any

import click

from client.wire.limits import MAX_TIMEOUT
from poold.operations import tables
from poold.operations.asking import (
    ANSWER_TIMEOUT,
    EXIT_ERROR,
    PlainCommand,
    Seconds,
    address_option,
    ask,
    fail,
    for_address,
    json_option,
    print_json,
    target_of,
)
from poold.operations.cells import counted
from poold.operations.log_format import printable_lines
from poold.operations.output import carried_out

# Seconds. New requests wait as well meanwhile, and get errors from queue_timeout on.
PAUSE_TIMEOUT = 30.0

groups_argument = click.argument("groups", nargs=-1, metavar="[GROUP]...")
timeout_option = click.option(
    "--timeout",
    type=Seconds(0, MAX_TIMEOUT, min_open=True),
    default=PAUSE_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for what runs.",
)
endpoint_option = click.option("--endpoint", metavar="NAME", help="Only this endpoint of the groups.")


def _chosen(groups: tuple[str, ...], endpoint: str | None) -> list[tuple[str, str]]:
    """Return the arguments that say which groups and which endpoint are meant."""
    return [*(("group", group) for group in groups), *([("endpoint", endpoint)] if endpoint is not None else [])]


def _in_words(answer: dict[str, Any]) -> str:
    """Return in words what was meant."""
    names = ", ".join(answer["groups"]) or "no group"
    return names if answer["endpoint"] is None else f"endpoint {answer['endpoint']} in {names}"


@click.command(cls=PlainCommand)
@groups_argument
@endpoint_option
@address_option
@json_option
def reconnect(groups: tuple[str, ...], endpoint: str | None, address: str | None, as_json: bool) -> None:
    """Close the backends that there are, each as soon as it rests; new ones are opened as needed.

    Of all groups, or of these. No request fails for it: what runs, and open transactions and sessions, go on to their
    end.
    """
    answer = ask(target_of(address), "reconnect", _chosen(groups, endpoint))
    carried_out()
    if as_json:
        print_json(answer)
    else:
        closed, left = counted(answer["closed"], "backend"), answer["closing"]
        behind = "follows as it comes" if left == 1 else "follow as they come"
        click.echo(f"{_in_words(answer)}: {closed} closed, {left} more {behind} to rest")


@click.command(cls=PlainCommand)
@groups_argument
@endpoint_option
@timeout_option
@address_option
@json_option
def pause(groups: tuple[str, ...], endpoint: str | None, timeout: float, address: str | None, as_json: bool) -> None:
    """Begin nothing any more in all groups, or in these; return when what runs there has come to its end.

    Until `poold resume` requests wait, for their timeouts and queue_timeout at most. With --endpoint nothing begins on
    that endpoint, and the groups' other endpoints do its part. If what runs takes longer than the timeout the pause is
    undone, and the exit status is 1.
    """
    _pause_or_drain("pause", _chosen(groups, endpoint), timeout, address, as_json)


@click.command(cls=PlainCommand)
@click.argument("named", nargs=-1, metavar="[GROUP]...")
@click.option("--endpoint", metavar="NAME", help="What the broker has at this endpoint.")
@click.option("--group", "groups", metavar="NAME", multiple=True, help="What this group has; may be given again.")
@timeout_option
@address_option
@json_option
def drain(
    named: tuple[str, ...],
    groups: tuple[str, ...],
    endpoint: str | None,
    timeout: float,
    address: str | None,
    as_json: bool,
) -> None:
    """Pause an endpoint, groups or the whole broker, and close its connections; return when there is none left.

    For the maintenance of a server, or of a database that must have no connections. A group's other endpoints do its
    part. Without a name the broker takes no new work: clients wait for one that does, as if it stopped. It stays until
    `poold resume`, or `poold stop`. If something is still open after the timeout the drain is undone, and the exit
    status is 1.
    """
    groups = (*named, *groups)
    if groups and endpoint is not None:
        raise click.UsageError("give --endpoint or groups")
    _pause_or_drain("drain", _chosen(groups, endpoint), timeout, address, as_json)


def _pause_or_drain(
    what: str, arguments: list[tuple[str, str]], timeout: float, address: str | None, as_json: bool
) -> None:
    answer = ask(target_of(address), what, [*arguments, ("timeout", str(timeout))], timeout + ANSWER_TIMEOUT)
    is_drain = what == "drain"
    is_done = answer["drained" if is_drain else "paused"]
    resume = for_address("poold resume", address)
    if is_done:
        carried_out(f"it is {what}{'ed' if is_drain else 'd'} all the same, until: {resume}")
    if as_json:
        print_json(answer)
        sys.exit(0 if is_done else EXIT_ERROR)
    subject = _in_words(answer) if arguments or not is_drain else "the broker"
    if is_done:
        done = "drained, no connection is left" if is_drain else "paused"
        click.echo(f"{subject}: {done}; go on with: {resume}")
        return
    count, doubts = len(answer["busy"]) + answer["busy_not_shown"], answer["in_doubt"]
    busy = f"{counted(count, 'backend')} {'is' if count == 1 else 'are'} busy"
    waiting = f"{counted(doubts, 'request')} {'waits' if doubts == 1 else 'wait'} to hear what became of a COMMIT"
    lines = [f"{subject}: not at rest within {timeout:g} s, the {what} is undone; {busy}, {waiting}"]
    lines += [f"  {_busy_in_words(each)}" for each in answer["busy"]]
    lines += [f"  {tables.finishing(each)}" for each in answer.get("predecessors", [])]
    if answer["busy_not_shown"]:
        lines.append(f"  and {answer['busy_not_shown']} more")
    fail("\n".join(lines))


def _busy_in_words(busy: dict[str, Any]) -> str:
    who = "poold itself" if not busy["pid"] else f"process {busy['pid']}, client {busy['client']}"
    return f"{busy['group']} on {busy['endpoint']}: {busy['what']} of {who}, for {busy['age_ms'] / 1000:.3g} s"


@click.command(cls=PlainCommand)
@groups_argument
@endpoint_option
@address_option
@json_option
def resume(groups: tuple[str, ...], endpoint: str | None, address: str | None, as_json: bool) -> None:
    """Go on with all that is paused or drained, or with these groups, or on this endpoint; who waits has his turn."""
    answer = ask(target_of(address), "resume", _chosen(groups, endpoint))
    carried_out()
    if as_json:
        print_json(answer)
    else:
        click.echo(_resumed_in_words(answer, address))


def _resumed_in_words(answer: dict[str, Any], address: str | None) -> str:
    undone = counted(answer["undone"], "command")
    behind = f"; {undone} that waited for it to come to rest failed" if answer["undone"] else ""
    if answer["groups"]:
        return f"{_in_words(answer)}: resumed{behind}"
    if not answer["still"]:
        return f"nothing of it was paused{behind}"
    names, first = ", ".join(answer["still"]), answer["still"][0]
    if answer["endpoint"] is not None:
        return (
            f"endpoint {answer['endpoint']} was not paused{behind}; paused is group {names}: "
            f"{for_address(f'poold resume {first}', address)}"
        )
    return (
        f"it was not paused by itself{behind}; paused is endpoint {names}: "
        f"{for_address(f'poold resume --endpoint {first}', address)}"
    )


@click.command(cls=PlainCommand)
@click.option("--client", metavar="KEY", help="A client: its connection is ended.")
@click.option("--pid", metavar="PID", help="All clients of a process.")
@click.option("--lease", metavar="CLIENT/NUMBER", help="A transaction or a session that is open.")
@click.option("--request", metavar="CLIENT/NUMBER", help="A request that waits or runs.")
@address_option
@json_option
def kill(
    client: str | None,
    pid: str | None,
    lease: str | None,
    request: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """End a client, all clients of a process, a transaction or session, or a request, as poold stats names them.

    Whoever waits for it gets an error that says so, and what became of the work. A COMMIT that runs is not ended.
    """
    given = {"client": client, "pid": pid, "lease": lease, "request": request}
    named = [(name, value) for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise click.UsageError("give one of --client, --pid, --lease and --request")
    answer = ask(target_of(address), "kill", named)
    carried_out()
    if as_json:
        print_json(answer)
    elif answer["what"] in ("client", "pid"):
        count = len(answer["clients"])
        done = "is" if count == 1 else "are"
        click.echo(f"{answer['what']} {answer['id']}: {counted(count, 'client')} {done} disconnected")
    else:
        click.echo(f"{answer['what']} {answer['id']} is ended")


# Seconds: the broker waits so long for the files, and a reload that is under way comes first.
RELOAD_TIMEOUT = 30.0


@click.command(cls=PlainCommand)
@click.option("-v", "--verbose", is_flag=True, help="Also list what is unchanged.")
@address_option
@json_option
def reload(verbose: bool, address: str | None, as_json: bool) -> None:
    """Let the broker read its configuration again: all of it holds from then on, or nothing if anything is wrong.

    Files that it names (passwords, certificates) are read again as well. It says of each changed key what came of it;
    what needs a restart stays as it is until then.
    """
    answer = ask(target_of(address), "reload", timeout=RELOAD_TIMEOUT)
    carried_out()
    if as_json:
        print_json(answer)
        return
    for warning in answer["warnings"]:
        click.echo(printable_lines(f"warning: {warning}"), err=True)
    for change in answer["changes"]:
        click.echo(printable_lines(_change_in_words(change)))
    if verbose:
        for name in answer["unchanged"]:
            click.echo(f"{name}: unchanged")
    waiting, starting = answer["needing_restart"], answer.get("needing_start", 0)
    changes, same = counted(len(answer["changes"]), "change"), counted(len(answer["unchanged"]), "key")
    text = f"{answer['source']} is reloaded: {changes}, {same} unchanged"
    way, count = "poold stop and poold start" if starting else "poold restart", waiting + starting
    holds = "holds" if count == 1 else "hold"
    click.echo(f"{text}; {count} of them {holds} after: {way}" if count else text)


def _change_in_words(change: dict[str, Any]) -> str:
    name = change["table"] + (f".{change['key']}" if change["key"] else "")
    if "to" in change:
        name += f" {_value(change['from'])} -> {_value(change['to'])}"
    elif change["key"]:
        name += " changed"
    behind = "; its backends are replaced as they rest" if change["replaces_backends"] else ""
    return f"{name}: {change['result']}{behind}"


def _value(value: Any) -> str:
    return json.dumps(value) if value is not None else "none"


COMMANDS = (pause, drain, resume, reconnect, kill, reload)
