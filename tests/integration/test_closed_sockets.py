"""Sockets of brokers that other users may not reach: who may, and what those who may not are told."""

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from brokers import Broker, run
from people import BECOME, LISTED, NOBODY, only_root, poold_as
from postgres import Postgres

MakeBroker = Callable[..., Broker]
ASK = """
from client.errors import DBConnectionError
from client.handler import Handler
try:
    print(Handler(address=sys.argv[2]).query("SELECT 'came in'")[0][0])
except DBConnectionError as error:
    print(error.outcome, error.retryable, error)
"""


@pytest.fixture
def make(start_broker: Any, postgres: Postgres) -> MakeBroker:
    """Starts a broker at a socket in a folder that it makes itself."""

    def make(**settings: Any) -> Broker:
        broker: Broker = start_broker(start=False)
        broker.folder.chmod(0o755)
        address = f"ipc://{broker.folder}/made/s"
        broker.configure({"main": postgres.parameters}, {"default": {}}, {"address": address, **settings})
        return broker.start()

    return make


def asked(broker: Broker, uid: int, gid: int) -> str:
    """What a program of that user and group gets, on one line."""
    done = run(sys.executable, "-c", BECOME + ASK, f"{uid}:{gid}", broker.address)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@only_root
def test_the_brokers_group_comes_in_where_the_broker_made_the_folder(make: MakeBroker) -> None:
    broker = make()
    assert asked(broker, NOBODY, os.getegid()) == "came in"
    assert poold_as(NOBODY, "stats", f"--address={broker.address}", gid=os.getegid()).returncode == 0


@only_root
def test_a_listed_user_comes_in_where_the_broker_made_the_folder(make: MakeBroker) -> None:
    broker = make(allow_uids=[LISTED])
    assert asked(broker, LISTED, LISTED) == "came in"
    assert "is not allowed, see allow_uids and allow_gids" in asked(broker, NOBODY, NOBODY)


@only_root
@pytest.mark.parametrize("command", ["stats", "ping", "stop"])
def test_the_command_line_says_which_folder_is_closed_and_what_helps(make: MakeBroker, command: str) -> None:
    broker = make()
    done = poold_as(NOBODY, command, f"--address={broker.address}")
    assert (done.returncode, done.stdout) == (1, "")
    folder = broker.folder / "made"
    assert f"{folder} belongs to user root (0) and group root (0) with mode 0750" in done.stderr
    assert f"user nobody ({NOBODY})" in done.stderr
    for way in ("join group root (0)", f"list user {NOBODY} in allow_uids", "allow_gids", f"have {folder} opened"):
        assert way in done.stderr
    assert "poold start" not in done.stderr
    assert done.stderr.count("\n") == 1


@only_root
def test_a_program_is_told_the_same_and_that_nothing_was_executed(make: MakeBroker) -> None:
    broker = make()
    folder = broker.folder / "made"
    told = asked(broker, NOBODY, NOBODY)
    assert told.startswith("not executed True not connected to ")
    assert f"{folder} belongs to user root (0) and group root (0) with mode 0750" in told
    folder.chmod(0o700)
    assert f"{folder} belongs to user root (0) and group root (0) with mode 0700" in asked(broker, NOBODY, NOBODY)
    assert "join group" not in asked(broker, NOBODY, NOBODY)
    folder.chmod(0o755)
    told = asked(broker, NOBODY, NOBODY)
    assert f"{folder}/s belongs to user root (0) and group root (0) with mode 0660" in told
    assert "opened" not in told


@only_root
def test_who_is_refused_by_the_lists_or_by_their_number_is_told_that_a_broker_runs(make: MakeBroker) -> None:
    broker = make(allow_uids=[LISTED])
    done = poold_as(NOBODY, "stats", f"--address={broker.address}")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"user {NOBODY} is not allowed, see allow_uids and allow_gids" in done.stderr
