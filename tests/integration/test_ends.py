"""The end of a connection is noticed, whatever else comes with it: what a dying process left to be read."""

import os
import select
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from brokers import Broker, listening
from postgres import Postgres, PrivatePostgres
from waiting import wait_until

import client
from client.channels.channel import Channel
from client.wire.messages import Query

StartBroker = Callable[..., Broker]

EVERY_TRANSPORT = True


def test_a_backend_that_ends_before_it_reads_its_statement_is_noticed(
    postgres: Postgres, start_broker: StartBroker
) -> None:
    # Its last words come together with a connection reset, as there is something it has not read.
    if not isinstance(postgres, PrivatePostgres):
        pytest.skip("a container's processes have other numbers out here")
    broker = start_broker({"main": {**postgres.parameters, "query_timeout": 0}}, {"default": {"max_size": 1}})
    pid = broker.handler().query("SELECT pg_backend_pid()")[0][0]
    wait_until(lambda: broker.pool()["idle"] == 1, what="the session to be reset")
    threads = ThreadPoolExecutor(1)
    try:
        os.kill(pid, signal.SIGSTOP)
        postgres.execute("SELECT pg_terminate_backend(%s)", (pid,))
        asked = threads.submit(lambda: broker.handler().query("SELECT 1"))
        wait_until(lambda: broker.pool()["active"] == 1, what="the statement to be sent")
        broker.stats()  # what the broker has decided in one turn, it has written before it reads in the next
        os.kill(pid, signal.SIGCONT)
        with pytest.raises(client.DBConnectionError) as caught:
            asked.result(10)
        assert caught.value.outcome in ("failed", "unknown")
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    assert broker.handler().query("SELECT 1")[0][0] == 1


def test_a_client_that_ends_with_an_answer_unread_is_noticed(start_broker: StartBroker, transport: str) -> None:
    broker = start_broker(groups={"leases": {"autocommit": False, "max_size": 1}}, broker=listening(transport))
    channel = Channel(broker.address)

    def ask(begin: bool) -> None:
        number = channel.next_request()
        channel.send(Query(number, "leases", 1, begin, b"SELECT 1", b"", b"", True, None, ""))
        if begin:
            channel.reply_to(number, 10)

    ask(begin=True)
    ask(begin=False)
    wait_until(lambda: select.select([channel._socket], [], [], 0)[0], what="the answer to lie there")
    broker.signal(signal.SIGSTOP)
    ask(begin=False)
    channel.close()
    broker.signal(signal.SIGCONT)
    wait_until(lambda: broker.stats()["clients"] == 1, what="the broker to notice")  # the one that asks
    wait_until(lambda: broker.pool("leases")["idle"] == 1, what="the transaction to be rolled back")
