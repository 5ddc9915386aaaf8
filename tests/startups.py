"""What may be between a broker and PostgreSQL and does not pass the startup on as it came."""

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
from postgres import Postgres
from psycopg2.extensions import make_dsn
from waiting import wait_until

from poold.embedded.programs import Account

VERSION = struct.pack("!I", 3 << 16)  # of the protocol, with which a startup begins
Startup = dict[bytes, bytes]

BOUNCER = """\
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
unix_socket_dir = {folder}
listen_port = 5432
auth_type = any
pool_mode = session
ignore_startup_parameters = {ignored}
"""


@contextlib.contextmanager
def altered(server: Postgres, folder: Path, change: Callable[[Startup], Startup]) -> Iterator[dict[str, Any]]:
    """Passes connections on to the server, each with its startup changed; gives where to connect to."""
    to = server.parameters
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / ".s.PGSQL.5432"))
        listener.listen()
        threading.Thread(target=_serve, args=(listener, to, change), daemon=True).start()
        try:
            yield {**to, "host": str(folder), "port": 5432}
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, to: dict[str, Any], change: Callable[[Startup], Startup]) -> None:
    while True:
        try:
            front, _ = listener.accept()
        except OSError:
            return
        (size,) = struct.unpack("!I", front.recv(4, socket.MSG_WAITALL))
        packet = front.recv(size - 4, socket.MSG_WAITALL)
        if packet.startswith(VERSION):
            words = packet[4:-2].split(b"\0")
            changed = change(dict(zip(words[::2], words[1::2], strict=True)))
            packet = VERSION + b"".join(b"%b\0%b\0" % pair for pair in changed.items()) + b"\0"
        if str(to["host"]).startswith("/"):
            back = socket.socket(socket.AF_UNIX)
            back.connect(f"{to['host']}/.s.PGSQL.{to['port']}")
        else:
            back = socket.create_connection((to["host"], to["port"]))
        back.sendall(struct.pack("!I", len(packet) + 4) + packet)
        threading.Thread(target=_pass_on, args=(front, back), daemon=True).start()


def _pass_on(front: socket.socket, back: socket.socket) -> None:
    with front, back:
        answers = threading.Thread(target=_forward, args=(back, front), daemon=True)
        answers.start()
        _forward(front, back)
        answers.join()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def bouncer_program() -> str | None:
    """The pgbouncer that is installed, or is for root by apt-get, as for the benchmark; None where there is none."""
    place = "/usr/sbin/pgbouncer"  # Debian's, which is not on every PATH
    found = shutil.which("pgbouncer") or shutil.which(place)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "pgbouncer"], capture_output=True, check=False)
        found = shutil.which("pgbouncer") or shutil.which(place)
    return found


@contextlib.contextmanager
def bouncer(program: str, server: Postgres, folder: Path, ignored: str) -> Iterator[dict[str, Any]]:
    """A PgBouncer in front of the server that ignores these startup parameters; gives where to connect to."""
    account = Account.for_server()
    config = folder / "pgbouncer.ini"
    config.write_text(BOUNCER.format(folder=folder, ignored=ignored, **server.parameters))
    config.chmod(0o644)
    folder.chmod(0o755)
    account.give(folder)
    command = [program, "-q", str(config)]
    there = {**server.parameters, "host": str(folder), "port": 5432}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, **account.identity) as process:
        try:
            wait_until(lambda: _answers(there) or process.poll() is not None, what="pgbouncer")
            yield there
        finally:
            process.terminate()


def _answers(there: dict[str, Any]) -> bool:
    try:
        psycopg2.connect(make_dsn(**{name: there[name] for name in ("host", "port", "dbname", "user")})).close()
    except psycopg2.OperationalError:
        return False
    return True
