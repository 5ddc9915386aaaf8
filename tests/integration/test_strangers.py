"""What no client of ours would send to the broker's socket: it is refused or dropped, counted, survived."""

import random
import socket
from collections.abc import Callable, Iterator

import pytest
import zmq
from brokers import Broker
from waiting import wait_until

from client.wire.codec import decode_reply, encode
from client.wire.messages import VERSION, Ask, Failure, Hello, Query, Rollback, ToClient, Welcome

StartBroker = Callable[..., Broker]
HELLO = encode(Hello(VERSION, 1, "stranger", "0"))


class Stranger:
    """A bare DEALER socket."""

    def __init__(self, broker: Broker) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(broker.address)

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def hear(self) -> ToClient:
        assert self.socket.poll(10_000), "no answer"
        return decode_reply(self.socket.recv())

    def close(self) -> None:
        self.socket.close()
        self._context.term()


@pytest.fixture
def stranger(broker: Broker) -> Iterator[Stranger]:
    made = Stranger(broker)
    try:
        yield made
    finally:
        made.close()


def refusal(stranger: Stranger) -> str:
    answer = stranger.hear()
    assert isinstance(answer, Failure)
    assert (answer.request, answer.kind) == (0, "protocol")
    return answer.message


def test_a_request_before_hello_is_refused_and_not_run(broker: Broker, stranger: Stranger) -> None:
    before = broker.group()["requests"]
    stranger.send(encode(Query(1, "default", 0, False, b"SELECT 1", b"", b"", True, None, "")))
    assert "Hello first" in refusal(stranger)
    assert broker.group()["requests"] == before


def test_another_version_is_refused_with_both_versions_named(stranger: Stranger) -> None:
    stranger.send(encode(Hello(VERSION + 1, 1, "future", "9.9")))
    text = refusal(stranger)
    assert f"version {VERSION}," in text
    assert "9.9" in text


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"GET / HTTP/1.1\r\n\r\n", b"\x91" * 100_000, b"\x00" * 1000])
def test_garbage_is_refused_and_counted_before_and_after_hello(
    broker: Broker, stranger: Stranger, garbage: bytes
) -> None:
    before = broker.stats()["protocol_violations"]
    stranger.send(garbage)
    assert "not understood" in refusal(stranger)
    stranger.send(HELLO)
    assert isinstance(stranger.hear(), Welcome)
    stranger.send(garbage)
    assert "not understood" in refusal(stranger)
    assert broker.stats()["protocol_violations"] == before + 2


def test_a_message_of_several_frames_is_refused_whole(stranger: Stranger) -> None:
    stranger.send(HELLO, HELLO, b"")
    assert "one frame" in refusal(stranger)
    stranger.send(HELLO)
    assert isinstance(stranger.hear(), Welcome)
    stranger.send(encode(Query(1, "default", 0, False, b"SELECT 1", b"", b"", True, None, "")), b"more")
    assert "one frame" in refusal(stranger)


def test_hello_is_said_once(stranger: Stranger) -> None:
    stranger.send(HELLO)
    stranger.hear()
    stranger.send(HELLO)
    assert "already" in refusal(stranger)


def test_an_oversize_message_ends_its_connection_and_only_that(broker: Broker, stranger: Stranger) -> None:
    stranger.send(HELLO)
    welcome = stranger.hear()
    assert isinstance(welcome, Welcome)
    clients = broker.stats()["clients"]
    stranger.send(b"x" * (welcome.max_request_bytes + 1))
    wait_until(lambda: broker.stats()["clients"] < clients, what="the connection to be dropped")
    assert broker.handler().query("SELECT 1")[0][0] == 1


def test_someone_elses_lease_is_out_of_reach(broker: Broker, stranger: Stranger) -> None:
    db = broker.handler("transactions")
    db.query("SELECT 1")
    stranger.send(HELLO)
    stranger.hear()
    for number in range(1, 50):
        stranger.send(encode(Rollback(number, number)))
        stranger.hear()
    assert broker.pool("transactions")["leased"] == 1
    db.commit()


def test_bytes_that_are_no_zmtp_are_dropped(broker: Broker) -> None:
    dice = random.Random(7)
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(broker.socket))
            raw.sendall(dice.randbytes(dice.randrange(1, 200)))
    assert broker.handler().query("SELECT 1")[0][0] == 1


def test_thousands_of_damaged_messages_change_nothing_for_others(broker: Broker, stranger: Stranger) -> None:
    dice = random.Random(11)
    originals = [
        HELLO,
        encode(Query(1, "default", 0, False, b"SELECT 1", b"", b"", True, None, "")),
        encode(Ask(1, "ping")),
    ]
    stranger.socket.setsockopt(zmq.RCVHWM, 0)
    for _ in range(3000):
        frame = bytearray(dice.choice(originals))
        for _ in range(dice.randrange(1, 4)):
            frame[dice.randrange(len(frame))] = dice.randrange(256)
        stranger.send(bytes(frame))
    db = broker.handler()
    assert [db.query("SELECT %s::int", (n,))[0][0] for n in range(100)] == list(range(100))


def test_a_client_that_reads_nothing_is_dropped_and_others_are_served(start_broker: StartBroker) -> None:
    broker = start_broker(broker={"client_buffer_bytes": 65536, "client_write_timeout": 0.5})
    deaf = Stranger(broker)
    try:
        deaf.socket.setsockopt(zmq.RCVHWM, 1)
        deaf.send(HELLO)
        deaf.hear()
        dropped = broker.stats()["dropped_replies"]
        number = 0

        def flood() -> bool:
            nonlocal number
            for _ in range(200):
                number += 1
                try:
                    deaf.socket.send(encode(Ask(number, "stats")), zmq.NOBLOCK)
                except zmq.Again:
                    break
            return bool(broker.stats()["dropped_replies"] > dropped)

        wait_until(flood, 30, "the deaf client to be dropped")
        assert "client_write_timeout" in broker.log()
        assert broker.handler().query("SELECT 1")[0][0] == 1
    finally:
        deaf.close()
