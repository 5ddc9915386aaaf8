"""Prepared statements that fail before they run, mostly because they are prepared; clients do not see these failures.

With literals a statement has no such failure. So if a prepared one certainly had no effect, the caller runs it again
with literals. Here is decided whether that is so, and what the failure tells about the statement is remembered.
"""

from __future__ import annotations

import re

from client.wire.messages import Failure
from client.wire.sqlstates import FEATURE_NOT_SUPPORTED, INTERNAL_ERROR, QUERY_CANCELED
from poold.core.effects import Bind, Prepare
from poold.core.facts import Completion
from poold.core.statements.prepared import FORGOTTEN
from poold.core.statements.statement import Statement, Statements

# Codes of a prepared statement that does not fit any more: its tables changed, a type of its parameters is gone.
_OUTDATED = (FEATURE_NOT_SUPPORTED, INTERNAL_ERROR)
# Classes of codes that say nothing about the statement: the transaction's or the connection's state, lost races, a lack
# of resources, locks, an operator's intervention. https://www.postgresql.org/docs/current/errcodes-appendix.html
_TELL_NOTHING = ("08", "25", "40", "53", "55", "57", "58")
_ABOUT_VALUES = "22"
# The one line of context that PostgreSQL gives, in any language, if it cannot read a parameter. The context of an error
# in a function ends otherwise. https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/tcop/postgres.c
_OF_PARAMETER = re.compile(r"[^\n]*\$\d+(?: = '[^\n]*')?\Z")
# PostgreSQL's functions that fail before planning: the columns have changed, or there is no such name.
# https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/utils/cache/plancache.c
_BEFORE_PLANNING = ("RevalidateCachedQuery", "FetchPreparedStatement")


def is_early(
    statements: Statements,
    statement: Statement | None,
    failed: Prepare | Bind | None,
    done: Completion,
    was_harmless: bool,
) -> bool:
    """Whether the unit failed in this command, about this prepared statement, before anything of a client ran.

    failed is the command, None if the failure is not about a prepared statement. statement is None if the command is
    one of the broker's own.

    Parse runs no functions of users. Bind may, as PostgreSQL plans then and evaluates immutable functions; but not if
    it could not read a parameter, if it had not begun to plan, or if the statement is proven harmless. was_harmless:
    it was when it began, as a failure before it in the same pipeline may have taken the proof away since.
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
    """Whether the failure came before planning: one of code that planning runs has a context or no position."""
    diag = failure.diag
    if diag.get("context") or diag.get("internal_position"):
        return False
    return bool(diag.get("statement_position")) or diag.get("source_function") in _BEFORE_PLANNING


def _doubt(statements: Statements, statement: Statement, failed: Prepare | Bind, failure: Failure) -> None:
    """Forget or refuse the statement if its failure in this command shows that its prepared form does not fit.

    Nothing follows from a value that its type does not allow, or from a failure that any statement may have.
    """
    code = failure.sqlstate or ""
    if code in FORGOTTEN or code.startswith(_TELL_NOTHING):
        return
    if code in _OUTDATED and type(failed) is Bind:
        statements.forget(statement)
    elif type(failed) is Prepare or not code.startswith(_ABOUT_VALUES):
        statement.refuse()
