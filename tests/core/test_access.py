"""Who may use which group."""

import dataclasses

import pytest
from world import World

from client.wire.messages import Failure, Query, TransactionMessage
from poold.config.model import GroupConfig
from poold.core.broker import Broker
from poold.core.clients.access import Caller, may_use

OWNER = Caller(0, is_owner=True)
UID = Caller(1001)
OTHER = Caller(1002)
KEY = Caller(key="worker")
OTHER_KEY = Caller(key="1001")
UNKNOWN = Caller()


@pytest.mark.parametrize(
    ("users", "allowed"),
    [
        ((), {OWNER, UID, OTHER, KEY, OTHER_KEY, UNKNOWN}),
        (("1001",), {OWNER, UID}),
        (("1001", "1002"), {OWNER, UID, OTHER}),
        (("key:worker",), {OWNER, KEY}),
        (("key:worker", "1002"), {OWNER, KEY, OTHER}),
        (("key:",), {OWNER}),
        (("None",), {OWNER}),
    ],
)
def test_who_is_listed_and_the_owner_may_use_a_group(users: tuple[str, ...], allowed: set[Caller]) -> None:
    config = GroupConfig(allow_users=users)
    assert {each for each in (OWNER, UID, OTHER, KEY, OTHER_KEY, UNKNOWN) if may_use(each, config)} == allowed


@pytest.fixture
def broker() -> Broker:
    """With the groups `default`, for everybody, and `tx`, for UID."""
    config = World().config
    tx = dataclasses.replace(config.groups["tx"], allow_users=("1001",), autocommit=True)
    return Broker(dataclasses.replace(config, groups={**config.groups, "tx": tx}), lambda: 0.5)


def refusal(broker: Broker, message: Query | TransactionMessage) -> Failure | None:
    broker.request(1, message, 0.0)
    replies = [effect.body for effect in broker.take() if hasattr(effect, "body")]
    assert all(isinstance(each, Failure) for each in replies)
    return replies[0] if replies else None


def query(group: str) -> Query:
    return Query(1, group, 0, False, b"SELECT 1", b"", b"", True, None, "")


def transaction(group: str) -> TransactionMessage:
    return TransactionMessage(2, group, None, None, None, 0, b"", (), None, "")


@pytest.mark.parametrize("make", [query, transaction])
def test_a_group_that_is_not_for_a_client_is_refused_in_the_words_for_one_that_is_not_there(
    broker: Broker, make: type[Query]
) -> None:
    assert list(broker.client_arrived(1, 100, "x", caller=OTHER)) == ["default"]
    closed, missing = refusal(broker, make("tx")), refusal(broker, make("no such"))
    assert closed is not None
    assert missing is not None
    assert (closed.kind, closed.outcome) == ("unconfigured-group", "not executed")
    assert closed.message.replace("'tx'", "'no such'") == missing.message
    assert "it has default" in closed.message
    assert closed._replace(message="") == missing._replace(message="")
    assert broker.groups["tx"].stats.requests == 0


def test_who_may_use_a_group_is_served(broker: Broker) -> None:
    assert list(broker.client_arrived(1, 100, "x", caller=UID)) == ["default", "tx"]
    assert refusal(broker, query("tx")) is None
    assert broker.groups["tx"].stats.requests == 1


def test_a_snapshot_for_a_client_has_its_groups_only(broker: Broker) -> None:
    broker.client_arrived(1, 100, "x", caller=OTHER)
    assert list(broker.snapshot(0.0, 1)["groups"]) == ["default"]
    assert list(broker.snapshot(0.0)["groups"]) == ["default", "tx"]
