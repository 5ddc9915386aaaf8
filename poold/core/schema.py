"""What the results of statements tell of changes to the schema.

PostgreSQL itself plans a prepared statement again when its tables change. What it keeps are the types of the
parameters, the functions and operators chosen by them, and tables found under a name that a temporary one has now:
with literals all of that is looked for anew.
"""

from __future__ import annotations

from collections.abc import Iterable

from poold.core.facts import Outcome

# Command tags: https://www.postgresql.org/docs/current/event-trigger-matrix.html names them.
_CHANGES = ("ALTER ", "CREATE ", "DROP ", "IMPORT ")
# What is new only by its own name changes no statement that could be run before.
_ADDITIONS = ("CREATE TABLE", "CREATE INDEX", "CREATE VIEW", "CREATE MATERIALIZED VIEW", "CREATE SEQUENCE")


def is_changed(results: Iterable[Outcome | None]) -> bool:
    """Whether the rest of their transaction may find something else under a name than before."""
    return any(each is not None and (each[0].startswith(_CHANGES) or _is_made(each)) for each in results)


def outdates(results: Iterable[Outcome | None]) -> bool:
    """Whether statements of anybody may mean something else now."""
    return any(
        each is not None and each[0].startswith(_CHANGES) and not each[0].startswith(_ADDITIONS) for each in results
    )


def _is_made(outcome: Outcome) -> bool:
    # CREATE TABLE AS and SELECT INTO say SELECT, without columns.
    return outcome[2] is None and outcome[0].startswith("SELECT")
