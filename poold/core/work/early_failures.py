"""What fails before it runs: the broker's own doing in most cases, which no client gets to see.

A statement with literals has no such failure. So where a prepared one certainly had no effect it is run again with
literals, by whoever asked; and what the failure tells of the statement is remembered.
"""

from __future__ import annotations

import re

from client.wire.messages import Failure
from client.wire.sqlstates import FEATURE_NOT_SUPPORTED, INTERNAL_ERROR, QUERY_CANCELED
from poold.core.effects import Bind, Prepare
from poold.core.facts import Completion
from poold.core.statements.prepared import FORGOTTEN
from poold.core.statements.statement import Statement, Statements

# A prepared statement does not fit any more: its tables changed, a type of its parameters is gone.
_OUTDATED = (FEATURE_NOT_SUPPORTED, INTERNAL_ERROR)
# Classes of codes that say nothing of the statement: the transaction's or the connection's state, lost races, a lack of
# resources, locks, the operator's doing. https://www.postgresql.org/docs/current/errcodes-appendix.html
_TELL_NOTHING = ("08", "25", "40", "53", "55", "57", "58")
_ABOUT_VALUES = "22"
# The one line of context that PostgreSQL gives where it cannot read a parameter, in any language: what it says of code
# that it runs ends otherwise. https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/tcop/postgres.c
_OF_PARAMETER = re.compile(r"[^\n]*\$\d+(?: = '[^\n]*')?\Z")
# Where PostgreSQL finds, before it plans, that a plan gives other columns than it did, or that there is no such name.
# https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/utils/cache/plancache.c
_BEFORE_PLANNING = ("RevalidateCachedQuery", "FetchPreparedStatement")


def is_early(
    statements: Statements,
    statement: Statement | None,
    failed: Prepare | Bind | None,
    done: Completion,
    was_harmless: bool,
) -> bool:
    """Whether the unit failed before anything of a client ran, in this command about this prepared statement.

    Parse runs nobody's functions. Bind may, as PostgreSQL plans then and evaluates what is immutable; but not where it
    could not read a parameter or had not begun to plan, or the statement is proven harmless, or was when it began: the
    failure of one before it in the same pipeline may have taken that back since. Without a statement the command is one
    of the broker's own.
    """
    failure = done.failure
    assert failure is not None
    is_parse = type(failed) is Prepare
    if failed is None or not (is_parse or done.is_unbound) or failure.kind != "query":
        return False
    if failure.sqlstate == QUERY_CANCELED:  # while it waited for a lock: with literals it would wait again
        return False
    if statement is None:
        return failure.sqlstate in FORGOTTEN
    is_unreadable = _OF_PARAMETER.match(failure.diag.get("context") or "") is not None
    is_safe = is_parse or was_harmless or statement.is_harmless or is_unreadable or _is_before_planning(failure)
    if not is_unreadable or failure.sqlstate in _OUTDATED:
        _doubt(statements, statement, failed, failure)
    return is_safe


def _is_before_planning(failure: Failure) -> bool:
    """Whether it is of no code that planning runs: that has a context, and no place in the statement."""
    diag = failure.diag
    if diag.get("context") or diag.get("internal_position"):
        return False
    return bool(diag.get("statement_position")) or diag.get("source_function") in _BEFORE_PLANNING


def _doubt(statements: Statements, statement: Statement, failed: Prepare | Bind, failure: Failure) -> None:
    """What it tells of the statement that it failed before it ran, in this command.

    A value that is none of its type tells nothing, nor what befalls any statement.
    """
    code = failure.sqlstate or ""
    if code in FORGOTTEN or code.startswith(_TELL_NOTHING):
        return
    if code in _OUTDATED and type(failed) is Bind:
        statements.forget(statement)
    elif type(failed) is Prepare or not code.startswith(_ABOUT_VALUES):
        statement.refuse()
