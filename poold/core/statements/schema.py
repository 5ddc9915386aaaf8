"""Results that tell of changes after which names may mean something else.

PostgreSQL itself plans a prepared statement again when its tables change. But it keeps the types of the parameters, the
functions and operators chosen by them, and the relations found under a name, even if a relation of that name is created
in an earlier schema of the search path, or as a temporary one. With literals all of these are looked up anew. A DO
block or a procedure may have made any such change.
"""

from __future__ import annotations

from collections.abc import Iterable

from poold.core.facts import StatementResult

# Command tags, as listed in https://www.postgresql.org/docs/current/event-trigger-matrix.html
_CHANGES = ("ALTER ", "CREATE ", "DROP ", "IMPORT ", "DO", "CALL")


def outdates(results: Iterable[StatementResult | None]) -> bool:
    """Whether after these results any statement may mean something else."""
    return any(each is not None and (each.command.startswith(_CHANGES) or _is_made(each)) for each in results)


def _is_made(result: StatementResult) -> bool:
    # The tag of CREATE TABLE AS and SELECT INTO is SELECT, without columns.
    return result.columns is None and result.command.startswith("SELECT")
