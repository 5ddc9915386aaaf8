"""Event scripts of sequences: proven statements use them and are not reset, yet nobody is told another one's values."""

from typing import Any

import pytest
from units import INSERT, SHORT, UNTRACKED, answer, begin, committed, promote, sent, step
from world import FATAL, World, failure

from client.wire.limits import OPENS_SESSION
from client.wire.messages import EXECUTED, FAILED, NOT_EXECUTED, TX_BROKEN, TX_LOST, Commit, Failure
from poold.core.facts import Completion, Loss
from poold.core.statements.proofs import Proof

USES = Proof(is_harmless=True, uses_sequences=True)
ASKS = b"SELECT asks_lastval()"
DISCARD = b"DISCARD SEQUENCES"


def used(way: str = "query") -> tuple[World, int]:
    """A world whose one backend has just run a proven statement that uses sequences, and nothing else."""
    world = World(prepare="auto", max_size=1, **UNTRACKED)
    world.client()
    for group in ("default", "tx"):
        promote(world, b"INSERT 1", proof=USES, group=group)
        promote(world, SHORT, group=group)
    if way == "message":
        request, backend = begin(world, INSERT)
        answer(world, backend)
        committed(world, request)
        return world, backend
    if way == "query":
        request = world.query(statement=b"INSERT 1")
    else:
        first = b"INSERT 1" if way == "first of a lease" else SHORT
        request = world.query(lease=1, session=OPENS_SESSION, statement=first)
    world.connect_all()
    backend = world.running(request)
    answer(world, backend)
    if way == "second of a lease":
        world.query(lease=1, session=2, statement=b"INSERT 1")
        answer(world, backend)
    if way != "query":
        world.broker.client_gone(1, world.now)
        world.client()
    world.take()
    assert not any(b"RESET" in unit[0] for unit in sent(world))
    return world, backend


@pytest.mark.parametrize("way", ["query", "message", "first of a lease", "second of a lease"])
def test_before_somebody_who_may_ask_for_their_values_they_are_discarded(way: str) -> None:
    world, backend = used(way)
    assert world.broker.backends[backend].used_sequences
    request = world.query(statement=ASKS)
    assert sent(world, backend)[-1] == [DISCARD]
    answer(world, backend)
    assert sent(world, backend)[-1] == [ASKS]
    answer(world, backend)
    assert world.is_answered(request)
    world.query(statement=ASKS)
    assert sent(world, backend)[-1] == [ASKS], "it is done once"


def test_who_cannot_ask_does_not_pay() -> None:
    world, backend = used()
    for sql in (SHORT, b"INSERT 1"):
        world.query(statement=sql)
        assert DISCARD not in sent(world, backend)[-1]
        answer(world, backend)


def test_before_a_lease_that_begins_with_literals_they_are_discarded_in_another_transaction() -> None:
    """Behind it in the same one PostgreSQL refuses SET TRANSACTION ISOLATION LEVEL."""
    world, backend = used()
    world.query(1, "default", lease=7, session=OPENS_SESSION, begin=True, statement=b"SET TRANSACTION READ ONLY")
    assert sent(world, backend)[-1] == [b"BEGIN; DISCARD SEQUENCES; COMMIT; BEGIN"]


def test_before_a_message_likewise() -> None:
    world, backend = used()
    request = world.transaction(step(b"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"), INSERT)
    assert sent(world, backend)[-1][:3] == [b"BEGIN", DISCARD, b"COMMIT"]
    answer(world, backend)
    assert len(committed(world, request).results) == 2


def test_a_lease_that_begins_with_a_proven_statement_discards_what_others_used_and_keeps_its_own() -> None:
    world, backend = used()
    world.query(lease=7, session=OPENS_SESSION, statement=b"INSERT 1")
    assert sent(world, backend)[-1] == [DISCARD, b"INSERT 1"]
    answer(world, backend)
    world.query(lease=7, session=2, statement=ASKS)
    assert sent(world, backend)[-1] == [ASKS], "its own values it may ask for"
    answer(world, backend)


def test_with_settings_they_are_discarded_in_the_same_unit() -> None:
    world, backend = used()
    world.query(statement=ASKS, settings=b"search_path\0a\0")
    assert sent(world, backend)[-1][0] == DISCARD


def test_a_reset_takes_them_as_well() -> None:
    world, backend = used()
    world.query(lease=7, session=OPENS_SESSION, statement=ASKS)
    answer(world, backend)
    answer(world, backend)
    world.query(lease=7, session=2, statement=b"INSERT 1")
    answer(world, backend)
    world.broker.client_gone(1, world.now)
    assert not world.broker.backends[backend].used_sequences


def test_a_lease_that_ends_with_a_commit_is_noted() -> None:
    world = World(prepare="auto", max_size=1)
    world.client()
    promote(world, b"INSERT 1", proof=USES, group="tx")
    request = world.query(1, "tx", lease=1, begin=True, statement=b"INSERT 1")
    world.connect_all()
    backend = world.running(request)
    answer(world, backend)
    world.end(Commit, 1)
    answer(world, backend)
    world.query(1, "tx", lease=2, begin=True, statement=ASKS)
    assert sent(world, backend)[-1] == [b"BEGIN; DISCARD SEQUENCES; COMMIT; BEGIN"]


def break_off(world: World, backend: int, outcome: str) -> None:
    """The connection is not to be used any more, as found behind a unit that did what it should."""
    broken = failure(transaction=TX_BROKEN)._replace(kind="usage", sqlstate=None, outcome=outcome)
    world.broker.completed(backend, Completion(TX_BROKEN, [], broken), world.now)
    world.take()


@pytest.mark.parametrize("more", [{}, {"settings": b"search_path\0a\0", "statement": b"CALL asks_lastval()"}])
def test_what_ends_a_connection_before_the_statement_was_sent_is_not_told_of_it(more: dict[str, bytes]) -> None:
    """A reload of the server's configuration changes what all rely on: it was nobody's statement."""
    world, backend = used()
    request = world.query(**{"statement": ASKS, **more})
    answered = len(world.replies)
    break_off(world, backend, EXECUTED)
    assert len(world.replies) == answered
    world.connect_all()
    another = world.running(request)
    assert another != backend
    while not world.is_answered(request):
        answer(world, another)


def test_a_lease_whose_begin_is_all_that_was_sent_is_lost_and_its_statement_not_executed() -> None:
    world, backend = used()
    request = world.query(1, "default", lease=7, session=OPENS_SESSION, begin=True, statement=b"SELECT unproven()")
    break_off(world, backend, FAILED)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.outcome, reply.transaction) == (NOT_EXECUTED, TX_LOST)


@pytest.mark.parametrize("over", [{"last": FATAL}, {"unsent": 1}, {}])
@pytest.mark.parametrize("more", [{}, {"settings": b"search_path\0a\0", "statement": b"CALL asks_lastval()"}])
def test_what_was_to_come_behind_the_values_that_a_lost_backend_discards_runs_once(
    more: dict[str, bytes], over: dict[str, Any]
) -> None:
    world, backend = used()
    request = world.query(**{"statement": ASKS, **more})
    world.broker.lost(backend, Loss("gone", **over), world.now)
    world.connect_all()
    another = world.running(request)
    while not world.is_answered(request):
        answer(world, another)
    texts = b" ".join(b" ".join(unit) for unit in sent(world, another))
    assert texts.count(more.get("statement", ASKS)) == 1
