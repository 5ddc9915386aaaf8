"""What a backend is given to do for a request: the unit, command by command.

A statement runs in one of three forms. By itself and with literals it is a simple query, which may hold several
statements. Prepared it is Bind and Execute, after its Parse where this backend has not seen it. With settings of its
own it shares their implicit transaction, prepared or with literals; then it must be a single one.
"""

from __future__ import annotations

from client.protocol import ProtocolViolation
from poold.core import settings
from poold.core.effects import Command, Simple, Unit, in_order
from poold.core.outcomes import settings_before
from poold.core.pool import Backend
from poold.core.request import Request, Verb
from poold.core.settings import Run
from poold.core.statements import Statement, literal_command, plain_command

# As plain globals: to name a member of an Enum costs five times as much, and these are named for every request.
_QUERY = Verb.QUERY

COMMIT: Unit = (Simple(b"COMMIT"),)
ROLLBACK: Unit = (Simple(b"ROLLBACK"),)
BEGIN: Unit = (Simple(b"BEGIN"),)


def unit_for(backend: Backend, request: Request, now: float) -> Unit:
    """The first unit of the request on this backend. Notes in the request what follows it, and who watches its time."""
    statement, verb = request.statement, request.verb
    if verb is not _QUERY:
        return _other_unit(backend, request, now)
    assert statement is not None
    is_timed = request.deadline is not None and request.lease is None and statement.examine().is_plain
    milliseconds = _server_timeout(backend, request, now) if is_timed else 0
    if milliseconds or request.settings:
        if request.is_counted and request.lease is None:
            request.then = (_literal(statement, request.values),)
            return settings_before(request)
        return _unit_with_settings(backend, request, statement, milliseconds)
    if is_prepared(request, statement):
        if not request.begin:
            return tuple(backend.prepared.commands(statement, request.values))
        own = request.group.statements.own(b"BEGIN")
        commands = backend.prepared.commands(own, b"")
        commands += backend.prepared.commands(statement, request.values, (own.name,))
        return in_order(commands)
    literal = _literal(statement, request.values)
    if not request.begin:
        return (literal,)
    # BEGIN must have succeeded before a simple query, which no earlier error would skip.
    request.then = (literal,)
    return BEGIN


def _unit_with_settings(backend: Backend, request: Request, statement: Statement, milliseconds: int) -> Unit:
    names: set[bytes] = set()
    run = runner(backend, names)
    own, is_literal = request.group.statements, request.is_literal
    commands = run(own.own(b"BEGIN"), b"", is_literal) if request.begin else []
    commands += settings.commands(own, request.settings, milliseconds, is_literal, run)
    if is_prepared(request, statement):
        commands += backend.prepared.commands(statement, request.values, names)
    else:
        commands.append(plain_command(statement, request.values))
    return in_order(commands)


def _other_unit(backend: Backend, request: Request, now: float) -> Unit:
    if request.verb is Verb.COMMIT:
        return COMMIT
    if request.verb is Verb.ROLLBACK:
        return ROLLBACK
    if request.script is not None:
        return request.script.start(runner(backend), _server_timeout(backend, request, now))
    return request.unit


def _server_timeout(backend: Backend, request: Request, now: float) -> int:
    """The milliseconds after which the server itself is to end it; 0 where the endpoint's limit comes first."""
    milliseconds = settings.until(request.deadline, now, backend.pool.endpoint.query_timeout)
    request.is_timed = milliseconds > 0
    return milliseconds


def runner(backend: Backend, names: set[bytes] | None = None) -> Run:
    """How statements of one transaction are run on this backend, prepared where they can be.

    names collects those that the transaction needs, which none of its own commands may drop.
    """
    prepared = backend.prepared.commands
    needed: set[bytes] = set() if names is None else names

    def run(statement: Statement, values: bytes, is_literal: bool) -> list[Command]:
        if not is_literal and statement.runs_prepared(values):
            needed.add(statement.name)
            return prepared(statement, values, needed)
        return [plain_command(statement, values)]

    return run


def is_prepared(request: Request, statement: Statement) -> bool:
    """Whether the request runs its statement prepared."""
    return (
        request.prepare
        and not request.is_literal
        and (request.lease is None or not request.lease.changed_schema)
        and statement.runs_prepared(request.values)
    )


def _literal(statement: Statement, values: bytes) -> Simple:
    try:
        return literal_command(statement, values)
    except ProtocolViolation:
        # Refused where it arrived, unless the statement was prepared then: PostgreSQL refuses it for what it is.
        return Simple(b"")
