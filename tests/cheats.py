"""A server, or who is in its place, that logs anybody in and then answers statements with whatever the test says.

It has what poold asks for at the start, so it is used; what it answers afterwards need not be PostgreSQL's protocol.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

REPORTED = {
    "server_version": "16.2",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "standard_conforming_strings": "on",
    "integer_datetimes": "on",
}
# name: value and unit, as the answer to poold.postgres.startup.QUESTION.
SETTINGS = {
    "statement_timeout": ("5000", "ms"),
    "temp_buffers": ("16384", "8kB"),
    "standard_conforming_strings": ("on", None),
    "intervalstyle": ("postgres", None),
    "client_encoding": ("UTF8", None),
    "client_connection_check_interval": ("5000", "ms"),
    "datestyle": ("ISO, MDY", None),
}
READY = b"Z\0\0\0\5I"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def tag(text: bytes) -> bytes:
    return message(b"C", text + b"\0")


def described(*columns: tuple[bytes, int]) -> bytes:
    """RowDescription: names and type OIDs."""
    fields = b"".join(name + b"\0" + struct.pack("!IhIhih", 0, 0, oid, -1, -1, 0) for name, oid in columns)
    return message(b"T", struct.pack("!H", len(columns)) + fields)


def row(*cells: bytes | None) -> bytes:
    body = b"".join(struct.pack("!i", -1) if c is None else struct.pack("!i", len(c)) + c for c in cells)
    return message(b"D", struct.pack("!H", len(cells)) + body)


def error(text: bytes, code: bytes = b"XX000", severity: bytes = b"ERROR") -> bytes:
    return message(b"E", b"S%b\0V%b\0C%b\0M%b\0\0" % (severity, severity, code, text))


def notice(text: bytes, more: bytes = b"") -> bytes:
    return message(b"N", b"SNOTICE\0VNOTICE\0C00000\0M%b\0%b\0" % (text, more))


SETTINGS_ANSWER = (
    described(*((name, 25) for name in (b"n", b"setting", b"unit", b"reset_val", b"source", b"hidden")))
    + b"".join(
        row(name.encode(), value.encode(), unit and unit.encode(), value.encode(), b"client", None)
        for name, (value, unit) in SETTINGS.items()
    )
    + tag(b"SELECT 7")
    + READY
)
# Nothing is prepared.
RESET_ANSWER = described((b"names", 25)) + row(b"0 0") + tag(b"SELECT 1") + READY


class CheatingServer:
    """Listens on a unix socket in the folder. answer gives what is sent for a statement that has `cheat` in it."""

    def __init__(self, folder: Path) -> None:
        self.answer: Callable[[], bytes] = lambda: tag(b"SELECT 0") + READY
        self.parameters: dict[str, Any] = {"host": str(folder), "dbname": "x", "user": "x", "sslmode": "disable"}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            hello = b"".join(message(b"S", f"{name}\0{value}\0".encode()) for name, value in REPORTED.items())
            connection.sendall(message(b"R", bytes(4)) + hello + message(b"K", bytes(8)) + READY)
            while asked := connection.recv(1 << 20):
                if b"pg_show_all_settings" in asked:
                    connection.sendall(SETTINGS_ANSWER)
                elif b"RESET ALL" in asked:  # two messages, one behind the other
                    while b"DISCARD SEQUENCES" not in asked:
                        asked += connection.recv(1 << 20)
                    connection.sendall(tag(b"RESET") + READY + RESET_ANSWER)
                elif asked[:1] != b"X":
                    connection.sendall(self.answer() if b"cheat" in asked else tag(b"SELECT 0") + READY)
