"""ZeroMQ's protocol with libzmq at the other end, over both kinds of address, and with peers made by hand.

Our side is a plain socket and a ZmtpConnection, as the channel and the broker have them.
"""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from client.wire.zmtp import CLIENT, GREETING, PING, SERVER, SIGNATURE, ZmtpConnection, ZmtpError, command, frame

LIMIT = 50_000_000
TIMEOUT = 10.0
SIZES = [0, 1, 255, 256, 65_536, 20_000_000]


class Link:
    """Our end: messages in and out, and whatever the protocol wants said in between."""

    def __init__(self, connection: socket.socket, role: str) -> None:
        self.socket = connection
        self.socket.settimeout(TIMEOUT)
        self.zmtp = ZmtpConnection(LIMIT, role)

    def flush(self, count: int | None = None) -> None:
        """Send what the protocol has to say, or the first bytes of it."""
        self.socket.sendall(self.zmtp.outbox[:count])
        del self.zmtp.outbox[:count]

    def receive(self) -> None:
        """Take what comes, and say nothing."""
        data = self.socket.recv(65536)
        assert data, "libzmq closed the connection"
        self.zmtp.received(data)
        while self.zmtp.is_behind:
            self.zmtp.received(b"")

    def receive_for_ever(self) -> None:
        """Until something is wrong."""
        while True:
            self.receive()

    def shake_hands(self) -> None:
        while not self.zmtp.is_ready:
            self.flush()
            self.receive()
        self.flush()

    def send(self, message: bytes) -> None:
        self.socket.sendall(self.zmtp.encoded(message))

    def hear(self) -> bytes | None:
        while not self.zmtp.inbox:
            self.receive()
            self.flush()
        return self.zmtp.inbox.popleft()


class Meeting:
    """libzmq's context and our links, on one address; all of it ends with the test."""

    def __init__(self, transport: str, folder: Path) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._transport = transport
        self._path = str(folder / "z")
        self._open: list[socket.socket | zmq.Socket[bytes]] = []

    def theirs(self, kind: int, **options: Any) -> "zmq.Socket[bytes]":
        """A socket of libzmq's, which ends with the test."""
        made = self.context.socket(kind)
        self._open.append(made)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.RCVTIMEO, int(TIMEOUT * 1000))
        for name, value in options.items():
            setattr(made, name, value)
        return made

    def we_are_connected_to(self, theirs: "zmq.Socket[bytes]") -> Link:
        """They listen, we connect."""
        if self._transport == "ipc":
            theirs.bind(f"ipc://{self._path}")
            made = socket.socket(socket.AF_UNIX)
            made.connect(self._path)
        else:
            made = socket.create_connection(("127.0.0.1", theirs.bind_to_random_port("tcp://127.0.0.1")))
        self._open.append(made)
        return Link(made, CLIENT)

    def we_are_called_by(self, theirs: "zmq.Socket[bytes]") -> Link:
        """We listen, they connect."""
        listener = socket.socket(socket.AF_UNIX if self._transport == "ipc" else socket.AF_INET)
        self._open.append(listener)
        listener.settimeout(TIMEOUT)
        listener.bind(self._path if self._transport == "ipc" else ("127.0.0.1", 0))
        listener.listen()
        theirs.connect(
            f"ipc://{self._path}" if self._transport == "ipc" else "tcp://{}:{}".format(*listener.getsockname())
        )
        made, _ = listener.accept()
        self._open.append(made)
        return Link(made, SERVER)

    def close(self) -> None:
        for each in self._open:
            each.close()
        self.context.term()


@pytest.fixture(params=["ipc", "tcp"])
def meeting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Meeting]:
    made = Meeting(request.param, tmp_path)
    try:
        yield made
    finally:
        made.close()


def content(size: int) -> bytes:
    return bytes(range(256)) * (size // 256) + b"x" * (size % 256)


@pytest.mark.parametrize("size", SIZES)
def test_we_and_a_libzmq_router_understand_each_other_at_every_size(meeting: Meeting, size: int) -> None:
    router = meeting.theirs(zmq.ROUTER)
    link = meeting.we_are_connected_to(router)
    link.shake_hands()
    # libzmq's own thread reads it; the socket's buffer need not hold it.
    link.send(content(size))
    identity, received = router.recv_multipart()
    assert received == content(size)
    router.send_multipart([identity, content(size)])
    assert link.hear() == content(size)


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
@pytest.mark.parametrize("size", SIZES)
def test_a_libzmq_dealer_or_req_and_we_understand_each_other_at_every_size(
    meeting: Meeting, kind: int, size: int
) -> None:
    theirs = meeting.theirs(kind)
    link = meeting.we_are_called_by(theirs)
    link.shake_hands()
    for _ in range(2):  # a REQ asks again only when its answer was one
        theirs.send(content(size))
        assert link.hear() == content(size)
        link.send(content(size))
        assert theirs.recv() == content(size)


def test_many_messages_of_a_libzmq_dealer_come_in_order(meeting: Meeting) -> None:
    theirs = meeting.theirs(zmq.DEALER)
    link = meeting.we_are_called_by(theirs)
    sent = [content(number % 700) for number in range(900)]
    for message in sent:
        theirs.send(message)
    link.shake_hands()
    assert [link.hear() for _ in sent] == sent
    for message in sent:
        link.send(message)
    assert [theirs.recv() for _ in sent] == sent


@pytest.mark.parametrize("frames", [[b"a", b"b"], [b"", b"b"], [b"a" * 300, b"", b"b" * 300]])
def test_several_frames_of_a_libzmq_dealer_are_one_message_that_is_none(meeting: Meeting, frames: list[bytes]) -> None:
    theirs = meeting.theirs(zmq.DEALER)
    link = meeting.we_are_called_by(theirs)
    theirs.send_multipart(frames)
    theirs.send(b"alone")
    link.shake_hands()
    assert [link.hear(), link.hear()] == [None, b"alone"]


@pytest.mark.parametrize("frames", [[b"a", b"b"], [b"", b"a"]])
def test_several_frames_of_a_libzmq_req_are_one_message_that_is_none(meeting: Meeting, frames: list[bytes]) -> None:
    theirs = meeting.theirs(zmq.REQ)
    link = meeting.we_are_called_by(theirs)
    theirs.send_multipart(frames)
    link.shake_hands()
    assert link.hear() is None
    link.send(b"no")
    assert theirs.recv() == b"no"
    theirs.send(b"alone")
    assert link.hear() == b"alone"


def test_a_req_that_numbers_its_requests_sends_messages_that_are_none(meeting: Meeting) -> None:
    theirs = meeting.theirs(zmq.REQ, req_correlate=1)
    link = meeting.we_are_called_by(theirs)
    theirs.send(b"numbered")
    link.shake_hands()
    assert link.hear() is None


def test_several_frames_of_a_router_are_refused(meeting: Meeting) -> None:
    router = meeting.theirs(zmq.ROUTER)
    link = meeting.we_are_connected_to(router)
    link.shake_hands()
    link.send(b"")
    router.send_multipart([router.recv_multipart()[0], b"a", b"b"])
    with pytest.raises(ZmtpError, match="message of one frame"):
        link.hear()


@pytest.mark.parametrize("we_connect", [True, False])
def test_libzmqs_heartbeats_are_answered_and_ours_as_well(meeting: Meeting, we_connect: bool) -> None:
    options = {"heartbeat_ivl": 20, "heartbeat_timeout": 10_000, "heartbeat_ttl": 10_000}
    theirs = meeting.theirs(zmq.ROUTER if we_connect else zmq.DEALER, **options)
    link = meeting.we_are_connected_to(theirs) if we_connect else meeting.we_are_called_by(theirs)
    link.shake_hands()
    pings = 0
    while pings < 3:
        link.receive()
        pings += bool(link.zmtp.outbox)
        link.flush()
    link.socket.sendall(PING)
    answer = b""
    while b"PONG" not in answer:
        answer += link.socket.recv(65536)


def test_libzmq_ends_a_connection_whose_pings_nobody_answers(meeting: Meeting) -> None:
    # What the test above would come to if nothing were answered.
    theirs = meeting.theirs(zmq.DEALER, heartbeat_ivl=20, heartbeat_timeout=40)
    link = meeting.we_are_called_by(theirs)
    link.shake_hands()
    while link.socket.recv(65536):
        pass


@pytest.mark.parametrize("kind", ["PUB", "PUSH", "SUB", "PULL", "PAIR", "REP", "ROUTER", "XPUB"])
def test_libzmqs_other_sockets_are_refused_by_their_names(meeting: Meeting, kind: str) -> None:
    link = meeting.we_are_called_by(meeting.theirs(getattr(zmq, kind)))
    # Without our READY: libzmq would find out first.
    link.flush()
    with pytest.raises(ZmtpError, match=f"the peer is a {kind}$"):
        link.receive_for_ever()
    assert link.zmtp.outbox.endswith(command(b"ERROR", b"\x13Invalid socket type"))


@pytest.mark.parametrize("kind", ["DEALER", "REP", "PUB", "PULL"])
def test_a_libzmq_socket_that_is_no_router_is_refused_by_its_name(meeting: Meeting, kind: str) -> None:
    link = meeting.we_are_connected_to(meeting.theirs(getattr(zmq, kind)))
    link.flush()
    with pytest.raises(ZmtpError, match=f"the peer is a {kind}$"):
        link.receive_for_ever()


def secured(mechanism: str, is_server: bool) -> dict[str, Any]:
    """A socket's options for a mechanism with authentication."""
    if mechanism == "PLAIN":
        return {"plain_server": 1} if is_server else {"plain_username": b"u", "plain_password": b"p"}
    public, secret = zmq.curve_keypair()
    keys = {"curve_publickey": public, "curve_secretkey": secret}
    return {**keys, "curve_server": 1} if is_server else {**keys, "curve_serverkey": public}


@pytest.mark.parametrize("mechanism", ["PLAIN", "CURVE"])
@pytest.mark.parametrize("we_connect", [True, False])
def test_libzmqs_mechanisms_with_authentication_are_refused(meeting: Meeting, mechanism: str, we_connect: bool) -> None:
    if mechanism == "CURVE" and not zmq.has("curve"):
        pytest.skip("this libzmq has no CURVE")
    theirs = meeting.theirs(zmq.ROUTER if we_connect else zmq.DEALER, **secured(mechanism, is_server=we_connect))
    link = meeting.we_are_connected_to(theirs) if we_connect else meeting.we_are_called_by(theirs)
    # Not more than the version: when libzmq has seen our mechanism, it closes.
    link.flush(11)
    with pytest.raises(ZmtpError, match=f"security mechanism b'{mechanism}', expected NULL"):
        link.receive_for_ever()


# Peers made by hand, of versions that the libzmq at hand does not speak.

DEALER = (b"Socket-Type", b"DEALER")


def greeting(major: int, minor: int) -> bytes:
    return SIGNATURE + bytes((major, minor)) + GREETING[12:]


def ready(*properties: tuple[bytes, bytes], is_long: bool = False) -> bytes:
    """READY as a short or a long frame."""
    body = b"\x05READY"
    for name, value in properties:
        body += bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value
    return (b"\x06" + len(body).to_bytes(8, "big") if is_long else bytes((4, len(body)))) + body


@pytest.mark.parametrize("minor", [0, 1, 2])
@pytest.mark.parametrize(
    "hello",
    [
        ready(DEALER),
        ready(DEALER, (b"Identity", b"")),
        ready((b"Identity", b"somebody"), DEALER),
        ready(DEALER, (b"X-Unheard-Of", b"\0" * 300), is_long=True),
        ready((b"sOCKET-tYPE", b"DEALER")),
        ready(DEALER, is_long=True),
    ],
    ids=["type", "no identity", "identity", "unknown property", "other case", "long frame"],
)
def test_peers_of_3_0_3_1_and_later_are_taken_in(minor: int, hello: bytes) -> None:
    ours = ZmtpConnection(LIMIT, SERVER)
    ours.received(greeting(3, minor) + hello + frame(b"asked"))
    assert (ours.is_ready, ours.peer, list(ours.inbox)) == (True, b"DEALER", [b"asked"])
    assert bytes(ours.outbox) == GREETING + command(b"READY", b"\x0bSocket-Type\0\0\0\x06ROUTER")


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        # https://rfc.zeromq.org/spec/15/: the revision of ZMTP 2.0 is 1, then the socket's type and an identity follow.
        (SIGNATURE + b"\x01\x05" + b"\x00\x00", "speaks ZMTP 1, expected 3"),
        (SIGNATURE + b"\x02\x05" + b"\x00\x00", "speaks ZMTP 2, expected 3"),
        # ZMTP 1.0 begins with the frame of an identity. https://rfc.zeromq.org/spec/13/
        (b"\x01\x00", "does not greet"),
        (b"\x05\x00peer", "does not greet"),
    ],
    ids=["2.0", "2.x", "1.0 without identity", "1.0 with identity"],
)
@pytest.mark.parametrize("role", [CLIENT, SERVER])
def test_peers_before_3_0_are_refused(role: str, stream: bytes, why: str) -> None:
    with pytest.raises(ZmtpError, match=why):
        ZmtpConnection(LIMIT, role).received(stream)


def test_a_short_message_in_a_long_frame_is_a_message() -> None:
    ours = ZmtpConnection(LIMIT, SERVER)
    ours.received(greeting(3, 1) + ready(DEALER))
    long = b"\x02" + (5).to_bytes(8, "big") + b"short"
    assert ours.only_message(long) == b"short"
    ours.received(long + frame(b"next"))
    assert list(ours.inbox) == [b"short", b"next"]
