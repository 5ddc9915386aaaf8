"""COPY from and to a program's files, as psycopg2 treats these; each test of sinks and errors runs on psycopg2 too."""

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from postgres import Postgres

from client import dbapi

CLEAN_UP = "DROP TABLE IF EXISTS stopped"
ROWS = "COPY (SELECT repeat('äx€', 5), id FROM generate_series(1, 20000) AS id) TO STDOUT"
TEXT = "".join(f"{'äx€' * 5}\t{number}\n" for number in range(1, 20001))


@pytest.fixture(params=["psycopg2", "plain", "session"])
def connection(request: pytest.FixtureRequest, broker: Broker, postgres: Postgres) -> Iterator[Any]:
    if request.param == "psycopg2":
        made = postgres.connect()
        made.autocommit = False
    else:
        made = dbapi.connect(broker.address, session=request.param == "session")
    yield made
    made.close()


class Sink:
    """Takes all of each piece, and returns what `say` makes of the piece and of the size of all."""

    def __init__(self, say: Callable[[Any, int], Any]) -> None:
        self.data = b""
        self._say = say

    def write(self, piece: Any) -> Any:
        self.data += piece.encode() if isinstance(piece, str) else piece
        return self._say(piece, len(self.data))


class TextSink(Sink, io.TextIOBase):
    """One that is a text file."""


@pytest.mark.parametrize("kind", [Sink, TextSink])
@pytest.mark.parametrize(
    "say",
    [
        lambda piece, _: len(piece if isinstance(piece, str) else piece.decode(errors="replace")) // 2,
        lambda _, size: size,
        lambda *_: 0,
        lambda *_: -1,
        lambda *_: 1,
        lambda *_: 1.0,
        lambda *_: None,
        lambda *_: "written",
    ],
    ids=["characters", "running-total", "nothing", "below", "one", "no-int", "none", "word"],
)
def test_what_write_returns_says_nothing(connection: Any, kind: type[Sink], say: Callable[[Any, int], Any]) -> None:
    with connection.cursor() as cursor:
        sink = kind(say)
        cursor.copy_expert(ROWS, sink)
        assert sink.data.decode() == TEXT
        cursor.execute("CREATE TEMP TABLE copied AS SELECT n FROM generate_series(1, 3) n")
        sink = kind(say)
        cursor.copy_to(sink, "copied")
        assert sink.data == b"1\n2\n3\n"


@pytest.mark.parametrize("wrap", [False, True])
def test_what_a_file_without_a_buffer_has_not_taken_is_written_again(broker: Broker, wrap: bool) -> None:
    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[:1000])

    with tempfile.NamedTemporaryFile(buffering=0) as named:
        raw = Raw(named.name, "w")
        if wrap:
            named.file.close()
            named.file = raw  # type: ignore[attr-defined]
        with raw, dbapi.connect(broker.address) as connection, connection.cursor() as cursor:
            cursor.copy_expert(ROWS, named if wrap else raw)
        assert Path(named.name).read_bytes().decode() == TEXT


def test_a_pipe_that_does_not_block_and_is_full_is_an_error(broker: Broker) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading, "rb", 0), os.fdopen(writing, "wb", 0) as file, dbapi.connect(broker.address) as connection:
        with connection.cursor() as cursor, pytest.raises(BlockingIOError):
            cursor.copy_expert(ROWS, file)
        connection.rollback()


def test_an_asynchronous_write_is_refused(broker: Broker) -> None:
    class Later:
        async def write(self, _data: bytes) -> None: ...

    with dbapi.connect(broker.address) as connection:
        with connection.cursor() as cursor, pytest.raises(TypeError, match="to be awaited"):
            cursor.copy_expert(ROWS, Later())
        connection.rollback()


def test_a_copy_that_failed_leaves_no_word_of_the_one_before(connection: Any) -> None:
    def failing(*_: Any) -> Any:
        raise LookupError("its own")

    class Source:
        read = staticmethod(failing)

    calls: dict[str, Callable[[Any], Any]] = {
        "of the server": lambda cursor: cursor.copy_expert("COPY missing TO STDOUT", io.StringIO()),
        "of the data": lambda cursor: cursor.copy_expert("COPY copied FROM STDIN", io.StringIO("x\n")),
        "of the sink": lambda cursor: cursor.copy_expert("COPY copied TO STDOUT", Sink(failing)),
        "of the source": lambda cursor: cursor.copy_expert("COPY copied FROM STDIN", Source()),
    }
    for what, call in calls.items():
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE copied AS SELECT n FROM generate_series(1, 3) n")
            with pytest.raises((LookupError, theirs.DatabaseError)):
                call(cursor)
            assert (cursor.statusmessage, cursor.rowcount) == ("", -1), what
            connection.rollback()


class Stopping:
    """A file whose read() fails in the middle, by an exception with which iterators end."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.parts = ["1\n"]

    def read(self, size: int) -> str:
        if not self.parts:
            raise self.error
        return self.parts.pop()


@pytest.mark.parametrize("error", [StopIteration("own"), StopAsyncIteration(), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("autocommit", [True, False])
def test_an_exception_that_ends_iterators_is_raised_as_it_is(
    broker: Broker, error: BaseException, autocommit: bool
) -> None:
    connection = dbapi.connect(broker.address, autocommit=autocommit)
    cursor = connection.cursor()
    cursor.execute("DROP TABLE IF EXISTS stopped; CREATE TABLE stopped (id int)")
    connection.commit()
    with pytest.raises(type(error)) as caught:
        cursor.copy_expert("COPY stopped FROM STDIN", Stopping(error))
    assert caught.value is error
    connection.rollback()
    cursor.execute("SELECT count(*) FROM stopped")
    assert cursor.fetchone() == (0,)
    connection.rollback()
    connection.close()


@pytest.mark.parametrize("autocommit", [True, False])
def test_several_statements_with_a_copy_are_refused(broker: Broker, autocommit: bool) -> None:
    connection = dbapi.connect(broker.address, autocommit=autocommit)
    with pytest.raises(theirs.InterfaceError, match="several statements"):
        connection.cursor().copy_expert("COPY pg_class FROM STDIN; SELECT 1", io.StringIO(""))
    connection.close()


@pytest.mark.parametrize("way", ["copy_from", "copy_to"])
@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (("t", "|", "N"), None, ""),
        ((1,), TypeError, "argument 2 must be str, not int"),
        ((None,), TypeError, "argument 2 must be str, not None"),
        ((b"t",), TypeError, "argument 2 must be str, not bytes"),
        (("t", 1), TypeError, "argument 3 must be str, not int"),
        (("t", "|", None), TypeError, "argument 4 must be str, not None"),
    ],
)
def test_a_tables_words_are_text(
    connection: Any, way: str, arguments: tuple[Any, ...], kind: type[Exception] | None, text: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE t (a int)")
        if kind is None:
            getattr(cursor, way)(io.StringIO(), *arguments)
            return
        with pytest.raises(kind) as caught:
            getattr(cursor, way)(io.StringIO(), *arguments)
    assert str(caught.value) == text


@pytest.mark.parametrize("way", ["copy_from", "copy_to"])
@pytest.mark.parametrize(
    ("columns", "kind", "text"),
    [
        (["a", b"b AS %s"], None, '("a","b AS %s")'),
        ("a", None, '("a")'),
        ({"a": 1}, None, '("a")'),
        ([1], TypeError, "Expected bytes or unicode string, got int instead"),
        (["a", None], TypeError, "Expected bytes or unicode string, got NoneType instead"),
        (b"a", TypeError, "Expected bytes or unicode string, got int instead"),
        ([bytearray(b"a")], TypeError, "Expected bytes or unicode string, got bytearray instead"),
        (5, TypeError, "'int' object is not iterable"),
        ([b"\xff"], theirs.InterfaceError, ""),
        ([], theirs.ProgrammingError, 'syntax error at or near ")"'),
        ("", theirs.ProgrammingError, 'syntax error at or near ")"'),
    ],
)
def test_columns_are_names(connection: Any, way: str, columns: Any, kind: type[Exception] | None, text: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute('CREATE TEMP TABLE t (a int, "b AS %s" int)')
        if kind is None:
            getattr(cursor, way)(io.StringIO(), "t", columns=columns)
            assert text in cursor.query.decode().replace(", ", ",")
            return
        with pytest.raises(kind) as caught:
            getattr(cursor, way)(io.StringIO(), "t", columns=columns)
    assert text in str(caught.value)
