"""Programs in which something else has changed what the client stands on: gevent, tracing agents, no place to write."""

import importlib.util
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from brokers import Worker

from client.values import offline

StartWorker = Callable[..., Worker]

# Greenlets that ask at once on one Handler, transactions of several, one that is used by two, and a time limit.
GREEN = """
from client import DBError, Handler, UsageError
import client.channels.sockets
tell(client.channels.sockets._SOCKET.__name__)

db = Handler()
def ask(number):
    assert db.query("SELECT %s, pg_sleep(0.05)", (number,))[0][0] == number
    text = str(number) * 100_000
    return db.query("SELECT %s::text", (text,))[0][0] == text
began = time.monotonic()
tell(all(run(ask, range(20))))

def book(number):
    with Handler("transactions") as tx:
        tx.query("CREATE TEMP TABLE mine ON COMMIT DROP AS SELECT %s AS n", (number,))
        pause()
        return tx.query("SELECT n FROM mine, pg_sleep(0.02)")[0][0]
tell(run(book, range(8)))

# While one waits others run: the broker's pools have 4 backends each.
tell(run(lambda number: db.query("SELECT pg_sleep(0.5)") and ticks.append(number), range(4)) and len(ticks) == 4)

tx = Handler("transactions")
tx.query("SELECT 1")
def use(number):
    try:
        return tx.query("SELECT 'mine', pg_sleep(0.2)")[0][0]
    except UsageError as error:
        return "refused" if "in the middle of a call" in str(error) else str(error)
tell(sorted(run(use, range(2))))
tx.rollback()

def late(_):
    limit = begin(0.2)
    try:
        db.query("SELECT pg_sleep(5)")
    except Timeout as error:
        return error is limit
    finally:
        limit.cancel()
tell(run(late, range(3)))
try:
    db.query("SELECT pg_sleep(5)", timeout=0.2)
except DBError as error:
    tell(error.pgcode)
tell(run(lambda number: db.query("SELECT %s", (number,))[0][0], range(3)))
"""
PRELUDES = {
    "gevent": """
from gevent import monkey
monkey.patch_all()
import gevent
Timeout, begin, ticks = gevent.Timeout, gevent.Timeout.start_new, []
def run(work, numbers):
    jobs = [gevent.spawn(work, number) for number in numbers]
    gevent.joinall(jobs, raise_error=True)
    return [job.value for job in jobs]
pause = lambda: gevent.sleep(0)
""",
    "eventlet": """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
Timeout, begin, ticks = eventlet.Timeout, eventlet.Timeout, []
def run(work, numbers):
    jobs = [eventlet.spawn(work, number) for number in numbers]
    return [job.wait() for job in jobs]
pause = lambda: eventlet.sleep(0)
""",
}


@pytest.mark.parametrize("library", PRELUDES)
def test_greenlets_have_their_own_answers_and_wait_for_one_another(start_worker: StartWorker, library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    worker = start_worker(PRELUDES[library] + GREEN)
    told = worker.finish()
    assert told == [
        "GreenSocket",
        True,
        list(range(8)),
        True,
        ["mine", "refused"],
        [True] * 3,
        "57014",
        [0, 1, 2],
    ]


# What all of these must print: values as they are without an agent.
READING = r"""
import datetime, decimal, psycopg2.extras, psycopg2.sql
from client import Handler
db = Handler()
sql = '''SELECT 'text'::text, 5::int8, 1.50::numeric, DATE '2024-01-02', ARRAY['a', NULL], '{"a": 1}'::jsonb, NULL'''
tell(repr(tuple(db.query(sql)[0])))
tell(repr(tuple(db.query("SELECT n, n::text, n::numeric FROM generate_series(1, 300) n").fetchall()[299])))
sql = psycopg2.sql.SQL("SELECT %s AS {}").format(psycopg2.sql.Identifier('a "b"'))
tell(db.query(sql, ("it's \\",)).fetchone()['a "b"'])
tell(db.query("SELECT %s", (psycopg2.extras.Json({"a": "b'"}),))[0][0])
tell([each.type_code for each in db.query("SELECT 1 AS a, 'x'::text AS b").description])
"""
VALUES: list[Any] = [
    "('text', 5, Decimal('1.50'), datetime.date(2024, 1, 2), ['a', None], {'a': 1}, None)",
    "(300, '300', Decimal('300'))",
    "it's \\",
    '{"a": "b\'"}',
    [23, 25],
]
# As agents do: what connect gives, and its cursors, are proxies; the functions that take a connection unwrap it.
PROXIES = """
import psycopg2, psycopg2.extensions
real, register, quote = psycopg2.connect, psycopg2.extensions.register_type, psycopg2.extensions.quote_ident
class Proxy:
    __slots__ = ("wrapped",)
    def __init__(self, wrapped):
        self.wrapped = wrapped
    def __getattr__(self, name):
        return getattr(self.wrapped, name)
class Connection(Proxy):
    __slots__ = ()
    def cursor(self, *arguments, **more):
        return Proxy(self.wrapped.cursor(*arguments, **more))
def bare(scope):
    while isinstance(scope, Proxy):
        scope = scope.wrapped
    return scope
psycopg2.connect = lambda *arguments, **more: Connection(real(*arguments, **more))
psycopg2.extensions.register_type = lambda kind, scope=None: register(kind, bare(scope)) if scope else register(kind)
psycopg2.extensions.quote_ident = lambda text, scope: quote(text, bare(scope))
"""
# A cursor class of the agent's own, as cursor_factory, for every connection that connect makes.
FACTORY = """
import psycopg2, psycopg2.extensions
real = psycopg2.connect
class Cursor(psycopg2.extensions.cursor):
    def execute(self, *arguments):
        raise RuntimeError("traced")
class Connection(psycopg2.extensions.connection):
    def cursor(self, *arguments, **more):
        raise RuntimeError("traced")
ours = {"connection_factory": Connection, "cursor_factory": Cursor}
psycopg2.connect = lambda *arguments, **more: real(*arguments, **ours, **more)
"""
NONE_AT_ALL = """
import psycopg2
def connect(*_, **__):
    raise RuntimeError("nobody connects by this")
psycopg2.connect = connect
"""
DDTRACE = """
import warnings
warnings.simplefilter("ignore")
import ddtrace
ddtrace.patch(psycopg=True)
import psycopg2
assert hasattr(psycopg2.connect, "__wrapped__"), "it is not traced"
"""


@pytest.mark.parametrize("agent", ["", PROXIES, FACTORY, NONE_AT_ALL], ids=["none", "proxies", "factories", "refusal"])
def test_values_are_the_same_under_a_tracing_agent(start_worker: StartWorker, agent: str) -> None:
    assert start_worker(agent + READING).finish() == VALUES


def test_values_are_the_same_under_ddtrace(start_worker: StartWorker) -> None:
    if importlib.util.find_spec("ddtrace") is None:
        pytest.skip("ddtrace is not installed")
    off = {"DD_TRACE_ENABLED": "false", "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"}
    assert start_worker(DDTRACE + READING, **off).finish() == VALUES


def test_a_worker_needs_no_place_to_write(start_worker: StartWorker) -> None:
    # tempfile would take the current folder where it finds no other.
    nowhere = "import tempfile\ndef none(*_, **__):\n    raise OSError('read only')\ntempfile.mkdtemp = none\n"
    assert start_worker(nowhere + READING, TMPDIR="/nonexistent").finish() == VALUES


def test_a_worker_does_not_take_libpqs_settings_from_the_environment_for_its_own(start_worker: StartWorker) -> None:
    settings = {
        "PGHOSTADDR": "192.0.2.1",
        "PGOPTIONS": "-c no=such",
        "PGCHANNELBINDING": "require",
        "PGTARGETSESSIONATTRS": "read-write",
        "PGREQUIREPEER": "nobody-like-that",
        "PGREQUIREAUTH": "scram-sha-256",
    }
    assert start_worker(READING, **settings).finish() == VALUES


KNOCK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as stranger:
    stranger.connect(chr(0) + sys.argv[1])
    print(stranger.recv(9))
"""


def test_a_stranger_who_connects_first_is_not_taken_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # The name is in no folder, so anybody may connect to it. Two do, before libpq.
    real, strangers = offline._met, []

    def met(host: str, listener: Any, *more: Any) -> Any:
        if host.startswith("@") and len(strangers) < 2:
            listener.listen(1)
            name = f"{host[1:]}/.s.PGSQL.1"
            strangers.append(subprocess.Popen([sys.executable, "-c", KNOCK, name], stdout=subprocess.PIPE, text=True))
            assert select.select([listener], [], [], 20)[0]
        return real(host, listener, *more)

    monkeypatch.setattr(offline, "_met", met)
    connection, server = offline.connect_to_nowhere()
    pid = int.from_bytes(server.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder)
    server.close()
    connection.close()
    assert (pid, len(strangers)) == (os.getpid(), 2)
    for stranger in strangers:
        assert stranger.communicate(timeout=20)[0] == "b''\n", "it was told something"
