"""psycopg2.sql for connections and cursors of this package: as_string takes both.

psycopg2's own classes ask a connection of psycopg2's how to quote. These are the same classes, which ask the connection
to nowhere instead, whatever they are given. In `execute` psycopg2's own work as well.
"""

from __future__ import annotations

from typing import Any

from psycopg2 import sql

from client.values import offline


class Composable(sql.Composable):
    """A part of a statement."""

    def as_string(self, context: Any) -> str:
        """The part as text, as it stands in statements."""
        return str(super().as_string(offline.own_cursor()))

    def __add__(self, other: Any) -> Any:
        made = super().__add__(other)
        return Composed(made.seq) if isinstance(made, sql.Composed) else made

    def __mul__(self, n: int) -> Composed:
        return Composed(super().__mul__(n).seq)


class Composed(Composable, sql.Composed):
    """Several parts."""

    def join(self, joiner: Any) -> Composed:
        """The parts with the joiner between them."""
        if isinstance(joiner, str):
            joiner = SQL(joiner)
        return Composed(super().join(joiner).seq)


class SQL(Composable, sql.SQL):
    """A piece of SQL."""

    def join(self, seq: Any) -> Composed:
        """The parts of seq with this one between them."""
        return Composed(super().join(seq).seq)

    def format(self, *args: Any, **kwargs: Any) -> Composed:
        """This text with parts in the place of its braces."""
        return Composed(super().format(*args, **kwargs).seq)


class Identifier(Composable, sql.Identifier):
    """A name, quoted."""


class Literal(Composable, sql.Literal):  # type: ignore[type-arg]  # not generic when it runs
    """A value, written as a literal."""


class Placeholder(Composable, sql.Placeholder):
    """The place of a parameter."""


NULL = SQL("NULL")
DEFAULT = SQL("DEFAULT")
