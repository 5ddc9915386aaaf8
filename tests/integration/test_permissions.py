"""Who may do what: every verb of the protocol, sent by a stranger, by a listed admin and by the broker's own user.

`EXPECTED` is the decision about each verb, and has to have one for each: who adds a verb adds a line here, and where it
is a question, in `poold.core.clients.access`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from brokers import Broker
from people import LISTED, NOBODY, Person, only_root, poold_as
from postgres import free_port

import client
from client.wire.codec import split_steps
from client.wire.limits import QUESTIONS
from client.wire.messages import (
    MESSAGES,
    VERSION,
    Ask,
    BatchMessage,
    CancelRequest,
    Commit,
    CopyEnd,
    CopyIn,
    CopyMessage,
    CopyTaken,
    Follow,
    Hello,
    Query,
    Release,
    Rollback,
    Step,
    ToBroker,
    TransactionMessage,
)
from poold.core.clients import access
from poold.core.clients.access import Caller

StartBroker = Callable[..., Broker]
Meet = Callable[[Broker, int], Person]

GROUPS = {"default": {"max_size": 2}, "transactions": {"autocommit": False, "max_size": 2}}
ONE_STEP = split_steps([Step(b"SELECT 1", b"", b"", True, (), 0, None)])
REFUSED = ("Failure", "usage")
ANSWERED = ("Answer", "")


class Case(NamedTuple):
    """One verb, and what comes back: a type of message, with its kind where it is a Failure."""

    message: ToBroker
    stranger: tuple[str, str]
    admin: tuple[str, str]  # the broker's own user gets the same


def everybody(message: ToBroker, reply: tuple[str, str]) -> Case:
    return Case(message, reply, reply)


def admins(message: ToBroker, reply: tuple[str, str]) -> Case:
    return Case(message, REFUSED, reply)


# By the message's name, a question's by its word. The order is that of the walk; a broker that stops is the last one.
EXPECTED: dict[str, Case] = {
    "Hello": everybody(Hello(VERSION, 1, "again", "0"), ("Failure", "protocol")),
    "Query": everybody(Query(1, "default", 0, False, b"SELECT 1", b"", b"", True, None, ""), ("ResultMessage", "")),
    # In a lease that is not open: one that it opened would have the broker wait when it stops.
    "BatchMessage": everybody(
        BatchMessage(12, "default", 2, False, *ONE_STEP, None, ""), ("Failure", "transaction-lost")
    ),
    "CopyMessage": everybody(
        CopyMessage(11, "default", 0, False, b"COPY missing FROM STDIN", True, None, ""), ("Failure", "query")
    ),
    "TransactionMessage": everybody(
        TransactionMessage(2, "default", None, None, None, 0, *ONE_STEP, None, ""), ("TransactionResult", "")
    ),
    # Leases are their client's: nobody else's can be named.
    "Commit": everybody(Commit(3, 1), ("Failure", "transaction-lost")),
    "Rollback": everybody(Rollback(4, 1), ("ResultMessage", "")),
    "Release": everybody(Release(9, 1), ("ResultMessage", "")),
    # It speaks of the own process alone, and of a group that is open to it.
    "Follow": everybody(Follow(10, "default", ""), ANSWERED),
    # It has no reply of its own, and reaches another client's requests only with a key that nobody can guess: what is
    # heard is the reply to the ping after it.
    "CancelRequest": everybody(CancelRequest(1), ANSWERED),
    # They are about the own COPY alone, and have no replies: what is heard is the ping's.
    "CopyIn": everybody(CopyIn(12, b"1"), ANSWERED),
    "CopyEnd": everybody(CopyEnd(12, None), ANSWERED),
    "CopyTaken": everybody(CopyTaken(12, 1), ANSWERED),
    "ping": everybody(Ask(5, "ping"), ANSWERED),
    "stats": everybody(Ask(6, "stats"), ANSWERED),
    "metrics": everybody(Ask(17, "metrics", b"format\x00openmetrics\x00"), ANSWERED),
    "groups": everybody(Ask(18, "groups"), ANSWERED),
    "reload": admins(Ask(20, "reload"), ANSWERED),
    "reconnect": admins(Ask(13, "reconnect"), ANSWERED),
    "pause": admins(Ask(14, "pause"), ANSWERED),
    "drain": admins(Ask(19, "drain"), ANSWERED),
    "resume": admins(Ask(15, "resume"), ANSWERED),
    "kill": admins(Ask(16, "kill", b"client\x001000000\0"), REFUSED),
    "stop": admins(Ask(7, "stop"), ANSWERED),
    "stop-now": admins(Ask(8, "stop-now"), ANSWERED),
    "restart": admins(Ask(13, "restart"), ANSWERED),
}
SILENT = (CancelRequest, CopyIn, CopyEnd, CopyTaken)
STOPPING = ("stop", "stop-now")


@pytest.fixture
def meet() -> Iterator[Meet]:
    """Somebody with a connection to a broker, gone with the test."""
    with ExitStack() as cleanup:

        def meet(broker: Broker, uid: int) -> Person:
            person = Person(broker, uid)
            cleanup.callback(person.close)
            return person

        yield meet


def heard(person: Person, message: ToBroker) -> tuple[str, str]:
    """What comes back."""
    reply = person.send(message, Ask(100, "ping")) if isinstance(message, SILENT) else person.send(message)
    return reply.type, reply.kind


def walk(person: Person, verbs: list[str]) -> dict[str, tuple[str, str]]:
    return {verb: heard(person, EXPECTED[verb].message) for verb in verbs}


def test_somebody_has_decided_about_each_verb() -> None:
    messages = {message.__name__ for code, message in MESSAGES.items() if code < 64} - {"Ask"}
    assert set(EXPECTED) == messages | set(QUESTIONS)
    assert set(access.QUESTIONS) == set(QUESTIONS)


def test_a_question_that_nobody_has_decided_about_is_for_admins() -> None:
    stranger, admin, owner = Caller(NOBODY), Caller(LISTED), Caller(NOBODY, is_owner=True)
    for caller, is_answered in ((Caller(), False), (stranger, False), (admin, True), (owner, True)):
        assert (access.may_not_ask("shut everything", caller, (LISTED,)) is None) is is_answered


@only_root
def test_a_stranger_gets_what_is_for_everybody_and_cannot_stop_the_broker(
    start_broker: StartBroker, meet: Meet
) -> None:
    broker = start_broker(groups=GROUPS, broker={"allow_uids": [NOBODY], "admin_uids": [LISTED]})
    assert walk(meet(broker, NOBODY), list(EXPECTED)) == {verb: case.stranger for verb, case in EXPECTED.items()}
    assert broker.ask("ping")["state"] == "running"
    assert broker.log().count("question refused") == len(
        [case for case in EXPECTED.values() if case.stranger == REFUSED]
    )


@pytest.mark.parametrize("last", STOPPING)
@pytest.mark.parametrize(
    "uid", [pytest.param(os.getuid(), id="owner"), pytest.param(LISTED, id="admin", marks=only_root)]
)
def test_owner_and_listed_admin_get_everything(start_broker: StartBroker, meet: Meet, uid: int, last: str) -> None:
    broker = start_broker(groups=GROUPS, broker={"allow_uids": [NOBODY], "admin_uids": [LISTED]})
    # What follows on a restart is told elsewhere.
    verbs = [verb for verb in EXPECTED if verb not in (*STOPPING, "restart")] + [last]
    assert walk(meet(broker, uid), verbs) == {verb: EXPECTED[verb].admin for verb in verbs}
    assert broker.wait() == 0


@only_root
def test_a_refusal_names_who_may_and_who_asks(start_broker: StartBroker, meet: Meet) -> None:
    broker = start_broker(groups=GROUPS, broker={"allow_uids": [NOBODY]})
    reply = meet(broker, NOBODY).send(Ask(1, "stop"))
    assert reply.text == f"stop is for root, the broker's own user and its admin_uids; you are user {NOBODY}"


@only_root
def test_poold_stop_works_for_an_admin_who_may_not_read_the_lock(start_broker: StartBroker) -> None:
    broker = start_broker(broker={"allow_uids": [NOBODY], "admin_uids": [LISTED]})
    broker.folder.chmod(0o755)
    refused = poold_as(NOBODY, "stop", f"--address={broker.address}")
    assert (refused.returncode, f"you are user {NOBODY}" in refused.stderr) == (1, True)
    stopped = poold_as(LISTED, "stop", f"--address={broker.address}")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert broker.wait() == 0


# Groups for some users only.


RESTRICTED = {"default": {}, "secrets": {"allow_users": [str(LISTED)]}}


# What answers them.
TYPES = ["ResultMessage", "TransactionResult", "Failure", "ResultMessage"]


def asking(group: str) -> tuple[Query, TransactionMessage, CopyMessage, BatchMessage]:
    return (
        Query(1, group, 0, False, b"SELECT 1", b"", b"", True, None, ""),
        TransactionMessage(2, group, None, None, None, 0, *ONE_STEP, None, ""),
        CopyMessage(3, group, 0, False, b"COPY missing FROM STDIN", True, None, ""),
        BatchMessage(4, group, 1, True, *ONE_STEP, None, "", session=1),
    )


@only_root
@pytest.mark.parametrize("uid", [LISTED, os.getuid()])
def test_a_restricted_group_serves_its_users_and_the_owner(start_broker: StartBroker, meet: Meet, uid: int) -> None:
    broker = start_broker(groups=RESTRICTED, broker={"allow_uids": [NOBODY, LISTED]})
    person = meet(broker, uid)
    assert person.groups == {"default": True, "secrets": True}
    assert [person.send(message).type for message in asking("secrets")] == TYPES
    assert set(person.send(Ask(4, "stats")).body["groups"]) == {"default", "secrets"}


@only_root
def test_to_others_a_restricted_group_is_one_that_is_not_there(start_broker: StartBroker, meet: Meet) -> None:
    broker = start_broker(groups=RESTRICTED, broker={"allow_uids": [NOBODY, LISTED]})
    person = meet(broker, NOBODY)
    assert person.groups == {"default": True}
    for message in asking("secrets"):
        reply = person.send(message)
        assert reply[:2] == ("Failure", "unconfigured-group")
        assert reply.text == "the broker has no group 'secrets' for this client; it has default"
    assert person.send(asking("missing")[0]).text == "the broker has no group 'missing' for this client; it has default"
    assert [person.send(message).type for message in asking("default")] == TYPES
    assert "secrets" not in str(person.send(Ask(7, "stats")).body)
    assert broker.group("secrets")["requests"] == 0


@only_root
def test_an_admin_sees_a_restricted_groups_figures_and_may_not_use_it(start_broker: StartBroker, meet: Meet) -> None:
    broker = start_broker(groups=RESTRICTED, broker={"allow_uids": [NOBODY], "admin_uids": [NOBODY]})
    person = meet(broker, NOBODY)
    assert person.groups == {"default": True}
    assert person.send(asking("secrets")[0]).kind == "unconfigured-group"
    assert set(person.send(Ask(7, "stats")).body["groups"]) == {"default", "secrets"}


def test_over_tcp_without_keys_a_restricted_group_is_closed(start_broker: StartBroker) -> None:
    # Without a list of its own the configuration is refused; another address from the command line is not.
    broker = start_broker(groups=RESTRICTED, start=False)
    address = f"tcp://127.0.0.1:{free_port()}"
    broker.start(f"--address={address}")
    broker.address = address
    with pytest.raises(client.UnconfiguredGroupError, match="no group 'secrets' for this client; it has default"):
        broker.handler("secrets").query("SELECT 1")
    assert broker.handler().query("SELECT 1")[0][0] == 1
    assert set(broker.stats()["groups"]) == {"default"}
