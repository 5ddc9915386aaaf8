"""What the results of statements tell of changes after which names may mean something else.

PostgreSQL itself plans a prepared statement again when its tables change. What it keeps are the types of the
parameters, the functions and operators chosen by them, and the relations found under a name: one that is made in an
earlier schema of the search path, or among temporary ones, comes before them. With literals all of that is looked for
anew. A block and a procedure may have done any of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from poold.core.facts import StatementResult

# Command tags: https://www.postgresql.org/docs/current/event-trigger-matrix.html names them.
_CHANGES = ("ALTER ", "CREATE ", "DROP ", "IMPORT ", "DO", "CALL")


def outdates(results: Iterable[StatementResult | None]) -> bool:
    """Whether statements of anybody may mean something else."""
    return any(each is not None and (each.command.startswith(_CHANGES) or _is_made(each)) for each in results)


def _is_made(result: StatementResult) -> bool:
    # CREATE TABLE AS and SELECT INTO say SELECT, without columns.
    return result.columns is None and result.command.startswith("SELECT")
