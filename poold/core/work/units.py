"""What a backend is given to do for a request: the unit, command by command.

A statement runs in one of three forms. By itself and with literals it is a simple query, which may hold several
statements. Prepared it is Bind and Execute, after its Parse where this backend has not seen it. With settings of its
own it shares their implicit transaction, prepared or with literals; then it must be a single one.

Prepared is only what begins in a session as it was opened: what is parsed elsewhere means what the settings, roles and
names of that moment make of it, for whoever runs it later. So behind anything in the same transaction or session that
is not proven harmless all runs with literals.
"""

from __future__ import annotations

from client.wire.messages import ProtocolViolation
from poold.core.effects import Command, Plain, SimpleQuery, Unit, in_order
from poold.core.records.backend import Backend
from poold.core.records.request import Request
from poold.core.statements import leftovers
from poold.core.statements.leftovers import NOTHING, left_by
from poold.core.statements.statement import Statement, literal_command, plain_command
from poold.core.work import settings
from poold.core.work.outcomes import settings_before

COMMIT: Unit = (SimpleQuery(b"COMMIT"),)
ROLLBACK: Unit = (SimpleQuery(b"ROLLBACK"),)
BEGIN: Unit = (SimpleQuery(b"BEGIN"),)
# Before anything that may ask for the values of sequences, where others have used some.
DISCARD_SEQUENCES = b"DISCARD SEQUENCES"
# Before a transaction it has one of its own: behind it PostgreSQL refuses to change the isolation.
DISCARD_BEFORE_BEGIN = (b"BEGIN", DISCARD_SEQUENCES, b"COMMIT")


def unit_for(backend: Backend, request: Request, now: float) -> Unit:
    """The first unit of a statement on this backend.

    Notes in the request what follows it, who watches its time, and what it may leave in the session.
    """
    statement, lease = request.statement, request.lease
    assert statement is not None
    if (
        statement.is_harmless
        and lease is None
        and request.deadline is None
        and not request.settings
        and not statement.proof.uses_sequences
        and statement.generation == request.group.statements.generation
        and runs_prepared(request, statement)
    ):
        return tuple(backend.prepared.commands(statement, request.values))  # the hot path
    if statement.generation != request.group.statements.generation:
        statement = request.statement = request.group.statements.current(statement)
    request.is_base = lease is None or not lease.is_altered
    is_prepared = runs_prepared(request, statement)
    request.leaves = NOTHING if is_prepared and statement.is_harmless else left_by(statement.use)
    if request.settings and lease is not None:
        request.leaves = request.leaves.joined(leftovers.UNSEEN)
    before = _before(backend, request, statement)
    is_timed = request.deadline is not None and lease is None and statement.examine().is_plain
    milliseconds = server_timeout(backend, request, now) if is_timed else 0
    if milliseconds or request.settings:
        if request.is_counted and lease is None:
            request.then = (_literal(statement, request.values),)
            return (*before, *settings_before(request))
        return _unit_with_settings(backend, request, statement, milliseconds, is_prepared, before)
    if is_prepared:
        if not request.begin and not before:
            return tuple(backend.prepared.commands(statement, request.values))
        run = Runner(backend)
        commands: list[Command] = [*before]
        if request.begin:
            commands += run.own(request.group.statements.own(b"BEGIN"), b"")
        commands += backend.prepared.commands(statement, request.values, run.needed)
        return in_order(commands)
    literal = _literal(statement, request.values)
    if not request.begin and not before:
        return (literal,)
    # What comes before must have succeeded before a simple query, which no earlier error would skip.
    request.then = (literal,)
    if not before:
        return BEGIN
    return (SimpleQuery(b"; ".join((*DISCARD_BEFORE_BEGIN, b"BEGIN")) if request.begin else DISCARD_SEQUENCES),)


def _unit_with_settings(
    backend: Backend,
    request: Request,
    statement: Statement,
    milliseconds: int,
    is_prepared: bool,
    before: list[Command],
) -> Unit:
    run, own = Runner(backend, request.is_base), request.group.statements
    commands: list[Command] = [*before]
    if request.begin:
        commands += run.own(own.own(b"BEGIN"), b"")
    commands += settings.commands(own, request.settings, milliseconds, request.is_literal, run.own)
    if is_prepared:
        commands += backend.prepared.commands(statement, request.values, run.needed)
    else:
        commands.append(plain_command(statement, request.values))
    return in_order(commands)


def _before(backend: Backend, request: Request, statement: Statement) -> list[Command]:
    """What has to come first: where sequences were used, and who comes may ask for their values, it must not see it."""
    was_used, is_proven = backend.used_sequences, request.leaves is NOTHING
    may_ask = request.opens or (request.lease is None and not is_proven)
    if may_ask:
        backend.used_sequences = False
    if is_proven and statement.proof.uses_sequences:
        backend.used_sequences = True
    return [Plain(DISCARD_SEQUENCES)] if may_ask and was_used else []


def server_timeout(backend: Backend, request: Request, now: float) -> int:
    """The milliseconds after which the server itself is to end it; 0 if the endpoint's limit comes first.

    Notes in the request whether the server watches its time.
    """
    limit = backend.pool.endpoint.query_timeout
    if request.settings:
        limit = settings.own_timeout(request.settings, limit)
    milliseconds = settings.until(request.deadline, now, limit)
    request.is_timed = milliseconds > 0
    return milliseconds


class Runner:
    """How the statements of one transaction are run on a backend: prepared as long as that means the same."""

    __slots__ = ("_backend", "_prepared", "is_base", "leaves", "needed")

    def __init__(self, backend: Backend, is_base: bool = True) -> None:
        self._backend = backend
        self._prepared = backend.prepared.commands
        self.is_base = is_base  # all so far was proven harmless
        self.leaves = NOTHING  # what may be left in the session by what was not
        # What the transaction ran prepared, by its name: none of its own commands may drop it.
        self.needed: dict[bytes, Statement] = {}

    def __call__(self, statement: Statement, values: bytes, is_literal: bool) -> list[Command]:
        """Commands that run a client's statement with these values."""
        if self.is_base and not is_literal and statement.runs_prepared(values):
            if not statement.is_harmless:
                self._alter(statement)
            elif statement.proof.uses_sequences:
                self.used_sequences = True
            self.needed[statement.name] = statement
            return self._prepared(statement, values, self.needed)
        self._alter(statement)
        return [plain_command(statement, values)]

    def own(self, statement: Statement, values: bytes, is_literal: bool = False) -> list[Command]:
        """Commands that run a statement of the broker's."""
        if self.is_base and not is_literal and statement.runs_prepared(values):
            self.needed[statement.name] = statement
            return self._prepared(statement, values, self.needed)
        return [plain_command(statement, values)]

    @property
    def used_sequences(self) -> bool:
        """Whether what is harmless otherwise has used sequences on the backend since their values were discarded."""
        return self._backend.used_sequences

    @used_sequences.setter
    def used_sequences(self, used: bool) -> None:
        self._backend.used_sequences = used

    def _alter(self, statement: Statement) -> None:
        self.is_base = False
        self.leaves = self.leaves.joined(left_by(statement.use))


def runs_prepared(request: Request, statement: Statement) -> bool:
    """Whether the request runs its statement prepared."""
    return (
        request.prepare
        and not request.is_literal
        and (request.lease is None or not request.lease.is_altered)
        and statement.runs_prepared(request.values)
    )


def _literal(statement: Statement, values: bytes) -> SimpleQuery:
    try:
        return literal_command(statement, values)
    except ProtocolViolation:
        # Refused where it arrived, unless the statement was prepared then: PostgreSQL refuses it for what it is.
        return SimpleQuery(b"")
