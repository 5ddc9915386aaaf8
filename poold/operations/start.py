"""`poold start`: run the broker in this process, with a private PostgreSQL if need be, and say how to go on."""

import json
import logging
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from client.channels.registry import ADDRESS_VARIABLE, KEY_VARIABLE, SERVER_KEY_VARIABLE
from client.wire.address import default_address, ipc_path
from poold import __version__, daemon
from poold.config.file import ConfigError, at_address, load
from poold.config.model import Config
from poold.config.permissions import exposed_files
from poold.config.source import Source
from poold.embedded.config import private_config
from poold.embedded.server import EmbeddedError, EmbeddedPostgres, default_data_dir
from poold.inheriting import NotTakenOver
from poold.operations.asking import EXIT_ERROR
from poold.operations.log_format import JSON, TEXT, complaint, printable_lines, use
from poold.operations.output import UnwrittenError, forget_output
from poold.system.address_claim import AddressInUse, is_claimed
from poold.system.file_errors import explained
from poold.system.succession import Inheritance

log = logging.getLogger(__name__)


def start_here(
    config_file: Path | None,
    address: str | None,
    private_address: str,
    data: Path | None,
    ready_fd: int | None,
    command: Sequence[str],
    inheritance: Inheritance | None,
    log_format: str | None = None,
) -> int:
    """Run the broker until it is stopped; returns the exit code.

    With a configuration file the broker is at `address`, or else where the file says; without one at private_address,
    with a private PostgreSQL in `data`. What is said when it is ready goes to the descriptor ready_fd, if there is one.
    command and inheritance are `daemon.run`'s; a broker with a private PostgreSQL has no use for them. log_format is
    the one that holds whatever the file says.
    """
    form = log_format or TEXT
    # A signal before the loop has its own handlers, or after it has ended, must clean up as well.
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.default_int_handler)
    with ExitStack() as cleanup:
        try:
            source: Source | None = None
            if config_file is not None:
                source = Source(os.fspath(config_file), partial(_read, config_file, address))
                config, warnings = source.read()
                if log_format is None:
                    form = config.broker.log_format
                    use(form)
                for warning in warnings:
                    log.warning("password exposed reason=%s", warning)
                note = [f"  clients need {SERVER_KEY_VARIABLE} and {KEY_VARIABLE}"] if config.broker.key_file else []
            else:
                if is_claimed(private_address):
                    way = f"poold stop{_at(private_address)}"
                    raise AddressInUse(f"a broker already serves {private_address}; stop it with: {way}")
                server = EmbeddedPostgres(data or default_data_dir())
                cleanup.enter_context(server)
                config = private_config(server, private_address)
                note = [f"  private PostgreSQL in {server.data}, for a look inside: psql {shlex.quote(server.dsn())}"]
            try:
                is_logged = (form == JSON and ready_fd is None) or inheritance is not None
                announce = _log_that_it_is_ready if is_logged else partial(_announce, config, note, ready_fd)
                daemon.run(config, announce, () if config_file is None else command, inheritance, source)
            finally:
                for number in daemon.STOP_SIGNALS:
                    signal.signal(number, signal.SIG_IGN)
        except KeyboardInterrupt:
            return 0
        except NotTakenOver as error:
            log.warning("restart given up reason=%s", " ".join(str(error).split()))
            return EXIT_ERROR
        except (ConfigError, EmbeddedError, daemon.BrokerCrashed, AddressInUse, OSError, ValueError) as error:
            if inheritance is not None and (why := inheritance.refusal()):
                log.warning("restart given up reason=%s", why)  # which may be the reason of the error as well
                return EXIT_ERROR
            if inheritance is not None:
                inheritance.decline(explained(error))
            click.echo(complaint(explained(error), form), err=True)
            return EXIT_ERROR
        finally:
            if inheritance is not None:
                inheritance.decline("it was told to stop before it had taken over")
    return 0


def _read(config_file: Path, address: str | None) -> tuple[Config, list[str]]:
    """Return the configuration, at another address if one is given, and what files with passwords others can read."""
    config = load(config_file)
    warnings = exposed_files(config, config_file)
    return (at_address(config, address) if address else config), warnings


def _log_that_it_is_ready(bound: str, unready: Mapping[str, str]) -> None:
    """Say that the broker is ready where all that it says is JSON."""
    not_ready = "; ".join([f"{name}: {reason}" for name, reason in unready.items()])
    log.info("broker ready address=%s unready=%s reason=%s", bound, list(unready), not_ready)


def _announce(config: Config, note: list[str], ready_fd: int | None, bound: str, unready: Mapping[str, str]) -> None:
    """Say that the broker is ready, or which groups are not and why, and how to go on at this address.

    A detached broker writes it to its parent, which waits for that and prints it.
    """
    modes = {True: "each statement by itself", False: "transactions"}
    groups = []
    for name, group in config.groups.items():
        groups.append(f"  group {name}: {modes[group.autocommit]}")
        if name in unready:
            groups.append(f"    NOT READY, it tries on: {unready[name]}")
    state = f"runs, but {len(unready)} of {len(config.groups)} groups cannot serve yet," if unready else "is ready"
    at = _at(bound)
    usable = next((name for name in config.groups if name not in unready), None)
    place = f", address={json.dumps(bound)}" if at else ""
    program = f'from client import Handler; print(*Handler({json.dumps(usable)}{place}).query("SELECT version()"))'
    trial = [] if usable is None else [f"python -c {shlex.quote(program)}"]
    # Over tcp nobody is told from another, so nobody may tell the broker to stop.
    ways = [f"kill {os.getpid()}" if ipc_path(bound) is None else f"poold stop{at}"]
    lines = [
        f"poold {__version__} {state} at {bound} (process {os.getpid()})",
        *groups,
        *note,
        "  try: " + "\n       ".join([*trial, f"poold stats{at}"]),
        "  stop: " + ", or ".join(["Ctrl-C", *ways] if ready_fd is None else ways),
    ]
    text = "\n".join(lines)
    if ready_fd is None:
        try:
            click.echo(printable_lines(text))
        except UnwrittenError as error:  # it serves all the same, and has a log
            log.warning("announcement not written reason=%s", error)
            forget_output()
    else:
        with os.fdopen(ready_fd, "w") as pipe:
            pipe.write(text)


def _at(address: str) -> str:
    """Return what a command needs to find the broker: nothing if it looks at this user's default address anyway."""
    is_found = address == default_address() and os.environ.get(ADDRESS_VARIABLE) in (None, "", address)
    return "" if is_found else f" --address {shlex.quote(address)}"
