"""Who may connect to a broker with keys: libzmq asks, this module answers.

With CURVE a client proves that it has the secret key to the public one it shows; whether this public key may connect,
libzmq asks by ZAP (https://rfc.zeromq.org/spec/27/). Facts about libzmq that shape this module:
- If nobody answers, any key would do: ZAP_ENFORCE_DOMAIN turns that into a refusal.
- Whether libzmq really asks and refuses cannot be seen from inside. So before anybody is served the broker connects to
  itself with a key that is in no list, and does not start if that key is let in.
- ZMQ_FD is edge-triggered: `answer` goes on until there is no question left.
"""

import logging
import struct
from time import monotonic

import zmq
from zmq.utils import z85

from poold.config.client_keys import ClientKeys

log = logging.getLogger(__name__)

ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"poold"
# Seconds between log lines about refusals: a client that tries again and again must not fill the log.
LOG_INTERVAL = 1.0
PROBE_TIMEOUT = 5.0
_ALLOWED, _REFUSED = b"200", b"400"
_KEY_BYTES = 32
# How many frames of a question come before the credentials.
_QUESTION_FRAMES = 6
_OUTCOMES = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)  # fmt: skip


class ZapHandler:
    """Answers the questions of one context's sockets; it has to exist before they are bound."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", clients: ClientKeys) -> None:
        self._clients = clients
        self._next_log = 0.0
        self._probe = ""  # the probe's key, whose refusal is not logged
        self.refused = 0  # connections whose key is not among the clients' keys
        self.socket = context.socket(zmq.REP)
        self.socket.bind(ENDPOINT)

    def answer(self) -> None:
        """Answer all questions that have come."""
        while True:
            try:
                question = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.socket.send_multipart(self._answer(question), zmq.NOBLOCK)

    def _answer(self, question: list[bytes]) -> list[bytes]:
        """Return the answer: yes only if the question is understood and its key is listed."""
        if len(question) < _QUESTION_FRAMES:
            return [b"1.0", b"", _REFUSED, b"not understood", b"", b""]
        version, number, domain, address, _identity, mechanism, *credentials = question
        name: str | None = None
        if (version, domain, mechanism) == (b"1.0", DOMAIN, b"CURVE") and [*map(len, credentials)] == [_KEY_BYTES]:
            key = z85.encode(credentials[0]).decode()
            name = self._clients.name_of(key)
            if name is None and key != self._probe:
                self._log_refusal(key, address.decode("ascii", "replace"))
        if name is None:
            return [b"1.0", number, _REFUSED, b"this key may not connect", b"", b""]
        # libzmq keeps the name and gives it with each of the connection's frames, as User-Id.
        return [b"1.0", number, _ALLOWED, b"OK", name.encode("utf-8", "replace"), b""]

    def _log_refusal(self, key: str, address: str) -> None:
        self.refused += 1
        if monotonic() >= self._next_log:
            self._next_log = monotonic() + LOG_INTERVAL
            log.warning("client refused, its key is not listed count=%d key=%s address=%s", self.refused, key, address)

    def prove(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str, server_key: bytes) -> None:
        """Connect to address with a random key; raises OSError unless it is refused. Nobody is served meanwhile."""
        public, secret = zmq.curve_keypair()
        self._probe = public.decode()
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.IPV6, 1)
        dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = server_key, public, secret
        monitor = dealer.get_monitor_socket(_OUTCOMES)
        try:
            dealer.connect(address)
            outcome = self._outcome(monitor)
        finally:
            dealer.disable_monitor()
            monitor.close(linger=0)
            dealer.close()
        if outcome == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            raise OSError(f"a key that is not listed was let in at {address}, so anybody would be; not started")
        if outcome != zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            raise OSError(
                f"could not find out whether {address} refuses keys that are not listed (event {outcome}); not started"
            )

    def _outcome(self, monitor: "zmq.Socket[bytes]") -> int:
        """Return the event that ends the probe's handshake, 0 if none comes within PROBE_TIMEOUT."""
        deadline = monotonic() + PROBE_TIMEOUT
        while (left := deadline - monotonic()) > 0:
            ready = dict(zmq.zmq_poll([(self.socket, zmq.POLLIN), (monitor, zmq.POLLIN)], int(left * 1000) + 1))
            self.answer()
            if monitor in ready:
                # A 16-bit event and a 32-bit value. http://api.zeromq.org/master:zmq-socket-monitor
                return int(struct.unpack("=hi", monitor.recv_multipart()[0])[0])
        return 0


def ask_for_keys(socket: "zmq.Socket[bytes]", secret: str) -> bytes:
    """Let the socket, not bound yet, take only clients that the handler allows; return the public key of secret."""
    if not zmq.has("curve"):
        raise OSError(
            f"this libzmq ({zmq.zmq_version()}) was built without CURVE, so keys cannot be used; install pyzmq "
            "from its wheels"
        )
    public = zmq.curve_public(secret.encode())
    socket.curve_secretkey = secret.encode()
    socket.curve_publickey = public
    socket.curve_server = True
    socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    return public
