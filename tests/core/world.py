"""A broker core with nothing around it: facts are called by the test, effects are collected by kind."""

from collections.abc import Sequence
from typing import Any

from client.protocol import TX_ACTIVE, TX_NONE, Commit, Failure, Query, Rollback, encode_result_body
from poold.config import BrokerConfig, Config, EndpointConfig, GroupConfig
from poold.core import effects
from poold.core.broker import Broker
from poold.core.machine import Completion
from poold.core.state import BackendState

OK = encode_result_body((TX_NONE, "SELECT 1", 1, None, []))
S = BackendState


def endpoint(**over: Any) -> EndpointConfig:
    return EndpointConfig(**{"host": "/tmp", "dbname": "db", "user": "user", **over})


class World:
    """One broker, a clock, and what it has asked for so far."""

    def __init__(
        self,
        endpoints: Sequence[str] = ("main",),
        chance: float = 0.5,
        start: bool = True,
        endpoint_settings: dict[str, Any] | None = None,
        drain_timeout: float = 30.0,
        **group: Any,
    ) -> None:
        """One group `default` with these settings, and `tx` with the same and autocommit off."""
        group = {"min_size": 0, "max_size": 2, **group}
        names = tuple(endpoints)
        self.config = Config(
            broker=BrokerConfig(address="ipc:///tmp/x", drain_timeout=drain_timeout),
            endpoints={name: endpoint(**(endpoint_settings or {})) for name in names},
            groups={
                "default": GroupConfig(**{"endpoints": names, **group}),
                "tx": GroupConfig(**{"endpoints": names, **group, "autocommit": False}),
            },
        )
        self.now = 0.0
        self.broker = Broker(self.config, lambda: chance)
        self.effects: list[effects.Effect] = []
        self.replies: list[effects.Reply] = []
        self._last_request = 0
        if start:
            self.broker.start(self.now)
            self.take()

    def take(self) -> list[effects.Effect]:
        """The effects since the last take; replies are kept apart as well."""
        taken = self.broker.take()
        self.effects += taken
        self.replies += [effect for effect in taken if isinstance(effect, effects.Reply)]
        return taken

    def taken(self, kind: type) -> list[Any]:
        """All effects of a kind so far, those not taken yet included."""
        self.take()
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def client(self, key: int = 1) -> int:
        self.broker.client_arrived(key, 1000 + key, f"client {key}")
        return key

    def query(self, client: int = 1, group: str = "default", lease: int = 0, begin: bool = False, **over: Any) -> int:
        """Send a query; returns its request number."""
        self._last_request += 1
        message = Query(self._last_request, group, lease, begin, b"SELECT 1", None, "")._replace(**over)
        self.broker.request(client, message, self.now)
        return message.request

    def end(self, verb: type[Commit] | type[Rollback], lease: int, client: int = 1) -> int:
        self._last_request += 1
        self.broker.request(client, verb(self._last_request, lease), self.now)
        return self._last_request

    def connect_all(self) -> None:
        """Every backend that is being opened opens."""
        while connecting := [b for b in self.broker.backends.values() if b.state is S.CONNECTING]:
            self.broker.opened(connecting[0].number, self.now)
        self.take()

    def running(self, request: int) -> int:
        """The number of the backend that runs this request."""
        return next(b.number for b in self.broker.backends.values() if b.request and b.request.number == request)

    def complete(self, backend: int, transaction: str = TX_NONE, reply: Any = OK, command: str = "SELECT 1") -> None:
        self.broker.completed(backend, Completion(transaction, command, reply), self.now)

    def finish(self, request: int, transaction: str = TX_NONE, **over: Any) -> None:
        """The request's statement ends."""
        self.complete(self.running(request), transaction, **over)

    def begin(self, lease: int, client: int = 1) -> int:
        """A lease whose first statement has ended; returns its backend. A backend must be free or may be opened."""
        request = self.query(client, "tx", lease=lease, begin=True)
        self.connect_all()
        backend = self.running(request)
        self.complete(backend, TX_ACTIVE)
        return backend

    def pass_time(self, seconds: float) -> None:
        """Let time pass as the shell does: tick at each deadline on the way."""
        end = self.now + seconds
        while (deadline := self.broker.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.broker.tick(self.now)
        self.now = end

    def reply_to(self, request: int, client: int = 1) -> bytes | Failure:
        """The one reply of a request; fails when there is none or more than one."""
        self.take()
        found = [reply.body for reply in self.replies if (reply.client, reply.request) == (client, request)]
        assert len(found) == 1, f"request {request} has {len(found)} replies"
        return found[0]

    def is_answered(self, request: int, client: int = 1) -> bool:
        self.take()
        return any((reply.client, reply.request) == (client, request) for reply in self.replies)

    def state(self, backend: int) -> BackendState:
        return self.broker.backends[backend].state


def failure(sqlstate: str = "22012", transaction: str = TX_NONE, message: str = "division by zero") -> Failure:
    return Failure(0, transaction, "query", "failed", message, sqlstate, {"severity": "ERROR"})
