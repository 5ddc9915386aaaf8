"""A broker core with nothing around it: facts are called by the test, effects are collected by kind."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from client.wire.arguments import packed_arguments
from client.wire.codec import split_steps
from client.wire.messages import (
    TX_ACTIVE,
    TX_NONE,
    Answer,
    Ask,
    Commit,
    Failure,
    Query,
    ResultMessage,
    Rollback,
    TransactionMessage,
    TransactionResult,
)
from poold.config.model import BrokerConfig, Config, EndpointConfig, GroupConfig
from poold.core import effects
from poold.core.broker import Broker
from poold.core.facts import Completion, Server, StatementResult
from poold.core.records.request import Verb
from poold.core.state import BackendState
from poold.core.statements import leftovers
from poold.core.statements.proofs import Examination
from poold.core.work.probe import Examine

# How the units of a reset begin.
NAMES = b"CLOSE ALL"
RESETS = (b"RESET SESSION AUTHORIZATION", NAMES)
OK = StatementResult("SELECT 1", 1, b"\0\0", b"D\0\0\0\6\0\0", ())
BEGUN = StatementResult("BEGIN", -1, None, b"", ())
ROLLED_BACK = StatementResult("ROLLBACK", -1, None, b"", ())
SERVER = Server(160000, "1/00000001")
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
        broker: dict[str, Any] | None = None,
        shows_resets: bool = False,
        examine: Examine = Examination,
        timelines: dict[str, int] | None = None,
        **group: Any,
    ) -> None:
        """One group `default` with these settings, and `tx` with the same and autocommit off; outcomes are tracked.

        Behind most statements a session is reset, which most tests are not about: unless a test wants to see it, that
        is done at once and leaves no effect; of one that rolls back first, the ROLLBACK is left.
        """
        group = {"min_size": 0, "max_size": 2, "prepare": "off", "track_outcome": True, "role": "any", **group}
        names = tuple(endpoints)
        self.config = Config(
            broker=BrokerConfig(address="ipc:///tmp/x", drain_timeout=drain_timeout, **(broker or {})),
            endpoints={name: endpoint(**(endpoint_settings or {})) for name in names},
            groups={
                "default": GroupConfig(**{"endpoints": names, **group}),
                "tx": GroupConfig(**{"endpoints": names, **group, "autocommit": False}),
            },
        )
        self.now = 0.0
        self.broker = Broker(self.config, lambda: chance, examine, timelines=timelines)
        self.effects: list[effects.Effect] = []
        self.replies: list[effects.Reply] = []
        self._last_request = 0
        # Backends whose reset goes on when their ROLLBACK has ended.
        self._resetting: set[int] = set()
        if not shows_resets:
            self._reset_at_once()
        if start:
            self.broker.start(self.now)
            self.take()

    def _reset_at_once(self) -> None:
        for name in (
            "completed",
            "cancelled",
            "lost",
            "client_gone",
            "cancel",
            "request",
            "tick",
            "opened",
            "observed",
            "ask",
            "reconfigured",
        ):
            setattr(self.broker, name, self._followed_by_resets(getattr(self.broker, name)))

    def _followed_by_resets(self, fact: Callable[..., Any]) -> Callable[..., Any]:
        def told(number: int, *more: Any, **others: Any) -> Any:
            answer = fact(number, *more, **others)
            if fact.__name__ == "completed" and number in self._resetting:
                self._resetting.discard(number)
                self._complete_reset(number, NAMES)
            self._complete_resets()
            return answer

        return told

    def _complete_resets(self) -> None:
        decided, self.broker.agenda.effects = self.broker.agenda.effects, []
        for effect in decided:
            first = effect.unit[0] if isinstance(effect, effects.Execute) else None
            sql = first.sql if isinstance(first, effects.SimpleQuery) else b""
            if sql.startswith(b"ROLLBACK; RESET"):
                self._resetting.add(effect.backend)
                self.broker.agenda.effects.append(effects.Execute(effect.backend, (effects.SimpleQuery(b"ROLLBACK"),)))
            elif sql.startswith(NAMES) and effect.backend in self._resetting:
                pass  # follows the ROLLBACK
            elif sql.startswith(RESETS):
                self._complete_reset(effect.backend, sql)
            else:
                self.broker.agenda.effects.append(effect)

    def _complete_reset(self, number: int, sql: bytes) -> None:
        backend = self.broker.backends.get(number)
        if backend is None or backend.state is not S.RESETTING:
            return
        count = leftovers.names_held(backend.server, len(backend.prepared))
        cell = b"\0\1" + len(count).to_bytes(4, "big") + count
        row = b"D" + (len(cell) + 4).to_bytes(4, "big") + cell
        done = Completion(TX_NONE, [StatementResult("SELECT 1", 1, b"\0\0", row, ())])
        type(self.broker).completed(self.broker, number, done, self.now)
        if self.broker.agenda.effects:
            self._complete_resets()

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

    def query(
        self,
        client: int = 1,
        group: str = "default",
        lease: int = 0,
        begin: bool = False,
        size: int = 0,
        **over: Any,
    ) -> int:
        """Send a query of so many bytes; returns its request number."""
        self._last_request += 1
        message = Query(self._last_request, group, lease, begin, b"SELECT 1", b"", b"", True, None, "")._replace(**over)
        self.broker.request(client, message, self.now, size)
        return message.request

    def transaction(self, *steps: Any, client: int = 1, **over: Any) -> int:
        """Send a transaction message; returns its request number."""
        self._last_request += 1
        message = TransactionMessage(
            self._last_request, "default", None, None, None, 0, *split_steps(steps), None, ""
        )._replace(**over)
        self.broker.request(client, message, self.now)
        return message.request

    def end(self, verb: type[Commit] | type[Rollback], lease: int, client: int = 1) -> int:
        self._last_request += 1
        self.broker.request(client, verb(self._last_request, lease), self.now)
        return self._last_request

    def ask(self, what: str, asker: int = 1, /, **arguments: Any) -> Any:
        """Give an order; returns its number if the answer comes later, else the Answer's body or the Failure."""
        self._last_request += 1
        pairs = [
            (name, str(each))
            for name, value in arguments.items()
            for each in (value if isinstance(value, (list, tuple)) else [value])
        ]
        told = self.broker.ask(asker, Ask(self._last_request, what, packed_arguments(pairs)), self.now)
        if told is None:
            return self._last_request
        return told.body if isinstance(told, Answer) else told

    def reconfigure(
        self,
        endpoints: dict[str, Any] | None = None,
        groups: dict[str, Any] | None = None,
        broker: dict[str, Any] | None = None,
        renewed: Sequence[str] = (),
    ) -> None:
        """Another configuration: what is named is changed or added, None instead of settings removes it.

        Groups have all endpoints unless theirs are named.
        """
        now = self.broker.config.as_it_is()
        ends, made = {**now.endpoints}, {**now.groups}
        for name, over in (endpoints or {}).items():
            if over is None:
                del ends[name]
            else:
                ends[name] = replace(ends.get(name) or endpoint(), **over)
        for name, over in (groups or {}).items():
            if over is None:
                del made[name]
            else:
                made[name] = replace(made.get(name) or next(iter(now.groups.values())), **over)
        if endpoints and ends.keys() != now.endpoints.keys():
            named = {name for name, over in (groups or {}).items() if over and "endpoints" in over}
            made = {
                name: each if name in named else replace(each, endpoints=tuple(ends)) for name, each in made.items()
            }
        config = Config(broker=replace(now.broker, **(broker or {})), endpoints=ends, groups=made)
        self.broker.reconfigured(config, self.now, renewed)
        self.take()

    def connect_all(self) -> None:
        """Every backend that is being opened opens."""
        while connecting := [b for b in self.broker.backends.values() if b.state is S.CONNECTING]:
            self.broker.opened(connecting[0].number, self.now, SERVER)
        self.take()

    def running(self, request: int) -> int:
        """The number of the backend that runs this request."""
        return next(
            b.number for b in self.broker.backends.values() if any(each.number == request for each in b.running)
        )

    def complete(self, backend: int, transaction: str = TX_NONE, reply: Any = OK, command: str = "SELECT 1") -> None:
        """The statement that the backend runs ends, after the question or the BEGIN that goes ahead of it."""
        self.tell(backend)
        request = self.broker.backends[backend].request
        if request is not None and request.then:
            self.broker.completed(backend, Completion(TX_ACTIVE, [BEGUN]), self.now)
        if isinstance(reply, Failure):
            self.broker.completed(backend, Completion(transaction, [], reply), self.now)
        else:
            self.broker.completed(backend, Completion(transaction, [StatementResult(command, *reply[1:])]), self.now)

    def tell(self, backend: int, number: int = 1) -> None:
        """If the backend runs the question of how many transactions its session has had: so many."""
        request = self.broker.backends[backend].request
        if request is not None and request.verb is Verb.QUESTION:
            outcome = numbered(b"3/%d" % number)
            self.broker.completed(backend, Completion(TX_NONE, [outcome]), self.now)
            self.take()

    def resets(self) -> list[int]:
        """The backends that were told to roll back, by the broker or by a client."""
        return [
            each.backend for each in self.taken(effects.Execute) if each.unit == (effects.SimpleQuery(b"ROLLBACK"),)
        ]

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

    def reply_to(self, request: int, client: int = 1) -> ResultMessage | TransactionResult | Failure:
        """The one reply of a request; fails when there is none or more than one."""
        self.take()
        found = [reply.body for reply in self.replies if (reply.client, reply.body.request) == (client, request)]
        assert len(found) == 1, f"request {request} has {len(found)} replies"
        return found[0]

    def outcome(self, request: int, client: int = 1) -> StatementResult | Failure:
        """As reply_to; of a Result what PostgreSQL said."""
        reply = self.reply_to(request, client)
        return tuple(reply)[2:] if isinstance(reply, ResultMessage) else reply

    def is_answered(self, request: int, client: int = 1) -> bool:
        self.take()
        return any((reply.client, reply.body.request) == (client, request) for reply in self.replies)

    def state(self, backend: int) -> BackendState:
        return self.broker.backends[backend].state


def numbered(number: bytes) -> StatementResult:
    """The answer to the question of outcomes.py."""
    row = b"\0\1" + len(number).to_bytes(4, "big") + number
    return StatementResult("SELECT 1", 1, b"\0\1", b"D" + (len(row) + 4).to_bytes(4, "big") + row, ())


def executed(backend: int, sql: bytes) -> effects.Execute:
    """The effect that runs this text."""
    return effects.Execute(backend, (effects.SimpleQuery(sql),))


def failure(sqlstate: str = "22012", transaction: str = TX_NONE, message: str = "division by zero") -> Failure:
    return Failure(0, transaction, "query", "failed", message, sqlstate, {"severity": "ERROR"})


# What a server says before it ends a connection.
FATAL = failure("57P01", message="terminating connection")._replace(kind="connection")
