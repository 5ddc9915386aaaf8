"""Every decoder that reads a stranger's bytes, as a table: what is called, what it may raise, how much it may keep.

`check` holds one input against its row. tests/fuzz/test_fuzz.py and scripts/fuzz drive the same table.
"""

import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import corpus
import psycopg2
from impostor import cheat
from parts import chunks, split, split_all
from shapes import reshaped, reshaped_talk
from stranger import converse

from client.errors import error_from
from client.values.result import Result as Rows
from client.wire import keyfiles
from client.wire.codec import decode_reply, decode_request, decode_steps
from client.wire.messages import TX_NONE, Failure, ProtocolViolation, ResultMessage, StepReference, TransactionMessage
from client.wire.zmtp import CLIENT, SERVER, ZmtpConnection, ZmtpError
from poold.clients.curve_auth import ZapHandler
from poold.config import file, pgdbpool
from poold.config.client_keys import read_client_keys
from poold.core.effects import Bind, Flush, Plain, Prepare, SimpleQuery, Unit
from poold.core.facts import StatementResult
from poold.core.statements import literals, sql
from poold.core.statements.statement import Statements
from poold.core.work import references
from poold.core.work.transaction_plan import Plan
from poold.metrics.http import read_head, response
from poold.postgres import diagnostics
from poold.postgres.errors import WireError
from poold.postgres.parameter_status import ParameterStatus
from poold.postgres.wire import Wire

# What any input may cost besides: caches that fill, an exception and its traceback.
BASE_BYTES = 256 * 1024
MESSAGE_LIMIT = 100_000
RESULT_LIMIT = 20_000


class Finding(AssertionError):
    """An input that its decoder did not stand."""


Reshape = Callable[[Random, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Decoder:
    """One row. run returns in words what it did, which tells inputs apart; errors are those that are the protocol's."""

    run: Callable[[bytes], str]
    seeds: Sequence[bytes]
    errors: tuple[type[Exception], ...] = ()
    words: Sequence[bytes] = ()  # what it looks for in its input
    memory: float = 10.0  # bytes held at the same time, for each byte of input, beyond BASE_BYTES
    reshape: Reshape | None = None  # changes an input as what it means


def behaviour(decoder: Decoder, data: bytes) -> str:
    """What it does with the input, in words; raises Finding for what it must not do."""
    try:
        return decoder.run(data)
    except decoder.errors as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        raise Finding(f"{type(error).__name__}: {error}") from error


def check(decoder: Decoder, data: bytes) -> str:
    """As behaviour; raises Finding as well if too much memory is used.

    What an input needs it needs again; a table of the interpreter's own that happens to grow meanwhile grows once.
    """
    allowed = BASE_BYTES + decoder.memory * len(data)
    told, peak = _measured(decoder, data)
    if peak > allowed:
        told, peak = _measured(decoder, data)
    if peak > allowed:
        raise Finding(f"{peak} bytes of memory for {len(data)} of input, expected at most {allowed:.0f}")
    return told


def _measured(decoder: Decoder, data: bytes) -> tuple[str, int]:
    """Its behaviour, and the most bytes of memory that it held at once."""
    tracemalloc.start()
    try:
        told = behaviour(decoder, data)
        return told, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ZeroMQ's protocol, as poold.clients.ipc and client.channels.channel read it.


def _zmtp(role: str, data: bytes) -> str:
    connection = ZmtpConnection(MESSAGE_LIMIT, role)
    took = 0
    for chunk in chunks(data):
        payload = None if connection.inbox else connection.only_message(chunk)
        if payload is None:
            connection.received(chunk)
            took += len(connection.inbox)
            connection.inbox.clear()
            while connection.is_behind:
                connection.received(b"")
                took += len(connection.inbox)
                connection.inbox.clear()
        else:
            took += 1
    return f"{connection.is_ready} {connection.peer!r} {took > 0} {len(connection.outbox) > 64}"


# Messages.


def _request(data: bytes) -> str:
    message = decode_request(data)
    if isinstance(message, TransactionMessage):
        decode_steps(message.steps)
    return type(message).__name__


def _steps(data: bytes) -> str:
    steps = decode_steps(data)
    return " ".join("mark" if isinstance(step, int) else f"{len(step.references)}" for step in steps[:10])


def _reply(data: bytes) -> str:
    message = decode_reply(data)
    if isinstance(message, Failure):
        return type(error_from(message)).__name__
    return type(message).__name__


def _plan(data: bytes) -> str:
    plan = Plan(data, Statements())
    return f"{plan.obstacle} {plan.writes} {plan.is_whole} {plan.begins_with_set}"


def _core(data: bytes) -> str:
    return converse(split_all(data))


# Statements and values.


def _examine(data: bytes) -> str:
    return str(sql.examine(data, corpus.oids(corpus.INT4) * data.count(0)))


def _render(data: bytes) -> str:
    statement, types, values = split(data, 3)
    rendered = literals.render(statement, types, values)
    assert b"\0" not in rendered
    if statement == b"SELECT \0":
        _assert_is_one_literal(rendered[len(statement) - 1 :])
    return f"rendered {types[:4]!r}"


# What a literal may be made of besides strings: SELECT ARRAY[ -5,'it''s'::int8] but no second statement, no remark.
_IN_LITERALS = {b"ARRAY", b"[", b"]", b",", b"-", b":", b"NULL", b"true", b"false", b"E", b"e", b".", b"+"}


def _assert_is_one_literal(text: bytes) -> None:
    read = 0
    for kind, token, begin, end in sql.tokens(text):
        assert not text[read:begin].strip(), f"a remark in {text!r}"
        read = end
        is_name = kind == "word" and text[begin - 2 : begin] == b"::"
        is_exponent = kind == "word" and token[:1] in b"eE" and token[1:].isdigit()
        assert (
            kind in ("string", "number") or is_name or is_exponent or token in _IN_LITERALS or token in (b"e", b"+")
        ), text
    assert read == len(text)


_NAMES = ("id", "name", "", "nix")


def _references(data: bytes) -> str:
    columns, rows, which = split(data, 3)
    outcome = StatementResult("SELECT 1", 1, columns, rows, ())
    found = [
        StepReference(0, 0, None if each & 1 else each >> 4, each >> 1 & 3 if each & 8 else _NAMES[each >> 1 & 3])
        for each in which[:10]
    ]
    types, values = references.resolved(bytes(4), b"\xff" * 4, found, [outcome])
    literals.render(b"SELECT \0", types, values)
    return f"{types!r} {len(values) > 4}"


# PostgreSQL's side.

_UNITS: tuple[tuple[Unit, ...], ...] = (
    ((SimpleQuery(b"SELECT 1/0; SELECT 2"),) * 1, (SimpleQuery(b"SELECT 3"),)),
    (),
    ((Prepare(b"p", b"SELECT $1", bytes(4)), Bind(b"p", 1, b"\xff" * 4)),),
    ((Bind(b"k", 0, b""),), (Bind(b"i", 0, b""),), (Bind(b"k", 0, b""), Bind(b"k", 0, b""))),
    ((Bind(b"i", 0, b""), Bind(b"k", 0, b""), Flush(), Bind(b"k", 0, b"")), (SimpleQuery(b"SELECT 1"),)),
    ((Plain(b"BEGIN"), Plain(b"SELECT 1/0"), Plain(b"COMMIT")), (Bind(b"k", 0, b""),)),
    ((SimpleQuery(b"COPY t TO STDOUT", False),), (SimpleQuery(b"COPY t FROM STDIN", True),)),
)


def _wire(data: bytes) -> str:
    wire = Wire(RESULT_LIMIT, ParameterStatus(lambda _: "on"))
    wire._columns.update({b"k": corpus.columns(id=corpus.INT4), b"i": None})
    for unit in _UNITS[data[0] % len(_UNITS)] if data else ():
        wire.send(unit)
    told = []
    kept = copied = 0
    try:
        for chunk in chunks(data[1:]):
            completions = wire.received(chunk)
            copied += len(wire.copies.take()[1])
            wire.feed(b"1\n")
            for done in completions:
                told.append(f"{done.transaction} {len(done.results)} {done.failure and done.failure.kind}")
                kept += sum(len(result.rows or b"") for result in done.results)
    finally:
        wire.partial()
        wire.last_failure()
    assert kept + copied <= len(data)
    return " ".join(told) + f"{copied > 0} {wire.fatal is None} {len(wire.outbox)}"


def _error(data: bytes) -> str:
    text, body = split(data, 2)
    found = diagnostics.failure(body, TX_NONE, text or None, ())
    notice = diagnostics.notice(body, text or None)
    return f"{found.kind} {sorted(found.diag)} {len(found.message) > 200} {'LINE' in notice}"


def _rows(data: bytes) -> str:
    columns, rows = split(data, 2)
    reply = ResultMessage(1, TX_NONE, "SELECT 1", rows.count(b"D\0\0"), columns, rows, ())
    result = Rows(reply)
    described = result.description
    names = result.columns
    assert described is not None
    assert names is not None
    found = result.fetchall()
    assert [each.name for each in described] == list(names)
    again = Rows(reply)
    assert found == [again[number] for number in range(len(found))]
    return f"{len(names)} {len(found) > 1} {[type(value).__name__ for value in found[0]][:3] if found else ''}"


# Files, and libzmq's questions.


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="poold-fuzz-")


def _written(name: str, data: bytes) -> Path:
    path = Path(_folder().name) / name
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def _public_key(data: bytes) -> str:
    path = _written("a.key", data)
    found, problems = read_client_keys(path)
    assert bool(found) is not bool(problems)
    return f"key {keyfiles.read_public(path)[:2]}"


def _secret_key(data: bytes) -> str:
    return f"key {keyfiles.read_secret(_written('a.key_secret', data))[:2]}"


class _Nobody:
    def name_of(self, key: str) -> str | None:
        return None


def _metrics(data: bytes) -> str:
    request = read_head(data)
    assert response(request, b"page", 0.0).startswith(b"HTTP/1.1 ")
    return f"{request.status} {request.wanted.name} {request.is_head} {request.is_kept}"


def _zap(data: bytes) -> str:
    handler: Any = object.__new__(ZapHandler)
    handler._clients, handler._next_log, handler._probe, handler.refused = _Nobody(), float("inf"), "", 0
    answer = handler._answer(split_all(data))
    assert len(answer) == 6
    assert answer[2] != b"200"
    return f"{answer[2]} {handler.refused}"


def _config(data: bytes) -> str:
    return str(sorted(file.parse(data.decode("utf-8", "surrogateescape"), "fuzz").groups))


def _legacy(data: bytes) -> str:
    return str(len(pgdbpool.convert(data.decode("utf-8", "surrogateescape"), "fuzz")) > 1000)


# What casters raise, decimal's among them; ValueError is ProtocolViolation's base.
_UNREADABLE = (psycopg2.Error, ValueError, ArithmeticError)

_KEY_WORDS = (b"public-key", b"secret-key", b"=", b'"')
_TOML_WORDS = (b"[groups.a]", b"= ", b"[[", b'"', b"{}", b"[" * 500)
_LEGACY_WORDS = (b"config = ", b"{", b"[" * 500, b"(" * 300, b"-" * 300, b"9" * 5000)

DECODERS: dict[str, Decoder] = {
    "zmtp-server": Decoder(
        lambda data: _zmtp(SERVER, data), corpus.zmtp(b"DEALER", b"REQ"), (ZmtpError,), corpus.ZMTP_WORDS, 24
    ),
    "zmtp-client": Decoder(
        lambda data: _zmtp(CLIENT, data), corpus.zmtp(b"ROUTER"), (ZmtpError,), corpus.ZMTP_WORDS, 24
    ),
    "request": Decoder(_request, corpus.MESSAGES, (ProtocolViolation,), corpus.MSGPACK_WORDS, 30, reshaped),
    "steps": Decoder(_steps, corpus.PLANS, (ProtocolViolation,), corpus.MSGPACK_WORDS, 30, reshaped),
    "reply": Decoder(_reply, corpus.REPLIES, (ProtocolViolation,), corpus.MSGPACK_WORDS, 80, reshaped),
    "core": Decoder(_core, corpus.TALKS, (), corpus.MSGPACK_WORDS, 100, reshaped_talk),
    "examine": Decoder(_examine, corpus.STATEMENTS, (), corpus.SQL_WORDS, 20),
    "plan": Decoder(
        _plan, corpus.PLANS, (ProtocolViolation,), (*corpus.MSGPACK_WORDS, *corpus.SQL_WORDS), 100, reshaped
    ),
    "render": Decoder(_render, corpus.RENDERED, (ProtocolViolation,), corpus.VALUE_WORDS, 100),
    "references": Decoder(
        _references, corpus.REFERENCES, (references.ReferenceMissing, ProtocolViolation), corpus.WIRE_WORDS, 100
    ),
    "wire": Decoder(_wire, corpus.STREAMS, (WireError,), corpus.WIRE_WORDS, 60),
    "server": Decoder(cheat, corpus.ANSWERS, (), corpus.WIRE_WORDS, 100),
    "error": Decoder(_error, corpus.ERRORS, (), corpus.WIRE_WORDS, 60),
    "rows": Decoder(_rows, corpus.RESULTS, _UNREADABLE, corpus.WIRE_WORDS, 200),
    "public-key": Decoder(_public_key, corpus.KEY_FILES, (ValueError,), _KEY_WORDS, 50),
    "secret-key": Decoder(_secret_key, corpus.KEY_FILES, (ValueError,), _KEY_WORDS, 50),
    "zap": Decoder(_zap, corpus.ZAP, (), (b"\0\5poold", b"\0\5CURVE", b"\0\0")),
    "metrics": Decoder(_metrics, corpus.HTTP, (), corpus.HTTP_WORDS, 40),
    "config": Decoder(_config, [corpus.TOML], (file.ConfigError,), _TOML_WORDS, 1000),
    "legacy": Decoder(_legacy, corpus.LEGACY, (file.ConfigError,), _LEGACY_WORDS, 2000),
}
