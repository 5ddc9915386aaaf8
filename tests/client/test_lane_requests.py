"""Requests by compiled code and by Python code beside it, against a broker that answers by a script: no difference."""

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_channel import failure, fields_of_result, without_rows
from scripted_broker import ScriptedBroker, folders, scripted, welcome

from client import Handler
from client.channels import registry
from client.compiled import load
from client.wire.codec import encode
from client.wire.messages import Failure, Query, ResultMessage, TransactionMessage, TransactionResult
from client.wire.zmtp import PING, frame

pytestmark = pytest.mark.skipif(load("client.lane.requests") is None, reason="this run is without compiled code")

ROWS = fields_of_result(("1",), (None,), ("-5",), names=("a",))
LONG = fields_of_result(*[(str(number),) for number in range(30_000)], names=("number",))
SELECT = "SELECT a FROM t WHERE b = %s"


@pytest.fixture(autouse=True)
def _no_free_channels() -> Iterator[None]:
    yield
    for free in list(registry._per_thread.channels.values()):
        free.close()
    registry._per_thread.channels.clear()


def result_of(request: Any, fields: Any = ROWS, **changes: Any) -> bytes:
    made = ResultMessage._make(fields)._replace(request=request.request, **changes)
    return frame(encode(made))


def committed(request: Any, *results: Any, **changes: Any) -> bytes:
    found = results or (without_rows(), ROWS)
    return frame(encode(TransactionResult(request.request, 1, tuple(found), None, -1)._replace(**changes)))


def usual(request: Any) -> list[bytes]:
    return [result_of(request) if isinstance(request, Query) else committed(request)]


def late(request: Any) -> list[bytes]:
    return [result_of(request._replace(request=request.request - 1), LONG), *usual(request)]


def at_once(request: Any) -> list[bytes]:
    return [b"".join((*usual(request), result_of(request._replace(request=request.request - 1))))]


def cut(at: int) -> Callable[[Any], list[bytes]]:
    return lambda request: [usual(request)[0][:at], usual(request)[0][at:]]


def long_head(request: Any) -> list[bytes]:
    body = usual(request)[0][2:]
    return [b"\x02" + len(body).to_bytes(8, "big") + body]


def fails(request: Any, **changes: Any) -> list[bytes]:
    made = failure(request=request.request, notices=("NOTICE:  before\n",))._replace(**changes)
    if isinstance(request, Query):
        return [frame(encode(made))]
    return [frame(encode(TransactionResult(request.request, 2, (), tuple(made), 1)))]


def goodbye(_: Any) -> list[bytes | None]:
    return [frame(encode(Failure(0, "none", "connection", "not executed", "the broker stops", None, {}))), None]


# Answers to a query or a transaction message. Those to the second request are usual ones again.
ANSWERS: dict[str, Callable[[Any], Any]] = {
    "usual": usual,
    "late": late,
    "with another one": at_once,
    "failure": fails,
    "goodbye": goodbye,
    "end": lambda _: [None],
    "a part and the end": lambda request: [usual(request)[0][:7], None],
    "nothing and a part": lambda request: [b"", *cut(1)(request)],
    "garbage": lambda _: [b"\xff" * 40],
    "no msgpack": lambda _: [frame(b"\xc1" * 20)],
    "another message": lambda request: [
        frame(encode(Query(request.request, "g", 0, False, b"", b"", b"", True, None, "")))
    ],
    "PING": lambda request: [PING, *usual(request)],
    "PING in one": lambda request: [PING + usual(request)[0]],
    "another Welcome": lambda request: [frame(encode(welcome())), *usual(request)],
    "long head": long_head,
    "of several frames": lambda request: [b"\x01\x01a" + usual(request)[0]],
    **{f"cut at {at}": cut(at) for at in (1, 2, 3, 9, 10, 20, 40)},
}
QUERY_ANSWERS: dict[str, Callable[[Any], Any]] = {
    "large": lambda request: [result_of(request, LONG)],
    "large, bit by bit": lambda request: [
        result_of(request, LONG)[at : at + 50_000] for at in range(0, len(result_of(request, LONG)), 50_000)
    ],
    "with notices": lambda request: [result_of(request, notices=("NOTICE:  one\n", "NOTICE:  two\n"))],
    "active": lambda request: [result_of(request, transaction="active")],
    "no rows": lambda request: [result_of(request, without_rows("UPDATE 3", 3))],
    "no count": lambda request: [result_of(request, without_rows("CREATE TABLE", -1))],
    "long tag": lambda request: [result_of(request, command="X" * 300)],
    "tag that is no ASCII": lambda request: [result_of(request, command="Ä")],
    "large count": lambda request: [result_of(request, rowcount=2**40)],
    "negative count": lambda request: [result_of(request, rowcount=-(2**40))],
    "columns that are none": lambda request: [result_of(request, columns=b"nonsense")],
    "rows that are none": lambda request: [result_of(request, rows=b"nonsense")],
    "rows that are cut": lambda request: [result_of(request, rows=ROWS[5][:-1])],
    "bytes behind it": lambda request: [
        frame(encode(ResultMessage._make(ROWS)._replace(request=request.request)) + b"\xc0")
    ],
    "too few fields": lambda request: [frame(b"\x93\x41\x01\xa4none")],
}
TRANSACTION_ANSWERS: dict[str, Callable[[Any], Any]] = {
    "run again": lambda request: [committed(request, tries=3)],
    "lost": lambda request: [committed(request, without_rows(), None)],
    "notices": lambda request: [committed(request, without_rows(notices=("NOTICE:  one\n",)), ROWS)],
    "large": lambda request: [committed(request, without_rows(), LONG)],
    "too few results": lambda request: [committed(request, ROWS, step=0)],
    "of no step": lambda request: [
        frame(encode(TransactionResult(request.request, 1, (), tuple(failure()), -1))),
    ],
}


def told(run: Callable[[], Any]) -> Any:
    """What came, or what was raised, with all that is said about it."""
    try:
        return run()
    except Exception as error:  # noqa: BLE001  whatever it is, both ways must raise it
        return (
            type(error).__name__,
            str(error).replace(os.environ.get("FOLDER", "\0"), ""),
            getattr(error, "outcome", None),
        )


def query(db: Handler) -> Any:
    result = db.query(SELECT, (5,))
    facts = result.rowcount, result.statusmessage, result.notices, len(result), repr(result), result.arraysize
    return facts, told(lambda: result.columns), told(lambda: [tuple(row) for row in result.fetchall()])


def transaction(db: Handler) -> Any:
    with db.transaction() as tx:
        first = tx.query("UPDATE t SET a = %s", (1,))
        second = tx.query(SELECT, ("b",))
    rows = told(lambda: [tuple(row) for row in second.fetchall()])
    return tx.tries, first.rowcount, repr(first), first.notices, first.columns, rows


def conversation(folder: Path, answer: Callable[[Any], Any], run: Callable[[Handler], Any], is_compiled: bool) -> Any:
    """What the program, and the broker, see of two calls; only the first one's answer is unusual."""
    asked = iter([answer])
    with scripted(folder, lambda request: next(asked, usual)(request)) as broker:
        db = Handler(address=broker.address)
        if not is_compiled:
            db._lane = None
        seen = [told(lambda: run(db)), list(db.notices), dict(db._calls), told(lambda: run(db)), dict(db._calls)]
        return repr(seen).replace(str(folder), ""), broker.frames, broker.connections


@pytest.mark.parametrize("name", [*ANSWERS, *QUERY_ANSWERS])
def test_a_querys_answers_are_the_same(tmp_path: Path, name: str) -> None:
    folder = folders(tmp_path)
    answer = {**ANSWERS, **QUERY_ANSWERS}[name]
    seen = [conversation(next(folder), answer, query, is_compiled) for is_compiled in (True, False)]
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", [*ANSWERS, *TRANSACTION_ANSWERS])
def test_a_transactions_answers_are_the_same(tmp_path: Path, name: str) -> None:
    folder = folders(tmp_path)
    answer = {**ANSWERS, **TRANSACTION_ANSWERS}[name]
    seen = [conversation(next(folder), answer, transaction, is_compiled) for is_compiled in (True, False)]
    assert seen[0] == seen[1]


def program(db: Handler) -> list[Any]:
    """Requests of many kinds; those that Python code has to send are among them."""
    seen = []
    for params in (
        (1,),
        [2],
        (None,),
        ("ä" * 200,),
        ("x" * 40_000,),
        ("x" * 100_000,),
        (object,),
        (),
        (1, 2),
        ((1, 2),),
    ):
        seen.append(told(lambda params=params: db.query(SELECT, params).fetchall()))  # type: ignore[misc]  # mypy 1.14
    seen.append(told(lambda: db.query("SELECT 1")[0]))
    seen.append(told(lambda: db.query("SELECT %(a)s", {"a": 1}).fetchone()))
    seen.append(told(lambda: db.query(SELECT, (1,), timeout=5).fetchall()))
    seen.append(told(lambda: db.query(SELECT, (1,), prepare=False, priority="batch", settings={"a": "b"}).fetchall()))
    for options in (
        {},
        {"isolation": "serializable", "read_only": True, "retries": 0},
        {"timeout": 3},
        {"priority": "batch"},
    ):
        seen.append(told(lambda options=options: both_steps(db, **options)))  # type: ignore[misc]  # mypy 1.14
    seen.append(told(lambda: mixed(db)))
    seen.append(told(lambda: left(db)))
    seen.append(told(lambda: db.run([])))
    return seen


def both_steps(db: Handler, **options: Any) -> Any:
    with db.transaction(**options) as tx:
        results = [tx.query("UPDATE t SET a = %s", (number,)) for number in (1, 2**40)]
    return [each.rowcount for each in results]


def mixed(db: Handler) -> Any:
    """Python code takes over in the middle."""
    with db.transaction() as tx:
        first = tx.query(SELECT, (1,))
        second = tx.query(SELECT, (first["a"],), expect=(0, None))
    return first.rowcount, second.rowcount


def left(db: Handler) -> Any:
    with db.transaction() as tx:
        pending = tx.query(SELECT, (1,))
        raise KeyError("mine")
    return pending


@pytest.mark.parametrize(
    "options", [{}, {"tag": "ä" * 40, "priority": "interactive", "prepare": False}, {"settings": {"work_mem": "1MB"}}]
)
def test_the_same_bytes_are_sent_whoever_sends_them(tmp_path: Path, options: Any) -> None:
    folder, sent, seen = folders(tmp_path), [], []
    for is_compiled in (True, False):
        with scripted(next(folder), lambda request: usual_steps(request)) as broker:
            db = Handler(address=broker.address, **options)
            if not is_compiled:
                db._lane = None
            seen.append(program(db))
            sent.append(broker.frames)
    assert seen[0] == seen[1]
    assert sent[0] == sent[1]
    assert len(sent[0]) > 15


def usual_steps(request: Any) -> list[bytes]:
    if isinstance(request, TransactionMessage):
        return [committed(request, *[ROWS] * len(request.values))]
    return usual(request)


def test_what_is_usual_goes_by_compiled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(tmp_path, usual) as broker:
        db = Handler(address=broker.address)
        assert db.autocommit  # which connects: the lane takes channels that are there
        monkeypatch.setattr("client.executor.bind", None)
        monkeypatch.setattr("client.transaction.bind", None)
        monkeypatch.setattr("client.values.result.cast_row", None)
        assert db.query(SELECT, (5,)).fetchall() == [(1,), (None,), (-5,)]
        assert db.query(SELECT, [None])[2].a == -5
        assert [row.a for row in db.query(SELECT, ("x",))] == [1, None, -5]
        assert db.query("SELECT a FROM t").fetchone() == (1,)
        assert transaction(db)[0] == 1


class Limit(Exception):
    """A time limit's."""


@pytest.fixture
def alarm() -> Iterator[Callable[[float, Callable[..., Any]], None]]:
    """Calls a function in a signal handler, after so many seconds."""
    before = signal.getsignal(signal.SIGALRM)

    def at(seconds: float, run: Callable[..., Any]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: run())
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield at
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("run", [query, transaction])
@pytest.mark.parametrize(
    "error", [Limit("mine"), KeyboardInterrupt(), TimeoutError("mine"), BlockingIOError(11, "mine")]
)
def test_an_exception_of_a_signal_handler_ends_a_wait_and_closes_the_channel(
    tmp_path: Path, alarm: Any, run: Callable[[Handler], Any], error: BaseException
) -> None:
    answers: Any = iter([lambda _: []])
    with scripted(tmp_path, lambda request: next(answers, usual)(request)) as broker:
        db = Handler(address=broker.address)
        alarm(0.05, lambda: raise_(error))
        with pytest.raises(type(error)) as caught:
            run(db)
        assert caught.value is error
        assert db._calls == {}
        run(db)
        assert broker.connections == 2


def test_a_call_of_a_signal_handler_has_a_channel_of_its_own(tmp_path: Path, alarm: Any) -> None:
    is_over = threading.Event()

    def answer(request: Any) -> list[bytes]:
        if request.request == 1 and isinstance(request, Query) and b"slow" in request.statement:
            assert is_over.wait(10)
        return usual(request)

    inner: list[Any] = []

    def nested() -> None:
        inner.extend(db.query(SELECT, (1,)).fetchall())
        is_over.set()

    with scripted(tmp_path, answer) as broker:
        db = Handler(address=broker.address)
        alarm(0.05, nested)
        assert db.query("SELECT 'slow'").fetchall() == [(1,), (None,), (-5,)]
        assert inner == [(1,), (None,), (-5,)]
        assert broker.connections == 2


def test_a_call_can_be_cancelled_while_compiled_code_waits(tmp_path: Path, alarm: Any) -> None:
    with scripted(tmp_path, lambda _: []) as broker:
        db = Handler(address=broker.address)
        waiting: list[int] = []

        def look() -> None:
            waiting.extend(db._calls.values())
            raise Limit

        alarm(0.05, look)
        with pytest.raises(Limit):
            db.query(SELECT, (1,))
        assert waiting == [1]


def test_a_child_has_a_connection_of_its_own(tmp_path: Path) -> None:
    with scripted(tmp_path, usual) as broker:
        db = Handler(address=broker.address)
        db.query(SELECT, (1,))
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(0 if len(db.query(SELECT, (1,)).fetchall()) == 3 else 1)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert len(db.query(SELECT, (1,)).fetchall()) == 3
        assert broker.connections == 2


def test_a_fork_during_a_call_leaves_it_to_the_parent(tmp_path: Path, alarm: Any) -> None:
    def fork() -> None:
        pids.append(os.fork())
        if pids[0]:
            is_forked.set()

    pids: list[int] = []
    is_forked = threading.Event()
    with scripted(tmp_path, lambda request: (is_forked.wait(10), usual(request))[1]) as broker:
        db = Handler(address=broker.address)
        alarm(0.05, fork)
        try:
            rows: Any = db.query(SELECT, (1,)).fetchall()
        except BaseException as error:  # noqa: BLE001  the child's end
            rows = type(error).__name__
        if pids[0] == 0:
            os._exit(0 if rows == "DBConnectionError" else 1)
        assert os.waitpid(pids[0], 0)[1] == 0
        assert rows == [(1,), (None,), (-5,)]


def test_a_pause_of_the_program_is_no_end(tmp_path: Path) -> None:
    with scripted(tmp_path, usual) as broker:
        db = Handler(address=broker.address)
        for _ in range(3):
            db.query(SELECT, (1,))
            time.sleep(0.02)  # longer than a channel is trusted
        assert broker.connections == 1


def test_a_broker_that_went_away_during_a_pause_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with scripted(tmp_path / "a", usual) as first:
        db = Handler(address=first.address)
        db.query(SELECT, (1,))
    os.unlink(tmp_path / "a/b")
    time.sleep(0.02)
    with scripted(tmp_path / "a", usual) as second:
        assert len(db.query(SELECT, (1,)).fetchall()) == 3
        assert second.connections == 1


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    def answer(request: Any) -> list[bytes]:
        return [result_of(request, fields_of_result((request.values[4:].decode(),), names=("a",)))]

    def ask(number: int) -> None:
        for value in range(number, number + 500):
            if db.query(SELECT, (value,)).fetchall() != [(value,)]:
                wrong.append(value)
        done.append(number)

    wrong: list[int] = []
    done: list[int] = []
    with scripted(tmp_path, answer) as broker:
        db = Handler(address=broker.address)
        threads = [threading.Thread(target=ask, args=(number * 10_000,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (wrong, len(done)) == ([], 6)


def test_nothing_is_left_of_requests_that_are_over(tmp_path: Path) -> None:
    def some(count: int, broker: ScriptedBroker) -> None:
        for number in range(count):
            db.query(SELECT, (number,)).fetchall()
            db.query("SELECT a FROM t WHERE b = %(b)s", {"b": f"ä{number}"}).fetchone()
            transaction(db)
            with pytest.raises(IndexError):
                db.query(SELECT, (None,))[7]
            broker.frames.clear()

    with scripted(tmp_path, usual) as broker:
        db = Handler(address=broker.address)
        some(200, broker)
        gc.collect()
        before = len(gc.get_objects()), sys.getallocatedblocks()
        some(2000, broker)
        gc.collect()
        assert len(gc.get_objects()) <= before[0] + 50
        assert sys.getallocatedblocks() <= before[1] + 500
