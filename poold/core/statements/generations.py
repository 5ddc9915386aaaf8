"""What names mean, in all groups: some may share a database."""

from __future__ import annotations

from collections.abc import Iterable

from poold.core.facts import StatementResult
from poold.core.statements import schema
from poold.core.statements.statement import Statements


class Generations:
    """The statements of all groups, which begin anew together."""

    def __init__(self, statements: Iterable[Statements]) -> None:
        self._statements = tuple(statements)

    def begin_anew(self) -> None:
        """Names may mean something else than before."""
        for each in self._statements:
            each.forget_all()

    def forget_outdated(self, results: Iterable[StatementResult | None]) -> bool:
        """Let all statements begin anew if these may have changed what others mean. Returns whether so."""
        if not schema.outdates(results):
            return False
        self.begin_anew()
        return True
