"""The broker's core with a client that sends anything, and a server that answers in good order."""

from corpus import INT4, TEXT, columns, row

from client.wire.codec import decode_request
from client.wire.messages import (
    TX_ACTIVE,
    TX_FAILED,
    TX_NONE,
    CancelRequest,
    Commit,
    CopyBegun,
    CopyEnd,
    CopyIn,
    CopyMessage,
    CopyTaken,
    Failure,
    ProtocolViolation,
    Query,
    Rollback,
    TransactionMessage,
)
from poold.config.model import BrokerConfig, Config, EndpointConfig, GroupConfig
from poold.core import effects
from poold.core.broker import Broker
from poold.core.facts import Completion, Server, StatementResult

_ENDPOINTS = {"main": EndpointConfig(host="/tmp", dbname="db", user="user")}
_SETTINGS = {"endpoints": ("main",), "min_size": 0, "max_size": 1, "max_waiting": 5}
_CONFIG = Config(
    broker=BrokerConfig(address="ipc:///tmp/x"),
    endpoints=_ENDPOINTS,
    groups={"default": GroupConfig(**_SETTINGS), "tx": GroupConfig(**_SETTINGS, autocommit=False)},  # type: ignore[arg-type]  # values of several types
)
_ROWS = StatementResult("SELECT 2", 2, columns(id=INT4, name=TEXT), row(b"1", b"a") + row(b"2", None), ())
_FAILED = Failure(0, TX_NONE, "query", "failed", "no", "22012", {"severity": "ERROR"})
_MOST_EFFECTS = 10_000


def converse(frames: list[bytes]) -> str:
    """Give the core one client's messages; the kinds of its replies."""
    world = World()
    for turn, frame in enumerate(frames):
        world.now = float(turn)
        world.say(frame)
        if turn % 2:  # every other message finds the one before it still waiting
            world.turn()
    return world.end()


class World:
    """Carries out what the core wants."""

    def __init__(self) -> None:
        self.now = 0.0
        self.requests = 0
        self.told: list[str] = []  # the kinds of replies
        self.copying: dict[int, bool] = {}  # the backends that copy, and whether to PostgreSQL
        self.is_dropped = False  # for what it said
        self.broker = Broker(_CONFIG, lambda: 0.5)
        self.broker.start(self.now)
        self.broker.client_arrived(1, 1, "stranger")
        # Backends inside a transaction; those of them in which a statement has failed.
        self._active: set[int] = set()
        self._failed: set[int] = set()
        self._prepared: dict[bytes, bytes] = {}  # text by name

    def say(self, frame: bytes) -> None:
        """The client sends this."""
        try:
            message = decode_request(frame)
        except ProtocolViolation:
            return
        if isinstance(message, (Query, CopyMessage, TransactionMessage, Commit, Rollback)):
            self.requests += 1
            self.broker.request(1, message, self.now)
        elif isinstance(message, (CopyIn, CopyEnd, CopyTaken)):
            self.broker.copying.message(1, message, self.now)
        elif isinstance(message, CancelRequest):
            self.broker.cancel(1, message.request, self.now)

    def end(self) -> str:
        """Let time pass until nobody waits, and the client go; the kinds of replies."""
        self.turn()
        for _ in range(_MOST_EFFECTS):
            deadline = self.broker.next_deadline()
            if self.is_dropped or len(self.told) >= self.requests or deadline is None:
                break
            self.now = max(self.now, deadline)
            self.broker.tick(self.now)
            self.turn()
        assert self.is_dropped or len(self.told) == self.requests, (
            f"{self.requests} requests have {len(self.told)} replies"
        )
        self.broker.client_gone(1, self.now)
        self.turn()
        self.broker.snapshot(self.now)
        return " ".join(self.told)

    def turn(self) -> None:
        """Until it wants nothing more."""
        carried_out = 0
        while todo := self.broker.take():
            for effect in todo:
                carried_out += 1
                assert carried_out < _MOST_EFFECTS, "the core never comes to rest"
                self.carry_out(effect)

    def carry_out(self, effect: effects.Effect) -> None:
        broker, now = self.broker, self.now
        match effect:
            case effects.Connect():
                broker.opened(effect.backend, now, Server(160000, "1/00000001"))
            case effects.Execute(backend, (effects.SimpleQuery(_, is_in),)) if is_in is not None:
                self.copying[backend] = is_in
                broker.copying.begun(backend, now)
            case effects.Execute():
                self.execute(effect.backend, effect.unit)
            case effects.Feed(backend, data):
                broker.copying.fed(backend, len(data), now)
            case effects.EndFeed():
                self.end_copy(effect.backend, effect.error is not None)
            case effects.Tell(_, CopyBegun(_, False)):
                backend = next(iter(self.copying))
                broker.copying.came(backend, row(b"1"), now)
                self.end_copy(backend, False)
            case effects.Drop():
                self.is_dropped = True
            case effects.Cancel():
                broker.cancelled(effect.backend, now)
            case effects.Reply():
                body = effect.body
                self.told.append(body.kind if isinstance(body, Failure) else type(body).__name__)

    def end_copy(self, backend: int, has_failed: bool) -> None:
        """All data has passed."""
        if self.copying.pop(backend, None) is not None:
            copied = Completion(TX_NONE, [StatementResult("COPY 1", 1, None, b"", ())], _FAILED if has_failed else None)
            if backend in self._active:
                self._failed |= {backend} if has_failed else set()
                copied.transaction = TX_FAILED if backend in self._failed else TX_ACTIVE
            self.broker.completed(backend, copied, self.now)

    def execute(self, backend: int, unit: effects.Unit) -> None:
        """A backend is to run this."""
        self.broker.completed(backend, self._answer(backend, unit), self.now)

    def _answer(self, backend: int, unit: effects.Unit) -> Completion:
        """What PostgreSQL says; statements with an 'x' fail."""
        done = Completion(TX_NONE)
        for command in unit:
            if isinstance(command, effects.Prepare):
                self._prepared[command.name] = command.sql
                done.prepared.append(_ROWS[2])
            elif isinstance(command, (effects.SimpleQuery, effects.Plain, effects.Bind)):
                text = self._prepared[command.name] if isinstance(command, effects.Bind) else command.sql
                if not self._runs(backend, text, done):
                    break
        if backend in self._active:
            done.transaction = TX_FAILED if backend in self._failed else TX_ACTIVE
        return done

    def _runs(self, backend: int, text: bytes, done: Completion) -> bool:
        """One statement."""
        done.bound += 1
        word = text.split()[0] if text.split() else b""
        if word in (b"COMMIT", b"ROLLBACK"):
            is_undone = word == b"ROLLBACK" and b"SAVEPOINT" in text
            if not is_undone:
                self._active.discard(backend)
            word = b"ROLLBACK" if backend in self._failed else word
            self._failed.discard(backend)
        elif b"x" in text or backend in self._failed:
            self._failed |= {backend} & self._active
            done.failure = _FAILED
            return False
        elif word == b"BEGIN":
            self._active.add(backend)
        elif word not in (b"SAVEPOINT", b"RELEASE"):
            done.results.append(_ROWS)
            return True
        done.results.append(StatementResult(word.decode(), -1, None, b"", ()))
        return True
