"""A child that was forked while another thread was in the middle of a call of a dbapi connection."""

from collections.abc import Callable
from typing import Any

import pytest
from brokers import Broker, Worker

# A thread waits for a lock of PostgreSQL's on the connection, and the child does what the second argument says.
PROGRAM = """
import gc, threading, warnings
from client import dbapi

ACTIVE = dbapi.extensions.TRANSACTION_STATUS_ACTIVE
kind, what = sys.argv[1:]

def one(statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]

def done(call):
    try:
        return repr(call())
    except dbapi.Error as error:
        return f"{type(error).__name__}: {error}"

def dropped():
    global connection, one
    del connection, one
    gc.collect()

other = dbapi.connect()
other.cursor().execute("SELECT pg_advisory_xact_lock(4712)")
connection = dbapi.connect(session=kind == "session", autocommit=kind == "autocommit")
if kind == "begun":
    one("SELECT 1")
CALLS = {
    "execute": lambda: one("SELECT 5"),
    "executemany": lambda: connection.cursor().executemany("SELECT %s", [(1,), (2,)]),
    "copy": lambda: connection.cursor().copy_expert("COPY (SELECT 1) TO STDOUT", open(os.devnull, "w")),
    "rollback": lambda: connection.rollback(),
    "set_session": lambda: connection.set_session(readonly=False),
    "cancel": lambda: connection.cancel(),
    "status": lambda: connection.get_transaction_status() == ACTIVE,
    "close": lambda: (connection.close(), connection.closed),
    "drop": dropped,
}
results = []
thread = threading.Thread(target=lambda: results.append(one("SELECT 7 FROM pg_advisory_xact_lock(4712)")))
thread.start()
while connection.get_transaction_status() != ACTIVE:
    time.sleep(0.001)
warnings.simplefilter("ignore", DeprecationWarning)
child = os.fork()
if child == 0:
    tell(done(CALLS[what]))
    os._exit(0)
os.waitpid(child, 0)
other.rollback()
thread.join()
tell(results)
connection.rollback()
tell(one("SELECT 8"))
"""
OF_PARENT = "belongs to the parent process; connect anew in the child"
# What the child is told, by the kind of connection.
EXPECTED: dict[str, dict[str, str]] = {
    "execute": {"autocommit": "5", "begun": OF_PARENT, "first": OF_PARENT, "session": OF_PARENT},
    "executemany": {"autocommit": "None", "begun": OF_PARENT, "first": OF_PARENT, "session": OF_PARENT},
    "copy": {"autocommit": "None", "begun": OF_PARENT, "first": OF_PARENT, "session": OF_PARENT},
    "rollback": {"autocommit": "None", "begun": OF_PARENT, "first": OF_PARENT},
    "set_session": {"autocommit": "None", "begun": "inside a transaction", "first": "inside a transaction"},
    "cancel": {"autocommit": "None", "begun": "None", "first": "None", "session": "None"},
    "status": {"autocommit": "False", "begun": "False", "first": "False", "session": "False"},
    "close": {"autocommit": "(None, 1)", "begun": "(None, 1)", "first": "(None, 1)", "session": "(None, 1)"},
    "drop": {"autocommit": "None", "begun": "None", "first": "None", "session": "None"},
}


@pytest.mark.parametrize(
    ("what", "kind", "told"), [(what, kind, told) for what, kinds in EXPECTED.items() for kind, told in kinds.items()]
)
def test_a_child_does_not_wait_for_a_thread_of_its_parents(
    broker: Broker, start_worker: Callable[..., Worker], what: str, kind: str, told: str
) -> None:
    heard: list[Any] = start_worker(PROGRAM, kind, what).finish()
    assert told in heard[0]
    assert heard[1:] == [[7], 8]
