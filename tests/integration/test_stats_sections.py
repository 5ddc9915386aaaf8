"""`poold stats` by section on a real broker: who waits, for whom, and why; and what each statement has cost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest
from brokers import Broker, poold
from people import NOBODY, only_root, poold_as
from postgres import Postgres
from waiting import wait_until

from client.channels.channel import Channel
from client.wire.arguments import packed_arguments
from client.wire.messages import Answer, Ask

StartBroker = Callable[..., Broker]
GROUPS: dict[str, dict[str, Any]] = {
    "default": {"min_size": 1, "max_size": 2},
    "transactions": {"autocommit": False, "min_size": 0, "max_size": 2},
}
# What waits for a lock here waits for commands, and a machine may be slow.
PATIENT = {"statement_timeout": "2min"}


def stats(broker: Broker, *words: str) -> Any:
    """The answer to what the command asks for with these words; the command itself would take a second each time."""
    pairs = [("section", word) for word in words if not word.startswith("--")]
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            pairs.append((name, value or "yes"))
    channel = Channel(broker.address)
    try:
        answer = channel.call(Ask(channel.next_request(), "stats", packed_arguments(pairs)), 30.0)
    finally:
        channel.close()
    assert isinstance(answer, Answer)
    return answer.body


def text(broker: Broker, *words: str) -> str:
    done = poold("stats", *words, f"--address={broker.address}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def broker(start_broker: StartBroker) -> Broker:
    return start_broker(groups=GROUPS)


def test_the_statements_are_all_that_the_group_has_run_in_the_lane_and_outside(broker: Broker) -> None:
    db = broker.handler()
    for number in range(60):
        assert db.query("SELECT %s + 1", (number,))[0][0] == number + 1
        db.query(f"SELECT {number} AS own")
    for number in range(30):
        with db.transaction() as tx:
            tx.query("SELECT %s * 2", (number,))
    with pytest.raises(psycopg2.errors.DivisionByZero):
        db.query("SELECT 1/0")
    found = stats(broker, "statements", "groups")
    by_text = {(each["kind"], each["text"]): each for each in found["statements"] if each["group"] == "default"}
    assert by_text["statement", "SELECT ? + ?"]["calls"] == 60
    assert by_text["statement", "SELECT ? + ?"]["rows"] == 60
    assert by_text["statement", "SELECT ? AS own"]["calls"] == 60
    assert by_text["transaction", "SELECT ? * ?"]["calls"] == 30
    assert (by_text["statement", "SELECT ?/?"]["calls"], by_text["statement", "SELECT ?/?"]["errors"]) == (1, 1)
    group = found["groups"]["default"]
    assert sum(each["calls"] for each in by_text.values()) + group["not_begun"] == group["requests"]
    assert group["transactions"] == 30
    if broker.stats()["lane"]["state"] == "compiled":
        assert by_text["statement", "SELECT ? + ?"]["by_lane"] > 0
        assert by_text["transaction", "SELECT ? * ?"]["by_lane"] > 0
    assert by_text["statement", "SELECT ? + ?"]["is_prepared"]
    assert not by_text["statement", "SELECT ?/?"]["is_prepared"]
    assert sum(each["share"] for each in found["statements"]) == pytest.approx(1, abs=0.01)
    for each in by_text.values():
        assert 0 < each["p50_ms"] <= each["p99_ms"]


def test_statements_are_ranked_limited_and_begin_anew(broker: Broker) -> None:
    db = broker.handler()
    for _ in range(3):
        db.query("SELECT 1 AS often")
    db.query("SELECT pg_sleep(0.05)")
    assert stats(broker, "statements", "--limit=1")["statements"][0]["text"] == "SELECT pg_sleep(?)"
    ranked = stats(broker, "statements", "--sort=calls", "--limit=1")
    assert ranked["statements"][0]["text"] == "SELECT ? AS often"
    assert ranked["statements_others"]["calls"] >= 1
    lines = text(broker, "statements", "--sort=calls").splitlines()
    assert any(line.split()[:3] == ["default", "3", "0"] and line.endswith("SELECT ? AS often") for line in lines)
    assert stats(broker, "statements", "--reset")["statements_total"]["calls"] >= 4
    assert stats(broker, "statements")["statements_total"]["calls"] == 0
    assert "over the last" in text(broker, "statements")


def test_who_waits_for_a_lock_is_told_with_who_has_it(
    broker: Broker, postgres: Postgres, threads: ThreadPoolExecutor
) -> None:
    db = broker.handler()
    db.query("CREATE TABLE locked AS SELECT 1 AS id, 0 AS n")
    stranger = psycopg2.connect(**postgres.parameters, application_name="stranger")
    holder = broker.handler("transactions", tag="holder")
    try:
        holder.query("UPDATE locked SET n = 1 WHERE id = 1")

        def wait_for_row() -> None:
            with broker.handler("transactions", tag="waiter") as waiter:
                waiter.query("UPDATE locked SET n = %s WHERE id = 1", (2,), settings=PATIENT)

        row = threads.submit(wait_for_row)
        wait_until(lambda: stats(broker, "backends", "--locks")["locks"], what="the wait for a row")
        found = stats(broker, "backends", "--locks")
        (wait,) = found["locks"]
        assert found["locks_unknown"] == {}
        assert (wait["tag"], wait["pid"], wait["group"]) == ("waiter", os.getpid(), "transactions")
        assert wait["lock"]["in_words"] == "a row of public.locked (0,1)"
        assert wait["statement"] == "UPDATE locked SET n = $1 WHERE id = ?"
        (blocker,) = wait["blocked_by"]
        assert (blocker["is_own"], blocker["tag"], blocker["state"], blocker["waits"]) == (
            True,
            "holder",
            "leased",
            False,
        )
        assert blocker["idle_in_transaction_ms"] > 0
        shown = text(broker, "backends", "--locks")
        assert f"poold kill --lease {blocker['lease']}" in shown
        assert "(holder): idle in transaction for" in shown
        assert poold("kill", "--lease", blocker["lease"], f"--address={broker.address}").returncode == 0
        row.result(60)

        with stranger.cursor() as cursor:
            cursor.execute("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
        read = threads.submit(
            lambda: broker.handler(tag="reader").query("SELECT n FROM locked", settings=PATIENT)[0][0]
        )
        wait_until(lambda: stats(broker, "backends", "--locks")["locks"], what="the wait for a table")
        (wait,) = stats(broker, "backends", "--locks")["locks"]
        (blocker,) = wait["blocked_by"]
        assert wait["lock"] == {
            "kind": "relation", "mode": "AccessShareLock", "relation": "public.locked", "row": None,
            "transaction": None, "key": None, "object": None, "in_words": "public.locked (AccessShareLock)",
        }  # fmt: skip
        assert (blocker["is_own"], blocker["application_name"]) == (False, "stranger")
        assert (blocker["server_pid"], blocker["state"]) == (stranger.get_backend_pid(), "idle in transaction")
        stranger.rollback()
        assert read.result(60) == 2
        assert not stats(broker, "backends", "--locks")["locks"]
    finally:
        stranger.close()
        holder.rollback()
        db.query("DROP TABLE locked")


def test_an_exhausted_pool_names_the_idle_transactions_that_have_it(
    broker: Broker, threads: ThreadPoolExecutor
) -> None:
    holders = [broker.handler("transactions", tag=f"page {number}") for number in range(2)]
    for each in holders:
        each.query("SELECT 1")

    def wait_in_line() -> Any:
        with broker.handler("transactions", tag="report", priority="interactive") as waiter:
            return waiter.query("SELECT 2").fetchone()

    future = threads.submit(wait_in_line)
    wait_until(lambda: broker.group("transactions")["waiting"] == 1, what="the waiting request")
    (waiting,) = stats(broker, "queue")["queue"]
    assert (waiting["tag"], waiting["priority"], waiting["state"]) == ("report", "interactive", "queued")
    assert waiting["why"].startswith("no backend is free: of 2 backends, 0 run and 2 are leased (process")
    assert waiting["why"].count("idle in transaction for") == 2
    assert waiting["statement"] == "SELECT ?"
    assert "1 of transactions: no backend is free" in text(broker, "queue")
    found = [each for each in stats(broker, "backends")["backends"] if each["group"] == "transactions"]
    assert {(each["tag"], each["state"]) for each in found} == {("page 0", "leased"), ("page 1", "leased")}
    assert all(each["idle_in_transaction_ms"] > 0 and each["server_pid"] for each in found)
    for each in holders:
        each.rollback()
    assert future.result(60) == (2,)
    assert not stats(broker, "queue")["queue"]


def test_sections_have_what_is_asked_for_and_nothing_else(broker: Broker) -> None:
    assert {"groups", "processes", "work", "endpoints"} <= set(stats(broker))
    for name, keys in {
        "groups": {"groups", "endpoints"},
        "endpoints": {"pools", "endpoints"},
        "clients": {"processes", "processes_not_shown", "work", "work_not_shown"},
        "queue": {"queue", "queue_not_shown", "queue_reasons"},
        "backends": {"backends", "backends_not_shown"},
    }.items():
        found = stats(broker, name)
        always = set(stats(broker, "queue")) - {"queue", "queue_not_shown", "queue_reasons"}
        assert set(found) - always == keys
        assert text(broker, name)
    assert stats(broker)["memory_kb"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "is not one of 'groups', 'endpoints', 'backends', 'clients', 'statements', 'queue'"),
        (["--sort=calls"], "--sort is for: poold stats statements"),
        (["queue", "--reset"], "--reset is for: poold stats statements"),
        (["queue", "--locks"], "--locks is for: poold stats backends"),
        (["statements", "--limit=0"], "0 is not in the range"),
        (["statements", "--reset", "--watch"], "give it without --watch"),
    ],
)
def test_options_say_what_they_belong_to(broker: Broker, words: list[str], said: str) -> None:
    done = poold("stats", *words, f"--address={broker.address}")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


@only_root
def test_others_see_no_statements_and_may_not_reset_or_ask_for_locks(start_broker: StartBroker) -> None:
    broker = start_broker(groups=GROUPS, broker={"allow_uids": [NOBODY]})
    broker.folder.chmod(0o755)
    broker.handler().query("SELECT 'secret'")
    for name in ("backends", "statements", "queue"):
        done = poold_as(NOBODY, "stats", name, "--json", f"--address={broker.address}")
        assert done.returncode == 0, done.stderr
        assert name in json.loads(done.stdout)
        assert "SELECT" not in done.stdout
    for words in (["statements", "--reset"], ["backends", "--locks"]):
        done = poold_as(NOBODY, "stats", *words, f"--address={broker.address}")
        assert done.returncode == 1
        assert "is for root, the broker's own user and its admin_uids" in done.stderr
    assert stats(broker, "statements")["statements_total"]["calls"] == 1
