"""The command line: `poold start`, `poold stats` and the other commands of an operator.

Exit codes: 0 ok, 1 error, 2 usage, 3 no broker is running at the address, 4 one that does not answer. Commands that
only talk to a running broker import neither its event loop nor its backends.
"""

import logging
import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from client.channels.registry import ADDRESS_VARIABLE, KEY_VARIABLE, SERVER_KEY_VARIABLE
from poold import __version__
from poold.config.model import BrokerConfig
from poold.operations import orders
from poold.operations.asking import (
    EXIT_ERROR,
    GivenPath,
    PlainCommand,
    address_option,
    ask,
    ask_through,
    checked_address,
    fail,
    json_option,
    open_channel,
    print_json,
    target_of,
)
from poold.operations.doctor import doctor, examined
from poold.operations.figures import stats
from poold.operations.health import health
from poold.operations.log_format import FORMATS, TEXT, complaint, use
from poold.operations.output import carried_out, written
from poold.operations.replacement import is_alive, restart
from poold.operations.top import top
from poold.system.early_signals import ended_by_interrupt
from poold.system.file_errors import in_words
from poold.system.named_files import read_text

# Seconds for which `poold stop` waits: for the drain and for the private PostgreSQL's last checkpoint.
STOP_TIMEOUT = 120.0
POLL_INTERVAL = 0.05


class _Commands(click.Group):
    command_class = PlainCommand

    def main(self, *args: Any, **more: Any) -> Any:
        """Run a command; what it prints is written, or the exit code tells that it was not."""
        with written():
            return super().main(*args, **more)


@click.group(
    cls=_Commands,
    commands=[doctor, health, restart, stats, top, *orders.COMMANDS],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="poold", message="%(prog)s %(version)s")
def main() -> None:
    """poold: the PostgreSQL connection broker for Python applications with many worker processes."""


@main.command()
@click.option("-c", "--config", "config_file", type=GivenPath(), help="A TOML file; see poold check-config.")
@click.option(
    "--address",
    callback=checked_address,
    help=f"The address to serve; else that of --config; without --config {ADDRESS_VARIABLE}, or this user's default.",
)
@click.option("--data", type=GivenPath(), help="Folder of the private PostgreSQL, used without --config.")
@click.option("--detach", is_flag=True, help="Run in the background; return when the broker is ready.")
@click.option("--log-file", type=GivenPath(), help="Append the log here instead of to stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Log each backend that is opened or closed.")
@click.option("--log-format", type=click.Choice(FORMATS), help="How log lines look, whatever the configuration says.")
@click.option("--ready-fd", type=int, hidden=True)
@click.option("--own-log", is_flag=True, hidden=True, help="The log file must belong to this user.")
@click.option("--estate", hidden=True, help="What the broker before this one leaves to it.")
def start(
    config_file: Path | None,
    address: str | None,
    data: Path | None,
    detach: bool,
    log_file: Path | None,
    verbose: bool,
    log_format: str | None,
    ready_fd: int | None,
    own_log: bool,
    estate: str | None,
) -> None:
    """Start the broker.

    Without --config it starts a private PostgreSQL as well, with the groups `default` (autocommit) and `transactions`.
    Ctrl-C or SIGTERM finishes what is running and stops; a second one, or SIGQUIT, stops at once.
    """
    if config_file is not None and data is not None:
        raise click.UsageError("--data is for the private PostgreSQL, which is not used with --config")
    arguments = [f"--address={address}"] if address else []
    arguments += [f"--config={config_file.absolute()}"] if config_file else []
    arguments += [f"--data={data}"] if data else []
    arguments += ["--verbose"] if verbose else []
    arguments += [f"--log-format={log_format}"] if log_format else []
    if detach:
        from poold.config.file import ConfigError, load
        from poold.operations.detach import start_detached

        try:
            broker = BrokerConfig(address=target_of(address)) if config_file is None else load(config_file).broker
        except ConfigError:  # the broker says what is wrong with it, and logs that
            broker = BrokerConfig(address=target_of(address))
        sys.exit(start_detached(arguments, replace(broker, address=address or broker.address), log_file))
    with ended_by_interrupt():
        from poold.operations.start import start_here
        from poold.system.succession import Inheritance, estate_from

    try:
        given = None if estate is None else Inheritance(estate_from(estate))
    except ValueError as error:
        fail(str(error))
    try:
        _set_up_log(log_file, verbose, own_log, log_format or TEXT)
    except OSError as error:
        why = f"cannot write the log: {in_words(log_file or Path(), error)}"
        if given is not None:
            given.decline(why)
        click.echo(complaint(why, log_format or TEXT), err=True)
        sys.exit(EXIT_ERROR)
    arguments += [f"--log-file={log_file.absolute()}"] if log_file else []
    arguments += ["--own-log"] if own_log else []
    command = [sys.executable, "-m", "poold", "start", *arguments]
    private_address = "" if config_file else target_of(address)
    sys.exit(start_here(config_file, address, private_address, data, ready_fd, command, given, log_format))


@main.command()
@address_option
@click.option("--now", is_flag=True, help="Do not wait for running work: cut it off.")
def stop(address: str | None, now: bool) -> None:
    """Stop the broker: let it finish what it has, and wait until it is gone.

    So with brokers that `poold restart` has replaced and that still finish what they had begun; --now ends these too.
    """
    from poold.system.address_claim import is_claimed

    target = target_of(address)
    answer = ask(target, "stop-now" if now else "stop")
    pid, before = answer["pid"], answer.get("predecessors", [])
    deadline = time.monotonic() + STOP_TIMEOUT
    while (left := [each for each in (pid, *before) if is_alive(each)]) or is_claimed(target):
        if time.monotonic() > deadline:
            there = " and ".join(f"process {each}" for each in left or [pid])
            fail(f"{there} was told to stop and is still there after {STOP_TIMEOUT:g} s; try: poold stop --now")
        time.sleep(POLL_INTERVAL)
    earlier = "".join(f", and process {each}, which finished what it had begun before a restart" for each in before)
    carried_out()
    click.echo(f"stopped process {pid} at {target}{earlier}")


@main.command()
@address_option
@json_option
def ping(address: str | None, as_json: bool) -> None:
    """Ask the broker whether it is there."""
    target = target_of(address)
    channel = open_channel(target)
    began = time.perf_counter()
    answer = ask_through(channel, "ping")
    answer = {"address": target, **answer, "round_trip_ms": round((time.perf_counter() - began) * 1000, 3)}
    if as_json:
        print_json(answer)
    else:
        click.echo(
            f"poold {answer['version']} at {target} is {answer['state']} (process {answer['pid']}), "
            f"round trip {answer['round_trip_ms']} ms"
        )


@main.command("check-config")
@click.argument("file", type=GivenPath())
@click.option("--connect", is_flag=True, help="Log in to each endpoint, too; see poold doctor.")
@json_option
def check_config(file: Path, connect: bool, as_json: bool) -> None:
    """Check a configuration and start nothing."""
    from poold.config.file import ConfigError, describe, load
    from poold.config.permissions import exposed_files

    if connect:
        sys.exit(examined(file, as_json, is_brief=True))
    try:
        config = load(file)
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "problems": error.problems})
            sys.exit(EXIT_ERROR)
        fail(str(error))
    warnings = exposed_files(config, file)
    if as_json:
        print_json({"ok": True, "warnings": warnings, "config": describe(config)})
    else:
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
        groups, endpoints = ", ".join(config.groups), ", ".join(config.endpoints)
        click.echo(f"{file} is good: groups {groups} on endpoints {endpoints}, at {config.broker.address}")


@main.command("import-config")
@click.argument("file", type=GivenPath())
@click.option("-o", "--output", type=GivenPath(), help="Write here (mode 0600) instead of to stdout, which is -.")
def import_config(file: Path, output: Path | None) -> None:
    """Turn a pgdbpool configuration (JSON, or Python with a plain `config`) into poold's TOML; - is stdin."""
    from poold.config.file import ConfigError
    from poold.config.pgdbpool import convert

    try:
        is_stdin = str(file) == "-"
        source = sys.stdin.buffer.read().decode() if is_stdin else read_text(file)
        text = convert(source, "standard input" if is_stdin else str(file))
    except OSError as error:
        fail(f"cannot read the configuration: {in_words(file, error)}")
    except UnicodeDecodeError as error:
        fail(f"cannot read the configuration: {file} is no text in UTF-8 ({error.reason} at byte {error.start})")
    except ConfigError as error:
        fail(str(error))
    if output is None or str(output) == "-":
        click.echo(text, nl=False)
        return
    try:
        # It holds passwords: only its owner can read it, from the first byte on, and no existing file is overwritten.
        with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        fail(f"cannot write the configuration: {in_words(output, error)}")
    click.echo(f"wrote {output}; check it with: poold check-config {shlex.quote(str(output))}")


@main.command()
@click.argument("name", type=GivenPath())
def keygen(name: Path) -> None:
    """Make a key pair, NAME.key_secret and NAME.key, for a broker or a client at a tcp:// address."""
    from poold.operations.keygen import make_pair

    try:
        secret, public = (file.absolute() for file in make_pair(name))
    except OSError as error:
        fail(f"cannot make the key pair: {in_words(Path(error.filename or name), error)}")
    click.echo(
        f"wrote {secret}, which stays here, and {public}, which is for the other end\n"
        f'  for a broker: key_file = "{secret}" in [broker];\n'
        f"    its clients get a copy of {public.name}, and {SERVER_KEY_VARIABLE} is the path of it\n"
        f"  for a client: {KEY_VARIABLE}={secret};\n"
        f"    the broker gets a copy of {public.name} in the folder that is client_keys in [broker]"
    )


@main.command()
@json_option
def version(as_json: bool) -> None:
    """Show the versions of poold and of what it stands on."""
    from poold.postgres.libpq import lacking
    from poold.versions import versions

    found = versions()
    missing = lacking()
    if as_json:
        print_json({**found, "lacking": missing})
    else:
        for name, number in found.items():
            click.echo(f"{name} {number}")
        for what in missing:
            click.echo(f"lacking: {what}")


def _set_up_log(log_file: Path | None, verbose: bool, must_be_own: bool, form: str) -> None:
    """Log to the file or to stderr, in this format; from here on only signals that are meant to end the broker do.

    Raises OSError if the file cannot be opened.
    """
    from poold.system.log_file import LogFile
    from poold.system.signals import SIGNALS

    SIGNALS.catch()
    handler = logging.StreamHandler() if log_file is None else LogFile(log_file, must_be_own)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    use(form)
    logging.getLogger("asyncio").setLevel(logging.INFO)
