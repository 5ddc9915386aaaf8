"""Settings for one statement or one transaction alone: those that travel with a request, and its deadline.

PostgreSQL's `SET LOCAL` needs a transaction block. `set_config(..., true)` does the same in the implicit transaction
that all commands up to one Sync share. So a single statement can have settings as well, in the same round trip, and
they end with it, however it ends.

The deadline of a request is sent as such a setting: the time left until then becomes statement_timeout, if it is
shorter than the endpoint's own. So a statement ends in time even if the broker is gone, or its cancel is late.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from poold.core.effects import Command, Plain
from poold.core.statements.leftovers import NOTHING, UNSEEN
from poold.core.statements.lexemes import RELIED_ON_WORDS
from poold.core.statements.statement import Statement, Statements, plain_command
from poold.core.work.labels import SETTING

if TYPE_CHECKING:
    from poold.core.records.backend import Backend
    from poold.core.records.request import Request

# A statement of the broker's own, with NUL for its parameters.
SET_LOCAL = b"SELECT pg_catalog.set_config(\0, \0, true)"
_TYPES = bytes(8)  # undeclared; they become text
READS, WILL_READ = b"transaction_read_only", b"default_transaction_read_only"
# What makes a transaction read only, by what is no query: SET TRANSACTION may follow it.
_READING = b"SET LOCAL transaction_read_only = on"
_TRUE = (b"on", b"true", b"t", b"yes", b"y", b"1")
# Seconds beyond its deadline that the server has to end a statement by itself before the broker cancels it.
SERVER_GRACE = 0.1

# A time as PostgreSQL reads it: https://www.postgresql.org/docs/current/config-setting.html
_TIME = re.compile(rb"\s*([0-9]{1,12}(?:\.[0-9]{0,12})?)\s*(us|ms|s|min|h|d|)\s*")
_SECONDS = {b"us": 1e-6, b"ms": 0.001, b"": 0.001, b"s": 1.0, b"min": 60.0, b"h": 3600.0, b"d": 86400.0}

# Makes the commands that run a statement with these values; the bool asks for literals.
Run = Callable[[Statement, bytes, bool], list[Command]]


def pairs(settings: bytes) -> list[tuple[bytes, bytes]]:
    """Names and values of settings as they travel."""
    parts = settings.split(b"\0")
    return list(zip(parts[:-1:2], parts[1::2], strict=True))


def objection(settings: bytes) -> str:
    """Why these settings cannot travel with a request, "" if they can; PostgreSQL itself checks the values."""
    for name, _ in pairs(settings):
        if name.lower() in RELIED_ON_WORDS:
            return f"the setting {name.decode(errors='replace')} cannot travel with a request: values rely on it"
    return ""


def choose_plans(settings: bytes) -> bool:
    """Whether they decide how prepared statements are planned; then the statement runs with literals."""
    return b"plan_cache_mode" in settings.lower()


def plain(statement: Statement, values: bytes, _: bool) -> list[Command]:
    """The statement with literals; a Run."""
    return [plain_command(statement, values)]


def own_timeout(settings: bytes, otherwise: float) -> float:
    """The statement_timeout among these settings in seconds, 0 for no limit; `otherwise` if there is none to read."""
    for name, value in reversed(pairs(settings)):
        if name.lower() == b"statement_timeout":
            found = _TIME.fullmatch(value)
            return otherwise if found is None else float(found[1]) * _SECONDS[found[2]]
    return otherwise


def until(deadline: float | None, now: float, query_timeout: float) -> int:
    """The statement_timeout in milliseconds that the deadline asks for; 0 if there is none or query_timeout is shorter.

    query_timeout, in seconds, is the limit that holds anyway; 0 for no limit.
    """
    if deadline is None:
        return 0
    left = deadline - now
    if 0 < query_timeout <= left:
        return 0
    return max(0, int(left * 1000)) + 1


def commands(
    statements: Statements,
    settings: bytes,
    milliseconds: int,
    is_literal: bool,
    run: Run,
    label: bytes = b"",
    ahead_of_set: bool = False,
) -> list[Command]:
    """The commands that make the settings hold, a statement_timeout of so many milliseconds if not 0, and the label.

    For each setting, in order, one command that has a result, preceded by those that prepare it. ahead_of_set: they
    come between BEGIN and a SET.
    """
    found: list[Command] = []
    given = pairs(settings) if settings else []
    if milliseconds:
        given.append((b"statement_timeout", b"%d" % milliseconds))
    if label:
        given.append((SETTING, label))
    if given:
        own = statements.own(SET_LOCAL, _TYPES)
        for name, value in given:
            reads = makes_read_only(name, value)
            if reads and ahead_of_set:
                found.append(Plain(_READING))
                continue
            found += run(own, sized(READS if reads else name) + sized(value), is_literal)
    return found


def makes_read_only(name: bytes, value: bytes) -> bool:
    """Whether transactions are to be read only by this setting: READS for one that has begun, WILL_READ for others.

    The default says nothing of a transaction that has begun, and what is set for one ends with it.
    """
    return name.lower() in (READS, WILL_READ) and value.strip().lower() in _TRUE


def count(settings: bytes) -> int:
    """How many settings there are."""
    return settings.count(b"\0") // 2


def sized(value: bytes) -> bytes:
    """The value as it travels among parameters: its length in 4 bytes, and the bytes."""
    return len(value).to_bytes(4, "big") + value


def was_changed(backend: Backend, request: Request) -> None:
    """The request changed a setting that PostgreSQL reports: reset the session later, prepare nothing in it until then.

    A statement that was taken to leave nothing in its session is refused preparation from here on.
    """
    if backend.left is NOTHING and request.statement is not None and request.lease is None:
        request.statement.refuse()  # although it was proven harmless
    backend.left = backend.left.joined(UNSEEN)
    if request.lease is not None:
        request.lease.is_altered = True
    if request.runner is not None:
        request.runner.is_base = False
