"""The lane between real sockets: a core, its wires, clients, and servers that answer when the test says so.

A server echoes: whatever a statement is, its one row has the statement's first value, and its command tag a number that
follows from it. So every reply can be told to be the right one. The clock is the test's.
"""

from __future__ import annotations

import re
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from client.wire.codec import decode_reply, decode_request, encode, split_steps
from client.wire.messages import (
    CancelRequest,
    Failure,
    ProtocolViolation,
    Query,
    ResultMessage,
    Step,
    ToClient,
    TransactionMessage,
    TransactionResult,
)
from client.wire.zmtp import CLIENT, ZmtpConnection, frame
from poold.config.model import BrokerConfig, Config, EndpointConfig, GroupConfig
from poold.core import effects
from poold.core.broker import Broker
from poold.core.effects import Bind, Unit
from poold.core.facts import Loss, Server
from poold.core.records.backend import Backend
from poold.core.shared.queue import Queue
from poold.core.state import BackendState
from poold.core.statements.literals import numbered
from poold.core.statements.proofs import Proof
from poold.core.statements.statement import Statement, StatementState
from poold.lane import lane
from poold.lane.lane import Lane
from poold.postgres.errors import WireError
from poold.postgres.messages import bind, bind_head
from poold.postgres.parameter_status import ParameterStatus
from poold.postgres.wire import Wire

READ = b"SELECT name FROM item WHERE id = \0"
OTHER = b"SELECT price FROM item WHERE id = \0"
WRITE = b"UPDATE item SET price = price + 1 WHERE id = \0"
INT = struct.pack("!I", 23)
PLAIN_READ = Proof(is_harmless=True, is_plain_read=True, may_be_generic=True)
HARMLESS = Proof(is_harmless=True, may_be_generic=True)
SETTINGS = {"client_encoding": "UTF8", "standard_conforming_strings": "on", "DateStyle": "ISO, MDY"}
PREFIX = b"poold_x_"


def values(*each: object) -> bytes:
    """Values as Bind has them."""
    return b"".join(struct.pack("!I", len(text)) + text for text in (str(one).encode() for one in each))


def message(kind: bytes, body: bytes = b"") -> bytes:
    """One message of PostgreSQL's protocol."""
    return kind + struct.pack("!I", len(body) + 4) + body


COLUMNS = struct.pack("!H", 1) + b"name\0" + struct.pack("!IHIhiH", 0, 0, 25, -1, -1, 0)
READY = message(b"Z", b"I")


def error(code: bytes, status: bytes = b"I", text: bytes = b"no") -> bytes:
    """An error with this code, and ReadyForQuery."""
    return message(b"E", b"SERROR\0VERROR\0C" + code + b"\0M" + text + b"\0\0") + message(b"Z", status)


def _last_number(sql: bytes) -> bytes:
    found = re.search(rb"(\d+)\D*$", sql)
    return found[1] if found else b""


class Postgres:
    """The server's end of one connection."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._read = b""
        self._unit: list[tuple[bytes, bytes]] = []
        self.units: deque[list[tuple[bytes, bytes]]] = deque()  # whole ones that are not answered
        self.statements: dict[bytes, bytes] = {}  # text by name
        self.received = b""  # since the session last rested
        self._rest = b""  # of an answer given in part

    def read(self) -> None:
        """Take what was sent."""
        while True:
            try:
                data = self.end.recv(1 << 16)
            except OSError:
                return
            if not data:
                return
            self.received += data
            self._read += data
            while len(self._read) >= 5:
                size = 1 + int.from_bytes(self._read[1:5], "big")
                if len(self._read) < size:
                    break
                kind, body, self._read = self._read[:1], self._read[5:size], self._read[size:]
                self._unit.append((kind, body))
                if kind in (b"S", b"Q"):
                    self.units.append(self._unit)
                    self._unit = []

    def answer_of(self, unit: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The answer if nothing goes wrong."""
        said = bound = b""
        for kind, body in unit:
            if kind == b"P":
                name, sql, _ = body.split(b"\0", 2)
                self.statements[name] = sql
                said += message(b"1")
            elif kind == b"D" and body[:1] == b"S":
                said += message(b"t", b"\0\0") + self._described(self.statements[body[1:-1]])
            elif kind == b"B":
                bound = self._bound(body)
                said += message(b"2")
            elif kind == b"E":
                said += bound
            elif kind == b"C":
                self.statements.pop(body[1:-1], None)
                said += message(b"3")
            elif kind == b"D" and self.statements[b""].startswith(b"SELECT"):
                said += message(b"T", COLUMNS)
            elif kind == b"Q":
                for sql in body[:-1].split(b";"):
                    said += message(b"T", COLUMNS) if sql.startswith(b"SELECT") else b""
                    said += self._result(sql, _last_number(sql))
        return said + READY

    @staticmethod
    def _described(sql: bytes) -> bytes:
        return message(b"T", COLUMNS) if sql.startswith(b"SELECT") else message(b"n")

    def _bound(self, body: bytes) -> bytes:
        _portal, name, rest = body.split(b"\0", 2)
        sql, count = self.statements[name], int.from_bytes(rest[2:4], "big")
        value = rest[8 : 8 + int.from_bytes(rest[4:8], "big")] if count else _last_number(sql)
        return self._result(sql, value)

    @staticmethod
    def _result(sql: bytes, value: bytes) -> bytes:
        if sql.startswith(b"SELECT"):
            return message(b"D", struct.pack("!HI", 1, len(value)) + value) + message(b"C", b"SELECT 1\0")
        return message(b"C", sql.split()[0] + (b" " + value if value else b"") + b"\0")

    def say(self, data: bytes) -> None:
        """Send these bytes."""
        self.end.sendall(data)


class Client:
    """A client: the peer that the lane knows, and the program behind it."""

    def __init__(self, stage: Stage, key: int) -> None:
        self.stage, self.key = stage, key
        self.here, self.there = socket.socketpair()
        for end in (self.here, self.there):
            end.setblocking(False)
        self._zmtp = ZmtpConnection(1 << 20, CLIENT, is_ready=True)
        self._sent_zmtp = ZmtpConnection(1 << 20, CLIENT, is_ready=True)
        self.replies: list[ToClient] = []
        self._unsent = b""
        self.is_gone = False
        self.has_left = False

    # What the lane asks of a peer.

    @property
    def is_quiet(self) -> bool:
        return not (self.is_gone or self._unsent) and self._zmtp.is_drained

    def received(self, data: bytes) -> None:
        if not data:
            self.stage.gone(self)
            return
        self._zmtp.received(data)
        while self._zmtp.inbox:
            self._take(self._zmtp.inbox.popleft() or b"")

    def _take(self, payload: bytes) -> None:
        stage, taken = self.stage, decode_request(payload)
        if isinstance(taken, CancelRequest):
            stage.release(self)
            stage.broker.cancel(self.key, taken.request, stage.now)
        else:
            stage.broker.request(self.key, taken, stage.now, len(payload))  # type: ignore[arg-type]

    def send(self, payload: bytes) -> bool:
        self.keep(frame(payload))
        return True

    def keep(self, data: bytes) -> None:
        if not self._unsent:
            try:
                data = data[self.here.send(data) :]
            except (BlockingIOError, ConnectionError):
                pass
            if data and self.stage.lane is not None:
                self.stage.lane.cool(self.here.fileno())
        self._unsent += data

    def flush(self) -> None:
        """The socket has room again."""
        data, self._unsent = self._unsent, b""
        if data:
            self.keep(data)

    # The program.

    def write(self, data: bytes) -> None:
        """Send bytes; the broker reads them with the next `Stage.turn`."""
        self.there.sendall(data)

    def read(self) -> None:
        """Take the replies that have come."""
        try:
            while data := self.there.recv(1 << 20):
                self._sent_zmtp.received(data)
        except (BlockingIOError, ConnectionError):
            pass
        while self._sent_zmtp.inbox:
            self.replies.append(decode_reply(self._sent_zmtp.inbox.popleft() or b""))


class Stage:
    """A broker's core, its lane if has_lane, and both ends of all its connections."""

    def __init__(self, has_lane: bool = True, broker: dict[str, Any] | None = None, **group: Any) -> None:
        group = {"min_size": 0, "max_size": 2, "prepare": "auto", **group}
        self.config = Config(
            broker=BrokerConfig(address="ipc:///tmp/x", **(broker or {})),
            endpoints={"main": EndpointConfig(host="/tmp", dbname="db", user="user")},
            groups={"default": GroupConfig(endpoints=("main",), **group)},
        )
        self.now = 100.0
        self.broker = Broker(self.config, lambda: 0.5, has_lane=has_lane, make_queue=lane.Queue if has_lane else Queue)
        self.later: list[Callable[[], None]] = []
        self.lane = Lane(self.broker, lambda _seconds, call: self.later.append(call)) if has_lane else None
        if self.lane is not None:
            self.lane.attach(self)
        self.clients: dict[int, Client] = {}
        self.servers: dict[int, Postgres] = {}
        self._ends: dict[int, socket.socket] = {}
        self._wires: dict[int, Wire] = {}
        self._unsent: dict[int, list[Unit]] = {}
        self.effects: list[effects.Effect] = []
        self.cancels: list[int] = []
        self.handed_over_units: list[tuple[int, list[Unit]]] = []
        self._numbers = 0
        self.is_stopped = False
        self.broker.start(self.now)
        self.settle()

    @property
    def group(self) -> Any:
        return self.broker.groups["default"]

    # Statements and clients.

    def promote(self, sql: bytes, types: bytes = INT, proof: Proof = PLAIN_READ) -> Statement:
        """A statement that a probe has found to be one that can be prepared, with this proof and a short profile."""
        statement: Statement = self.group.statements.find(sql, types)
        statement.numbered = numbered(sql)
        statement.state = StatementState.PREPARED
        statement.proof = proof
        statement.is_harmless = proof.is_harmless
        if proof.may_be_generic:
            statement.runs_per_parse = 1 << 62
        for _ in range(5):
            statement.record(0.0001, 100)
        return statement

    def client(self, pid: int | None = None) -> Client:
        key = len(self.clients) + 1
        made = self.clients[key] = Client(self, key)
        self.broker.client_arrived(key, pid or 1000 + key, "test", 0, 0, now=self.now)
        if self.lane is not None:
            self.lane.enter(made.here.fileno(), made, self.broker.clients[key])
        return made

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def query(self, client: Client, sql: bytes = READ, **over: Any) -> int:
        """Send a query, whose value is its number."""
        number = self.number()
        fields = Query(number, "default", 0, False, sql, INT, values(number), True, None, "tag")
        client.write(frame(encode(fields._replace(**over))))
        return number

    def transaction(self, client: Client, *statements: bytes, **over: Any) -> int:
        """Send a transaction message, each of whose statements has its number as value."""
        number = self.number()
        steps = [Step(sql, INT, values(number), True, (), 0, None) for sql in statements]
        fields = TransactionMessage(number, "default", None, None, None, 2, *split_steps(steps), None, "tag")
        client.write(frame(encode(fields._replace(**over))))
        return number

    # The shell.

    def turn(self, client: Client) -> None:
        """The broker reads from the client."""
        if client.is_gone:
            return
        descriptor = client.here.fileno()
        if self.lane is None or not self.lane.readable(descriptor, self.now):
            try:
                data = client.here.recv(1 << 16)
            except BlockingIOError:
                data = None
            if data is not None:
                client.received(data)
        self.settle()

    def receive(self, number: int) -> None:
        """The broker reads from the backend."""
        end = self._ends.get(number)
        if end is None:
            return
        if self.lane is None or not self.lane.readable(end.fileno(), self.now):
            try:
                data = end.recv(1 << 16)
            except (BlockingIOError, ConnectionError):
                return
            if data:
                self._take(number, data)
            else:
                self._lose(number)
        self.settle()

    def settle(self) -> None:
        """Carry out effects until there are none."""
        while todo := self.broker.take():
            for effect in todo:
                self._carry_out(effect)
            for number in list(self._unsent):
                self._flush(number)
        for server in self.servers.values():
            server.read()
        for client in self.clients.values():
            client.flush()
            client.read()
        deadline = self.broker.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.broker.tick(self.now)
            self.settle()

    def _carry_out(self, effect: effects.Effect) -> None:
        self.effects.append(effect)
        match effect:
            case effects.Connect():
                self._connect(effect.backend)
            case effects.Execute() | effects.Lend() if effect.backend not in self._wires:
                pass  # it was lost after the core had decided
            case effects.Execute():
                self._wires[effect.backend].send(effect.unit)
                self._unsent.setdefault(effect.backend, []).append(effect.unit)
            case effects.Reply():
                self.clients[effect.client].send(encode(effect.body))
            case effects.Cancel():
                self.cancels.append(effect.backend)
            case effects.Close():
                self._close(effect.backend)
            case effects.Teach():
                assert self.lane is not None
                self.lane.teach(effect.flow)
            case effects.Lend():
                assert self.lane is not None
                assert self._wires[effect.backend].is_at_rest
                descriptor = self._ends[effect.backend].fileno()
                self.servers[effect.backend].read()
                self.servers[effect.backend].received = b""
                backend, wire = self.broker.backends[effect.backend], self._wires[effect.backend]
                self.lane.lend(descriptor, backend, wire, self.now)
            case effects.Recall():
                assert self.lane is not None
                self.lane.recall(effect.backend, effect.at_once)
            case effects.Poke():
                assert self.lane is not None
                self.lane.poke(self.group)
            case effects.Stop():
                self.is_stopped = True
            case effects.Drop():
                self.gone(self.clients[effect.client])

    def _connect(self, number: int) -> None:
        here, there = socket.socketpair()
        for end in (here, there):
            end.setblocking(False)
        self._ends[number] = here
        self.servers[number] = Postgres(there)
        self._wires[number] = Wire(1 << 20, ParameterStatus(SETTINGS.get, False), PREFIX)
        self.broker.opened(number, self.now, Server(160000, "1/1", pid=number))

    def _flush(self, number: int) -> None:
        del self._unsent[number]
        wire = self._wires.get(number)
        if wire is not None:
            try:
                self._ends[number].sendall(b"".join(wire.outbox))
            except ConnectionError:
                self._lose(number)
            wire.outbox.clear()

    def _take(self, number: int, data: bytes) -> None:
        wire, is_lost = self._wires[number], False
        try:
            wire.received(data)
        except WireError:
            is_lost = True
        for done in wire.completed:
            self.broker.completed(number, done, self.now)
        if is_lost and number in self._wires:
            self._lose(number)

    def _lose(self, number: int) -> None:
        wire = self._wires[number]
        self._close(number)
        self.broker.lost(number, Loss(wire.fatal or "gone", 0, wire.partial(), wire.last_failure()), self.now)

    def _close(self, number: int) -> None:
        self._ends.pop(number).close()
        self._wires.pop(number)
        self.servers.pop(number).end.close()

    # What the lane tells its owner.

    def lent_back(self, number: int) -> None:
        assert not self.broker.backends[number].running
        self.broker.lent_back(number, self.now)

    def handed_over(self, number: int, unread: bytes, unsent: bytes, untouched: int) -> None:
        assert not unsent
        assert not untouched
        units = self.broker.handed_over(number, self.now)
        self.check_sent(number, units)
        self._wires[number].units.extend(units)
        if unread:
            self._take(number, unread)

    def queued(self, flights: Sequence[Any]) -> None:
        self.broker.queued(flights, self.now)

    def waits(self, group: Any) -> None:
        self.broker.waits(group, self.now)

    def check_sent(self, number: int, units: Sequence[Unit]) -> None:
        """The units of what was handed over, encoded, are the last bytes that the server got."""
        server = self.servers[number]
        server.read()
        sent = b""
        for unit in units:
            for command in unit:
                assert isinstance(command, Bind)
                sent += bind(bind_head(PREFIX + command.name, command.count), command.values)
            sent += message(b"S")
        assert server.received.endswith(sent)

    # What happens.

    def release(self, client: Client) -> None:
        """As the frontend does before the core is to end something of a client's."""
        if self.lane is not None:
            self.lane.release(self.broker.clients[client.key])

    def gone(self, client: Client) -> None:
        if not client.is_gone:
            client.is_gone = True
            self.release(client)
            self.broker.client_gone(client.key, self.now)

    def answer(self, number: int, instead: bytes | None = None) -> None:
        """The server answers the first unit that it has, as usual or with these bytes; the broker reads that."""
        server = self.servers[number]
        unit = server.units.popleft()
        server.say(server.answer_of(unit) if instead is None else instead)
        self.receive(number)

    def answer_all(self) -> None:
        """All servers answer all that they have, until nothing comes any more."""
        while busy := [number for number, server in self.servers.items() if server.units]:
            for number in busy:
                if number in self.servers and self.servers[number].units:
                    self.answer(number)

    def pass_time(self, seconds: float) -> None:
        """Time passes, a millisecond or the whole if that is less at a time, with all that is due."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.001)
            if self.lane is not None:
                self.lane.check(self.now)
            self.settle()

    def cancelled(self) -> None:
        """The server takes the cancels: nothing was hit."""
        cancels, self.cancels = self.cancels, []
        for number in cancels:
            self.broker.cancelled(number, self.now)
        self.settle()

    def backend(self, number: int) -> Backend:
        return self.broker.backends[number]

    def lent(self) -> list[int]:
        """The backends that the lane has."""
        return [number for number, each in self.broker.backends.items() if each.state is BackendState.LENT]

    def close(self) -> None:
        for number in list(self._ends):
            self._close(number)
        for client in self.clients.values():
            client.here.close()
            client.there.close()


def is_right(reply: ToClient, number: int, statements: Sequence[bytes]) -> bool:
    """Whether the reply is what the servers give for these statements with this number as value."""
    value = str(number).encode()
    row = message(b"D", struct.pack("!HI", 1, len(value)) + value)

    def is_result(sql: bytes, result: Sequence[object]) -> bool:
        if sql.startswith(b"SELECT"):
            return tuple(result[:4]) == ("SELECT 1", 1, COLUMNS, row)
        return tuple(result[:4]) == (f"{sql.split()[0].decode()} {number}", number, None, b"")

    if isinstance(reply, ResultMessage):
        return len(statements) == 1 and is_result(statements[0], reply[2:])
    if isinstance(reply, TransactionResult):
        if reply.failure is not None or len(reply.results) != len(statements):
            return False
        return all(each and is_result(sql, each[2:]) for sql, each in zip(statements, reply.results, strict=True))
    assert isinstance(reply, Failure)
    return False


__all__ = ["HARMLESS", "INT", "OTHER", "READ", "WRITE", "ProtocolViolation", "Stage", "error", "is_right", "message"]
