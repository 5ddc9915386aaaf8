"""One client that means no good: the broker stays, others are served, and what it took comes back when it is gone."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from brokers import ROOT, Broker, environment
from waiting import wait_until

StartBroker = Callable[..., Broker]

PROGRAM = str(ROOT / "scripts" / "benchmark" / "hostility.py")
GROUPS = {"default": {"max_size": 2}, "transactions": {"autocommit": False, "max_size": 1, "max_waiting": 20}}
NAMES = (
    "garbage", "knocks", "violations", "nesting", "halves", "slow", "deaf", "connections", "silent", "tiny", "stats",
    "cancels", "huge", "texts", "leases",
)  # fmt: skip
NOBODY = 65534
QUERIES = 50
# Memory that the broker may keep of what it once needed: pieces of it are in use, so it cannot be given back.
KEPT_MB = 100


@contextmanager
def hostile(broker: Broker, name: str, uid: int | None = None) -> Iterator[None]:
    """The client, from when it is at it until the block ends."""
    command = [sys.executable, PROGRAM, name, str(broker.socket), *([] if uid is None else [str(uid)])]
    variables = environment(PYTHONPATH=str(ROOT))
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield
            assert process.poll() is None, "the hostile client has ended by itself"
        finally:
            process.kill()


def descriptors(broker: Broker) -> int:
    return len(os.listdir(f"/proc/{broker.pid}/fd"))


def memory_mb(broker: Broker) -> float:
    (line,) = [line for line in Path(f"/proc/{broker.pid}/status").read_text().splitlines() if "VmRSS" in line]
    return int(line.split()[1]) / 1000


@pytest.mark.parametrize("name", NAMES)
def test_others_are_served_and_nothing_is_left(start_broker: StartBroker, name: str) -> None:
    # As many clients as there may be are soon there; those of the test are among them first.
    broker = start_broker(groups=GROUPS, broker={"max_clients": 500, "client_buffer_bytes": 1 << 20})
    db = broker.handler()
    assert db.query("SELECT 1")[0][0] == 1
    before, memory = descriptors(broker), memory_mb(broker)
    with hostile(broker, name):
        for number in range(QUERIES):
            assert db.query("SELECT %s::int", (number,))[0][0] == number
        with db.transaction() as tx:
            result = tx.query("SELECT 'in a transaction'")
        assert result[0][0] == "in a transaction"
    wait_until(lambda: broker.stats()["clients"] == 2, what="its connections to be gone")
    # Backends may have been opened meanwhile: at most those of the groups.
    wait_until(lambda: descriptors(broker) <= before + 3, what="its descriptors to be closed")
    assert memory_mb(broker) < memory + KEPT_MB
    assert db.query("SELECT 1")[0][0] == 1
    assert len(broker.log()) < 200_000


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("name", ["connections", "silent"])
def test_whoever_takes_all_connections_keeps_no_other_user_out(start_broker: StartBroker, name: str) -> None:
    broker = start_broker(groups=GROUPS, broker={"max_clients": 50, "allow_uids": [NOBODY]}, start=False)
    broker.folder.chmod(0o755)
    broker.start()
    with hostile(broker, name, uid=NOBODY):
        wait_until(lambda: "max_clients" in broker.log(), what="it to have all")
        assert broker.handler().query("SELECT 1")[0][0] == 1


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 12_000, reason="there are too few descriptors")
def test_ten_thousand_connections_are_clients_like_any_other(start_broker: StartBroker) -> None:
    broker = start_broker(groups=GROUPS)
    db = broker.handler()
    db.query("SELECT 1")
    before = descriptors(broker)
    with hostile(broker, "connections"):
        assert broker.stats()["clients"] > 10_000
        assert [db.query("SELECT %s::int", (number,))[0][0] for number in range(QUERIES)] == list(range(QUERIES))
    wait_until(lambda: broker.stats()["clients"] == 2, 30, what="its connections to be gone")
    # The memory in which clients read what was begun stays: two descriptors for each 4,096 of them.
    assert descriptors(broker) <= before + 3 + 2 * 3


def test_who_says_again_and_again_what_is_no_message_is_dropped(start_broker: StartBroker) -> None:
    broker = start_broker(groups=GROUPS)
    with hostile(broker, "violations"):
        wait_until(lambda: broker.stats()["protocol_violations"] > 1000, what="it to go on")
        # Lines are sparing: fifty at once, then five a second.
        wait_until(lambda: "warnings left out count=" in broker.log(), what="lines to be left out")
    assert broker.log().count("protocol violation") < 200
