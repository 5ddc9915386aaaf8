"""`poold start --detach`: start the broker in the background, and report that it is ready, or why it is not.

A new process is started instead of forking twice: nothing of this one, no half-read configuration and no library's
thread, gets into the broker. The broker writes to a pipe when it is ready; if the pipe ends empty, it has failed.
"""

import os
import subprocess
import sys
from pathlib import Path

import click

from client.wire.address import ipc_path, runtime_dir
from poold.config.model import BrokerConfig
from poold.operations.log_format import printable_lines
from poold.system.early_signals import held_back_for_child
from poold.system.file_errors import explained
from poold.system.safe_files import GROUP_FOLDER, OPEN_FOLDER, make_folder, open_own


def start_detached(arguments: list[str], broker: BrokerConfig, chosen_log: Path | None) -> int:
    """Start `poold start` with these arguments in a session of its own; returns the exit code for this command.

    A log file that was chosen may be anything; one beside the broker's socket must be this user's own.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    log_file = chosen_log or _log_beside(broker.address)
    try:
        if chosen_log is not None:
            log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            log = os.open(log_file, flags, 0o600)
        else:
            # The folder is the socket's, and the first to need it makes it.
            make_folder(log_file.parent, OPEN_FOLDER if broker.has_lists else GROUP_FOLDER)
            log = open_own(log_file, flags)
    except OSError as error:
        click.echo(f"poold: cannot write the log {log_file}: {explained(error)}", err=True)
        return 1
    before = os.fstat(log).st_size
    # It opens the log by itself as well, to be able to do so again; to stderr goes what Python says of a crash.
    arguments = [*arguments, f"--log-file={log_file.absolute()}", *([] if chosen_log is not None else ["--own-log"])]
    ready, ready_end = os.pipe()
    with held_back_for_child():
        process = subprocess.Popen(
            [sys.executable, "-m", "poold", "start", *arguments, f"--ready-fd={ready_end}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[ready_end],
            start_new_session=True,
        )
    os.close(ready_end)
    os.close(log)
    with os.fdopen(ready) as pipe:
        announcement = pipe.read()
    if announcement:
        click.echo(printable_lines(announcement))
        click.echo(f"  log: {log_file}")
        # The broker goes on running; without this Popen would warn about a child that nobody waited for.
        process.returncode = 0
        return 0
    code = process.wait()
    said = log_file.read_bytes()[before:].decode(errors="replace").strip()
    said = said or f"poold: the broker ended with code {code} and said nothing; see {log_file}"
    click.echo(printable_lines(said), err=True)
    return code or 1


def _log_beside(address: str) -> Path:
    """Return the log of a broker at this address: beside its socket, else in this user's default folder."""
    socket = ipc_path(address)
    if socket is None:
        return runtime_dir() / f"poold-{address.rpartition(':')[2]}.log"
    return socket.with_suffix(".log") if socket.suffix != ".log" else socket.with_name(f"{socket.name}.log")
