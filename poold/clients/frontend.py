"""The broker's side towards clients: messages in, facts to the core; replies out.

A transport (`poold.clients.transport`) carries the messages; what a message means is decided here.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from time import monotonic
from typing import Any

from client.wire.arguments import unpacked_arguments
from client.wire.codec import decode_request, encode
from client.wire.limits import CANCEL_KEY_BYTES
from client.wire.messages import (
    NOT_EXECUTED,
    VERSION,
    Answer,
    Ask,
    CancelRequest,
    CopyBegun,
    CopyEnd,
    CopyIn,
    CopyOut,
    CopyTaken,
    CopyWanted,
    Failure,
    GroupRequest,
    Hello,
    ProtocolViolation,
    ResultMessage,
    Timing,
    ToClient,
    TransactionResult,
    Welcome,
    plain_failure,
)
from poold import __version__
from poold.clients.audit import Audit
from poold.clients.ledger import Ledger
from poold.clients.transport import Peer, Receiver, Transport
from poold.config.current import CurrentConfig
from poold.core.broker import Broker
from poold.core.clients import access
from poold.system.rate_limited_log import RateLimitedLog

# So many violations of one client are answered, so that whoever writes a client learns what is wrong. The next one
# drops the client.
MAX_VIOLATIONS = 100

log = logging.getLogger(__name__)


class Frontend:
    """The clients of the broker."""

    def __init__(
        self,
        config: CurrentConfig,
        broker: Broker,
        ask: Callable[[Ask, Peer], dict[str, Any] | Answer | Failure | None],
        wake: Callable[[], None],
        listen: Callable[[Receiver], Transport],
        release: Callable[[int], None],
    ) -> None:
        """Listen for clients.

        ask answers questions to the broker itself, None if the answer comes later; wake is called after each fact given
        to broker; listen makes the transport that is to tell this frontend of clients and their messages; release is
        called before the core is told to end something of a client's, so that all of it is in the core.
        """
        self._config = config
        self._broker = broker
        self._ask = ask
        self._wake = wake
        self._release = release
        # Greeted clients by the core's key: enter with Hello, leave when gone.
        self._peers: dict[int, Peer] = {}
        # The same clients' keys by their cancel keys, with which another conversation may cancel their requests.
        self._cancel_keys: dict[bytes, int] = {}
        self._last_key = 0
        self._ledger = Ledger()
        self._audit = Audit(lambda key: self._peers[key].pid if key in self._peers else 0)
        self._log = RateLimitedLog(log)
        self.violations = 0  # messages that broke the protocol
        self.dropped = 0  # replies whose client was gone or did not read
        self._transport = listen(self)

    @property
    def address(self) -> str:
        """The address, as clients are told it."""
        return self._transport.address

    def reply(self, key: int, body: Answer | ResultMessage | TransactionResult | Failure) -> None:
        """Send the final reply of a request."""
        if self._audit.open and isinstance(body, (Answer, Failure)):
            self._audit.answered(key, body)
        peer = self._peers.get(key)
        if peer is None or not peer.send(encode(body)):
            self.dropped += 1

    def tell_later(self, peer: Peer, request: int, told: dict[str, Any] | Failure) -> None:
        """Answer a question to the broker itself that `ask` has left open."""
        self.reply(peer.key, told._replace(request=request) if isinstance(told, Failure) else Answer(request, told))

    def groups_of(self, peer: Peer, message: Ask) -> dict[str, Any] | Failure:
        """Return the groups that the client may use, as Welcome has them; or why it has not the one that it names."""
        client = self._broker.clients[peer.key]
        found = access.modes(client.open_groups)
        for name in unpacked_arguments(message.arguments).get("group", ()):
            removal = None if name in found else self._broker.admission.removal(client, name)
            if removal is not None:
                return removal
        return found

    def tell(self, key: int, body: CopyBegun | CopyOut | CopyWanted | Timing) -> None:
        """Send a message about a request that is under way."""
        if (peer := self._peers.get(key)) is not None:
            peer.send(encode(body))

    def drop(self, key: int, reason: str) -> None:
        """Tell a client why it is disconnected, and disconnect it."""
        peer = self._peers.get(key)
        if peer is not None:
            peer.send(encode(plain_failure("connection", NOT_EXECUTED, f"disconnected: {reason}")))
            peer.drop()
            log.info("client disconnected pid=%d reason=%s", peer.pid, reason)

    def hold(self, peer: Peer, message: Ask) -> None:
        """Take note that an admin's order is given later, or not at all; whoever holds it calls `order` or `reply`."""
        self._audit.held(peer, message)

    def refuse(self, peer: Peer, message: Ask, why: str) -> Failure:
        """Return the answer to an admin's order that cannot be given to the core at the moment."""
        refusal = plain_failure("usage", NOT_EXECUTED, why)
        self._audit.given(peer, message, refusal)
        return refusal

    def order(self, peer: Peer, message: Ask, undone: int = 0) -> Answer | Failure | None:
        """Give the core an admin's order, and before that all that it is about. None: the answer comes later.

        undone: so many orders that were held have ended with it.
        """
        for key in self._broker.operating.killing.concerns(message):
            self._release(key)
        self._wake()
        answer = self._broker.ask(peer.key, message, monotonic())
        if undone and isinstance(answer, Answer):
            answer.body["undone"] += undone
        self._audit.given(peer, message, answer)
        return answer

    def begin(self) -> None:
        """Accept clients from here on."""
        self._transport.begin()

    def after_turn(self) -> None:
        """Tell the transport that the turn is over."""
        self._transport.after_turn()

    def draining(self) -> None:
        """Tell the transport that the broker begins to end."""
        self._transport.draining()

    def accept_all(self) -> None:
        """Decide about whoever has connected by now."""
        self._transport.accept_all()

    def is_there(self, peer: Peer) -> bool:
        """Whether the client is still connected."""
        return self._peers.get(peer.key) is peer

    def leave(self) -> None:
        """Leave whoever connects from here on to another broker."""
        self._transport.leave()

    @property
    def listener(self) -> int:
        """The descriptor of the listening socket; -1 if no other broker can have it."""
        return self._transport.listener

    def read_last(self) -> None:
        """Take the last messages, as the broker ends. The core refuses them."""
        self._transport.read_last()

    async def finish(self, seconds: float, most: float) -> None:
        """Wait until all replies are on their way, as long as clients take some within each so many seconds.

        Not longer than most, in seconds.
        """
        ending = asyncio.ensure_future(self._transport.finish())
        until, left = monotonic() + most, -1
        while not ending.done() and left != self._transport.unread_bytes and monotonic() < until:
            left = self._transport.unread_bytes
            await asyncio.wait([ending], timeout=min(seconds, until - monotonic()))
        if not ending.done():
            ending.cancel()
            log.warning("clients leave replies unread, and do not get them")

    def close(self) -> None:
        """Send what is still to be sent, then close."""
        self._transport.close()
        self._ledger.close()

    # Facts, from the transport.

    def message(self, peer: Peer, payload: bytes) -> None:
        """Take a message of one frame."""
        try:
            message = decode_request(payload)
        except ProtocolViolation as violation:
            self.violated(peer, str(violation))
            return
        if not peer.key:
            self._greet(peer, message)
        elif isinstance(message, GroupRequest):
            self._broker.request(peer.key, message, monotonic(), len(payload))
        elif isinstance(message, (CopyIn, CopyEnd, CopyTaken)):
            self._broker.copying.message(peer.key, message, monotonic())
        elif isinstance(message, CancelRequest):
            # If nobody has the key, its conversation is over, and its requests with it.
            key = self._cancel_keys.get(message.key) if message.key else peer.key
            if key is not None:
                self._release(key)
                self._broker.cancel(key, message.request, monotonic())
        elif isinstance(message, Ask):
            self._broker.clients[peer.key].has_begun(message.request)  # it is carried out, and runs on no backend
            answer = self._ask(message, peer)
            if isinstance(answer, (Answer, Failure)):
                peer.send(encode(answer._replace(request=message.request)))
            elif answer is not None:
                peer.send(encode(Answer(message.request, answer)))
        else:
            self.violated(peer, "Hello was said already")

    def gone(self, peer: Peer) -> None:
        """Take note that the connection has ended."""
        if self._peers.pop(peer.key, None) is not None:
            del self._cancel_keys[peer.cancel_key]
            self._release(peer.key)
            self._audit.gone(peer)
            self._broker.client_gone(peer.key, monotonic())
            if peer.entry is not None:
                self._ledger.leave(peer.entry)
            self._wake()

    def stalled(self, peer: Peer) -> None:
        """Take note that the client leaves replies unread."""
        self._broker.client_stalled(peer.key)

    def reads(self, peer: Peer) -> None:
        """Take note that the client has read all replies."""
        self._broker.client_reads(peer.key, monotonic())
        self._wake()

    def wake(self) -> None:
        """Schedule a turn: messages were taken, so there may be effects."""
        self._wake()

    def violated(self, peer: Peer, why: str) -> None:
        """Tell the client what was wrong, and count it; drop the client after too many. Ignored if it is gone."""
        if peer.violations == MAX_VIOLATIONS:
            self.violations += 1
            peer.drop()
            return
        refusal: ToClient = plain_failure("protocol", NOT_EXECUTED, f"not understood: {why}")
        if not peer.send(encode(refusal)):
            return
        self.violations += 1
        peer.violations += 1
        self._log.warning("protocol violation count=%d pid=%d reason=%s", self.violations, peer.pid, why)

    def _greet(self, peer: Peer, hello: object) -> None:
        """Take the first message of a client, which must be Hello with this protocol version, and send Welcome."""
        if not isinstance(hello, Hello):
            self.violated(peer, "expected Hello first")
            return
        if hello.version != VERSION:
            text = (
                f"this broker (poold {__version__}) speaks protocol version {VERSION}, the client "
                f"(poold {hello.release}) version {hello.version}; install the same poold release on both sides"
            )
            self.violated(peer, text)
            return
        self._last_key += 1
        peer.key = self._last_key
        peer.pid = peer.pid or hello.pid
        peer.cancel_key = os.urandom(CANCEL_KEY_BYTES)
        self._peers[peer.key] = peer
        self._cancel_keys[peer.cancel_key] = peer.key
        broker = self._config.broker
        entry = peer.entry = self._ledger.enter(peer.key) if peer.shares_memory else None
        found = self._broker.client_arrived(
            peer.key, peer.pid, hello.application_name, peer.uid, peer.gid, peer.caller(), monotonic()
        )
        if entry is not None:
            self._broker.clients[peer.key].begun = entry.begun
        welcome = Welcome(
            VERSION,
            os.getpid(),
            __version__,
            broker.max_request_bytes,
            broker.max_result_bytes,
            access.modes(found),
            peer.cancel_key,
            *((entry.place, peer.key) if entry is not None else ()),
        )
        peer.welcome(encode(welcome))
        peer.greeted(self._broker.clients[peer.key])
