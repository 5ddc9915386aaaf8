"""Judging this machine: addresses, files with secrets, the folder of timelines, the limit of open files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from client.wire.address import folder_trap, ipc_path, runtime_dir
from poold.config.descriptors import backends, objection, others, room
from poold.config.model import Config
from poold.config.permissions import exposed_files
from poold.operations.findings import OK, PROBLEM, WARNING, Finding
from poold.system.address_claim import is_claimed
from poold.system.descriptors import limit
from poold.system.tcp_listener import listening_socket
from poold.system.timelines import default_folder


def exposures(config: Config, config_file: Path) -> Iterator[Finding]:
    """Look for files with passwords that others can read."""
    for text in exposed_files(config, config_file):
        what, _, advice = text.rpartition("; ")
        yield Finding("secrets", WARNING, what, advice)


def host_findings(config: Config) -> Iterator[Finding]:
    """Look at what the broker would find here if this user started it. Nothing is made or changed."""
    path = ipc_path(config.broker.address)
    if path is not None:
        yield from _socket_folder(config, path)
    if any(len(group.endpoints) > 1 or group.wanted != "any" for group in config.groups.values()):
        state = config.broker.state_dir
        yield _writable("state_dir", Path(state) if state else default_folder(), "timelines are forgotten at a restart")
    if config.broker.metrics_address is not None and not is_claimed(config.broker.address):
        yield _metrics(config.broker.metrics_address)
    yield _descriptors(config)


def _socket_folder(config: Config, path: Path) -> Iterator[Finding]:
    subject, folder = "address", path.parent
    if is_claimed(config.broker.address):
        yield Finding(subject, OK, f"a broker runs at {config.broker.address}")
        return
    if folder == runtime_dir() and (trap := folder_trap(folder)) is not None:
        yield Finding(subject, PROBLEM, trap, "remove the folder, or choose another address")
        return
    try:
        mode = folder.stat().st_mode
    except OSError:
        mode = 0  # it is to be made
    if mode & stat.S_IWOTH:
        is_sticky = bool(mode & stat.S_ISVTX)
        text = f"anybody may write in {folder}, and pose as a broker that is {'down' if is_sticky else 'there'}"
        yield Finding(subject, WARNING if is_sticky else PROBLEM, text, "choose a folder of the broker's own")
    yield _writable(subject, folder, "the broker cannot make its socket")


def _writable(subject: str, folder: Path, consequence: str) -> Finding:
    """Whether this user may write in the folder, or make it."""
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    who = f"user {os.geteuid()}"
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Finding(subject, OK, f"{who} may {'write in' if there == folder else 'make'} {folder}")
    found = there.stat()
    text = (
        f"{who} may not write in {there} (user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}): {consequence}"
    )
    advice = f"make {folder} for the broker's user, or run poold doctor as that user"
    return Finding(subject, PROBLEM, text if there.is_dir() else f"{there} is no folder: {consequence}", advice)


def _metrics(address: str) -> Finding:
    """Whether metrics could be served there; a broker that runs has shown it."""
    try:
        listening_socket("metrics_address", address).close()
    except OSError as error:
        text, _, advice = str(error).rpartition("; ")
        return Finding("metrics", PROBLEM, text, advice)
    return Finding("metrics", OK, f"metrics can be served at {address}")


def _descriptors(config: Config) -> Finding:
    """Each client and each backend is an open file; the broker raises the soft limit to the hard one."""
    subject, most, needed = "open files", limit(), backends(config.groups)
    text = f"the limit is {most}; backends need up to {needed}"
    if objection(config.broker, config.endpoints, config.groups):
        clients, own = config.broker.max_clients, others(config.endpoints)
        advice = "raise it: ulimit -n, LimitNOFILE= in systemd; or lower max_size and max_clients"
        return Finding(subject, PROBLEM, f"{text}, {clients} clients and the broker itself {clients + own}", advice)
    return Finding(subject, OK, f"{text}, which leaves room for {room(config.endpoints, config.groups)} clients")
