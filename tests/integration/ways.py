"""One statement by three ways: psycopg2 itself, poold with literals, and poold after it has prepared the statement."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from brokers import Broker
from psycopg2 import extensions
from test_values import outcome

from client import Handler

# A statement is probed after three runs with literals, and prepared from then on.
RUNS = 6
FATES = ("literal", "prepared", "refused")


@dataclass
class Ways:
    """All go to the same server with the same settings; the broker has one backend, so a probe is over before a run."""

    broker: Broker
    connection: extensions.connection
    handler: Handler = None  # type: ignore[assignment]  # one of the group default where none is given
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.handler = self.handler or self.broker.handler()

    def by_psycopg2(self, statement: Any, params: Any = None) -> Any:
        """The outcome on a connection of its own."""
        with self.connection.cursor() as cursor:
            return whole_outcome(lambda: (cursor.execute(statement, params), cursor)[1])

    def by_poold(self, statement: Any, params: Any = None, prepare: bool = True) -> Any:
        """The outcome of one query."""
        return whole_outcome(lambda: self.handler.query(statement, params, prepare=prepare))

    def agree(self, statement: Any, params: Any = None) -> Any:
        """Check that all have the same outcome, with poold however often it runs; the outcome."""
        theirs = self.by_psycopg2(statement, params)
        for run in range(RUNS + 1):
            ours = self.by_poold(statement, params, prepare=run > 0)
            assert ours == theirs, f"run {run} of {statement!r} with {params!r} gave\n{ours}\nbut psycopg2\n{theirs}"
        return theirs

    def fate(self, statement: str, params: Any = None, good: Any = None) -> str:
        """As agree, with a statement nobody has sent before; what has become of it. good come before, to prepare it."""
        fresh = f"{statement}\n/* {next(self._numbers)} */"
        before = self._states()
        if good is not None:
            self.agree(fresh, good)
        self.agree(fresh, params)
        return next(fate for fate, count in self._states().items() if count > before[fate])

    def _states(self) -> dict[str, int]:
        return {name: int(self.broker.group()["statements"][name]) for name in FATES}


def whole_outcome(run: Any) -> Any:
    """`outcome`, and of an error all that PostgreSQL said about it."""
    errors: list[psycopg2.Error] = []

    def noted() -> Any:
        try:
            return run()
        except psycopg2.Error as error:
            errors.append(error)
            raise

    found = outcome(noted)
    names = [name for name in dir(extensions.Diagnostics) if not name.startswith("_") and name != "source_line"]
    return (found, {name: getattr(errors[0].diag, name) for name in names}) if errors else found
