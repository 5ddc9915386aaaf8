"""Generations of statements. In all groups a new one begins at once, as groups may share a database."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from poold.core.facts import StatementResult
from poold.core.statements import schema
from poold.core.statements.statement import Statements


class Generations:
    """The statements of all groups, which begin a new generation together."""

    def __init__(self, statements: Callable[[], Iterable[Statements]]) -> None:
        """statements returns those of all groups that there are."""
        self._statements = statements

    def begin_anew(self) -> None:
        """Begin a new generation, as names may mean something else than before."""
        for each in self._statements():
            each.forget_all()

    def forget_outdated(self, results: Iterable[StatementResult | None]) -> bool:
        """Begin a new generation if these results tell of a change to what names mean. Returns whether they do."""
        if not schema.outdates(results):
            return False
        self.begin_anew()
        return True
