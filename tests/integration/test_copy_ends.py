"""Where a COPY's data goes to and comes from: any file or object gets all of it, or its program is told."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2.errors
import pytest

from client import Handler

ROWS = "COPY (SELECT repeat('äx€', 5), id FROM generate_series(1, 20000) AS id) TO STDOUT"
TEXT = "".join(f"{'äx€' * 5}\t{number}\n" for number in range(1, 20001))
DATA = TEXT.encode()
# More than any buffer takes.
ENDLESS = "COPY (SELECT generate_series(1, 100000000), repeat('x', 100)) TO STDOUT"


class Sink:
    """Takes what `take` says of a piece, and returns what `say` makes of that."""

    def __init__(self, take: Callable[[Any], Any], say: Callable[[Any], Any] = len) -> None:
        self.parts: list[Any] = []
        self._take, self._say = take, say

    def write(self, piece: Any) -> Any:
        taken = self._take(piece)
        self.parts.append(bytes(taken) if isinstance(taken, memoryview) else taken)
        return self._say(taken)


class TextSink(Sink):
    """One that takes text."""

    encoding = "utf-8"


class RawSink(io.RawIOBase):
    """A file without a buffer that takes at most so many bytes at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.parts: list[bytes] = []
        self._most = most

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.parts.append(bytes(data[: self._most]))
        return len(self.parts[-1])


class Appending:
    """A list as a file."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write = self.parts.append


class Number:
    """A number that is no int, as numpy's."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


def everything(piece: Any) -> Any:
    return piece


def some(piece: Any) -> Any:
    return piece[: max(1, len(piece) // 3)]


@pytest.mark.parametrize(
    "sink",
    [
        Sink(some),
        Sink(lambda piece: piece[:1000]),
        Sink(some, lambda taken: Number(len(taken))),
        Sink(everything),
        Sink(everything, lambda _: None),
        Sink(everything, lambda _: True),
        Sink(everything, lambda _: False),
        Sink(everything, lambda _: "written"),
        TextSink(some),
        TextSink(everything, lambda _: None),
        TextSink(everything, lambda taken: len(taken.encode())),
        RawSink(1000),
        RawSink(1 << 20),
        Appending(),
    ],
    ids=[
        "thirds", "parts", "no-int", "whole", "none", "true", "false", "word",
        "text-thirds", "text-none", "text-counted-as-bytes", "raw-parts", "raw-whole", "append",
    ],
)  # fmt: skip
def test_any_object_that_takes_the_data_gets_all_of_it(db: Handler, sink: Any) -> None:
    db.copy_out(ROWS, sink)
    joined = ("" if isinstance(sink, TextSink) else b"").join(sink.parts)  # type: ignore[attr-defined]  # of either
    assert joined == (TEXT if isinstance(sink, TextSink) else DATA)


@pytest.mark.parametrize("opened", [gzip.open, bz2.open, lzma.open, open], ids=["gzip", "bz2", "lzma", "plain"])
@pytest.mark.parametrize("mode", ["b", "t"])
def test_files_get_all_of_it(db: Handler, tmp_path: Path, opened: Any, mode: str) -> None:
    encoding = None if mode == "b" else "utf-8"
    with opened(tmp_path / "file", "w" + mode, encoding=encoding) as file:
        db.copy_out(ROWS, file)
    with opened(tmp_path / "file", "r" + mode, encoding=encoding) as file:
        assert file.read() == (DATA if mode == "b" else TEXT)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (io.BytesIO, DATA),
        (io.StringIO, TEXT),
        (tempfile.TemporaryFile, DATA),
        (partial(tempfile.TemporaryFile, buffering=0), DATA),
        (partial(tempfile.NamedTemporaryFile, buffering=0), DATA),
        (partial(tempfile.NamedTemporaryFile, "w+", encoding="utf-8"), TEXT),
        (partial(tempfile.SpooledTemporaryFile, 50_000), DATA),
        (partial(tempfile.SpooledTemporaryFile, 50_000, "w+", encoding="utf-8"), TEXT),
    ],
    ids=["bytes", "string", "temporary", "raw", "raw-named", "text", "spooled", "spooled-text"],
)
def test_files_in_memory_and_temporary_ones_get_all_of_it(db: Handler, make: Any, expected: Any) -> None:
    with make() as file:
        db.copy_out(ROWS, file)
        file.seek(0)
        assert file.read() == expected


def test_a_codecs_file_gets_all_of_it(db: Handler, tmp_path: Path) -> None:
    with codecs.open(str(tmp_path / "file"), "w", "utf-16") as file:
        db.copy_out(ROWS, file)
    assert (tmp_path / "file").read_text("utf-16") == TEXT


@pytest.mark.parametrize("buffering", [0, 100, 65536])
def test_the_other_end_of_a_socket_gets_all_of_it(db: Handler, buffering: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("wb", buffering=buffering) as sink, theirs.makefile("rb") as source:
        small = "COPY (SELECT repeat('x', 50) FROM generate_series(1, 200)) TO STDOUT"
        db.copy_out(small, sink)
        sink.flush()
        ours.shutdown(socket.SHUT_WR)
        assert source.read() == (b"x" * 50 + b"\n") * 200


# Sinks that take nothing, or say what makes no sense.


@pytest.mark.parametrize(("buffering", "words"), [(0, "takes nothing now"), (50_000, "without blocking")])
def test_a_pipe_that_is_full_and_does_not_block_is_an_error(db: Handler, buffering: int, words: str) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading, "rb", 0) as source, os.fdopen(writing, "wb", buffering) as file:
        with pytest.raises(BlockingIOError, match=words) as caught:
            db.copy_out(ENDLESS, file, timeout=30)
        source.read(1 << 20)  # so there is room for what is left in the file's buffer
    assert caught.value.__notes__ == ["the COPY ended by this has the outcome 'failed' (QueryCanceled)"]
    assert isinstance(caught.value.__context__, psycopg2.errors.QueryCanceled)
    assert db.query("SELECT 1").scalar() == 1


@pytest.mark.parametrize(
    ("sink", "kind", "words"),
    [
        (Sink(lambda piece: piece[:0]), BlockingIOError, r"gave 0: it takes none of \d+ bytes"),
        (RawSink(0), BlockingIOError, r"gave 0: it takes none of \d+ bytes"),
        (TextSink(lambda piece: piece[:0]), BlockingIOError, r"gave 0: it takes none of \d+ characters"),
        (Sink(everything, lambda taken: len(taken) + 1), ValueError, r"gave \d+ for \d+ bytes; expected"),
        (Sink(everything, lambda _: -1), ValueError, r"gave -1 for \d+ bytes; expected"),
        (TextSink(everything, lambda _: -1), ValueError, r"gave -1 for \d+ characters; expected"),
        (Sink(everything, lambda taken: float(len(taken))), ValueError, r"gave \d+\.0; expected a whole number"),
    ],
    ids=["nothing", "raw-nothing", "text-nothing", "more", "fewer", "text-fewer", "no-whole-number"],
)
@pytest.mark.parametrize("name", ["default", "transactions"])
def test_a_sink_that_takes_nothing_or_more_than_there_is_ends_the_copy(
    db: Handler, tx: Handler, name: str, sink: Any, kind: type[Exception], words: str
) -> None:
    handler = db if name == "default" else tx
    with pytest.raises(kind, match=words) as caught:
        handler.copy_out(ENDLESS, sink, timeout=30)
    assert caught.value.__notes__ == ["the COPY ended by this has the outcome 'failed' (QueryCanceled)"]
    handler.rollback()
    assert handler.query("SELECT 1").scalar() == 1
    handler.rollback()


def test_an_asynchronous_sink_is_refused(db: Handler) -> None:
    class Later:
        def __await__(self) -> Iterator[None]:
            yield

    with pytest.raises(TypeError, match="to be awaited"):
        db.copy_out(ROWS, Sink(everything, lambda _: Later()))


def test_what_failed_behind_the_end_of_the_data_says_that_the_copy_was_executed(db: Handler) -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        db.copy_out("COPY (SELECT 'ä') TO STDOUT (FORMAT csv, ENCODING 'latin1')", io.StringIO())
    assert len(caught.value.__notes__) == 1
    assert db.query("SELECT 1").scalar() == 1


# Sources.


def test_a_sources_error_says_what_became_of_the_copy(db: Handler) -> None:
    def failing() -> Iterator[str]:
        yield "1\n"
        raise LookupError("no more")

    with db.session() as session:
        session.query("CREATE TEMP TABLE taken (id integer)")
        with pytest.raises(LookupError, match="no more") as caught:
            session.copy_in("COPY taken FROM STDIN", failing())
        assert session.query("SELECT count(*) FROM taken").scalar() == 0
    assert caught.value.__notes__ == ["the COPY ended by this has the outcome 'failed' (QueryCanceled)"]


class WithoutNotes(Exception):
    """An exception that keeps something else where Python has notes."""

    __notes__ = "none"


class WithoutWords(Exception):
    """One that cannot say what it is."""

    def __str__(self) -> str:
        raise LookupError("no words")


@pytest.mark.parametrize(
    "own", [WithoutNotes("no more"), WithoutWords(), ValueError("\ud800 \0")], ids=["notes", "words", "surrogates"]
)
def test_any_exception_of_a_file_reaches_the_program(db: Handler, own: Exception) -> None:
    def failing(_: Any = None) -> Iterator[str]:
        raise own

    with db.session() as session:
        session.query("CREATE TEMP TABLE taken (id integer)")
        for call in (
            lambda: session.copy_in("COPY taken FROM STDIN", (each for _ in (1,) for each in failing())),
            lambda: session.copy_out(ROWS, Sink(everything, failing)),
        ):
            with pytest.raises(type(own)) as caught:
                call()
            assert caught.value is own
        assert session.query("SELECT 1").scalar() == 1


def test_an_exception_without_notes_passes_a_block_whose_rollback_fails(
    tx: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def block() -> None:
        with tx:
            monkeypatch.setattr(tx, "rollback", failing)
            raise WithoutNotes("no more")

    def failing() -> None:
        tx.query("SELECT 1/0")

    with pytest.raises(WithoutNotes):
        block()
    monkeypatch.undo()


@pytest.mark.parametrize("buffering", [0, 100, 65536])
def test_the_other_end_of_a_socket_gives_all_of_it(db: Handler, buffering: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("rb", buffering=buffering) as source, db.session() as session:
        ours.sendall(b"7\n" * 1000)
        ours.shutdown(socket.SHUT_WR)
        session.query("CREATE TEMP TABLE taken (id integer)")
        assert session.copy_in("COPY taken FROM STDIN", source).rowcount == 1000


@pytest.mark.parametrize("opened", [gzip.open, bz2.open, lzma.open], ids=["gzip", "bz2", "lzma"])
def test_compressed_files_are_read(db: Handler, tmp_path: Path, opened: Any) -> None:
    with opened(tmp_path / "file", "wb") as file:
        file.write(b"7\n" * 100_000)
    with opened(tmp_path / "file", "rb") as file, db.session() as session:
        session.query("CREATE TEMP TABLE taken (id integer)")
        assert session.copy_in("COPY taken FROM STDIN", file).rowcount == 100_000
