"""What a server says of one of its processes when it is asked by another connection."""

import asyncio
import threading

import psycopg2
from postgres import Postgres
from waiting import wait_until

from poold.config.model import EndpointConfig
from poold.postgres.connect import Doing, Learned, doing


def asked(postgres: Postgres, pid: int) -> Doing:
    return asyncio.run(doing(EndpointConfig(**postgres.parameters), Learned(), pid))


def test_what_a_process_does_for_its_client(postgres: Postgres) -> None:
    connection = psycopg2.connect(**postgres.parameters)
    pid = connection.get_backend_pid()
    cursor = connection.cursor()
    cursor.execute("CREATE TEMP TABLE t (line text)")
    assert asked(postgres, pid) is Doing.IDLE, "in a transaction"

    running = threading.Thread(target=lambda: suppressed(cursor, "SELECT pg_sleep(60)"))
    running.start()
    wait_until(lambda: asked(postgres, pid) is Doing.WORKING, what="the statement to run")
    connection.cancel()
    running.join()
    connection.rollback()

    goes_on = threading.Event()
    copying = threading.Thread(target=lambda: cursor.copy_expert("COPY pg_temp.t FROM STDIN", Slow(goes_on)))
    cursor.execute("CREATE TEMP TABLE t (line text)")
    copying.start()
    wait_until(lambda: asked(postgres, pid) is Doing.WAITING, what="the COPY to wait for data")
    goes_on.set()
    copying.join()

    connection.close()
    wait_until(lambda: asked(postgres, pid) is Doing.IDLE, what="the process to be gone")


def suppressed(cursor: "psycopg2.extensions.cursor", sql: str) -> None:
    """It is cancelled."""
    try:
        cursor.execute(sql)
    except psycopg2.errors.QueryCanceled:
        pass


class Slow:
    """A file that ends when it is told to."""

    def __init__(self, goes_on: threading.Event) -> None:
        self._goes_on = goes_on

    def read(self, _size: int = -1) -> str:
        assert self._goes_on.wait(60)
        return ""

    def readline(self, _size: int = -1) -> str:
        return self.read()
