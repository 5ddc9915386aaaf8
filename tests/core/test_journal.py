"""What is told of requests and leases that took long."""

from __future__ import annotations

from typing import Any

import pytest
from units import UNTRACKED, answer, step
from world import World, failure

from client.wire.limits import OPENS_SESSION
from client.wire.messages import (
    NOT_EXECUTED,
    TX_ACTIVE,
    TX_NONE,
    Commit,
    Rollback,
    Timing,
    TransactionStatus,
    plain_failure,
)
from poold.core import effects
from poold.core.facts import Loss
from poold.core.stats import Use

PLACE = b"shop.pay shop.py:7\0"
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SQL = b"SELECT 'secret', 5 FROM t"


def world(**group: Any) -> World:
    made = World(**{"max_size": 1, "min_size": 1, "log_slow": 1.0, "log_long_wait": 0.5, **group})
    made.client()
    made.connect_all()
    return made


def notes(made: World) -> list[effects.Note]:
    return [each for each in made.taken(effects.Note) if each.is_frequent]


def test_what_runs_for_long_is_told_when_it_ends() -> None:
    made = world()
    request = made.query(statement=SQL, tag="report", origin=PLACE)
    made.now += 1.5
    assert not notes(made)
    made.finish(request)
    (note,) = notes(made)
    assert note.event == "slow request"
    assert note.fields == {
        "group": "default", "endpoint": "main", "server_pid": 0, "pid": 1001, "process": "client 1", "tag": "report",
        "code": "shop.pay shop.py:7", "trace_id": "", "waited_ms": 0.0, "ran_ms": 1500.0, "outcome": "executed",
        "rows": 1, "statement": "SELECT ?, ? FROM t",
    }  # fmt: skip


def test_what_is_fast_is_not_told() -> None:
    made = world()
    request = made.query()
    made.now += 0.9
    made.finish(request)
    assert not notes(made)


def test_a_run_whose_backend_was_lost_counts_as_run_and_not_as_wait() -> None:
    made = world()
    request = made.query(statement=b"INSERT INTO t VALUES (1)")
    made.take()
    made.now += 2.0
    made.broker.lost(made.running(request), Loss("gone"), made.now)
    (note,) = notes(made)
    assert (note.event, note.fields["waited_ms"], note.fields["ran_ms"]) == ("slow request", 0.0, 2000.0)
    assert sums(made) == (1, 2.0, 1, 2.0, 1, 0.0)


def test_what_is_run_again_is_one_call_with_the_time_of_all_runs_and_one_wait() -> None:
    made = world(**UNTRACKED)
    request = made.transaction(step(b"UPDATE 1", low=1, high=1), retries=1)  # so COMMIT is not sent with it
    made.take()
    made.now += 1.25
    made.broker.lost(made.running(request), Loss("gone"), made.now)
    made.pass_time(0.25)
    made.connect_all()
    made.now += 1.5
    backend = made.running(request)
    answer(made, backend)
    answer(made, backend)
    assert made.is_answered(request)
    (note,) = notes(made)
    assert (note.event, note.fields["waited_ms"], note.fields["ran_ms"]) == ("slow request", 0.0, 1500.0)
    assert sums(made) == (1, 2.75, 2, 2.75, 1, 0.0)
    held = made.broker.groups["default"].stats.use_times[Use.MESSAGE]
    assert (held.up_to(())[-1], held.sum) == (2, 2.75), "each try holds a backend"


def test_what_was_not_written_when_its_backend_was_lost_has_not_run() -> None:
    made = world()
    request = made.query()
    made.take()
    made.now += 2.0
    made.broker.lost(made.running(request), Loss("gone", unsent=1), made.now)
    made.connect_all()
    made.now += 0.5
    made.finish(request)
    assert sums(made)[:4] == (1, 0.5, 1, 0.5)


def sums(made: World) -> tuple[int, float, int, float, int, float]:
    """Calls and their seconds, runs and theirs, waits and theirs."""
    group = made.broker.groups["default"]
    total, runs, waits = group.tallies.total(), group.stats.run_times, group.stats.wait_times
    return total.calls, total.seconds, runs.up_to(())[-1], runs.sum, waits.up_to(())[-1], waits.sum


def test_without_limits_nothing_is_told() -> None:
    made = world(log_slow=0.0, log_long_wait=0.0)
    first, second = made.query(), made.query()
    made.now += 100.0
    made.finish(first)
    made.finish(second)
    assert not notes(made)


def test_a_long_wait_is_told_when_it_ends_and_only_then() -> None:
    made = world(log_slow=0.0)
    first, second = made.query(), made.query(tag="waiter")
    made.now += 0.75
    assert not notes(made)
    made.finish(first)
    (note,) = notes(made)
    assert (note.event, note.fields["tag"], note.fields["waited_ms"]) == ("long wait", "waiter", 750.0)
    assert note.fields["outcome"] == "begun"
    made.finish(second)
    assert len(notes(made)) == 1


def test_a_wait_that_is_given_up_is_told() -> None:
    made = world(log_slow=0.0, queue_timeout=2.0)
    made.query()
    made.query(tag="waiter")
    made.pass_time(2.5)
    (note,) = notes(made)
    assert (note.event, note.fields["waited_ms"], note.fields["outcome"]) == ("long wait", 2000.0, NOT_EXECUTED)
    assert note.fields["error"] == "pool-timeout"


def test_a_wait_that_its_client_gives_up_is_told_by_a_cancel_and_by_its_end() -> None:
    made = world(log_slow=0.0)
    made.client(2)
    made.query()
    withdrawn = made.query()
    made.query(2)
    made.now += 0.75
    made.broker.cancel(1, withdrawn, made.now)
    made.broker.client_gone(2, made.now)
    first, second = notes(made)
    assert first.fields["outcome"] == NOT_EXECUTED
    assert second.fields["outcome"] == "withdrawn"


def test_an_error_is_told_with_its_sqlstate() -> None:
    made = world()
    request = made.query()
    made.now += 2
    made.finish(request, reply=plain_failure("query", "failed", "no SECRET", sqlstate="42P01"))
    (note,) = notes(made)
    assert (note.fields["outcome"], note.fields["error"], note.fields["sqlstate"]) == ("failed", "query", "42P01")
    assert "SECRET" not in note.text


def test_a_transaction_that_is_open_for_long_is_told_with_the_time_in_which_its_client_did_nothing() -> None:
    made = world()
    request = made.query(1, "tx", lease=5, begin=True, tag="shop", origin=PLACE)
    made.connect_all()
    made.finish(request, TX_ACTIVE)
    made.now += 1.25
    request = made.end(Commit, 5)
    made.finish(request, command="COMMIT")
    (note,) = notes(made)
    assert note.event == "slow transaction"
    fields = {name: note.fields[name] for name in ("open_ms", "idle_ms", "requests", "tag", "code", "end")}
    assert fields == {
        "open_ms": 1250.0, "idle_ms": 1250.0, "requests": 2, "tag": "shop", "code": "shop.pay shop.py:7",
        "end": "committed",
    }  # fmt: skip


def test_a_traced_request_is_told_how_long_it_took_ahead_of_its_reply() -> None:
    made = world(log_slow=0.0, log_long_wait=0.0)
    first, second = made.query(), made.query(origin=PLACE + TRACE)
    made.now += 0.25
    made.finish(first)
    made.now += 0.5
    made.finish(second)
    made.take()
    told = [each.body for each in made.effects if isinstance(each, (effects.Tell, effects.Reply))]
    assert told[1:2] == [Timing(second, 0.25, 0.5, 0, "/tmp", 5432, "db")]
    assert [each.request for each in told] == [first, second, second]


def test_a_traced_request_that_never_began_is_told_so() -> None:
    made = world(log_slow=0.0, log_long_wait=0.0, queue_timeout=2.0)
    made.query()
    request = made.query(origin=b"\0" + TRACE)
    made.pass_time(2.5)
    (told,) = made.taken(effects.Tell)
    assert told.body == Timing(request, 2.0, None, 0, "", 0, "")


def test_a_transaction_that_is_lost_with_its_backend_is_told_once() -> None:
    made = world()
    backend = made.begin(5)
    made.now += 3.0
    made.broker.lost(backend, Loss("the server is gone"), made.now)
    (note,) = notes(made)
    assert (note.event, note.fields["open_ms"], note.fields["end"]) == (
        "slow transaction", 3000.0, "rolled back: its backend was lost",
    )  # fmt: skip


def ends(made: World) -> list[object]:
    return [note.fields["end"] for note in notes(made) if note.event.startswith("slow t") or "session" in note.event]


@pytest.mark.parametrize(
    ("verb", "done", "end"),
    [
        (Commit, {"command": "COMMIT"}, "committed"),
        (Rollback, {"command": "ROLLBACK"}, "rolled back"),
        (Commit, {"command": "ROLLBACK"}, "rolled back: COMMIT came behind a statement that had failed"),
        (Commit, {"reply": failure("23505")}, "rolled back: COMMIT failed with 23505"),
        (b"COMMIT", {"command": "COMMIT"}, "committed"),
        (b"commit", {"command": "ROLLBACK"}, "rolled back: COMMIT came behind a statement that had failed"),
        (b"ROLLBACK", {"command": "ROLLBACK"}, "rolled back"),
        (b"PREPARE TRANSACTION 'x'", {"command": "PREPARE TRANSACTION"}, "prepared"),
    ],
)
def test_how_a_transaction_ended_is_told(verb: Any, done: dict[str, Any], end: str) -> None:
    made = world()
    made.begin(5)
    made.now += 3.0
    is_text = isinstance(verb, bytes)
    request = made.query(1, "tx", lease=5, statement=verb) if is_text else made.end(verb, 5)
    made.finish(request, **done)
    assert ends(made) == [end]


def test_a_transaction_that_is_ended_by_others_is_told_why() -> None:
    made = world(idle_in_transaction_timeout=2.0, lease_timeout=0.0)
    made.begin(5)
    made.pass_time(3.0)
    made.take()
    assert ends(made) == ["rolled back: it was idle for longer than idle_in_transaction_timeout = 2 s"]


@pytest.mark.parametrize("is_gone", [True, False])
def test_of_a_transaction_that_ends_in_the_middle_of_its_commit_it_is_told_that_nobody_knows(is_gone: bool) -> None:
    made = world()
    backend = made.begin(5)
    made.now += 3.0
    made.end(Commit, 5)
    made.take()
    if is_gone:
        made.broker.client_gone(1, made.now)
    else:
        made.broker.lost(backend, Loss("the server is gone"), made.now)
    assert ends(made) == ["unknown: its client is gone" if is_gone else "unknown: its backend was lost"]


@pytest.mark.parametrize("transaction", [TX_NONE, TX_ACTIVE])
def test_of_a_session_it_is_told_whether_a_transaction_ended_with_it(transaction: TransactionStatus) -> None:
    made = world()
    request = made.query(lease=5, session=OPENS_SESSION, begin=transaction == TX_ACTIVE)
    made.finish(request, transaction)
    made.now += 3.0
    made.broker.client_gone(1, made.now)
    more = "" if transaction == TX_NONE else "; a transaction in it was rolled back"
    assert ends(made) == [f"its client is gone{more}"]
