"""`poold kill`: what is named ends, and whoever waits for it is told so."""

from __future__ import annotations

from typing import Any

import pytest
from units import READ, UNTRACKED, begin, committed, step
from units import answer as unit_answered
from world import World, failure

from client.wire.messages import TX_ACTIVE, TX_NONE, Commit, Failure, ResultMessage, Rollback
from poold.core import effects
from poold.core.state import BackendState as S
from poold.core.work import failures

OPERATOR = 9


def world(**settings: Any) -> World:
    made = World(**settings)
    made.client()
    made.client(OPERATOR)
    return made


def kill(made: World, **named: Any) -> Any:
    return made.ask("kill", OPERATOR, **named)


def failed(made: World, request: int, client: int = 1) -> Failure:
    reply = made.reply_to(request, client)
    assert isinstance(reply, Failure)
    return reply


def test_a_request_that_waits_was_not_executed() -> None:
    made = world(max_size=1)
    first = made.query()
    made.connect_all()
    second = made.query()
    assert kill(made, request=f"1/{second}") == {"what": "request", "id": f"1/{second}", "clients": [1]}
    reply = failed(made, second)
    assert (reply.outcome, reply.sqlstate) == ("not executed", "57014")
    assert reply.message == "canceled before it ran (an administrator ended it)"
    made.finish(first)
    assert isinstance(made.reply_to(first), ResultMessage)


def test_a_request_that_runs_is_cancelled_and_its_error_says_by_whom() -> None:
    made = world()
    request = made.query()
    made.connect_all()
    backend = made.running(request)
    kill(made, request=f"1/{request}")
    assert made.taken(effects.Cancel) == [effects.Cancel(backend)]
    assert not made.is_answered(request)
    made.complete(backend, reply=failure("57014", message="canceling statement due to user request"))
    reply = failed(made, request)
    assert (reply.outcome, reply.sqlstate) == ("failed", "57014")
    assert reply.message == "canceling statement due to user request (an administrator ended it)"


@pytest.mark.parametrize("primary", ["Abbruch auf Anforderung", "of two\nlines", ""])
def test_a_reason_stands_behind_the_message_and_ahead_of_its_context_and_is_told_once(primary: str) -> None:
    context = '\nCONTEXT:  while updating tuple (0,1) in relation "t"'
    given = failure("57014", message=f"{primary or 'canceled'}{context}\n")
    given = given._replace(diag={"message_primary": primary} if primary else {})
    told = failures.with_reason(given, "an administrator ended it")
    assert told.message == f"{primary or 'canceled'} (an administrator ended it){context}"
    assert failures.with_reason(told, "an administrator ended it") == told
    assert failures.with_reason(given, "") == given


def test_a_request_that_was_faster_than_its_end_has_its_result() -> None:
    made = world()
    request = made.query()
    made.connect_all()
    kill(made, request=f"1/{request}")
    made.finish(request)
    assert isinstance(made.reply_to(request), ResultMessage)


def test_a_lease_that_rests_is_rolled_back_and_its_client_told() -> None:
    made = world()
    backend = made.begin(1)
    assert kill(made, lease="1/1")["what"] == "lease"
    assert made.state(backend) is S.RESETTING
    reply = failed(made, made.query(group="tx", lease=1))
    assert (reply.kind, reply.outcome) == ("transaction-lost", "not executed")
    assert "an administrator ended it" in reply.message


def test_what_a_killed_lease_runs_is_cancelled() -> None:
    made = world()
    backend = made.begin(1)
    request = made.query(group="tx", lease=1)
    kill(made, lease="1/1")
    assert made.taken(effects.Cancel) == [effects.Cancel(backend)]
    made.complete(backend, TX_ACTIVE, reply=failure("57014"))
    assert "an administrator ended it" in failed(made, request).message
    assert not made.broker.clients[1].leases


def test_a_lease_that_waits_for_its_backend_does_not_begin() -> None:
    made = world(max_size=1)
    made.begin(1)
    request = made.query(group="tx", lease=2, begin=True)
    kill(made, lease="1/2")
    assert failed(made, request).kind == "transaction-lost"
    assert list(made.broker.clients[1].leases) == [1]


def test_a_commit_is_not_ended() -> None:
    made = world()
    backend = made.begin(1)
    commit = made.end(Commit, 1)
    for named in ({"lease": "1/1"}, {"request": f"1/{commit}"}):
        told = kill(made, **named)
        assert isinstance(told, Failure)
        assert told.message == "a COMMIT runs, and is not ended: what it does cannot be taken back"
    made.complete(backend, TX_NONE, command="COMMIT")
    assert isinstance(made.reply_to(commit), ResultMessage)


def test_a_commit_of_a_message_is_not_ended_and_its_statements_are() -> None:
    made = World(**UNTRACKED)
    made.client(OPERATOR)
    request, backend = begin(made, step(b"INSERT 1", low=1))
    other = made.transaction(READ)
    made.connect_all()
    unit_answered(made, backend)
    told = kill(made, request=f"1/{request}")
    assert isinstance(told, Failure)
    assert told.message == "the transaction's COMMIT runs, and is not ended: what it does cannot be taken back"
    assert not made.taken(effects.Cancel)
    kill(made, request=f"1/{other}")  # its COMMIT goes with its statements, which may be what runs
    assert made.taken(effects.Cancel) == [effects.Cancel(made.running(other))]
    unit_answered(made, backend)
    committed(made, request)


@pytest.mark.parametrize("verb", [Commit, Rollback])
def test_an_end_that_waits_is_not_taken_from_its_transaction(verb: type[Commit] | type[Rollback]) -> None:
    made = world()
    backend = made.begin(1)
    made.query(group="tx", lease=1)
    end = made.end(verb, 1)
    assert f"a {verb.__name__.upper()} waits" in kill(made, request=f"1/{end}").message
    assert not made.is_answered(end)
    made.complete(backend, TX_ACTIVE)
    made.complete(backend, TX_NONE, command=verb.__name__.upper())
    assert isinstance(made.reply_to(end), ResultMessage)


def test_a_client_is_disconnected_and_what_waits_is_answered_first() -> None:
    made = world(max_size=1)
    made.query()
    made.connect_all()
    waiting = made.query()
    assert kill(made, client=1)["clients"] == [1]
    assert failed(made, waiting).outcome == "not executed"
    assert made.taken(effects.Drop) == [effects.Drop(1, "an administrator ended it")]


def test_all_clients_of_a_process_are_disconnected_but_for_the_one_who_asks() -> None:
    made = world()
    for key in (2, 3):
        made.broker.client_arrived(key, 1001, "a thread")
    assert kill(made, pid=1001)["clients"] == [1, 2, 3]
    assert [each.client for each in made.taken(effects.Drop)] == [1, 2, 3]
    told = kill(made, pid=1000 + OPERATOR)
    assert isinstance(told, Failure)
    assert told.message == "pid 1009 is the one who asks"


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ({}, "kill ends one thing at a time, 0 are named; give one of request, lease, client, pid"),
        ({"client": [1, 2]}, "kill ends one thing at a time, 2 are named; give one of request, lease, client, pid"),
        ({"client": "x"}, "'x' is no client: expected a number, as `poold stats` shows it"),
        ({"client": "9" * 30}, f"'{'9' * 30}' is no client: expected a number, as `poold stats` shows it"),
        ({"client": 7}, "there is no client 7; `poold stats --json` lists those that there are"),
        ({"pid": 7}, "process 7 has no client here; `poold stats --json` lists those that there are"),
        ({"request": "1"}, "'1': expected CLIENT/NUMBER, as `poold stats` shows it"),
        ({"request": "/1"}, "'/1' is no request: expected CLIENT/NUMBER, as `poold stats` shows it"),
        ({"request": "1/5"}, "client 1 has no request 5; `poold stats --json` lists those that there are"),
        ({"lease": "1/5"}, "client 1 has no lease 5; `poold stats --json` lists those that there are"),
        ({"lease": "7/5"}, "there is no client 7; `poold stats --json` lists those that there are"),
        ({"statement": "1"}, "kill has no 'statement'; it has request, lease, client, pid"),
    ],
)
def test_what_is_not_there_is_not_ended(named: dict[str, Any], text: str) -> None:
    told = kill(world(), **named)
    assert isinstance(told, Failure)
    assert (told.kind, told.message) == ("usage", text)


def test_stats_show_what_can_be_killed_oldest_first() -> None:
    made = world(max_size=1)
    made.begin(3)
    made.now += 1.0
    request = made.query(group="default", tag="report")
    made.now += 0.5
    shown = made.broker.snapshot(made.now)
    assert [(each["what"], each["id"], each["group"], each["age_ms"]) for each in shown["work"]] == [
        ("transaction", "1/3", "tx", 1500.0),
        ("request", f"1/{request}", "default", 500.0),
    ]
    assert (shown["work"][1]["tag"], shown["work"][1]["state"], shown["work"][1]["pid"]) == ("report", "queued", 1001)
    assert shown["work_not_shown"] == 0
    assert [each["keys"] for each in shown["processes"]] == [[1], [OPERATOR]]
