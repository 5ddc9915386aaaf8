"""The names of prepared statements on one backend."""

from __future__ import annotations

import itertools
from collections.abc import Collection

from client.wire.sqlstates import DUPLICATE_PREPARED_STATEMENT, INVALID_SQL_STATEMENT_NAME
from poold.core.effects import Bind, Command, Deallocate, Plain, Prepare, Unit
from poold.core.facts import Completion
from poold.core.statements.statement import Statement

# Names on one backend: PostgreSQL keeps parse tree and plan of each, some ten kilobytes.
PREPARED_KEPT = 500
# PostgreSQL's codes for a name that it does not know, or knows already.
FORGOTTEN = (INVALID_SQL_STATEMENT_NAME, DUPLICATE_PREPARED_STATEMENT)


class Prepared:
    """The statements that are prepared on one backend, the least recently used first.

    A function that a client calls can drop them all, and no completion tells. Once that was noticed the backend is
    doubted: each name is dropped before it is prepared, which is no error if it does not exist.
    """

    __slots__ = ("_held", "_is_doubted")

    def __init__(self) -> None:
        # By name: how many runs are left until it is parsed anew. Enter with their Prepare; leave with a Deallocate, if
        # the Prepare failed, or all at once.
        self._held: dict[bytes, int] = {}
        self._is_doubted = False

    def __contains__(self, statement: Statement) -> bool:
        return statement.name in self._held

    def __len__(self) -> int:
        return len(self._held)

    @property
    def held(self) -> dict[bytes, int]:
        """By name: how many runs are left until it is parsed anew."""
        return self._held

    def commands(self, statement: Statement, values: bytes, among: Collection[bytes] = ()) -> list[Command]:
        """The commands that run the prepared statement, after those that prepare it, or prepare it anew, if needed.

        among: names that the same unit needs, which must not be dropped.
        """
        name, held = statement.name, self._held
        bound = Bind(name, statement.count, values)
        left = held.get(name)
        if left:
            if len(held) > PREPARED_KEPT // 2:  # the order matters only when some may have to leave
                del held[name]
            held[name] = left - 1
            return [bound]
        if left is None:
            found = self.prepare(statement, among)
        else:
            del held[name]
            found = [Deallocate(name), Prepare(name, statement.numbered, statement.types)]
        held[name] = statement.runs_per_parse - 1
        found.append(bound)
        return found

    def prepare(self, statement: Statement, among: Collection[bytes] = ()) -> list[Command]:
        """The commands that prepare the statement here. The caller notes that it is held."""
        found = self._room(among)
        if self._is_doubted:
            found.append(Deallocate(statement.name))
        found.append(Prepare(statement.name, statement.numbered, statement.types))
        return found

    def _room(self, among: Collection[bytes] = ()) -> list[Command]:
        """Drop the least recently used names until there is room for another one, but none in `among`."""
        found: list[Command] = []
        if len(self._held) >= PREPARED_KEPT:
            excess = len(self._held) - PREPARED_KEPT + 1
            for oldest in list(itertools.islice((name for name in self._held if name not in among), excess)):
                del self._held[oldest]
                found.append(Deallocate(oldest))
        return found

    def add(self, statement: Statement) -> None:
        """Note a statement that a probe has prepared here."""
        self._held[statement.name] = statement.runs_per_parse

    def failed(self, unit: Unit, done: Completion) -> Prepare | Bind | None:
        """The unit failed: forget the statements that it was to prepare after the failure.

        A name that the unit used before, and was to parse anew, still exists, as the failure skipped its Deallocate as
        well. Returns the command that failed if it is about a prepared statement.
        """
        found = _culprit(unit, done)
        assert done.failure is not None
        if found is not None and done.failure.sqlstate in FORGOTTEN and found.name in self._held:
            self._held.clear()
            self._is_doubted = True
        left, kept = len(done.prepared), set()  # Prepares that took place; names known to exist
        for command in unit:
            if type(command) is Prepare:
                left -= 1
                if left >= 0:
                    kept.add(command.name)
                elif command.name not in kept or command is found:
                    self._held.pop(command.name, None)
                elif command.name in self._held:
                    self._held[command.name] = 0
            elif type(command) is Bind:
                kept.add(command.name)
        return found

    def clear(self) -> None:
        """Forget all names: nothing is prepared here any more."""
        self._held.clear()
        self._is_doubted = False


def _culprit(unit: Unit, done: Completion) -> Prepare | Bind | None:
    """The command that failed, if it is about a prepared statement."""
    runs = prepared = 0
    for command in unit:
        if type(command) is Prepare:
            if prepared == len(done.prepared):
                return command
            prepared += 1
        elif type(command) is Bind or type(command) is Plain:
            if runs == len(done.results):
                return command if type(command) is Bind else None
            runs += 1
    return None
