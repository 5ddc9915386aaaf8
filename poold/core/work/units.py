"""The units that run a request's statement, command by command.

A statement runs in one of three forms. With literals and alone it is a simple query, which may hold several statements.
Prepared it is Bind and Execute, after its Parse if this backend has not prepared it yet. With settings of its own it
shares an implicit transaction with them, prepared or with literals; then it must be a single statement.

A statement is prepared only in a session that is as it was opened. Parsed under other settings, roles or names it would
keep the meaning that these give it, for whoever runs it later. So behind anything in the same transaction or session
that is not proven harmless, all statements run with literals.
"""

from __future__ import annotations

from client.wire.messages import TX_NONE, ProtocolViolation
from poold.core.effects import Command, Plain, SimpleQuery, Unit, in_order
from poold.core.records.backend import Backend
from poold.core.records.request import Request
from poold.core.records.transfer import Transfer
from poold.core.statements import leftovers
from poold.core.statements.leftovers import NOTHING, left_by
from poold.core.statements.statement import Statement, literal_command, plain_command
from poold.core.work import labels, settings
from poold.core.work.batch import Batch
from poold.core.work.outcomes import settings_before

COMMIT: Unit = (SimpleQuery(b"COMMIT"),)
ROLLBACK: Unit = (SimpleQuery(b"ROLLBACK"),)
BEGIN: Unit = (SimpleQuery(b"BEGIN"),)
# Comes before a statement that may ask for the values of sequences, if others have used sequences in the session.
DISCARD_SEQUENCES = b"DISCARD SEQUENCES"
# Before a transaction it runs in one of its own, as PostgreSQL refuses to change the isolation level behind it.
DISCARD_BEFORE_BEGIN = (b"BEGIN", DISCARD_SEQUENCES, b"COMMIT")


def unit_for(backend: Backend, request: Request, now: float) -> Unit:
    """Return the first unit of the request's statement on this backend.

    Notes in the request the unit that follows, whether the server watches its deadline, and what it may leave in the
    session.
    """
    statement, lease = request.statement, request.lease
    assert statement is not None
    if (
        statement.is_harmless
        and lease is None
        and request.deadline is None
        and not request.settings
        and not request.label
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
    if request.batch is not None:
        return _unit_of_batch(backend, request, request.batch, before)
    if request.transfer is not None:
        return _unit_of_copy(backend, request, request.transfer, before)
    is_timed = request.deadline is not None and lease is None and statement.examine().is_plain
    milliseconds = server_timeout(backend, request, now) if is_timed else 0
    # Outside of transactions only what PostgreSQL can plan may have one with its label.
    is_free = lease is None or (not request.begin and backend.transaction == TX_NONE)
    label = request.label if is_free and request.label and (is_prepared or statement.examine().is_plain) else b""
    if milliseconds or request.settings or label:
        if request.is_counted and lease is None:
            request.then = (_literal(statement, request.values),)
            return (*before, *settings_before(request))
        return _unit_with_settings(backend, request, statement, milliseconds, is_prepared, before, label)
    if is_prepared:
        if not request.begin and not before:
            return tuple(backend.prepared.commands(statement, request.values))
        run = Runner(backend)
        commands: list[Command] = [*before]
        if request.begin:
            commands += _begin(request, run)
        commands += backend.prepared.commands(statement, request.values, run.needed)
        return in_order(commands)
    literal = _literal(statement, request.values)
    literal.sql = labels.commented(request, literal.sql)
    if not request.begin and not before:
        return (literal,)
    # A unit of its own for what comes before: an error in it would not keep PostgreSQL from running a simple query.
    request.then = (literal,)
    begin = (b"BEGIN", labels.set_locally(request.label).sql) if request.label else (b"BEGIN",)
    if not before:
        return (SimpleQuery(b"; ".join(begin)),)
    return (SimpleQuery(b"; ".join((*DISCARD_BEFORE_BEGIN, *begin)) if request.begin else DISCARD_SEQUENCES),)


def _unit_of_copy(backend: Backend, request: Request, transfer: Transfer, before: list[Command]) -> Unit:
    """Return the unit of a COPY, or what has to come before it in one of its own."""
    assert request.statement is not None
    copy = SimpleQuery(_literal(request.statement, request.values).sql, transfer.is_in)
    commands: list[Command] = [*before]
    if request.settings and request.lease is None:
        commands += settings_before(request)
    else:
        run, own = Runner(backend, request.is_base), request.group.statements
        if request.begin:
            commands += _begin(request, run)
        commands += settings.commands(own, request.settings, 0, request.is_literal, run.own)
    if not commands:
        return (copy,)
    request.then = (copy,)
    return in_order(commands)


def _unit_of_batch(backend: Backend, request: Request, batch: Batch, before: list[Command]) -> Unit:
    run, own = Runner(backend, request.is_base), request.group.statements
    request.runner = run
    commands: list[Command] = [*before]
    if request.begin:
        commands += _begin(request, run)
    label = request.label if not request.begin and backend.transaction == TX_NONE else b""
    commands += settings.commands(own, request.settings, 0, request.is_literal, run.own, label)
    unit = batch.unit(commands, request, run)
    request.leaves = request.leaves.joined(run.leaves)
    return unit


def _unit_with_settings(
    backend: Backend,
    request: Request,
    statement: Statement,
    milliseconds: int,
    is_prepared: bool,
    before: list[Command],
    label: bytes,
) -> Unit:
    run, own = Runner(backend, request.is_base), request.group.statements
    commands: list[Command] = [*before]
    if request.begin:
        commands += _begin(request, run)
    sets = request.begin and not is_prepared and statement.examine().verb == "SET"
    commands += settings.commands(own, request.settings, milliseconds, request.is_literal, run.own, label, sets)
    if is_prepared:
        commands += backend.prepared.commands(statement, request.values, run.needed)
    else:
        plain = plain_command(statement, request.values)
        plain.sql = labels.commented(request, plain.sql)
        commands.append(plain)
    return in_order(commands)


def _begin(request: Request, run: Runner) -> list[Command]:
    """The commands that begin the request's transaction, with its label."""
    begin = run.own(request.group.statements.own(b"BEGIN"), b"")
    return [*begin, labels.set_locally(request.label)] if request.label else begin


def _before(backend: Backend, request: Request, statement: Statement) -> list[Command]:
    """The command to discard values of sequences, if the statement may ask for values that others have left; or none.

    Notes in the backend whether sequences are used from here on.
    """
    was_used, is_proven = backend.used_sequences, request.leaves is NOTHING
    may_ask = request.opens or (request.lease is None and not is_proven)
    if may_ask:
        backend.used_sequences = False
    if is_proven and statement.proof.uses_sequences:
        backend.used_sequences = True
    return [Plain(DISCARD_SEQUENCES)] if may_ask and was_used else []


def server_timeout(backend: Backend, request: Request, now: float) -> int:
    """The milliseconds after which the server is to end a statement itself, 0 for none of its own.

    0 without a deadline, and if a query_timeout or a statement_timeout that travels with the request is shorter.

    Notes in the request whether the server watches its deadline.
    """
    limit = backend.query_timeout
    if request.settings:
        limit = settings.own_timeout(request.settings, limit)
    milliseconds = settings.until(request.deadline, now, limit)
    request.is_timed = milliseconds > 0
    return milliseconds


class Runner:
    """Makes the commands for one transaction on a backend: prepared as long as that means the same as literals."""

    __slots__ = ("_backend", "_prepared", "is_base", "leaves", "needed")

    def __init__(self, backend: Backend, is_base: bool = True) -> None:
        self._backend = backend
        self._prepared = backend.prepared.commands
        self.is_base = is_base  # whether all statements so far are proven harmless
        self.leaves = NOTHING  # what the others may leave in the session
        # Statements that the transaction runs prepared, by name: none of its commands may drop these names.
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
        """As `Backend.used_sequences`."""
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
        # Such values are refused on arrival, unless the statement was prepared then. An empty query fails as well.
        return SimpleQuery(b"")
