"""What a prepared statement costs the broker, by libpq through ctypes and by `poold.postgres.wire`.

    .venv/bin/python scripts/benchmark/libpq.py

Both send 16 point selects in one pipeline on a connection that psycopg2 opened, and take the rows of their results as
bytes; counted is this process's processor time. Then the same for one result of 1,000 rows of 10 columns.
"""

import ctypes
import os
import socket
import tempfile
import time
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_void_p
from pathlib import Path
from statistics import median
from typing import Any

import psycopg2
from psycopg2 import _psycopg

from poold.core.effects import Bind, Prepare
from poold.embedded.server import EmbeddedPostgres
from poold.postgres.parameter_status import ParameterStatus
from poold.postgres.wire import Wire

DEPTH = 16
ROUNDS = 7
SMALL = "SELECT abalance FROM accounts WHERE aid = $1"
LARGE = "SELECT n, n, n, n, n, n, n, n, n, n FROM generate_series(1, 1000) AS n WHERE n >= $1"
TYPES = b"\0\0\0\x17"


def libpq(connection: Any, sql: str) -> Callable[[int], int]:
    """Runs that many selects in one pipeline and returns the number of cells read."""
    library: Any = ctypes.PyDLL(_psycopg.__file__)
    for name, arguments, result in (
        ("PQenterPipelineMode", [c_void_p], c_int),
        ("PQsendPrepare", [c_void_p, c_char_p, c_char_p, c_int, c_void_p], c_int),
        ("PQsendQueryPrepared", [c_void_p, c_char_p, c_int, c_void_p, c_void_p, c_void_p, c_int], c_int),
        ("PQsendPipelineSync", [c_void_p], c_int),
        ("PQpipelineSync", [c_void_p], c_int),
        ("PQflush", [c_void_p], c_int),
        ("PQgetResult", [c_void_p], c_void_p),
        ("PQresultStatus", [c_void_p], c_int),
        ("PQntuples", [c_void_p], c_int),
        ("PQnfields", [c_void_p], c_int),
        ("PQcmdStatus", [c_void_p], c_char_p),
        ("PQgetvalue", [c_void_p, c_int, c_int], c_char_p),
        ("PQclear", [c_void_p], None),
    ):
        getattr(library, name).argtypes = arguments
        getattr(library, name).restype = result
    handle = connection.pgconn_ptr
    library.PQenterPipelineMode(handle)
    library.PQsendPrepare(handle, b"it", sql.encode(), 0, None)
    library.PQpipelineSync(handle)
    for _ in range(3):
        library.PQclear(library.PQgetResult(handle))
    values = (c_char_p * 1)(b"1")

    def run(depth: int) -> int:
        for _ in range(depth):
            library.PQsendQueryPrepared(handle, b"it", 1, values, None, None, 0)
            library.PQsendPipelineSync(handle)
        library.PQflush(handle)
        cells = 0
        for _ in range(depth):
            result = library.PQgetResult(handle)
            library.PQresultStatus(result)
            library.PQcmdStatus(result)
            rows, columns = library.PQntuples(result), library.PQnfields(result)
            cells += len([library.PQgetvalue(result, row, column) for row in range(rows) for column in range(columns)])
            library.PQclear(result)
            library.PQgetResult(handle)  # the end of this one's results
            library.PQclear(library.PQgetResult(handle))  # its Sync
        return cells

    return run


def pgwire(connection: Any, sql: str) -> Callable[[int], int]:
    """The same by the broker's own protocol; rows are counted, not taken apart."""
    wire = Wire(1 << 30, ParameterStatus(connection.get_parameter_status))
    channel = socket.socket(fileno=os.dup(connection.fileno()))
    channel.setblocking(True)
    unit = (Bind(b"it", 1, b"\0\0\0\x011"),)

    def send() -> None:
        channel.sendall(b"".join(wire.outbox))
        wire.outbox.clear()

    def run(depth: int) -> int:
        for _ in range(depth):
            wire.send(unit)
        send()
        rows = 0
        while wire.units:
            rows += sum(done.results[0][1] for done in wire.received(channel.recv(65536)))
        return rows

    wire.send((Prepare(b"it", sql.encode(), TYPES),))
    send()
    while wire.units:
        wire.received(channel.recv(65536))
    return run


def microseconds(run: Callable[[int], int], depth: int, times: int) -> float:
    """Processor time of this process for one statement."""
    begin = time.process_time()
    for _ in range(times):
        run(depth)
    return (time.process_time() - begin) / (times * depth) * 1e6


def main() -> None:
    """Show both, in alternating rounds."""
    with tempfile.TemporaryDirectory(prefix="poold-wire-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder) / "postgresql")
        server.start()
        try:
            connection = psycopg2.connect(server.dsn())
            connection.autocommit = True
            connection.cursor().execute(
                "CREATE TABLE accounts AS SELECT n AS aid, n AS abalance FROM generate_series(1, 9) n"
            )
            for name, sql, depth, times in (("1 row x 1", SMALL, DEPTH, 500), ("1,000 rows x 10", LARGE, 1, 30)):
                connections = [psycopg2.connect(server.dsn()) for _ in range(2)]
                ways = {way.__name__: way(each, sql) for way, each in zip((libpq, pgwire), connections, strict=True)}
                found: dict[str, list[float]] = {way: [] for way in ways}
                for _ in range(ROUNDS):
                    for way, run in ways.items():
                        found[way].append(microseconds(run, depth, times))
                for way, rounds in found.items():
                    print(f"{name}: {way} {median(rounds):.1f} us")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
