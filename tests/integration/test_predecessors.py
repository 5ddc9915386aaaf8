"""Brokers that a restart has replaced and that still have work: whoever asks the new one hears of them."""

import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from subprocess import CompletedProcess

import pytest
from brokers import Broker, order, poold
from postgres import Postgres
from test_successions import GROUPS
from waiting import wait_until

import client
from client import Handler
from client.channels.channel import Channel
from client.wire.arguments import packed_arguments
from client.wire.messages import Ask

LONG = 60.0
OPEN = "FROM pg_stat_activity WHERE application_name = 'replaced'"


@pytest.fixture
def broker(postgres: Postgres, start_broker: Callable[..., Broker]) -> Broker:
    endpoint = {**postgres.parameters, "application_name": "replaced"}
    return start_broker({"main": endpoint}, GROUPS, {"drain_timeout": LONG})


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


@pytest.fixture
def holder(broker: Broker) -> Iterator[Handler]:
    """Has a transaction open on the broker, which a restart has replaced."""
    db = broker.handler("transactions")
    db.query("SELECT 1")
    broker.restart()
    yield db
    db.rollback()


def replaced(broker: Broker) -> list[int]:
    return [each["pid"] for each in broker.stats()["predecessors"]]


def ends_of(broker: Broker) -> list[str]:
    """How the orders that were held have ended, as the log has it; each of its lines says whose order it is."""
    lines = re.findall(r"order (\w+) what=(?:pause|drain) on=\S.* pid=\d+ uid=\d+ result=", broker.log())
    return [each for each in lines if each not in ("held", "begun")]


def told(broker: Broker) -> None:
    """Wait until the predecessors have said what they have to do."""
    wait_until(lambda: all(each["requests"] is not None for each in broker.stats()["predecessors"]), what="the reports")


def test_stats_says_what_they_have_to_do(broker: Broker, holder: Handler, threads: ThreadPoolExecutor) -> None:
    old = broker._earlier[0].pid
    told(broker)
    assert list(broker.stats()["predecessors"]) == [
        {"pid": old, "transactions": 1, "sessions": 0, "requests": 0, "backends": 2}
    ]
    shown = poold("stats", f"--address={broker.address}").stdout
    assert f"process {old}, which this one has replaced, finishes 1 transaction\n" in shown
    holder.commit()
    wait_until(lambda: not broker.stats()["predecessors"], what="their end")
    assert "which this one has replaced" not in poold("stats", f"--address={broker.address}").stdout


def test_sessions_and_requests_count_as_well(broker: Broker, threads: ThreadPoolExecutor) -> None:
    def hold_a_session() -> None:
        with broker.handler().session() as session:
            session.query("SELECT 1")
            running = threads.submit(broker.handler().query, "SELECT pg_sleep(600)")
            wait_until(lambda: broker.pool()["active"] == 1, what="the statement to run")
            broker.restart()
            told(broker)
            found = broker.stats()["predecessors"][0]
            assert (found["sessions"], found["requests"], found["transactions"]) == (1, 1, 0)
            assert poold("stop", "--now", f"--address={broker.address}").returncode == 0
            with pytest.raises(client.DBConnectionError):
                running.result(LONG)

    with pytest.raises(client.TransactionLost):
        hold_a_session()


def test_a_second_restart_does_not_lose_sight_of_the_first_one(broker: Broker, holder: Handler) -> None:
    second = broker.handler("transactions")
    second.query("SELECT 1")
    broker.restart()
    first, next_one = (each.pid for each in broker._earlier)
    assert sorted(replaced(broker)) == sorted([first, next_one])
    told(broker)
    assert {each["transactions"] for each in broker.stats()["predecessors"]} == {1}
    second.commit()
    wait_until(lambda: replaced(broker) == [first], what="the end of the second one")
    holder.commit()
    wait_until(lambda: not replaced(broker), what="the end of the first one")


@pytest.mark.parametrize("words", [("pause",), ("pause", "transactions"), ("drain",), ("drain", "--endpoint=main")])
def test_a_pause_or_a_drain_waits_for_them(
    broker: Broker, holder: Handler, postgres: Postgres, threads: ThreadPoolExecutor, words: tuple[str, ...]
) -> None:
    waiting = threads.submit(order, broker, *words)
    wait_until(lambda: "order held" in broker.log(), what="the order")
    assert broker.handler().query("SELECT 1", timeout=LONG).fetchone() == (1,)  # nothing is held up meanwhile
    assert not waiting.done()
    holder.commit()
    assert waiting.result(LONG)["drained" if words[0] == "drain" else "paused"] is True
    assert ends_of(broker) == ["done"]
    if words[0] == "drain":
        assert postgres.execute(f"SELECT count(*) {OPEN}") == [(0,)]
    order(broker, "resume")
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


def test_a_pause_of_what_they_have_nothing_of_does_not_wait(broker: Broker, holder: Handler) -> None:
    told(broker)
    assert order(broker, "pause", "default")["paused"] is True
    order(broker, "resume")


@pytest.mark.parametrize("what", ["pause", "drain"])
def test_if_they_do_not_end_in_time_the_order_says_so_and_leaves_nothing_behind(
    broker: Broker, holder: Handler, what: str
) -> None:
    told(broker)
    done = poold(what, "--timeout=0.5", f"--address={broker.address}")
    assert done.returncode == 1
    assert f"not at rest within 0.5 s, the {what} is undone" in done.stderr
    old = broker._earlier[0].pid
    assert f"process {old}, which this one has replaced, finishes 1 transaction" in done.stderr
    assert ends_of(broker) == ["undone"]
    assert re.search(rf"order undone what={what} .*: process {old}, which this one has replaced\"?\n", broker.log())
    assert broker.stats()["state"] == "running"
    assert broker.group()["state"] == "running"


def test_a_resume_or_an_end_answers_an_order_that_waits_for_them(
    broker: Broker, holder: Handler, threads: ThreadPoolExecutor
) -> None:
    def resume() -> None:
        said = poold("resume", f"--address={broker.address}").stdout
        assert said == "nothing of it was paused; 1 command that waited for it to come to rest failed\n"

    ends: list[tuple[Callable[[], object], str]] = [
        (resume, "another command has resumed it"),
        (lambda: broker.signal(signal.SIGTERM), "shutting down"),
    ]
    for count, (end, said) in enumerate(ends, 1):
        waiting = threads.submit(poold, "pause", f"--address={broker.address}")
        wait_until(lambda count=count: broker.log().count("order held") == count, what="the order")
        end()
        assert said in waiting.result(LONG).stderr
        assert ends_of(broker) == ["refused"] * count
    holder.commit()
    assert broker.wait() == 0


def test_whoever_is_gone_before_they_end_has_paused_nothing(broker: Broker, holder: Handler) -> None:
    channel = Channel(broker.address)
    channel.send(Ask(channel.next_request(), "pause", packed_arguments([("timeout", "600")])))
    wait_until(lambda: "order held" in broker.log(), what="the order")
    channel.close()
    wait_until(lambda: broker.stats()["clients"] == 1, what="only the one who asks for this")
    assert ends_of(broker) == ["undone"]
    holder.commit()
    wait_until(lambda: not replaced(broker), what="their end")
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    assert broker.group()["state"] == "running"


@pytest.fixture
def stopping(broker: Broker, holder: Handler, threads: ThreadPoolExecutor) -> Iterator["Future[CompletedProcess[str]]"]:
    """A `poold stop` that waits for the broker that was replaced."""
    waiting = threads.submit(poold, "stop", f"--address={broker.address}")
    wait_until(lambda: broker.ask("ping")["state"] == "draining", what="the drain")
    yield waiting
    broker.signal(signal.SIGQUIT)


def test_a_stop_waits_for_them(broker: Broker, holder: Handler, stopping: "Future[CompletedProcess[str]]") -> None:
    old = broker._earlier[0]
    assert holder.query("SELECT 1").fetchone() == (1,)
    assert old.poll() is None
    holder.commit()
    assert f"and process {old.pid}, which finished what it had begun before a restart" in stopping.result(LONG).stdout
    assert old.poll() == 0
    assert broker.wait() == 0


def test_while_a_stop_waits_for_them_the_address_is_served(
    broker: Broker, holder: Handler, stopping: "Future[CompletedProcess[str]]"
) -> None:
    old = broker._earlier[0]
    told(broker)
    assert broker.stats()["predecessors"][0]["transactions"] == 1
    second = poold("start", f"--config={broker.config}")
    assert second.returncode == 1
    assert "already serves" in second.stderr
    assert poold("stop", "--now", f"--address={broker.address}").returncode == 0
    assert stopping.result(LONG).returncode == 0
    assert (old.wait(), broker.wait()) == (0, 0)
    with pytest.raises(client.TransactionLost):
        holder.query("SELECT 1")


def test_at_the_end_of_its_drain_timeout_a_broker_that_stops_cuts_them_off(broker: Broker, holder: Handler) -> None:
    text = broker.config.read_text("utf-8")
    assert f"drain_timeout = {LONG}" in text
    broker.config.write_text(text.replace(f"drain_timeout = {LONG}", "drain_timeout = 0.5"), "utf-8")
    assert poold("reload", f"--address={broker.address}").returncode == 0
    assert poold("stop", f"--address={broker.address}").returncode == 0
    assert broker._earlier[0].wait() == 0
    with pytest.raises(client.TransactionLost):
        holder.query("SELECT 1")


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)])
def test_the_first_signal_lets_them_finish_and_the_second_one_does_not(
    broker: Broker, holder: Handler, numbers: tuple[signal.Signals, ...]
) -> None:
    old = broker._earlier[0]
    first, second = numbers
    old.send_signal(first)
    wait_until(lambda: f"signal received name={first.name}" in broker.log(), what="the signal")
    assert holder.query("SELECT 1").fetchone() == (1,)
    old.send_signal(second)
    assert old.wait() == 0
    with pytest.raises(client.TransactionLost):
        holder.query("SELECT 1")


def test_a_stop_at_once_ends_them_as_well(broker: Broker, holder: Handler) -> None:
    old = broker._earlier[0]
    assert re.search(f"and process {old.pid}", poold("stop", "--now", f"--address={broker.address}").stdout)
    assert old.poll() == 0
    with pytest.raises(client.TransactionLost):
        holder.query("SELECT 1")


def test_a_killed_one_is_forgotten(broker: Broker, holder: Handler) -> None:
    old = broker._earlier.pop()
    old.kill()
    old.wait()
    wait_until(lambda: not replaced(broker), what="its end")
    assert order(broker, "pause")["paused"] is True
    with pytest.raises(client.TransactionLost):
        holder.query("SELECT 1")


def test_a_pause_that_waited_when_its_broker_was_replaced_has_failed(
    broker: Broker, threads: ThreadPoolExecutor
) -> None:
    db = broker.handler("transactions")
    db.query("SELECT 1")
    waiting = threads.submit(poold, "pause", f"--address={broker.address}")
    wait_until(lambda: broker.group("transactions")["state"] == "pausing", what="the pause")
    broker.restart()
    assert waiting.result(LONG).returncode == 1
    db.commit()
